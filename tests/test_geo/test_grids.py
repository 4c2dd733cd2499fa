import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from mmrs.geo.grids import RasterGrid, check_labels_fit, place, write_crs
from mmrs.utils.errors import DataError
from tests.small_files import turned

UTM, DEGREES, MERCATOR, FEET = (CRS.from_epsg(code) for code in (32633, 4326, 3857, 2263))
NORTH_UP = Affine(0.3, 0, 400000, 0, -0.3, 5800000)


def grid(transform, crs=UTM, shape=(100, 200)):
    return RasterGrid(crs, transform, shape[1], shape[0])


@pytest.mark.parametrize(
    ('transform', 'expected'),
    [
        (NORTH_UP, (0.3, 0.3)),
        (Affine(0.3, 0, 400000, 0, 0.3, 5800000), (0.3, 0.3)),  # south-up
        (turned(400000, 5800000, 30, 0.3), (0.3, 0.3)),
        (Affine(0.5, 0, 400000, 0, -0.25, 5800000), (0.5, 0.25)),
    ],
)
def test_projected_pixels_have_the_size_that_the_transform_says(transform, expected):
    assert grid(transform).pixel_metres() == pytest.approx(expected, rel=1e-12)


def test_pixels_in_degrees():
    """A minute of arc at a latitude, from the series of the American Practical Navigator (metres per degree)."""
    for latitude in (0, 38.27, -60):
        phi = math.radians(latitude)
        north = 111132.92 - 559.82 * math.cos(2 * phi) + 1.175 * math.cos(4 * phi) - 0.0023 * math.cos(6 * phi)
        east = 111412.84 * math.cos(phi) - 93.5 * math.cos(3 * phi) + 0.118 * math.cos(5 * phi)
        step = 1e-4
        found = grid(Affine(step, 0, 179.9, 0, -step, latitude + 50 * step), DEGREES).pixel_metres()
        assert found == pytest.approx((east * step, north * step), rel=1e-5)


def test_pixels_of_web_mercator_are_smaller_than_the_transform_says():
    phi = math.radians(60)
    y = 6378137 * math.log(math.tan(math.pi / 4 + phi / 2))
    found = grid(Affine(1, 0, 1000000, 0, -1, y + 50), MERCATOR).pixel_metres()
    assert found == pytest.approx((0.5, 0.5), rel=0.01)


def test_pixels_in_feet():
    assert grid(Affine(1, 0, 1000000, 0, -1, 200000), FEET).pixel_metres() == pytest.approx((0.3048006,) * 2, rel=1e-6)


def test_unknown_size_of_pixels(monkeypatch):
    with pytest.raises(DataError, match='no CRS, so that the size of its pixels in metres is unknown'):
        grid(NORTH_UP, None).pixel_metres()
    nowhere = grid(Affine(1e9, 0, 1e12, 0, -1e9, 1e12))
    with pytest.raises(DataError, match='cannot be told from its CRS: '):
        nowhere.pixel_metres()
    # GDAL raises or returns infinities, as it likes.
    monkeypatch.setattr('mmrs.geo.grids.transform', lambda of, to, xs, ys: ([np.inf] * len(xs),) * 2)
    with pytest.raises(DataError, match='cannot be told from its CRS: the raster has no place on the ground'):
        nowhere.pixel_metres()


def test_window_of_a_resampled_grid():
    transform = turned(10, 20, 30, 2)
    part = grid(transform).resampled((50, 80)).window((8, 5, 18, 25))
    assert part.shape == (20, 10)
    # One resampled pixel is 2.5 columns and 2 rows of the file.
    for column, row in ((0, 0), (10, 20), (3, 4)):
        expected = place(transform, (8 + column) * 2.5, (5 + row) * 2)
        assert place(part.transform, column, row) == pytest.approx(expected)


@pytest.mark.parametrize(
    ('transform', 'crs', 'shape', 'same'),
    [
        (Affine(0.3 + 1e-20, 0, 400000, 0, -0.3, 5800000 + 1e-5), UTM, (100, 200), True),
        (Affine(0.3, 0, 400000 + 2 * 0.3e-3, 0, -0.3, 5800000), UTM, (100, 200), False),
        (Affine(0.3 * (1 + 1e-5), 0, 400000, 0, -0.3, 5800000), UTM, (100, 200), False),  # 0.002 pixels at the far end
        (NORTH_UP, UTM, (100, 201), False),
        (NORTH_UP, CRS.from_epsg(32632), (100, 200), False),
        (NORTH_UP, None, (100, 200), False),
    ],
)
def test_same_grid(transform, crs, shape, same):
    assert grid(NORTH_UP).matches(grid(transform, crs, shape)) is same


def test_grids_without_crs_are_compared_by_size():
    assert grid(NORTH_UP, None).matches(grid(Affine.identity(), None))
    check_labels_fit('image.tif', grid(NORTH_UP, None), 'labels.tif', grid(Affine.identity(), None))
    with pytest.raises(DataError, match=r'image\.tif has 200 x 100 pixels .*labels\.tif has 9 x 100\. Without CRS'):
        check_labels_fit('image.tif', grid(NORTH_UP, None), 'labels.tif', grid(NORTH_UP, None, (100, 9)))


@pytest.mark.parametrize('swap', [False, True])
def test_crs_on_one_side_only(swap):
    sides = [grid(NORTH_UP, None), grid(NORTH_UP)]
    image, labels = reversed(sides) if swap else sides
    without, with_ = ('labels', 'image') if swap else ('image', 'labels')
    with pytest.raises(DataError, match=rf'{without}\.tif has no CRS, but {with_}\.tif has EPSG:32633\. Write'):
        check_labels_fit('image.tif', image, 'labels.tif', labels)


def test_labels_elsewhere():
    far = grid(Affine(0.3, 0, 400000, 0, -0.3, 5900000))
    with pytest.raises(
        DataError,
        match=r'labels\.tif lies outside its image image\.tif: it covers x 400000 to 400060, y 5899970 to 5900000, '
        r'the image x 400000 to 400060, y 5799970 to 5800000 \(EPSG:32633\)',
    ):
        check_labels_fit('image.tif', grid(NORTH_UP), 'labels.tif', far)
    nowhere = grid(Affine(1e9, 0, 1e12, 0, -1e9, 1e12))
    with pytest.raises(DataError, match='it covers no place in this CRS, the image'):
        check_labels_fit('i', grid(Affine(1e-5, 0, 13.53, 0, -1e-5, 52.35), DEGREES), 'l', nowhere)
    # About the same place in degrees.
    check_labels_fit('i', grid(NORTH_UP), 'l', grid(Affine(1e-5, 0, 13.53, 0, -1e-5, 52.35), DEGREES, (1000, 1000)))


@pytest.mark.parametrize(
    ('wkt', 'expected', 'said'),
    [
        (UTM.to_wkt(), UTM, 'EPSG:32633'),
        (UTM.to_wkt(version='WKT1_ESRI'), UTM, 'EPSG:32633'),  # as ArcGIS writes it
        (CRS.from_proj4('+proj=tmerc +lon_0=13.37 +x_0=7 +ellps=bessel').to_wkt(), None, '$(cat'),
    ],
)
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_the_command_that_writes_a_crs_does(tmp_path, wkt, expected, said):
    path = tmp_path / "the survey's.tif"
    with rasterio.open(path, 'w', driver='GTiff', width=4, height=3, count=1, dtype='uint8') as raster:
        raster.write(np.ones((1, 3, 4), np.uint8))
    path.with_suffix('.tfw').write_text('10\n0\n0\n-10\n500005\n4999995\n')
    path.with_suffix('.prj').write_text(wkt)
    (command,) = re.findall('`(.*)`', write_crs(str(path)))
    assert said in command
    place_of_rio = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
    subprocess.run(command, shell=True, check=True, env={**os.environ, 'PATH': place_of_rio})
    with rasterio.open(path) as raster:
        assert raster.crs == (expected or CRS.from_wkt(wkt))
        assert raster.transform == Affine(10, 0, 500000, 0, -10, 5000000)


@pytest.mark.parametrize('text', [None, '', 'Projection UTM', '\x00\x01'])
def test_no_crs_beside(tmp_path, text):
    if text is not None:
        (tmp_path / 'a.prj').write_text(text)
    assert f'`rio edit-info --crs EPSG:... {tmp_path / "a.tif"}`' in write_crs(str(tmp_path / 'a.tif'))
