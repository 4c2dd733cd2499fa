import math
import resource
import sqlite3
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform

from mmrs.geo.grids import RasterGrid
from mmrs.geo.vectors import burn_labels
from mmrs.prediction import polygons
from mmrs.prediction.polygons import write_polygons
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.label_maps import write_label_map, write_raster

CLASSES = ['field', 'water', 'road']
COLOURS = [(230, 200, 90), (0, 90, 200), (60, 60, 60)]
UTM = dict(crs='EPSG:32633', transform=Affine(10, 0, 500000, 0, -10, 5600000))
DEGREES = dict(crs='EPSG:4326', transform=Affine(0.01, 0, 10, 0, -0.01, 60))

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def write_map(path, labels, classes=CLASSES, **place):
    return write_label_map(path, labels, classes, COLOURS, **place)


def read(path):
    """Polygons and their fields."""
    meta, _, shapes, values = pyogrio.raw.read(path, layer='classes')
    return shapely.from_wkb(shapes), dict(zip(meta['fields'], values)), meta


def random_labels(shape=(23, 31), seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, shape).astype(np.uint8)
    labels[random.random(shape) < 0.2] = 255
    return labels


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    # Seven rows of the map above.
    monkeypatch.setattr(polygons, '_STRIP_PIXELS', 7 * 31)


@pytest.mark.parametrize(
    'place',
    [
        UTM,
        dict(crs='EPSG:32633', transform=Affine(10, 0, 500000, 0, 10, 5600000)),
        dict(crs='EPSG:32633', transform=Affine(8, 6, 500000, 6, -8, 5600000)),
        DEGREES,
        dict(crs='EPSG:3857', transform=Affine(0.5, 0, 1e6, 0, -0.5, 8e6)),
        dict(crs='EPSG:4326', transform=Affine(0.5, 0, 175, 0, -0.5, -10)),
    ],
    ids=['utm', 'south-up', 'rotated', 'degrees', 'mercator', 'antimeridian'],
)
def test_polygons_burn_to_the_map(tmp_path, place):
    labels = random_labels()
    path = write_map(tmp_path / 'map.tif', labels, **place)
    count = write_polygons([path], tmp_path / 'map.gpkg')
    shapes, fields, meta = read(tmp_path / 'map.gpkg')
    assert len(shapes) == count > 50
    assert shapely.is_valid(shapes).all()
    assert set(shapely.get_type_id(shapes)) == {shapely.GeometryType.POLYGON}
    assert shapely.is_ccw(shapely.get_exterior_ring(shapes)).all()
    assert not any(shapely.is_ccw(hole) for shape in shapes for hole in shape.interiors)
    assert meta['crs'] == place['crs']
    assert list(fields) == ['class_id', 'class', 'area_m2']
    assert [CLASSES[i] for i in fields['class_id']] == fields['class'].tolist()
    if place['crs'] == 'EPSG:32633':
        assert np.allclose(fields['area_m2'], shapely.area(shapes), rtol=1e-12)
        assert fields['area_m2'].sum() == pytest.approx(100 * (labels != 255).sum(), rel=1e-12)
    with rasterio.open(path) as raster:
        grid = RasterGrid.of(raster)
    index = {i: i for i in range(3)}
    burnt = burn_labels(str(tmp_path / 'map.gpkg'), grid, index, 255, layer='classes', attribute='class_id')
    assert np.array_equal(burnt, labels)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['map.gpkg', 'map.tif']


def zone_area(south, north, width):
    """Square metres of the WGS84 ellipsoid between two latitudes, over some degrees of longitude."""
    axis, flattening = 6378137, 1 / 298.257223563
    e = math.sqrt(flattening * (2 - flattening))

    def up_to(latitude):
        s = math.sin(math.radians(latitude))
        return s / (1 - (e * s) ** 2) + math.log((1 + e * s) / (1 - e * s)) / (2 * e)

    return (axis * (1 - flattening)) ** 2 / 2 * math.radians(width) * (up_to(north) - up_to(south))


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:3857'])
def test_areas_are_right_at_each_polygons_own_place(tmp_path, crs):
    # Two squares, at the top and the bottom of a map from the Arctic to the equator.
    labels = np.full((700, 20), 255, np.uint8)
    labels[2:6, 4:8] = 0
    labels[690:694, 4:8] = 1
    x, y = transform('EPSG:4326', crs, [10, 12], [70, 0])
    step = (x[1] - x[0]) / 20, (y[1] - y[0]) / 700
    place = dict(crs=crs, transform=Affine(step[0], 0, x[0], 0, step[1], y[0]))
    write_polygons([write_map(tmp_path / 'map.tif', labels, **place)], tmp_path / 'map.gpkg')
    shapes, fields, _ = read(tmp_path / 'map.gpkg')
    assert len(shapes) == 2
    for shape, area in zip(shapes, fields['area_m2']):
        (west, east), (south, north) = transform(crs, 'EPSG:4326', *np.array(shape.bounds).reshape(2, 2).T)
        assert area == pytest.approx(zone_area(south, north, east - west), rel=1e-4)


def test_area_on_the_date_line(tmp_path):
    # At 60 degrees north, Web Mercator stretches lengths to the double. The line runs through the middle pixels.
    place = dict(crs='EPSG:3857', transform=Affine(10, 0, 20037508.34 - 15, 0, -10, 8399737.9))
    write_polygons([write_map(tmp_path / 'map.tif', np.zeros((3, 3), np.uint8), **place)], tmp_path / 'map.gpkg')
    assert read(tmp_path / 'map.gpkg')[1]['area_m2'] == pytest.approx([9 * 25], rel=0.01)


def test_small_areas_are_dropped_and_small_holes_are_filled(tmp_path):
    labels = np.zeros((20, 31), np.uint8)
    labels[2:5, 2:5] = 1  # 9 pixels
    labels[8:12, 8:12] = 2  # 16
    labels[9:11, 9:11] = 1  # of which 4 are something else
    write_polygons([write_map(tmp_path / 'map.tif', labels, **UTM)], tmp_path / 'map.gpkg', min_area=1000)
    shapes, fields, _ = read(tmp_path / 'map.gpkg')
    found = dict(zip(fields['class'].tolist(), shapes))
    assert sorted(found) == ['field', 'road']
    # The ring of 12 pixels is filled and has 16; the field has lost its hole of 9.
    assert found['road'].area == 1600
    assert not found['road'].interiors
    assert found['field'].area == 100 * (20 * 31 - 16)
    assert len(found['field'].interiors) == 1
    assert fields['area_m2'].tolist() == [shape.area for shape in shapes]


def test_min_area_keeps_what_has_just_that(tmp_path):
    labels = np.full((5, 9), 255, np.uint8)
    labels[1, 1:4], labels[3, 1:3] = 0, 1
    path = write_map(tmp_path / 'map.tif', labels, **UTM)
    assert write_polygons([path], tmp_path / 'map.gpkg', min_area=300) == 1
    assert read(tmp_path / 'map.gpkg')[1]['class'].tolist() == ['field']


@pytest.mark.parametrize('place', [UTM, DEGREES], ids=['utm', 'degrees'])
def test_simplified_outlines_stay_within_the_distance(tmp_path, place):
    rows, columns = np.indices((60, 60))
    labels = np.where(columns > rows, 1, 0).astype(np.uint8)  # a staircase along the diagonal
    path = write_map(tmp_path / 'map.tif', labels, **place)
    write_polygons([path], tmp_path / 'exact.gpkg')
    metres = 8 if place is UTM else 700
    write_polygons([path], tmp_path / 'simple.gpkg', simplify=metres)
    exact, _, _ = read(tmp_path / 'exact.gpkg')
    simple, fields, _ = read(tmp_path / 'simple.gpkg')
    assert shapely.get_num_coordinates(exact).min() > 100
    assert shapely.get_num_coordinates(simple).max() < 10
    assert shapely.is_valid(simple).all()
    if place is UTM:
        assert max(shapely.hausdorff_distance(exact, simple)) <= metres
        assert np.allclose(fields['area_m2'], shapely.area(simple))
    else:
        # A degree of longitude at 60 degrees north has 55.8 km, one of latitude 111.4 km.
        stretched = [shapely.transform(s, lambda xy: (xy - (10, 60)) * (55802, 111412)) for s in (exact, simple)]
        assert max(shapely.hausdorff_distance(*stretched)) <= metres * 1.02
        assert np.allclose(fields['area_m2'], shapely.area(stretched[1]), rtol=0.02)


def test_an_outline_that_crosses_itself_is_taken_apart():
    crossed = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = shapely.Polygon([(0, 0), (4, 0), (2, 0), (2, 2), (0, 2)])
    shapes, index = polygons._valid(np.array([crossed, shapely.box(0, 0, 1, 1), spike]))
    assert shapely.is_valid(shapes).all()
    assert index.tolist() == [0, 0, 1, 2]
    assert shapely.area(shapes).tolist() == [1, 1, 1, 4]


def test_maps_in_several_crs(tmp_path):
    labels = np.zeros((4, 5), np.uint8)
    first = write_map(tmp_path / 'first.tif', labels, **UTM)
    place = dict(crs='EPSG:4326', transform=Affine(1e-4, 0, 16, 0, -1e-4, 50))
    second = write_map(tmp_path / 'second.tif', labels + 1, **place)
    assert write_polygons([first, second], tmp_path / 'maps.gpkg') == 2
    shapes, fields, meta = read(tmp_path / 'maps.gpkg')
    assert fields['raster'].tolist() == ['first.tif', 'second.tif']
    assert meta['crs'] == 'EPSG:32633'
    (x,), (y,) = transform('EPSG:4326', 'EPSG:32633', [16.00025], [49.9998])
    assert shapely.distance(shapes[1].centroid, shapely.Point(x, y)) < 0.01
    assert fields['area_m2'][1] == pytest.approx(zone_area(49.9996, 50, 0.0005), rel=1e-4)


def test_a_polygon_across_the_date_line_stays_in_one_piece(tmp_path):
    labels = np.zeros((20, 20), np.uint8)
    (x,), (y,) = transform('EPSG:4326', 'EPSG:32760', [180], [-16])
    place = dict(crs='EPSG:32760', transform=Affine(10, 0, x - 100, 0, -10, y))
    in_degrees = dict(crs='EPSG:4326', transform=Affine(1e-4, 0, 178, 0, -1e-4, -16))
    maps = [write_map(tmp_path / 'a.tif', labels, **in_degrees), write_map(tmp_path / 'b.tif', labels, **place)]
    assert write_polygons(maps, tmp_path / 'map.gpkg') == 2
    shapes, fields, _ = read(tmp_path / 'map.gpkg')
    west, south, east, north = shapes[1].bounds
    assert 179.99 < west < 180 < east < 180.01
    assert zone_area(south, north, east - west) == pytest.approx(200 * 200, rel=0.1)  # the box around it, turned a bit
    assert fields['area_m2'][1] == 200 * 200


def test_parts_of_a_polygon_share_its_area(tmp_path):
    grid = RasterGrid(rasterio.CRS.from_epsg(32633), UTM['transform'], 10, 10)
    bowtie = shapely.from_wkt('POLYGON((0 0, 6 6, 6 0, 0 6, 0 0))')
    found = polygons._to_crs(
        polygons._Polygons(np.array([bowtie]), np.array([1]), np.array([1800.0])),
        polygons._Map(tmp_path / 'map.tif', grid),
        rasterio.CRS.from_epsg(32632),
    )
    assert found.class_ids.tolist() == [1, 1]
    assert found.square_metres == pytest.approx([900, 900], rel=0.01)


def test_a_map_without_crs(tmp_path):
    labels = random_labels()
    labels[:5, :5], labels[2, 2] = 0, 1
    path = write_map(tmp_path / 'map.tif', labels)
    count = write_polygons([path], tmp_path / 'map.gpkg')
    shapes, fields, meta = read(tmp_path / 'map.gpkg')
    assert meta['crs'] is None
    assert len(shapes) == count
    assert shapely.area(shapes).sum() == (labels != 255).sum()
    assert np.isnan(fields['area_m2']).all()
    for option in ('min_area', 'simplify'):
        with pytest.raises(DataError, match=r'no CRS.*in metres'):
            write_polygons([path], tmp_path / 'other.gpkg', **{option: 1})
    assert not (tmp_path / 'other.gpkg').exists()


def test_a_map_without_data_gives_an_empty_layer(tmp_path):
    path = write_map(tmp_path / 'map.tif', np.full((4, 4), 255, np.uint8), **UTM)
    assert write_polygons([path], tmp_path / 'map.gpkg') == 0
    shapes, fields, _ = read(tmp_path / 'map.gpkg')
    assert not len(shapes)
    assert list(fields) == ['class_id', 'class', 'area_m2']


def test_batches(tmp_path, monkeypatch):
    monkeypatch.setattr('mmrs.prediction.geopackage._BATCH', 10)
    path = write_map(tmp_path / 'map.tif', random_labels(), **UTM)
    count = write_polygons([path], tmp_path / 'map.gpkg')
    shapes, _, _ = read(tmp_path / 'map.gpkg')
    assert len(shapes) == count > 50
    # The spatial index has all of them.
    everywhere = tuple(shapely.total_bounds(shapes))
    assert len(pyogrio.raw.read(tmp_path / 'map.gpkg', layer='classes', bbox=everywhere)[2]) == count


def test_style_for_qgis(tmp_path):
    path = write_map(tmp_path / 'map.tif', random_labels(), ['<field>', 'a "b" & c', 'Straße'], **UTM)
    write_polygons([path], tmp_path / 'map.gpkg')
    with sqlite3.connect(tmp_path / 'map.gpkg') as database:
        (style,) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_schema = '' AND f_table_name = 'classes' "
            "AND f_geometry_column = 'geom' AND useAsDefault = 1"
        ).fetchall()
        registered = database.execute(
            "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'"
        ).fetchall()
    assert registered == [('attributes',)]
    root = ElementTree.fromstring(style[0])
    symbols = {s.get('name'): s.find(".//Option[@name='color']").get('value') for s in root.iter('symbol')}
    found = {c.get('value'): symbols[c.get('symbol')] for c in root.iter('category')}
    assert found == {'<field>': '230,200,90,255', 'a "b" & c': '0,90,200,255', 'Straße': '60,60,60,255'}
    assert root.find('renderer-v2').get('attr') == 'class'


@pytest.mark.parametrize('limit', [2_000, 120_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit):
    path = write_map(tmp_path / 'map.tif', random_labels((80, 80)), **UTM)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OutputError, match=r'map\.gpkg cannot be written'):
            write_polygons([path], tmp_path / 'map.gpkg')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [p.name for p in tmp_path.iterdir()] == ['map.tif']


@pytest.mark.parametrize(
    'options', [{name: value} for name in ('min_area', 'simplify') for value in (-1, math.nan, math.inf)]
)
def test_options_that_cannot_work(tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=f'{name} is {value}'):
        write_polygons([tmp_path / 'map.tif'], tmp_path / 'map.gpkg', **options)
    with pytest.raises(ConfigError, match=r'map\.shp.* ends in \.gpkg'):
        write_polygons([tmp_path / 'map.tif'], tmp_path / 'map.shp')


SITE = dict(crs='LOCAL_CS["site",UNIT["metre",1]]', transform=UTM['transform'])


@pytest.mark.parametrize(
    ('other', 'message'),
    [
        (dict(classes=['a', 'b', 'c'], **UTM), r'b\.tif has the classes a, b, c, but .*a\.tif has field, water, road'),
        ({}, r'b\.tif has no CRS, but .*a\.tif has EPSG:32633'),
        (SITE, r'b\.tif: parts of it have no place in EPSG:32633, the CRS of the first'),
        (None, r'b\.tif: no such file'),
    ],
)
def test_maps_that_do_not_go_together(tmp_path, other, message):
    maps = [write_map(tmp_path / 'a.tif', random_labels(), **UTM), tmp_path / 'b.tif']
    if other is not None:
        write_map(maps[1], random_labels(), **other)
    with pytest.raises((OSError, DataError), match=message):
        write_polygons(maps, tmp_path / 'map.gpkg')
    assert not (tmp_path / 'map.gpkg').exists()


def test_what_is_no_map(tmp_path):
    two = write_map(tmp_path / 'two.tif', random_labels(), ['a', 'b'], **UTM)
    with pytest.raises(DataError, match='holds the value 2, but its tag names 2 classes'):
        write_polygons([two], tmp_path / 'map.gpkg')
    image = write_raster(tmp_path / 'image.tif', np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(DataError, match='no label map'):
        write_polygons([image], tmp_path / 'map.gpkg')
    assert not (tmp_path / 'map.gpkg').exists()
