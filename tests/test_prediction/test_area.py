import numpy as np
import pytest
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from mmrs.utils.errors import ConfigError
from tests.test_prediction.conftest import read, smooth, write, write_area, write_geojson

#: What a raster of 100 x 100 pixels by `write` covers.
WEST, SOUTH, EAST, NORTH = 500000, 4999950, 500050, 5000000


@pytest.fixture
def raster(tmp_path):
    write(tmp_path / 'in.tif', smooth((100, 100)))


@pytest.mark.parametrize('dry_run', [False, True])
@pytest.mark.usefixtures('raster')
def test_area_that_meets_no_raster_is_an_error_before_anything_is_written(tmp_path, predict, dry_run):
    write(tmp_path / 'west.tif', smooth((100, 100)), from_origin(400000, 5000000, 0.5, 0.5))
    aoi = write_area(tmp_path / 'far.gpkg', [shapely.box(EAST + 98600, SOUTH, EAST + 99000, NORTH)])
    box = (EAST + 98600, SOUTH, EAST + 99000, NORTH)
    for area in (dict(aoi=aoi), dict(bbox=box), dict(bbox=box, bbox_crs='EPSG:32633')):
        with pytest.raises(ConfigError) as raised:
            predict(tmp_path / 'west.tif', tmp_path / 'in.tif', options=dict(dry_run=dry_run), **area)
        said = str(raised.value)
        assert ('far.gpkg' in said) == ('aoi' in area)
        for part in ('x 598650 to 599050', 'x 500000 to 500050', 'EPSG:32633', 'in.tif', '98.6 km east'):
            assert part in said
        assert 'west.tif' not in said
    assert not (tmp_path / 'maps').exists()


@pytest.mark.usefixtures('raster')
def test_likely_mistakes_are_guessed(tmp_path, predict):
    west, south, east, north = transform_bounds('EPSG:32633', 'EPSG:4326', WEST, SOUTH, EAST, NORTH)
    swapped = write_geojson(tmp_path / 'swapped.geojson', [shapely.box(south, west, north, east)])
    with pytest.raises(ConfigError, match=r'swapped\.geojson .*EPSG:4326.*longitude comes before latitude'):
        predict(aoi=swapped)
    with pytest.raises(ConfigError, match='--bbox-crs EPSG:4326'):
        predict(bbox=(west, south, east, north))
    metres = write_geojson(tmp_path / 'metres.geojson', [shapely.box(WEST, SOUTH, EAST, NORTH)])
    with pytest.raises(ConfigError, match='As coordinates in EPSG:32633'):
        predict(aoi=metres)


@pytest.mark.usefixtures('raster')
def test_polygons_around_a_raster_do_not_meet_it(tmp_path, predict):
    boxes = [shapely.box(x, SOUTH, x + 10, NORTH) for x in (WEST - 20, EAST + 10)]
    with pytest.raises(ConfigError, match=r'around\.gpkg meets no raster.*extents overlap'):
        predict(aoi=write_area(tmp_path / 'around.gpkg', boxes))
    corner = write_area(tmp_path / 'corner.gpkg', [shapely.box(WEST, SOUTH, WEST + 5, SOUTH + 5)])
    with pytest.raises(ConfigError, match='meets both the bounding box and'):
        predict(aoi=corner, bbox=(EAST - 5, NORTH - 5, EAST, NORTH))


def test_area_larger_than_the_crs_of_the_raster(tmp_path, predict):
    write(tmp_path / 'in.tif', smooth((40, 40)), from_origin(1669792, 6800000, 0.5, 0.5), 'EPSG:3857')
    whole = read(predict(out='whole').maps[0])
    (made,) = predict(aoi=write_geojson(tmp_path / 'world.geojson', [shapely.box(-180, -90, 180, 90)])).maps
    np.testing.assert_array_equal(read(made), whole)


@pytest.mark.usefixtures('raster')
def test_layer_of_an_area(tmp_path, predict):
    left = shapely.box(WEST, SOUTH, WEST + 10, NORTH)
    path = write_area(tmp_path / 'two.gpkg', [shapely.box(WEST, SOUTH, EAST, NORTH)], 'all')
    write_area(path, [left, shapely.box(EAST - 5, NORTH - 5, EAST, NORTH)], 'parts', append=True)
    with pytest.raises(ValueError, match=r'several layers, all, parts.*aoi_layer'):
        predict(aoi=path)
    with pytest.raises(ValueError, match=r"no layer 'some'.*aoi_layer"):
        predict(aoi=path, aoi_layer='some')
    (made,) = predict(aoi=path, aoi_layer='parts').maps
    row, column = np.mgrid[:100, :100]
    np.testing.assert_array_equal(read(made) != 255, (column < 20) | ((column >= 90) & (row < 10)))


@pytest.mark.usefixtures('raster')
def test_what_is_no_area(tmp_path, predict):
    here, line = shapely.box(WEST, SOUTH, EAST, NORTH), shapely.LineString([(WEST, SOUTH), (EAST, NORTH)])
    for path in (
        write_area(tmp_path / 'empty.gpkg', []),
        write_area(tmp_path / 'missing.gpkg', [None]),
        write_geojson(tmp_path / 'empty.geojson', []),
        write_geojson(tmp_path / 'missing.geojson', [None]),
    ):
        with pytest.raises(ConfigError, match='no polygons'):
            predict(aoi=path)
    for path, found in (
        (write_area(tmp_path / 'line.gpkg', [line], kind='LineString'), 'holds LineString'),
        (write_area(tmp_path / 'mixed.gpkg', [here, line], kind='Unknown'), 'feature 2 is a LineString'),
    ):
        with pytest.raises(ValueError, match=found) as raised:
            predict(aoi=path)
        assert 'label' not in str(raised.value)
    with pytest.warns(UserWarning, match='crs'):
        bare = write_area(tmp_path / 'bare.shp', [here], layer='bare', crs=None)
    with pytest.raises(ValueError, match=r'bare\.shp.*has no CRS'):
        predict(aoi=bare)
