import math

import pytest
from rasterio.crs import CRS
from rasterio.transform import from_origin

from mmrs.geo.apart import describe_gap, guess_reason
from mmrs.geo.grids import RasterGrid

UTM, WGS84 = CRS.from_epsg(32633), CRS.from_epsg(4326)

#: x 500000 to 501000, y 4999000 to 5000000.
METRES = RasterGrid(UTM, from_origin(500000, 5000000, 10, 10), 100, 100)

#: 10 to 11 degrees east, 0 to 1 degree north.
DEGREES = RasterGrid(WGS84, from_origin(10, 1, 0.01, 0.01), 100, 100)

#: Metres of a degree on a great circle of a sphere with the earth's mean radius.
DEGREE = 2 * math.pi * 6371008.8 / 360


@pytest.mark.parametrize(
    ('bounds', 'metres', 'text'),
    [
        ((600000, 4999200, 600500, 4999700), 99000, '99 km east'),
        ((490000, 4999200, 499500, 4999700), 500, '500 m west'),
        ((500100, 5300000, 500200, 5300100), 300000, '300 km north'),
        ((501300, 4998000, 501400, 4998600), 500, '500 m south-east'),  # 300 m and 400 m
        ((500100, 999000, 500200, 1999000), 3e6, '3,000 km south'),
        ((500100, 4999100, 500200, 4999200), 0, ''),
    ],
)
def test_gap_in_metres(bounds, metres, text):
    assert describe_gap(bounds, UTM, METRES) == (metres, text)
    assert describe_gap(bounds, None, METRES) == (metres, text)


def test_gap_in_feet():
    feet = CRS.from_epsg(2263)  # in US survey feet
    grid = RasterGrid(feet, from_origin(1000000, 200000, 1, 1), 1000, 1000)
    distance, text = describe_gap((1011000, 199500, 1012000, 199600), feet, grid)
    assert distance == pytest.approx(10000 * 1200 / 3937)
    assert text == '3.05 km east'


def test_gap_in_degrees():
    for bounds, degrees, wind in (
        ((10.2, 3, 10.4, 4), 2, 'north'),
        ((10.2, -9, 10.4, -5), 5, 'south'),
        ((13, -1, 14, 0), 2, 'east'),  # along the equator
    ):
        distance, text = describe_gap(bounds, WGS84, DEGREES)
        assert distance == pytest.approx(degrees * DEGREE)
        assert text == f'{degrees * DEGREE / 1000:.3g} km {wind}'
    # At 60 degrees a degree to the side is half as long; the shortest way is a hair shorter than the parallel.
    north = RasterGrid(WGS84, from_origin(10, 60, 0.01, 0.01), 100, 100)
    distance, text = describe_gap((8, 60, 9, 61), WGS84, north)
    assert distance == pytest.approx(DEGREE / 2, rel=1e-4)
    assert text == '55.6 km west'


def test_gap_of_another_crs_and_of_none():
    # From 500000, 4999000: 0.2 degrees to the west, which are 15.7 km there, and as many to the south.
    south = 45.1445 - 15700 / DEGREE
    distance, text = describe_gap((14.79, south - 0.1, 14.8, south), WGS84, METRES)
    assert distance == pytest.approx(15700 * math.sqrt(2), rel=5e-3)
    assert text == '22.2 km south-west'
    bare = RasterGrid(None, from_origin(0, 100, 1, 1), 100, 100)
    assert describe_gap((130, 140, 140, 150), None, bare) == (50, '50 units north-east')
    assert describe_gap((math.nan,) * 4, WGS84, METRES) == (math.inf, '')


@pytest.mark.parametrize(
    ('bounds', 'crs', 'grid', 'words'),
    [
        ((0.2, 10.2, 0.4, 10.4), WGS84, DEGREES, 'longitude comes before latitude'),
        ((45.146, 15.001, 45.15, 15.01), WGS84, METRES, 'longitude comes before latitude'),
        ((4999200, 500200, 4999300, 500300), None, METRES, 'easting comes before the northing'),
        ((15.001, 45.146, 15.01, 45.15), None, METRES, 'As degrees they would meet: --bbox-crs EPSG:4326'),
        ((45.146, 15.001, 45.15, 15.01), None, METRES, 'As degrees with x and y exchanged'),
        ((500200, 4999200, 500300, 4999300), WGS84, METRES, 'As coordinates in EPSG:32633'),
        ((500200, 4999200, 500300, 4999300), CRS.from_epsg(32632), METRES, 'is EPSG:32632 right'),
        ((370.2, 0.2, 370.4, 0.4), WGS84, DEGREES, '360 degrees taken from'),
        ((600000, 4999200, 600500, 4999700), UTM, METRES, ''),
        ((600000, 4999200, 600500, 4999700), None, METRES, ''),
    ],
)
def test_reasons(bounds, crs, grid, words):
    found = guess_reason(bounds, crs, grid)
    assert words in found
    assert bool(found) == bool(words)


def test_longitudes_from_0_to_360_degrees():
    grid = RasterGrid(WGS84, from_origin(355, 45.1, 1e-4, 1e-4), 140, 100)
    for bounds, crs in (((-4.998, 45.092, -4.99, 45.098), WGS84), ((343000, 4995000, 343400, 4995400), 'EPSG:32630')):
        assert '360 degrees added to' in guess_reason(bounds, CRS.from_user_input(crs), grid)
    assert describe_gap((-4.998, 45.092, -4.99, 45.098), WGS84, grid)[1] == ''
