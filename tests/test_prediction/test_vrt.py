import json
import os
import shutil

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from mmrs.geo.grids import RasterGrid
from mmrs.geo.label_maps import open_classes
from mmrs.prediction.vrt import Band, Source, mosaic, write_vrt
from mmrs.utils.errors import DataError
from tests.label_maps import write_label_map

CLASSES = ['roof', 'tree & <shrub>', 'straße']
PALETTE = [(255, 0, 0), (0, 128, 7), (1, 2, 3)]
UTM = CRS.from_epsg(32633)


def at(x, y, size=0.1, sign=-1):
    return Affine(size, 0, x, 0, sign * size, y)


def write_map(path, values, transform, crs=UTM, classes=CLASSES, nodata=255, palette=PALETTE):
    return write_label_map(path, values, classes, palette or (), nodata, crs=crs, transform=transform)


def labels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(1), raster.transform


# One virtual raster --------------------------------------------------------------------------------------------------


def test_everything_that_a_raster_says_of_itself(tmp_path):
    values = np.random.default_rng(0).random((2, 30, 40)).astype(np.float32)
    source = write_map(tmp_path / 'a.tif', values, at(0, 0), nodata=None, palette=None)
    transform = Affine(0.1 + 0.2, 0.01, 1e7 / 3, -0.02, -0.3, 1e6 / 7)
    bands = [Band('float32', float('nan'), 'ä & b', 1 / 254), Band('float32', None, 'c')]
    grid = RasterGrid(UTM, transform, 100, 60)
    write_vrt(
        tmp_path / 'a.vrt', grid, bands, [Source(source, (30, 40), (30, 40), (50, 20, 90, 50))],
        {'text': '<"ß">', 'list': [1, 'ä']},
    )  # fmt: skip
    with rasterio.open(tmp_path / 'a.vrt') as raster:
        assert RasterGrid.of(raster) == grid
        assert raster.descriptions == ('ä & b', 'c')
        assert raster.scales == (1 / 254, 1)
        assert np.isnan(raster.nodatavals[0])
        assert raster.nodatavals[1] is None
        assert raster.tags()['text'] == '<"ß">'
        assert json.loads(raster.tags()['list']) == [1, 'ä']
        expected = np.full((2, 60, 100), np.nan, np.float32)
        expected[1] = 0
        expected[:, 20:50, 50:90] = values
        np.testing.assert_array_equal(raster.read(), expected)


# Mosaics -------------------------------------------------------------------------------------------------------------


def test_maps_side_by_side(tmp_path):
    scene = labels(50, 80)
    scene[10:20, 30:50] = 255
    tiles = [(0, 0, 35, 20), (35, 0, 80, 20), (0, 20, 80, 50)]
    paths = [
        write_map(tmp_path / f'{i}.tif', scene[y0:y1, x0:x1], at(500 + x0 * 0.1, 900 - y0 * 0.1))
        for i, (x0, y0, x1, y1) in enumerate(tiles)
    ]
    out = tmp_path / 'all.vrt'
    mosaic(paths[::-1], out)
    found, transform = read(out)
    np.testing.assert_array_equal(found, scene)
    assert transform.almost_equals(at(500, 900), 1e-9)
    with rasterio.open(out) as raster:
        assert raster.crs == UTM
        assert raster.nodata == 255
    assert open_classes(out) == (CLASSES, PALETTE)
    assert '<Category>straße</Category>' in out.read_text(encoding='utf-8')


def test_gaps_have_no_data_and_the_last_map_with_data_counts(tmp_path):
    first, second = np.full((4, 6), 1, np.uint8), np.full((4, 6), 2, np.uint8)
    second[:, :2] = 255
    a = write_map(tmp_path / 'a.tif', first, at(0, 0))
    b = write_map(tmp_path / 'b.tif', second, at(0.3, -0.2))
    mosaic([a, b], tmp_path / 'm.vrt')
    expected = np.full((6, 9), 255, np.uint8)
    expected[:4, :6] = 1
    expected[2:, 5:] = 2
    np.testing.assert_array_equal(read(tmp_path / 'm.vrt')[0], expected)


def test_grids_that_differ_by_rounding_are_snapped_to_the_nearest_pixel(tmp_path):
    a, b = labels(20, 30, 0), labels(20, 30, 1)
    paths = [
        write_map(tmp_path / 'a.tif', a, at(0, 0, 0.1)),
        write_map(tmp_path / 'b.tif', b, at(3.04, 0.03, 0.1 + 1e-9)),
    ]
    mosaic(paths, tmp_path / 'm.vrt')
    found, transform = read(tmp_path / 'm.vrt')
    np.testing.assert_array_equal(found, np.hstack((a, b)))
    assert transform == at(0, 0, 0.1)


def test_the_smallest_pixels_count(tmp_path):
    fine, coarse = labels(8, 12, 0), labels(2, 3, 1)
    paths = [
        write_map(tmp_path / 'coarse.tif', coarse, at(1.2, 0, 0.4)),
        write_map(tmp_path / 'fine.tif', fine, at(0, 0, 0.1)),
    ]
    mosaic(paths, tmp_path / 'm.vrt')
    np.testing.assert_array_equal(read(tmp_path / 'm.vrt')[0], np.hstack((fine, coarse.repeat(4, 0).repeat(4, 1))))


@pytest.mark.parametrize(
    'transform', [at(500, 900, sign=1), Affine(0.1, 0.05, 7, 0.05, -0.1, 9), Affine(-0.1, 0, 7, 0, -0.1, 9)]
)
def test_other_directions_that_all_maps_have(tmp_path, transform):
    scene = labels(20, 30)
    a, b, _, d, e, _ = tuple(transform)[:6]
    paths = [write_map(tmp_path / 'a.tif', scene[:, :10], transform)]
    corner = transform.c + 10 * a, transform.f + 10 * d
    paths.append(write_map(tmp_path / 'b.tif', scene[:, 10:], Affine(a, b, corner[0], d, e, corner[1])))
    mosaic(paths, tmp_path / 'm.vrt')
    found, placed = read(tmp_path / 'm.vrt')
    np.testing.assert_array_equal(found, scene)
    assert placed.almost_equals(transform, 1e-9)


def test_several_bands_of_probabilities(tmp_path):
    scene = np.random.default_rng(0).random((3, 10, 20)).astype(np.float32)
    paths = [
        write_map(tmp_path / f'{i}.tif', scene[:, :, i : i + 10], at(i * 0.1, 0), nodata=np.nan, palette=None)
        for i in (0, 10)
    ]
    mosaic(paths, tmp_path / 'm.vrt')
    with rasterio.open(tmp_path / 'm.vrt') as raster:
        np.testing.assert_array_equal(raster.read(), scene)
        assert np.isnan(raster.nodata)


def test_maps_beside_it_and_below_it_may_move_with_it(tmp_path, monkeypatch):
    folder = tmp_path / 'out'
    near = [
        write_map(folder / 'a.tif', labels(4, 5), at(0, 0)),
        write_map(folder / 'sub' / 'b.tif', labels(4, 5), at(0.5, 0)),
    ]
    far = write_map(tmp_path / 'else' / 'c.tif', labels(4, 5), at(1, 0))
    monkeypatch.chdir(folder)
    mosaic(['a.tif', near[1], os.path.relpath(far)], 'm.vrt')
    expected = read(folder / 'm.vrt')[0]
    assert expected.shape == (4, 15)
    shutil.move(folder, tmp_path / 'moved')
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(tmp_path / 'moved' / 'm.vrt')[0], expected)


@pytest.mark.parametrize(
    ('other', 'message'),
    [
        (dict(crs=None), r'b\.tif has no CRS'),
        (dict(crs=CRS.from_epsg(32632)), r'b\.tif has EPSG:32632, but .*a\.tif has EPSG:32633'),
        (dict(values=np.zeros((2, 4, 5), np.uint8), palette=None), r'b\.tif has number of bands 2, but .*a\.tif has 1'),
        (dict(values=np.zeros((4, 5), np.uint16), palette=None), 'type uint16, but .* has uint8'),
        (dict(nodata=0), r'nodata value 0\.0, but .* has 255\.0'),
        (dict(classes=['a', 'b', 'c']), r'class names \["a", "b", "c"\], but .* has \["roof"'),
        (dict(transform=at(1, 0, sign=1)), r'b\.tif has the transform .* rows or columns run in other directions'),
        (dict(transform=Affine(0.1, 0.05, 1, 0.05, -0.1, 0)), 'rows or columns run in other directions'),
    ],
)
def test_maps_that_do_not_fit_together(tmp_path, other, message):
    a = write_map(tmp_path / 'a.tif', labels(4, 5), at(0, 0))
    b = write_map(tmp_path / 'b.tif', **{**dict(values=labels(4, 5), transform=at(0.5, 0)), **other})
    with pytest.raises(DataError, match=message):
        mosaic([a, b], tmp_path / 'm.vrt')
    assert not (tmp_path / 'm.vrt').exists()


def test_no_file(tmp_path):
    with pytest.raises((OSError, DataError), match=r'a\.tif'):
        mosaic([tmp_path / 'a.tif'], tmp_path / 'm.vrt')
