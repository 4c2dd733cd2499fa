import resource
import signal

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from mmrs.evaluation.errors_map import write_errors
from mmrs.geo.grids import RasterGrid
from mmrs.utils.errors import OutputError

GRID = RasterGrid(CRS.from_epsg(32633), Affine(0.3, 0.4, 400000.1, 0.4, -0.3, 5800000.7), 1300, 1100)
WINDOWS = [(x, y, min(x + 512, 1300), min(y + 512, 1100)) for y in range(0, 1100, 512) for x in range(0, 1300, 512)]


def write_all(path, values, **options):
    with write_errors(path, GRID, **options) as write:
        for x0, y0, x1, y1 in WINDOWS:
            write((x0, y0, x1, y1), values[y0:y1, x0:x1])


@pytest.fixture
def values():
    return np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), GRID.shape)


def test_written_by_windows(tmp_path, values):
    path = tmp_path / 'a' / 'errors.tif'
    write_all(path, values)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), values)
        assert RasterGrid.of(raster) == GRID
        assert (raster.nodata, raster.dtypes, raster.block_shapes) == (255, ('uint8',), [(512, 512)])
        assert raster.colormap(1)[0][:3] != raster.colormap(1)[1][:3]
    with pytest.raises(OutputError, match='exists already'):
        write_all(path, values)
    write_all(path, 0 * values, overwrite=True)
    with rasterio.open(path) as raster:
        assert not raster.read(1).any()
    assert sorted(file.name for file in path.parent.iterdir()) == ['errors.qml', 'errors.tif']


def test_what_fails_in_between_leaves_nothing(tmp_path):
    def fail():
        with write_errors(tmp_path / 'errors.tif', GRID) as write:
            write((0, 0, 512, 512), np.zeros((512, 512), np.uint8))
            raise KeyError('of the caller')

    with pytest.raises(KeyError, match='of the caller'):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('share', [0.3, 0.9, 0.999])
def test_a_full_disk_is_an_error(tmp_path, values, share):
    """GDAL itself says nothing, and the file ends somewhere."""
    write_all(tmp_path / 'errors.tif', values)
    size = (tmp_path / 'errors.tif').stat().st_size
    for file in tmp_path.iterdir():
        file.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), limits[1]))
    try:
        with pytest.raises(OutputError, match=r'errors\.tif cannot be written'):
            write_all(tmp_path / 'errors.tif', values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
