import numpy as np
import pyogrio.raw
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from mmrs.geo.grids import RasterGrid
from mmrs.geo.vectors import VectorLayer, burn_labels
from mmrs.utils.errors import DataError, UnreadableError

UTM = CRS.from_epsg(32633)
GRID = RasterGrid(UTM, Affine(0.5, 0, 400000, 0, -0.5, 5800000), 20, 16)
INDEX = {'building': 1, 'road': 0, 'other': 255}


def square(left, top, right, bottom):
    """A rectangle given in pixels of GRID."""
    return shapely.box(400000 + 0.5 * left, 5800000 - 0.5 * bottom, 400000 + 0.5 * right, 5800000 - 0.5 * top)


def write_layer(path, shapes, values=None, field='class', crs='EPSG:32633', kind='Polygon', **kwargs):
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes, object)),
        [] if values is None else [np.array(values)],
        [] if values is None else [field],
        crs=crs,
        geometry_type=kind,
        **kwargs,
    )
    return str(path)


@pytest.fixture(params=['gpkg', 'geojson', 'fgb', 'shp'])
def two_squares(request, tmp_path):
    # Columns 2 to 7 and rows 3 to 5; then columns 6 to 12 and rows 4 to 9, over it.
    path = tmp_path / f'labels.{request.param}'
    options = dict(SPATIAL_INDEX='NO') if request.param == 'fgb' else {}  # which would change the order
    return write_layer(path, [square(2, 3, 8, 6), square(6, 4, 13, 10)], ['building', 'road'], **options)


def expected():
    labels = np.full((16, 20), 255, np.uint8)
    labels[3:6, 2:8] = 1
    labels[4:10, 6:13] = 0
    return labels


def test_squares(two_squares):
    labels = burn_labels(two_squares, GRID, INDEX, 255, attribute='class')
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected())


def test_window_and_background(two_squares):
    labels = burn_labels(two_squares, GRID.window((5, 2, 20, 9)), INDEX, 7, attribute='class')
    np.testing.assert_array_equal(labels, np.where(expected() == 255, 7, expected())[2:9, 5:20])
    nothing = burn_labels(two_squares, GRID.window((15, 11, 20, 16)), INDEX, 7, attribute='class')
    assert (nothing == 7).all()


def test_only_pixels_whose_centre_is_inside_count(tmp_path):
    path = write_layer(tmp_path / 'l.gpkg', [square(2.4, 3.6, 7.6, 6.4)])
    expected = np.full((16, 20), 255)
    expected[4:6, 2:8] = 3
    np.testing.assert_array_equal(burn_labels(path, GRID, {None: 3}, 255), expected)


def test_turned_and_south_up_rasters(tmp_path):
    """A half-plane: pixels whose centre is east of a line."""
    east = shapely.box(400004.01, 5799000, 401000, 5801000)
    path = write_layer(tmp_path / 'l.gpkg', [east])
    cos, sin = 0.5 * np.cos(0.4), 0.5 * np.sin(0.4)
    for transform in (Affine(cos, sin, 400000, sin, -cos, 5800000), Affine(0.5, 0, 400000, 0, 0.5, 5800000)):
        row, column = np.mgrid[:16, :20] + 0.5
        x = transform.a * column + transform.b * row + transform.c
        labels = burn_labels(path, RasterGrid(UTM, transform, 20, 16), {None: 3}, 0)
        np.testing.assert_array_equal(labels, np.where(x > 400004.01, 3, 0))


@pytest.mark.parametrize(('suffix', 'crs'), [('geojson', 'EPSG:4326'), ('gpkg', 'EPSG:3857')])
def test_other_crs(tmp_path, suffix, crs):
    def move(points):
        return np.column_stack(transform_points(UTM, crs, points[:, 0], points[:, 1]))

    # A third of a pixel off the pixels' edges, for rounding.
    shape = shapely.transform(square(2.33, 3.33, 8.33, 6.33), move)
    path = write_layer(tmp_path / f'l.{suffix}', [shape], [7], crs=crs)
    labels = burn_labels(path, GRID, {7: 1}, 255, attribute='class')
    expected = np.full((16, 20), 255)
    expected[3:6, 2:8] = 1
    np.testing.assert_array_equal(labels, expected)


def test_polygon_that_reaches_beyond_the_crs_of_the_raster(tmp_path):
    """A raster on the meridian where a polygon begins that covers the globe from there on, poles included."""
    mercator = CRS.from_epsg(3857)
    grid = RasterGrid(mercator, Affine(0.5, 0, 1669792.36 - 4, 0, -0.5, 6800000), 20, 16)  # 15 degrees east
    path = write_layer(tmp_path / 'w.geojson', [shapely.box(15, -90, 180, 90)], crs='EPSG:4326')
    labels = burn_labels(path, grid, {None: 3}, 0)
    np.testing.assert_array_equal(labels, np.broadcast_to(np.where(np.arange(20) < 8, 0, 3), (16, 20)))


def test_crossing_and_missing_shapes(tmp_path):
    """A bow tie covers both its halves; shapes that are nothing cover nothing."""
    # Corners at pixels (2, 2), (12, 12), (12, 2), (2, 12): left and right triangles.
    tie = shapely.Polygon([(400001, 5799999), (400006, 5799994), (400006, 5799999), (400001, 5799994)])
    assert not tie.is_valid
    path = write_layer(tmp_path / 'l.gpkg', [tie, shapely.Polygon(), None], ['building', 'road', 'road'])
    labels = burn_labels(path, GRID, INDEX, 255, attribute='class')
    row, column = np.mgrid[:16, :20] + 0.5
    inside = (np.abs(column - 7) > np.abs(row - 7)) & (np.abs(column - 7) < 5)
    edge = np.abs(np.abs(column - 7) - np.abs(row - 7)) < 0.1
    np.testing.assert_array_equal((labels == 1)[~edge], inside[~edge])
    assert not (labels == 0).any()


def test_ids_with_gaps_and_multipolygons(tmp_path):
    both = shapely.MultiPolygon([square(0, 0, 2, 2), square(5, 5, 6, 6)])
    path = write_layer(tmp_path / 'l.gpkg', [both, square(9, 9, 11, 11)], [2.0, np.nan], kind='MultiPolygon')
    assert VectorLayer(path, attribute='class').values() == [2, None]
    labels = burn_labels(path, GRID, {2: 4, None: 5}, 0, attribute='class')
    assert [(labels == index).sum() for index in (4, 5)] == [5, 4]


@pytest.mark.parametrize('suffix', ['gpkg', 'shp', 'geojson', 'fgb'])
def test_ids_in_text(tmp_path, suffix):
    codes = ['523', ' 111', '312.0', '-4', '0', '052', 'road']
    shapes = [square(2 * i, 0, 2 * i + 2, 1) for i in range(len(codes))]
    path = write_layer(tmp_path / f'l.{suffix}', shapes, np.array(codes, object))
    index = {523: 1, 111: 2, 312: 3, -4: 4, 0: 5, 52: 6, 'road': 7}
    with pytest.raises(DataError, match="class is '052', which is no class"):
        burn_labels(path, GRID, index, 255, attribute='class')
    labels = burn_labels(path, GRID, {**index, '052': 8}, 255, attribute='class')
    assert labels[0, ::2].tolist() == [1, 2, 3, 4, 5, 8, 7, 255, 255, 255]


@pytest.mark.parametrize('gap', [False, True])
@pytest.mark.parametrize('suffix', ['gpkg', 'shp', 'geojson', 'fgb'])
def test_truth_values_are_no_ids(tmp_path, suffix, gap):
    shapes = [square(2, 3, 8, 6), square(8, 6, 13, 10), square(14, 6, 15, 7)]
    options = dict(field_mask=[np.array([False, False, gap])])
    path = write_layer(tmp_path / f'l.{suffix}', shapes, [True, False, False], **options)
    values = VectorLayer(path, attribute='class').values()
    assert sorted(map(str, values)) == sorted(['true', 'false', 'None' if gap else 'false'])
    with pytest.raises(DataError, match=r"'false'.*'true', which is no class"):
        burn_labels(path, GRID, {0: 0, 1: 1, None: 255}, 255, attribute='class')
    labels = burn_labels(path, GRID, {'true': 3, 'false': 4, None: 5}, 255, attribute='class')
    assert [int((labels == index).sum()) for index in (3, 4, 5)] == [18, 20 + (not gap), int(gap)]


def test_lists_are_no_ids(tmp_path):
    shape = shapely.to_geojson(shapely.box(13, 52, 14, 53))
    path = tmp_path / 'l.geojson'
    path.write_text(f'{{"type": "Feature", "properties": {{"kind": [1, 2]}}, "geometry": {shape}}}')
    assert VectorLayer(str(path), attribute='kind').values() == ['[1 2]']


@pytest.mark.parametrize('suffix', ['gpkg', 'shp', 'geojson'])
def test_the_later_of_many_overlapping_polygons_counts(tmp_path, suffix):
    rng = np.random.default_rng(0)
    boxes = [(x, y, x + 6, y + 5) for x, y in rng.integers(0, 12, (200, 2))]
    path = write_layer(tmp_path / f'l.{suffix}', [square(*box) for box in boxes], list(range(200)))
    expected = np.full((16, 20), 255)
    for value, (left, top, right, bottom) in enumerate(boxes):
        expected[top:bottom, left:right] = value
    index = {value: value for value in range(200)}
    for window in ((0, 0, 20, 16), (5, 5, 9, 12)):
        labels = burn_labels(path, GRID.window(window), index, 255, attribute='class')
        np.testing.assert_array_equal(labels, expected[window[1] : window[3], window[0] : window[2]])


@pytest.mark.parametrize('suffix', ['gpkg', 'geojson'])
def test_window_across_the_date_line(tmp_path, suffix):
    """Polygons in degrees on both sides of it, on a raster in metres that crosses it."""
    utm = CRS.from_epsg(32660)
    (x,), (y,) = transform_points('EPSG:4326', utm, [180.0], [-16.0])
    grid = RasterGrid(utm, Affine(10, 0, x - 100, 0, -10, y + 100), 20, 20)
    east, west = shapely.box(179.9, -16.1, 180, -15.9), shapely.box(-180, -16.1, -179.9, -15.9)
    path = write_layer(tmp_path / f'line.{suffix}', [east, west], ['road', 'building'], crs='EPSG:4326')
    labels = burn_labels(path, grid, INDEX, 255, attribute='class')
    columns, rows = np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5)
    lon, _ = transform_points(utm, 'EPSG:4326', (x - 100 + 10 * columns).ravel(), (y + 100 - 10 * rows).ravel())
    np.testing.assert_array_equal(labels, np.where(np.array(lon) > 0, 0, 1).reshape(20, 20))
    assert len(np.unique(labels)) == 2


def test_layers(tmp_path):
    path = tmp_path / 'l.gpkg'
    write_layer(path, [square(0, 0, 2, 2)], layer='roofs')
    write_layer(path, [square(0, 0, 3, 3)], layer='parcels', append=True)
    with pytest.raises(DataError, match=r'several layers, roofs, parcels\. Choose one by label_layer'):
        VectorLayer(str(path))
    with pytest.raises(DataError, match="no layer 'trees'; it has roofs, parcels"):
        VectorLayer(str(path), 'trees')
    assert (burn_labels(str(path), GRID, {None: 1}, 0, layer='parcels') == 1).sum() == 9


def test_replaced_file_is_read_anew(tmp_path):
    for side in (2, 3):
        path = write_layer(tmp_path / 'l.geojson', [square(0, 0, side, side)])
        assert (burn_labels(path, GRID, {None: 1}, 0) == 1).sum() == side**2


def test_bad_layers(tmp_path):
    path = write_layer(tmp_path / 'l.gpkg', [square(0, 0, 2, 2)], ['lake'])
    with pytest.raises(DataError, match="the layer l has no field 'kind'; it has class"):
        VectorLayer(path, attribute='kind')
    with pytest.raises(DataError, match=r"l\.gpkg: class is 'lake', which is no class"):
        burn_labels(path, GRID, INDEX, 255, attribute='class')
    points = write_layer(tmp_path / 'p.gpkg', [shapely.Point(400001, 5799999)], kind='Point')
    with pytest.raises(DataError, match='the layer p holds Point; polygons were expected'):
        VectorLayer(points)
    with pytest.warns(UserWarning, match='crs'):
        bare = write_layer(tmp_path / 'b.gpkg', [square(0, 0, 2, 2)], crs=None)
    with pytest.raises(DataError, match='the layer b has no CRS'):
        VectorLayer(bare)
    with pytest.raises(DataError, match=r'none\.gpkg: no such file'):
        VectorLayer(str(tmp_path / 'none.gpkg'))
    (tmp_path / 'text.gpkg').write_text('no layer')
    with pytest.raises(UnreadableError, match=r'text\.gpkg cannot be read as a vector file'):
        VectorLayer(str(tmp_path / 'text.gpkg'))


def test_lines_in_a_layer_of_any_type(tmp_path):
    shapes = [square(2, 3, 8, 6), shapely.LineString([(400001, 5799999), (400004, 5799995)])]
    path = write_layer(tmp_path / 'mixed.gpkg', shapes, ['building', 'road'], kind='Unknown')
    with pytest.raises(DataError, match=r'mixed\.gpkg: feature 2 is a LineString; polygons were expected'):
        burn_labels(path, GRID, INDEX, 255, attribute='class')


def test_a_field_whose_name_is_no_text(tmp_path):
    path = tmp_path / 'areas.geojson'
    path.write_bytes(
        b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"k\x80": 1}, "geometry": '
        b'{"type": "Polygon", "coordinates": [[[0, 0], [0, 1], [1, 1], [0, 0]]]}}]}'
    )
    with pytest.raises(UnreadableError, match=r'areas\.geojson cannot be read as a vector file: .*utf-8'):
        VectorLayer(str(path))
