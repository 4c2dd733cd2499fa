import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import read_image
from mmrs.prediction.sources import RasterSource, WindowSteps
from tests.label_maps import write_raster

PLACE = dict(crs='EPSG:32633', transform=from_origin(5e5, 5e6, 1, 1))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('factor', [4, 0.5])
def test_the_model_sees_the_pixels_that_it_was_trained_on(tmp_path, dtype, factor):
    """A window at another resolution is what a data set reads of it, pixels without data included."""
    image = np.random.default_rng(0).integers(1, 250, (3, 320, 400)).astype(dtype)
    image[:, 30:90, 50:71] = 0
    image[0, 200] = 0  # dark in one band
    path = str(write_raster(tmp_path / 'a.tif', image, nodata=0, photometric='minisblack', **PLACE))
    with rasterio.open(path) as raster:
        grid = RasterGrid.of(raster)
    size = int(320 / factor), int(400 / factor)
    seen = RasterSource(path, grid, None, WindowSteps(), size).read((0, 0, 400, 320))
    expected, valid = read_image(path, None, (0, 0, *size[::-1]), size)
    np.testing.assert_array_equal(seen.valid.numpy(), valid)
    shown = seen.image.numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(shown[valid], expected[valid])
    np.testing.assert_allclose(shown[~valid], expected[~valid], rtol=1e-5)


def test_scale_and_offset(tmp_path):
    values = np.random.default_rng(0).integers(1000, 3000, (1, 64, 80), np.uint16)
    path = str(write_raster(tmp_path / 'a.tif', values, **PLACE))
    with rasterio.open(path, 'r+') as raster:
        raster.scales, raster.offsets = (1e-4,), (-0.1,)
        grid = RasterGrid.of(raster)
    for apply_scale, expected in ((True, values * 1e-4 - 0.1), (False, values)):
        seen = RasterSource(path, grid, None, WindowSteps(), (64, 80), apply_scale=apply_scale).read((0, 0, 80, 64))
        np.testing.assert_allclose(seen.image, expected, atol=1e-6)
