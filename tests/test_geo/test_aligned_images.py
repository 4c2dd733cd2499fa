import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from mmrs.geo.aligned_images import read_aligned_image
from mmrs.utils.errors import DataError
from tests.small_files import turned

UTM = 'EPSG:32633'
GRID = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
SHAPE = (60, 80)
WHOLE = (0, 0, 80, 60)


@pytest.fixture
def grid_path(tmp_path, write):
    return write(tmp_path / 'grid.tif', np.zeros((*SHAPE, 1), np.uint8), crs=UTM, transform=GRID)


def centres(affine, shape, scale=(1, 1)):
    """Coordinates of the centres of all pixels, `(H, W)` each; with `scale`, of pixels that are larger."""
    row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
    row, column = row * scale[0], column * scale[1]
    return affine.a * column + affine.b * row + affine.c, affine.d * column + affine.e * row + affine.f


def positions(affine, x, y):
    inverse = ~affine
    return inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f


def interpolate(image, valid, column, row):
    """Bilinear interpolation in float64 with the valid pixels of an image `(H, W, C)` alone, and where the pixel around
    a position is one.
    """
    height, width = valid.shape
    left, top = np.floor(column - 0.5).astype(int), np.floor(row - 0.5).astype(int)
    total, known = np.zeros((*column.shape, image.shape[2])), np.zeros(column.shape)
    for y in (top, top + 1):
        for x in (left, left + 1):
            weight = (1 - np.abs(column - 0.5 - x)) * (1 - np.abs(row - 0.5 - y))
            yy, xx = y.clip(0, height - 1), x.clip(0, width - 1)
            weight = weight * ((y == yy) & (x == xx) & valid[yy, xx])
            known += weight
            total += weight[..., None] * np.nan_to_num(image[yy, xx].astype(np.float64))
    reached = (column > 0) & (row > 0) & (column < width) & (row < height)
    around = valid[row.clip(0, height - 1).astype(int), column.clip(0, width - 1).astype(int)]
    with np.errstate(invalid='ignore'):
        return total / known[..., None], reached & around


def field(x, y):
    """A smooth function of UTM coordinates; its slope is at most 10 per metre."""
    return 128 + 80 * np.sin((x - 400000) / 11) + 40 * np.cos((y - 5800000) / 17)


def test_same_grid_is_read_as_it_is(tmp_path, write, rng, grid_path):
    image = rng.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    shifted = Affine(0.5, 0, 400000 + 1e-5, 0, -0.5, 5800000)
    path = write(tmp_path / 'i.tif', image, crs=UTM, transform=shifted)
    read, valid = read_aligned_image(path, grid_path, None, (10, 20, 50, 60), SHAPE)
    np.testing.assert_array_equal(read, image[20:60, 10:50])
    assert valid is None
    half, _ = read_aligned_image(path, grid_path, (2,), (0, 0, 40, 30), (30, 40))
    mean = image[..., 1].reshape(30, 2, 40, 2).mean(axis=(1, 3))
    assert np.abs(half[..., 0] - mean).max() <= 0.5


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize(('columns', 'rows'), [(30, -7), (-20, 12), (0, 0)])
def test_same_pixels_are_not_interpolated(tmp_path, write, rng, grid_path, dtype, columns, rows):
    image = rng.integers(0, 255, (50, 60, 2)).astype(dtype)
    moved = Affine(0.5, 0, 400000 + columns * 0.5, 0, -0.5, 5800000 - rows * 0.5)
    path = write(tmp_path / 'i.tif', image, crs=UTM, transform=moved)
    padded, expected = np.zeros((*SHAPE, 2)), np.zeros(SHAPE, bool)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            y, x = row - rows, column - columns
            if 0 <= y < 50 and 0 <= x < 60:
                padded[row, column], expected[row, column] = image[y, x], True
    for x0, y0, x1, y1 in (WHOLE, (20, 10, 55, 43)):
        read, valid = read_aligned_image(path, grid_path, None, (x0, y0, x1, y1), SHAPE)
        own = expected[y0:y1, x0:x1]
        valid = np.ones_like(own) if valid is None else valid
        np.testing.assert_array_equal(valid, own)
        np.testing.assert_array_equal(read[own], padded[y0:y1, x0:x1][own])
        assert read.dtype == dtype


def test_resampled_grid_with_the_same_pixels(tmp_path, write, rng, grid_path):
    """The grid is read at 1 m, where the image has its own pixels."""
    image = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    path = write(tmp_path / 'i.tif', image, crs=UTM, transform=Affine(1, 0, 400010, 0, -1, 5799990))
    read, valid = read_aligned_image(path, grid_path, None, (5, 5, 40, 30), (30, 40))
    np.testing.assert_array_equal(read[5:, 5:], image[:20, :30])
    assert valid[5:, 5:].all()
    assert valid.sum() == 600


OTHER = {
    'part of a pixel away': Affine(0.5, 0, 400003.17, 0, -0.5, 5799995.31),
    'coarser': Affine(1.3, 0, 399990.1, 0, -1.3, 5800010.2),
    'south-up': Affine(0.9, 0, 400002.1, 0, 0.9, 5799960.2),
    'turned': turned(400010, 5799997, 30, 0.7),
    'turned, of one size': turned(400006, 5799998, -40, 0.5),
}
HOLES = {
    'none': dict(),
    'nodata of real numbers': dict(dtype=np.float32, nodata=-9999.0),
    'NaN': dict(dtype=np.float32, nodata=np.nan),
    'NaN and nodata': dict(dtype=np.float32, nodata=-9999.0, nan=True),
    'nodata of signed numbers': dict(dtype=np.int16, nodata=-9999),
    'nodata of bytes': dict(dtype=np.uint8, nodata=0),
    'alpha': dict(dtype=np.uint8, alpha=True),
    'mask': dict(dtype=np.uint8, mask=True),
}


@pytest.mark.parametrize('holes', HOLES)
@pytest.mark.parametrize('place', OTHER)
def test_interpolation_of_valid_pixels(tmp_path, write, rng, grid_path, place, holes):
    own, kind = OTHER[place], dict(HOLES[holes])
    dtype, nodata = kind.pop('dtype', np.uint8), kind.pop('nodata', None)
    image = rng.integers(1, 255, (40, 50, 3)).astype(dtype)
    hidden = np.zeros((40, 50), bool)
    if holes != 'none':
        hidden[8:20, 5:17] = hidden[30, 40] = True
        image[hidden] = 0 if nodata is None else nodata
        # In one band alone, 0 is an ordinary byte; a number that stands for no data is none.
        image[25, 20, 1] = 0 if dtype == np.uint8 else nodata
        hidden[25, 20] |= dtype != np.uint8
        if 'nan' in kind:
            image[2, 3] = np.nan
            hidden[2, 3] = True
    stored = np.dstack((image, np.where(hidden, 0, 255).astype(np.uint8))) if 'alpha' in kind else image
    path = write(tmp_path / 'i.tif', stored, crs=UTM, transform=own, nodata=nodata)
    with rasterio.open(path, 'r+') as raster:
        if 'alpha' in kind:
            raster.colorinterp = [*[ColorInterp.gray] * 3, ColorInterp.alpha]
        if 'mask' in kind:
            raster.write_mask(~hidden)
    read, valid = read_aligned_image(path, grid_path, None, WHOLE, SHAPE)
    column, row = positions(own, *centres(GRID, SHAPE))
    expected, known = interpolate(image, ~hidden, column, row)
    valid = np.ones(SHAPE, bool) if valid is None else valid
    np.testing.assert_array_equal(valid, known)
    assert 0.1 < valid.mean() < 0.98 or place == 'coarser'
    # GDAL rounds bytes, and the image was as real numbers otherwise.
    assert np.abs(read - expected)[valid].max() <= (0.51 if dtype == np.uint8 else 0.02)
    assert np.isfinite(read).all()
    if not valid.all():
        mean = read[valid].mean(axis=0, dtype=np.float64)
        assert np.abs(read[~valid] - mean).max() <= (1 if dtype == np.uint8 else 1e-3)


def test_windows_fit_together(tmp_path, write, rng, grid_path):
    image = rng.random((50, 60, 1)).astype(np.float32)
    path = write(tmp_path / 'i.tif', image, crs=UTM, transform=turned(400004, 5799998, 20, 0.6))
    whole, valid = read_aligned_image(path, grid_path, None, WHOLE, SHAPE)
    part, shown = read_aligned_image(path, grid_path, None, (20, 10, 60, 45), SHAPE)
    shown = np.ones(part.shape[:2], bool) if shown is None else shown
    np.testing.assert_array_equal(valid[10:45, 20:60], shown)
    np.testing.assert_allclose(whole[10:45, 20:60][shown], part[shown], atol=1e-4)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:32632', 'EPSG:3857', 'EPSG:3035'])
@pytest.mark.parametrize('pixels', [(40, 50), (200, 240), (700, 800)])
def test_other_crs(tmp_path, write, grid_path, crs, pixels):
    """A function of the place is the same number in both, from pixels coarser and much finer than the grid's."""
    (left, right), (top, bottom) = transform_points(UTM, crs, [400002, 400060], [5799998, 5799960])
    own = Affine((right - left) / pixels[1], 0, left, 0, (bottom - top) / pixels[0], top)
    x, y = centres(own, pixels)
    places = transform_points(crs, UTM, x.ravel(), y.ravel())
    values = field(*(np.array(place).reshape(pixels) for place in places)).astype(np.float32)
    path = write(tmp_path / 'i.tif', values[..., None], crs=crs, transform=own)
    read, valid = read_aligned_image(path, grid_path, None, WHOLE, SHAPE)
    x, y = centres(GRID, SHAPE)
    error = np.abs(read[..., 0] - field(x, y))[valid]
    # At the image's edge, the value of the last centre counts, half a pixel away; else an eighth of a pixel.
    assert error.max() < max(0.25, 0.5 * 38 / pixels[0]) * 10
    assert error.mean() < 0.2
    moved = transform_points(UTM, crs, x.ravel(), y.ravel())
    column, row = (values.reshape(SHAPE) for values in positions(own, *map(np.array, moved)))
    edge = np.minimum.reduce([column, pixels[1] - column, row, pixels[0] - row]) * 38 / pixels[0]
    sure = np.abs(edge) > 0.125 * 0.5  # an eighth of a pixel, in metres
    np.testing.assert_array_equal(valid[sure], (edge > 0)[sure])
    assert 0.5 < valid.mean() < 0.95


def test_much_finer_pixels_are_averaged(tmp_path, write, rng, grid_path):
    """Noise of single pixels goes away as in a mean of all of them; one of nine samples would keep it."""
    image = rng.integers(0, 2, (720, 960, 1)).astype(np.float32) * 200
    path = write(tmp_path / 'i.tif', image, crs=UTM, transform=Affine(0.05, 0, 399999.9, 0, -0.05, 5800000.13))
    read, valid = read_aligned_image(path, grid_path, None, (0, 0, 70, 50), SHAPE)
    assert valid is None
    assert abs(read.mean() - 100) < 2
    assert read.std() < 100 / 10 * 1.1


def test_image_elsewhere_has_no_data(tmp_path, write, grid_path):
    for dtype in (np.uint8, np.float32):
        path = write(tmp_path / 'i.tif', np.ones((5, 5, 4), dtype), crs=UTM, transform=Affine(1, 0, 9e5, 0, -1, 1e6))
        read, valid = read_aligned_image(path, grid_path, (4, 1), (0, 0, 20, 10), SHAPE)
        assert (read.shape, read.dtype) == ((10, 20, 2), dtype)
        assert not read.any()
        assert not valid.any()


def test_errors_name_the_file(tmp_path, write, grid_path):
    path = write(tmp_path / 'i.tif', np.ones((5, 5, 2), np.uint8), crs=UTM, transform=turned(4e5, 5.8e6, 10, 1))
    with pytest.raises(DataError, match=r'i\.tif has 2 bands, numbered from 1; bands \[3\] were asked for'):
        read_aligned_image(path, grid_path, (3,), WHOLE, SHAPE)
    with pytest.raises(DataError, match=r'gone\.tif: no such file'):
        read_aligned_image(tmp_path / 'gone.tif', grid_path, None, WHOLE, SHAPE)
