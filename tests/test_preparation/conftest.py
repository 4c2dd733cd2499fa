import os

import numpy as np
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from tests.small_files import *  # noqa: F403 (fixtures)


@pytest.fixture  # noqa: F405
def sparse(tmp_path):
    """Makes rasters of a true size that take no room on the disk."""
    made = {}

    def make(path, width, height, count=3, dtype='uint8'):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = width, height, count, dtype
        if kind in made:
            os.link(made[kind], path)
            return
        made[kind] = path
        profile = dict(driver='GTiff', sparse_ok=True, tiled=True, blockxsize=1024, blockysize=1024)
        profile.update(width=width, height=height, count=count, dtype=dtype, transform=Affine(2, 0, 0, 0, -2, 0))
        with rasterio.open(path, 'w', **profile) as raster:
            # One without any block has lost its pixels.
            raster.write(np.ones((count, 1, 1), dtype), window=Window(0, 0, 1, 1))

    return make
