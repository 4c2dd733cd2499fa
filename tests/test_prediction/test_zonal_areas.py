import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from mmrs.geo import statistics
from mmrs.geo.vectors import VectorLayer
from mmrs.prediction.areas import class_areas
from mmrs.prediction.zonal_areas import zonal_areas
from mmrs.utils.errors import DataError
from tests.label_maps import write_label_map, write_raster
from tests.test_prediction.test_areas import zone

CLASSES, PALETTE = ['water', 'land', 'ice'], [(0, 0, 255), (0, 255, 0), (255, 255, 255)]
SHAPE = 70, 90
UTM = dict(crs='EPSG:32633', transform=Affine(2, 0, 5e5, 0, -3, 6e6))
TURNED = dict(crs='EPSG:32633', transform=Affine(2.4, 1.8, 5e5, 1.8, -2.4, 6e6))
DEGREES = dict(crs='EPSG:4326', transform=from_origin(10, 60, 0.1, 0.2))


def random_labels(seed=0):
    return np.random.default_rng(seed).choice([0, 1, 2, 255], size=SHAPE, p=[0.3, 0.4, 0.2, 0.1]).astype(np.uint8)


def blobs(number=25, seed=0):
    """Overlapping polygons with holes and several parts, in columns and rows of a map."""
    rng = np.random.default_rng(seed)
    discs = shapely.buffer(shapely.points(rng.uniform(0, 1, (number, 2)) * (90, 70)), rng.uniform(0.3, 25, number))
    others = shapely.buffer(shapely.points(rng.uniform(0, 1, (number, 2)) * (90, 70)), rng.uniform(0.3, 15, number))
    return shapely.symmetric_difference(discs, others)


def on_the_ground(shapes, place):
    a, b, c, d, e, f = tuple(place['transform'])[:6]
    return shapely.transform(shapes, lambda xy: np.stack([xy @ [a, b] + c, xy @ [d, e] + f], axis=1))


def write_polygons(path, shapes, crs):
    wkb = shapely.to_wkb(shapes)
    pyogrio.raw.write(path, wkb, [], [], layer='p', driver='GPKG', crs=crs, geometry_type='Unknown')
    layer = VectorLayer(str(path), role='polygon')
    return layer, layer.within(layer.bounds)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(statistics, '_WINDOW_HEIGHT', 16)
    monkeypatch.setattr(statistics, '_WINDOW_WIDTH', 32)


@pytest.mark.parametrize('place', [UTM, TURNED, DEGREES], ids=['utm', 'rotated', 'degrees'])
def test_pixels_whose_centre_is_inside(tmp_path, place):
    labels, shapes = random_labels(), blobs()
    path = write_label_map(tmp_path / 'map.tif', labels, CLASSES, PALETTE, **place)
    layer, polygons = write_polygons(tmp_path / 'p.gpkg', on_the_ground(shapes, place), place['crs'])
    seen = []
    found = zonal_areas(path, layer, polygons, advance=lambda *progress: seen.append(progress))
    assert seen == [(i, 15) for i in range(1, 16)]
    y, x = np.mgrid[:70, :90] + 0.5
    if place is DEGREES:
        edges = 60 - 0.2 * np.arange(71)
        sizes = zone(edges[1:], edges[:-1]) * np.radians(0.1)
    else:
        sizes = np.full(70, abs(place['transform'].determinant))
    for i, shape in enumerate(shapes):
        inside = shapely.contains_xy(shape, x, y)
        for k in range(3):
            mine = inside & (labels == k)
            assert found.pixels[i, k] == mine.sum()
            assert found.square_metres[i, k] == pytest.approx((mine * sizes[:, None]).sum(), rel=1e-5)
        if shapely.covered_by(shape, shapely.box(0, 0, 90, 70)) and inside.any():
            assert found.covered[i] == pytest.approx((inside & (labels != 255)).sum() / inside.sum())
        elif inside.any():  # a part of it lies outside
            assert found.covered[i] < shape.intersection(shapely.box(0, 0, 90, 70)).area / shape.area
    assert not found.outside.any()


def test_parcels_that_fill_a_map_have_its_areas(tmp_path):
    path = write_label_map(tmp_path / 'map.tif', random_labels(), CLASSES, PALETTE, **DEGREES)
    seeds = shapely.multipoints(np.random.default_rng(0).uniform(0, 1, (60, 2)) * SHAPE[::-1])
    cells = shapely.get_parts(shapely.voronoi_polygons(seeds, extend_to=shapely.box(0, 0, 90, 70)))
    cells = on_the_ground(shapely.intersection(cells, shapely.box(0, 0, 90, 70)), DEGREES)
    layer, polygons = write_polygons(tmp_path / 'p.gpkg', cells, 'EPSG:4326')
    found, whole = zonal_areas(path, layer, polygons), zonal_areas(path)
    assert len(found.pixels) == 60
    np.testing.assert_array_equal(found.pixels.sum(0), class_areas(path)[1])
    np.testing.assert_allclose(found.square_metres.sum(0), class_areas(path)[2], rtol=1e-9)
    np.testing.assert_allclose(whole.square_metres[0], class_areas(path)[2], rtol=1e-9)
    assert whole.covered == pytest.approx((random_labels() != 255).mean())


def test_polygons_in_another_crs(tmp_path):
    """An edge that is straight in degrees is an arc on the map, by some pixels here."""
    place = dict(crs='EPSG:32633', transform=Affine(4000, 0, 3.2e5, 0, -4000, 7.2e6))
    labels = random_labels()
    path = write_label_map(tmp_path / 'map.tif', labels, CLASSES, PALETTE, **place)
    box = shapely.box(13, 63.1, 19, 64.3)
    layer, polygons = write_polygons(tmp_path / 'p.gpkg', [box], 'EPSG:4326')
    y, x = np.mgrid[:70, :90] + 0.5
    lon, lat = transform(place['crs'], 'EPSG:4326', (3.2e5 + 4000 * x).ravel(), (7.2e6 - 4000 * y).ravel())
    inside = shapely.contains_xy(box, lon, lat).reshape(SHAPE)
    expected = [(inside & (labels == k)).sum() for k in range(3)]
    assert sum(expected) > 1000
    np.testing.assert_allclose(zonal_areas(path, layer, polygons).pixels[0], expected, atol=2)


@pytest.mark.parametrize('west', [178, -182])
def test_across_the_180th_meridian(tmp_path, west):
    place = dict(crs='EPSG:4326', transform=from_origin(west, 10, 0.05, 0.05))
    labels = np.ones(SHAPE, np.uint8)
    path = write_label_map(tmp_path / 'map.tif', labels, CLASSES, PALETTE, **place)
    shapes = [shapely.box(178.5, 8, 179.5, 9), shapely.box(-180, 8, -179, 9), shapely.box(-180, -90, 180, 90)]
    layer, polygons = write_polygons(tmp_path / 'p.gpkg', shapes, 'EPSG:4326')
    assert zonal_areas(path, layer, polygons).pixels[:2].tolist() == [[0, 400, 0]] * 2


def test_probabilities(tmp_path):
    rng = np.random.default_rng(0)
    labels, probabilities = random_labels(), rng.dirichlet([1, 1, 1], SHAPE).transpose(2, 0, 1)
    path = write_label_map(tmp_path / 'map.tif', labels, CLASSES, PALETTE, **UTM)
    stored = np.where(labels == 255, 255, np.round(probabilities * 254)).astype(np.uint8)
    soft = write_raster(tmp_path / 'soft.tif', stored, nodata=255, **UTM)
    with pytest.raises(DataError, match=r'soft\.tif has the bands'):
        zonal_areas(path, probabilities=soft)
    with rasterio.open(soft, 'r+') as raster:
        raster.descriptions = CLASSES
    layer, polygons = write_polygons(tmp_path / 'p.gpkg', on_the_ground(blobs(8), UTM), UTM['crs'])
    found = zonal_areas(path, layer, polygons, soft)
    y, x = np.mgrid[:70, :90] + 0.5
    for i, shape in enumerate(blobs(8)):
        inside = shapely.contains_xy(shape, x, y) & (labels != 255)
        np.testing.assert_allclose(found.expected[i], 6 * probabilities[:, inside].sum(1), rtol=0.01, atol=1)
    np.testing.assert_allclose(found.expected.sum(1), found.square_metres.sum(1), rtol=1e-12)
    other = write_label_map(tmp_path / 'other.tif', np.roll(labels, 3), CLASSES, PALETTE, **UTM)
    with pytest.raises(DataError, match=r'soft\.tif has no data'):
        zonal_areas(other, probabilities=soft)
    moved = write_label_map(tmp_path / 'moved.tif', labels, CLASSES, PALETTE, **TURNED)
    with pytest.raises(DataError, match=r'soft\.tif has other pixels than'):
        zonal_areas(moved, probabilities=soft)


def test_polygons_outside(tmp_path):
    path = write_label_map(tmp_path / 'map.tif', random_labels(), CLASSES, PALETTE, **UTM)
    far = shapely.box(7e5, 6e6, 7e5 + 50, 6e6 + 50)
    near = shapely.box(5e5 - 100, 6e6 - 210, 5e5 + 90, 6e6)
    found = zonal_areas(path, *write_polygons(tmp_path / 'p.gpkg', [far, near], UTM['crs']))
    assert found.outside.tolist() == [True, False]
    assert found.pixels[0].tolist() == [0, 0, 0]
    assert found.covered[0] == 0
    assert found.covered[1] == pytest.approx((random_labels()[:, :45] != 255).sum() / (70 * 95))
    with pytest.raises(DataError, match=r'q\.gpkg meets no raster.*200 km east'):
        zonal_areas(path, *write_polygons(tmp_path / 'q.gpkg', [far], UTM['crs']))


def test_what_has_no_areas(tmp_path):
    bare = write_label_map(tmp_path / 'bare.tif', random_labels(), CLASSES, PALETTE)
    with pytest.raises(DataError, match=r'bare\.tif has no CRS'):
        zonal_areas(bare)
    strange = write_label_map(tmp_path / 'strange.tif', random_labels() + np.uint8(1), CLASSES, PALETTE, **UTM)
    with pytest.raises(DataError, match=r'strange\.tif has the value 3'):
        zonal_areas(strange)
    with pytest.raises(DataError, match=r'plain\.tif is no label map'):
        zonal_areas(write_raster(tmp_path / 'plain.tif', random_labels()))
