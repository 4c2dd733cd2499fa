import math

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine

from mmrs.geo.grids import RasterGrid
from mmrs.utils.errors import DataError, OutputError
from mmrs.visualization import quicklook
from mmrs.visualization.panels import INK
from mmrs.visualization.quicklook import _north, draw_quicklook, write_quicklook
from tests.label_maps import write_label_map, write_raster

CLASSES = ['field', 'water', 'road']
COLOURS = [(230, 200, 90), (0, 90, 200), (200, 30, 120)]
IMAGE = (70, 20, 140)  # no grey, which the edges of letters have
UTM = dict(crs='EPSG:32633', transform=Affine(10, 0, 500000, 0, -10, 5600000))

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def write_map(path, labels, **place):
    return write_label_map(path, labels.astype(np.uint8), CLASSES, COLOURS, **place)


def pair(folder, labels, image=None, **place):
    image = np.tile(np.array(IMAGE, np.uint8)[:, None, None], (1, *labels.shape)) if image is None else image
    return write_raster(folder / 'image.tif', image, **place), write_map(folder / 'map.tif', labels, **place)


def count(picture, colour):
    return int((picture == colour).all(-1).sum())


def bar(picture):
    """Length in pixels of the longest dark line."""
    dark = (picture == INK).all(-1)
    edges = np.diff(np.pad(dark, ((0, 0), (1, 1))).astype(int), axis=1)
    return int((np.nonzero(edges.ravel() == -1)[0] - np.nonzero(edges.ravel() == 1)[0]).max())


def test_the_map_and_its_image(tmp_path):
    labels = np.zeros((100, 120), int)
    labels[:, 90:], labels[:50, 30:90] = 1, 2
    labels[80:, :30] = 255
    picture = draw_quicklook(*pair(tmp_path, labels, **UTM), size=240)
    assert picture.dtype == np.uint8
    # Each pixel as 2 x 2; the legend adds a square of each colour.
    for index, colour in enumerate(COLOURS):
        assert 0 < count(picture, colour) - 4 * (labels == index).sum() < 400
    assert count(picture, IMAGE) == 240 * 200


def test_a_class_is_in_the_legend_though_the_map_has_none_of_it(tmp_path):
    picture = draw_quicklook(*pair(tmp_path, np.zeros((50, 50), int), **UTM), size=300)
    assert count(picture, COLOURS[1]) > 50


def test_shares_are_those_of_the_map_and_not_of_the_picture(tmp_path, monkeypatch):
    labels = np.zeros((400, 400), int)
    labels[::2, ::2], labels[:100] = 1, 255  # nowhere the most frequent one of 8 x 8 pixels
    said = []
    monkeypatch.setattr(quicklook, 'compose', lambda panels, names, *_, **__: said.append(names) or panels[0][0][1])
    draw_quicklook(*pair(tmp_path, labels, **UTM), size=50)
    assert said == [['field  75.0 %', 'water  25.0 %', 'road  0.0 %', 'no data']]


def test_only_the_part_that_the_map_covers(tmp_path):
    image = np.zeros((3, 90, 80), np.uint8)
    image[0], image[1, 20:60, 30:70] = 200, 100
    write_raster(tmp_path / 'image.tif', image, **UTM)
    inside = Affine(10, 0, 500300, 0, -10, 5599800)
    write_map(tmp_path / 'map.tif', np.zeros((40, 40)), crs=UTM['crs'], transform=inside)
    picture = draw_quicklook(tmp_path / 'image.tif', tmp_path / 'map.tif', size=320)
    assert count(picture, (200, 100, 0)) == 320 * 320
    assert count(picture, (200, 0, 0)) == 0


@pytest.mark.parametrize(
    ('crs', 'step', 'y', 'metres'),
    [
        ('EPSG:32633', (10, 10), 5600000, 10),
        ('EPSG:4326', (1e-4, 1e-4), 60, 1e-4 * 55800),  # a degree of longitude at 60 degrees north
        # There, Web Mercator stretches lengths to the double.
        ('EPSG:3857', (10, 10), 8399737.9, 10 / 2),
        ('EPSG:32633', (10, 25), 5600000, 10),
    ],
    ids=['utm', 'degrees', 'mercator', 'oblong'],
)
def test_scale_bar(tmp_path, crs, step, y, metres):
    place = dict(crs=crs, transform=Affine(step[0], 0, 12, 0, -step[1], y))
    if crs == 'EPSG:32633':
        place['transform'] = Affine(step[0], 0, 500000, 0, -step[1], y)
    picture = draw_quicklook(*pair(tmp_path, np.zeros((200, 200)), **place), size=600)
    shown = np.nonzero((picture == COLOURS[0]).all(-1))  # of the legend too, which is further left
    columns = shown[1].max() - shown[1][0] + 1
    length = bar(picture) * 200 * metres / columns
    mantissa = length / 10 ** math.floor(math.log10(length * 1.02))
    assert min(abs(mantissa / step - 1) for step in (1, 2, 5)) < 0.02
    assert 50 <= bar(picture) < columns / 2


def test_scale_bar_of_a_widened_picture(tmp_path):
    picture = draw_quicklook(*pair(tmp_path, np.zeros((2000, 20), int), **UTM), size=640)
    assert bar(picture) == 40  # 200 m, as wide as the map, which is drawn 40 pixels wide instead of 6


def test_proportions_on_the_ground(tmp_path):
    # Pixels of as many degrees in both directions are twice as high as wide there.
    place = dict(crs='EPSG:4326', transform=Affine(1e-3, 0, 10, 0, -1e-3, 60))
    picture = draw_quicklook(*pair(tmp_path, np.full((100, 100), 2), **place), size=400)
    assert count(picture, IMAGE) == pytest.approx(400 * 200, rel=0.02)


def test_no_scale_bar_without_crs(tmp_path):
    labels = np.zeros((50, 100), int)
    without = draw_quicklook(*pair(tmp_path, labels), size=200)
    placed = draw_quicklook(*pair(tmp_path, labels, **UTM), size=200)
    assert without.shape[0] < placed.shape[0]
    assert np.array_equal(without, placed[: len(without)])


@pytest.mark.parametrize(
    ('crs', 'place', 'expected'),
    [
        (32633, Affine(10, 0, 500000, 0, -10, 5600000), 0),
        (32633, Affine(10, 0, 500000, 0, 10, 5600000), 180),
        # Columns run 30 degrees to the north of east, so that north is 30 degrees to the right of up.
        (32633, Affine(8.660254, 5, 500000, 5, -8.660254, 5600000), 30),
        (4326, Affine(0.1, 0, 179, 0, -0.1, -10), 0),
        # In polar stereographic coordinates the pole is where x and y are 0.
        (3413, Affine(100, 0, -1000500, 0, -100, 500), 90),
        (3413, Affine(100, 0, 999500, 0, -100, 500), -90),
        (3031, Affine(100, 0, -500, 0, -100, 1000500), 0),
    ],
)
def test_direction_of_north(crs, place, expected):
    found = _north(RasterGrid(CRS.from_epsg(crs), place, 10, 10))
    assert abs((found - expected + 180) % 360 - 180) < 0.1


def test_an_arrow_only_where_north_is_not_up(tmp_path):
    straight, leaning = (
        draw_quicklook(
            *pair(tmp_path, np.zeros((60, 60)), crs='EPSG:32633', transform=Affine(10, b, 5e5, b, -10, 56e5)), size=400
        )
        for b in (0.5, 3)
    )
    assert count(leaning[-60:], INK) > count(straight[-60:], INK) + 30


@pytest.mark.parametrize('shape', [(1000, 1), (1, 1000), (20, 8000), (1, 1), (3, 2)])
@pytest.mark.parametrize('place', [{}, UTM], ids=['plain', 'utm'])
def test_extreme_shapes(tmp_path, shape, place):
    picture = draw_quicklook(*pair(tmp_path, np.zeros(shape, int), **place), size=512)
    shown = np.nonzero((picture == IMAGE).all(-1))
    height, width = (np.ptp(side) + 1 for side in shown)
    assert min(height, width) >= 32
    assert max(height, width) == 512
    assert max(picture.shape) < 1400


@pytest.mark.parametrize('dtype', ['float32', 'uint16', 'int16'])
@pytest.mark.parametrize('bands', [1, 2, 6])
def test_images_of_other_types(tmp_path, dtype, bands):
    image = np.random.default_rng(0).integers(100, 3000, (bands, 80, 80)).astype(dtype)
    nodata = None
    if dtype == 'float32':
        image[:, 40:] = np.nan
    else:
        image[:, 40:], nodata = 0, 0
    labels = np.zeros((80, 80), int)
    labels[40:] = 255
    write_raster(tmp_path / 'image.tif', image, nodata=nodata, **UTM)
    write_map(tmp_path / 'map.tif', labels, **UTM)
    picture = draw_quicklook(tmp_path / 'image.tif', tmp_path / 'map.tif', size=160)
    title = 17 + 14  # rows above the pictures, about
    upper, lower = picture[title : title + 60, 10:150], picture[title + 90 : title + 150, 10:150]
    assert upper.std() > 40  # the whole contrast, however large the values are
    assert np.unique(lower.reshape(-1, 3), axis=0).tolist() == [[225] * 3, [255] * 3]


def test_bands_are_chosen(tmp_path):
    image = np.stack([np.full((40, 40), value, np.uint8) for value in (10, 60, 120, 180)])
    paths = pair(tmp_path, np.zeros((40, 40), int), image, **UTM)
    assert count(draw_quicklook(*paths, size=200), (10, 60, 120)) == 200 * 200
    assert count(draw_quicklook(*paths, bands=[4, 2, 1], size=200), (180, 60, 10)) == 200 * 200
    assert count(draw_quicklook(*paths, bands=[4], size=200), (180, 180, 180)) >= 200 * 200
    with pytest.raises(DataError, match='has 4 bands, numbered from 1'):
        draw_quicklook(*paths, bands=[5])


def test_a_palette_image(tmp_path):
    indices = np.ones((40, 40), np.uint8)
    write_raster(tmp_path / 'image.tif', indices, palette=[(1, 2, 3), (40, 150, 60)], **UTM)
    write_map(tmp_path / 'map.tif', np.zeros((40, 40)), **UTM)
    picture = draw_quicklook(tmp_path / 'image.tif', tmp_path / 'map.tif', size=200)
    assert count(picture, (40, 150, 60)) == 200 * 200


def test_written_when_complete(tmp_path):
    paths = pair(tmp_path, np.zeros((40, 40)), **UTM)
    out = tmp_path / 'map_quicklook.png'
    write_quicklook(*paths, out, size=200)
    assert np.array_equal(np.asarray(Image.open(out)), draw_quicklook(*paths, size=200))
    with pytest.raises(OutputError, match='exists already'):
        write_quicklook(*paths, out, size=200)
    write_quicklook(*paths, out, size=100, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['image.tif', 'map.tif', 'map_quicklook.png']


def test_a_map_of_something_else(tmp_path):
    image, _ = pair(tmp_path, np.zeros((40, 40)), **UTM)
    beside = dict(crs=UTM['crs'], transform=Affine(10, 0, 500100, 0, -10, 5600000))
    coarser = dict(crs=UTM['crs'], transform=Affine(20, 0, 500000, 0, -20, 5600000))
    elsewhere = dict(crs='EPSG:32634', transform=UTM['transform'])
    for name, shape, place in (('a', 40, beside), ('b', 20, coarser), ('c', 40, elsewhere), ('d', 41, {})):
        path = write_map(tmp_path / f'{name}.tif', np.zeros((shape, shape)), **place)
        with pytest.raises(DataError, match=r'is no map of .*image\.tif: it has'):
            draw_quicklook(image, path)
    with pytest.raises(DataError, match='no label map'):
        draw_quicklook(image, image)
    with pytest.raises((OSError, DataError)):
        draw_quicklook(tmp_path / 'none.tif', tmp_path / 'map.tif')


def test_a_radar_image(real_data, tmp_path):
    image = real_data / 'sen1floods11' / 'S1' / 'India_900498_S1Hand.tif'
    with rasterio.open(real_data / 'sen1floods11' / 'Labels' / 'India_900498_LabelHand.tif') as raster:
        labels, place = raster.read(1), dict(crs=raster.crs, transform=raster.transform)
    write_map(tmp_path / 'map.tif', np.where(labels < 0, 255, labels), **place)
    picture = draw_quicklook(image, tmp_path / 'map.tif')
    # At 24.9 degrees north, a degree of longitude has 0.9 of the length of one of latitude.
    columns = np.nonzero((picture == COLOURS[0]).all(-1).sum(0) > 100)[0]
    assert np.ptp(columns) == pytest.approx(1024 * 0.9, rel=0.02)
    share = count(picture, COLOURS[1]) / (count(picture, COLOURS[0]) + count(picture, COLOURS[1]))
    assert share == pytest.approx((labels == 1).sum() / (labels >= 0).sum(), abs=0.005)
