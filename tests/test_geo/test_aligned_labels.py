import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from mmrs.geo.aligned_labels import read_aligned_labels, window_grid
from mmrs.utils.errors import DataError, UnreadableError
from tests.small_files import turned

UTM = 'EPSG:32633'
IMAGE = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
SHAPE = (60, 80)


@pytest.fixture
def image(tmp_path, write):
    return write(tmp_path / 'image.tif', np.zeros((*SHAPE, 1), np.uint8), crs=UTM, transform=IMAGE)


def centres(transform, shape):
    """Coordinates of the centres of the pixels of an image that is resampled to a shape."""
    row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
    row, column = row * SHAPE[0] / shape[0], column * SHAPE[1] / shape[1]
    return (
        transform.a * column + transform.b * row + transform.c,
        transform.d * column + transform.e * row + transform.f,
    )


def at(ids, transform, x, y):
    """Id of the label pixel around each point, -1 outside of all; and how far the point is from that pixel's edge."""
    inverse = ~transform
    column, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    inside = (column >= 0) & (row >= 0) & (column < ids.shape[1]) & (row < ids.shape[0])
    found = ids[row.clip(0, ids.shape[0] - 1).astype(int), column.clip(0, ids.shape[1] - 1).astype(int)]
    edge = np.minimum(np.abs(column - column.round()), np.abs(row - row.round()))
    return np.where(inside, found.astype(int), -1), edge


def check(path, image, window, ids, transform, crs=UTM, grid_shape=SHAPE, image_transform=IMAGE, edge_width=1e-6):
    read, nodata, covered = read_aligned_labels(path, image, window, grid_shape)
    x, y = (values[window[1] : window[3], window[0] : window[2]] for values in centres(image_transform, grid_shape))
    if crs != UTM:
        moved = transform_points(UTM, crs, x.ravel(), y.ravel())
        x, y = (np.array(values).reshape(x.shape) for values in moved)
    expected, edge = at(ids, transform, x, y)
    assert nodata is None
    sure = edge > edge_width
    assert sure.mean() > 0.3
    np.testing.assert_array_equal(np.where(covered, read.astype(int), -1)[sure], expected[sure])
    return covered


def test_same_grid_is_read_straight(tmp_path, write, rng, image):
    ids = rng.integers(0, 9, SHAPE).astype(np.int16)
    shifted = Affine(0.5 + 1e-20, 0, 400000 + 1e-5, 0, -0.5, 5800000)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=shifted, nodata=-1)
    read, nodata, covered = read_aligned_labels(path, image, (10, 20, 50, 60), SHAPE)
    np.testing.assert_array_equal(read, ids[20:60, 10:50])
    assert nodata == -1
    assert covered.all()


@pytest.mark.parametrize(
    'transform',
    [
        Affine(0.5, 0, 400003, 0, -0.5, 5799995),  # shifted by whole pixels, covering a part
        Affine(1.3, 0, 399990.1, 0, -1.3, 5800010.2),  # coarser
        Affine(0.45, 0, 400001, 0, -0.45, 5799999),
        Affine(1.3, 0, 399990.1, 0, 1.3, 5799960.2),  # south-up
        turned(400010, 5799997, 30, 1.1),
    ],
)
def test_other_grid_in_the_same_crs(tmp_path, write, rng, image, transform):
    ids = rng.integers(0, 9, (50, 60)).astype(np.uint8)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=transform)
    covered = check(path, image, (0, 0, 80, 60), ids, transform)
    assert covered.any()
    check(path, image, (20, 10, 80, 60), ids, transform)


def test_labels_of_a_turned_image(tmp_path, write, rng):
    transform = turned(400010, 5799997, -20, 0.5)
    image = write(tmp_path / 'image.tif', np.zeros((*SHAPE, 1), np.uint8), crs=UTM, transform=transform)
    ids, own = rng.integers(0, 9, (60, 70)).astype(np.uint8), Affine(0.9, 0, 400000, 0, -0.9, 5800010)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=own)
    check(path, image, (5, 10, 75, 60), ids, own, image_transform=transform)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:32632', 'EPSG:3857'])
def test_other_crs(tmp_path, write, rng, image, crs):
    (left, right), (top, bottom) = transform_points(UTM, crs, [399998, 400046], [5800002, 5799964])
    shape = 38, 40
    transform = Affine((right - left) / shape[1], 0, left, 0, (bottom - top) / shape[0], top)
    ids = rng.integers(0, 9, shape).astype(np.uint8)
    path = write(tmp_path / 'l.tif', ids, crs=crs, transform=transform)
    # An eighth of an image pixel, and as much again for the coarser label pixels.
    check(path, image, (10, 5, 80, 60), ids, transform, crs, edge_width=0.125)


def test_resampled_image_with_labels_on_another_grid(tmp_path, write, rng, image):
    ids, transform = rng.integers(0, 9, (40, 50)).astype(np.uint8), Affine(1, 0, 399995.3, 0, -1, 5800004.1)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=transform)
    check(path, image, (10, 5, 100, 75), ids, transform, grid_shape=(75, 100))


def test_much_finer_labels_give_the_most_frequent_id(tmp_path, write, image):
    """Of each 4 x 4 label pixels in an image pixel, nine have one id and seven have others."""
    cell = np.array([[1, 1, 1, 5], [1, 1, 1, 6], [1, 1, 1, 7], [8, 5, 6, 7]], np.uint8)
    offsets = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 3
    ids = np.tile(cell, SHAPE) + np.kron(offsets, (cell == 1).astype(int)).astype(np.uint8)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=Affine(0.125, 0, 400000, 0, -0.125, 5800000))
    read, _, covered = read_aligned_labels(path, image, (10, 5, 80, 60), SHAPE)
    np.testing.assert_array_equal(read, 1 + offsets[5:60, 10:80])
    assert covered.all()


def test_nodata_is_not_covered(tmp_path, write, rng, image):
    ids = rng.integers(0, 4, (60, 80)).astype(np.int16)
    transform = Affine(0.5, 0, 400001, 0, -0.5, 5800000)
    path = write(tmp_path / 'l.tif', ids, crs=UTM, transform=transform, nodata=2)
    read, _, covered = read_aligned_labels(path, image, (2, 0, 80, 60), SHAPE)
    np.testing.assert_array_equal(covered, ids[:, :78] != 2)
    np.testing.assert_array_equal(read[covered], ids[:, :78][covered])


def test_labels_that_cannot_belong_to_the_image(tmp_path, write, image):
    for name, profile, message in (
        ('far', dict(crs=UTM, transform=Affine(0.5, 0, 410000, 0, -0.5, 5800000)), 'lies outside its image'),
        ('bare', dict(crs=None), r'bare\.tif has no CRS, but .*image\.tif has EPSG:32633'),
    ):
        path = write(tmp_path / f'{name}.tif', np.zeros(SHAPE, np.uint8), **profile)
        with pytest.raises(DataError, match=message):
            read_aligned_labels(path, image, (0, 0, 8, 6), SHAPE)
    colours = write(tmp_path / 'colours.tif', np.zeros((*SHAPE, 3), np.uint8), crs=UTM, transform=IMAGE)
    with pytest.raises(DataError, match=r'colours\.tif has 3 bands, but a label map has one'):
        read_aligned_labels(colours, image, (0, 0, 8, 6), SHAPE)


def test_cut_labels_are_an_error(tmp_path, write, rng, image):
    path = write(tmp_path / 'l.tif', rng.integers(0, 9, (500, 500)).astype(np.uint8), crs=UTM, compress='deflate')
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    same = write(tmp_path / 'i.tif', np.zeros((500, 500, 1), np.uint8), crs=UTM)
    with pytest.raises(UnreadableError, match=r'l\.tif (cannot be read|is cut)'):
        read_aligned_labels(path, same, (0, 480, 20, 500), (500, 500))
    with pytest.raises(UnreadableError, match=r'l\.tif (cannot be read|is cut)'):
        read_aligned_labels(path, same, (0, 220, 20, 250), (250, 250))


def test_grid_of_a_window(image):
    grid = window_grid(image, (10, 20, 30, 30), SHAPE)
    assert grid.crs == CRS.from_string(UTM)
    assert grid.transform.almost_equals(Affine(0.5, 0, 400005, 0, -0.5, 5799990))
    assert grid.shape == (10, 20)


@pytest.mark.parametrize(
    ('dtype', 'nodata'),
    [
        (np.uint8, 255),
        (np.uint8, 0),
        (np.int16, -1),
        (np.int16, -9999),
        (np.int32, -1),
        (np.float32, np.nan),
        (np.uint8, None),
    ],
)
@pytest.mark.parametrize('grid_shape', [SHAPE, (30, 40), (120, 160)])
def test_labels_without_data(tmp_path, write, image, dtype, nodata, grid_shape):
    """Resampled, too: GDAL's most frequent value of nothing is 0, a class. A mask does what nodata does."""
    ids = np.full(SHAPE, 3, dtype)
    ids[:20, :40] = 0 if nodata is None else nodata
    path = write(tmp_path / 'labels.tif', ids, crs=UTM, transform=IMAGE, nodata=nodata)
    if nodata is None:
        with rasterio.open(path, 'r+') as raster:
            raster.write_mask(ids != 0)
    height, width = grid_shape
    read, _, covered = read_aligned_labels(path, image, (0, 0, width, height), grid_shape)
    expected = np.ones(grid_shape, bool)
    expected[: height // 3, : width // 2] = False
    np.testing.assert_array_equal(covered, expected)
    assert (read[covered] == 3).all()
