import numpy as np
import pytest

from mmrs.geo import masks
from mmrs.geo.rasters import open_raster
from mmrs.preparation.converters.scaling import histogram, percentile_bounds, raster_histogram, to_uint8, valid_pixels


@pytest.fixture
def image(rng):
    """Bands of different ranges, with a corner without data and single bands of 0."""
    image = (rng.gamma(2, 1, (3, 61, 47)) * np.array([300, 2000, 9000])[:, None, None]).clip(0, 65535)
    image = image.astype(np.uint16)
    image[:, :9, :5] = 0
    image[1, 20:25] = 0
    return image


def test_valid_pixels(image):
    valid = valid_pixels(image)
    assert not valid[:9, :5].any()
    assert valid[9:].all()
    assert valid_pixels(image, nodata=7).all()
    image[:, 0, 0] = 7
    assert valid_pixels(image, nodata=7).sum() == image[0].size - 1


@pytest.mark.parametrize('percentiles', [(2, 98), (0, 100), (25, 50)])
def test_percentiles_are_exact(image, percentiles):
    valid = valid_pixels(image)
    bounds = percentile_bounds(histogram(image, valid), percentiles)
    expected = [np.percentile(band[valid], percentiles, method='inverted_cdf') for band in image]
    np.testing.assert_array_equal(bounds, expected)


def test_percentiles_of_a_raster_read_in_strips(tmp_path, image, write, monkeypatch):
    monkeypatch.setattr(masks, '_STRIP_PIXELS', 300)
    path = write(tmp_path / 'a.tif', image.transpose(1, 2, 0))
    with open_raster(path) as raster:
        counts = raster_histogram(raster, [3, 1])
    both = image[[2, 0]]
    np.testing.assert_array_equal(counts, histogram(both, valid_pixels(both)))
    assert counts.sum(axis=1).tolist() == [61 * 47 - 45] * 2


def test_eight_bits(image):
    bounds = np.array([(100, 1000), (0, 8000), (5000, 5000)])
    everywhere = np.ones(image.shape[1:], bool)
    pixels = image.astype(np.float64)
    low, high = (bounds[:, i, None, None].astype(np.float64) for i in range(2))
    expected = (pixels[:2] - low[:2]) / (high - low)[:2] * 255
    scaled = to_uint8(image, bounds, everywhere)
    assert scaled.dtype == np.uint8
    np.testing.assert_allclose(scaled[:2], expected.clip(0, 255), atol=0.5001)
    # A band of one value only has nothing between black and white.
    np.testing.assert_array_equal(scaled[2], np.where(image[2] > 5000, 255, 0))
    valid = valid_pixels(image)
    masked = to_uint8(image, bounds, valid)
    np.testing.assert_array_equal(masked, np.where(valid, np.maximum(scaled, 1), 0))


def test_bounds_without_any_pixel():
    counts = np.zeros((2, 65536), np.int64)
    counts[1, 12] = 4
    bounds = percentile_bounds(counts)
    assert bounds[1].tolist() == [12, 12]
    assert to_uint8(np.zeros((2, 3, 3), np.uint16), bounds, np.zeros((3, 3), bool)).max() == 0
