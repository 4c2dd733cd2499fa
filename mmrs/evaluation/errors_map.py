"""A raster that shows where a prediction is wrong."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio import windows
from rasterio.errors import NotGeoreferencedWarning

from mmrs.geo.classes import IGNORE_INDEX
from mmrs.geo.grids import RasterGrid
from mmrs.geo.qgis import palette, write_style
from mmrs.geo.rasters import open_raster, require_all_blocks
from mmrs.geo.windows import Window
from mmrs.utils.files import atomic_path, writing

#: Values of the raster, beside 255 where nothing is scored.
RIGHT, WRONG = 0, 1

#: Side of its blocks in pixels. Windows of whole blocks are written fastest.
BLOCK = 512

_COLOURS = {RIGHT: (215, 215, 215), WRONG: (214, 39, 40)}


@contextmanager
def write_errors(
    path: Path, grid: RasterGrid, overwrite: bool = False
) -> Iterator[Callable[[Window, np.ndarray], None]]:
    """Writes a map of errors by windows, as a GeoTIFF that has its name only when it is complete.

    Args:
        path: The file.
        grid: Its pixel grid.
        overwrite: Whether to replace it.

    Yields:
        A function that takes a window and its values `(H, W)`, uint8.

    Raises:
        OutputError: It exists, or it cannot be written.
    """
    profile = dict(driver='GTiff', count=1, dtype='uint8', width=grid.width, height=grid.height, nodata=IGNORE_INDEX)
    profile.update(tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress='deflate', bigtiff='if_safer')
    with atomic_path(path, overwrite) as temporary:
        with writing(path, Exception), warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            file = rasterio.open(temporary, 'w', crs=grid.crs, transform=grid.transform, **profile)
            file.write_colormap(1, _COLOURS)

        def write(window: Window, values: np.ndarray) -> None:
            x0, y0, x1, y1 = window
            with writing(path, Exception):  # GDAL's own errors are of no public kind
                file.write(values, 1, window=windows.Window(x0, y0, x1 - x0, y1 - y0))

        try:
            yield write
        finally:
            with writing(path, Exception):
                file.close()
        with writing(path, Exception), open_raster(temporary, quiet=True) as raster:
            require_all_blocks(raster, temporary.stat().st_size)
    write_style(path, palette(('right', 'wrong'), (_COLOURS[RIGHT], _COLOURS[WRONG])))
