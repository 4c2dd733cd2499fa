"""Maps as QGIS itself shows them."""

import matplotlib
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from tests import in_qgis
from tests.test_prediction.conftest import ByValue, read, smooth, write

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not in_qgis.is_installed(), reason=in_qgis.REASON)]

CLASSES = [['dark', '#000000'], ['medium', '#787878'], ['bright', '#ffffff']]

#: Of the pictures, where there is nothing.
BACKGROUND = (255, 0, 255)


def picture(folder, number):
    return np.asarray(Image.open(folder / f'{number}.png').convert('RGB'))


def close(found, expected, atol):
    np.testing.assert_allclose(found.astype(int), expected, atol=atol)


@pytest.fixture
def maps(tmp_path, predict):
    image = smooth((160, 200))  # as many pixels as the pictures of QGIS have
    image[:30, :50] = 0
    write(tmp_path / 'in.tif', image, nodata=0)
    folder = tmp_path / 'maps'
    predict(
        extra=('confidence', 'entropy'), window=64, options=dict(vector=folder / 'areas.gpkg', vrt=folder / 'all.vrt')
    )
    return folder


def test_legend_place_and_picture(tmp_path, maps):
    names = ('in.tif', 'in_confidence.tif', 'in_entropy.tif', 'areas.gpkg', 'all.vrt')
    labels, confidence, entropy, areas, mosaic = found = in_qgis.view(
        tmp_path / 'seen', *(maps / name for name in names)
    )
    for layer in found:
        assert (layer['valid'], layer['crs']) == (True, 'EPSG:32633')
        np.testing.assert_allclose(layer['extent'], [500000, 5000000 - 80, 500100, 5000000])
    for layer in (labels, mosaic):
        title, *classes = layer['legend']  # the band, which QGIS names itself
        assert (layer['renderer'], title[0], classes) == ('paletted', 'Band 1: class (Palette)', CLASSES)
    assert (areas['renderer'], areas['legend']) == ('categorizedSymbol', CLASSES)
    for number, (layer, name, ramp) in enumerate(
        ((confidence, 'confidence', 'viridis'), (entropy, 'entropy', 'magma')), 1
    ):
        colours = matplotlib.colormaps[ramp]
        ends = [matplotlib.colors.to_hex(colours(end)) for end in (0.0, 1.0)]
        assert (layer['renderer'], layer['legend'][1:]) == ('singlebandpseudocolor', [['ramp', *ends]])
        values = read(maps / f'in_{name}.tif') / 254
        stops = np.linspace(0, 1, 5)
        expected = np.stack([np.interp(values, stops, 255 * colours(stops)[:, i]) for i in range(3)], axis=-1)
        shown = read(maps / 'in.tif') != 255
        close(picture(tmp_path / 'seen', number)[shown], expected[shown], atol=2)
        assert (picture(tmp_path / 'seen', number)[~shown] == BACKGROUND).all()
    expected = np.array([*ByValue.palette, *[BACKGROUND] * 253], np.uint8)[read(maps / 'in.tif')]
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) == 4
    for number in (0, 4):
        np.testing.assert_array_equal(picture(tmp_path / 'seen', number), expected)
    assert (picture(tmp_path / 'seen', 3) == expected).all(axis=2).mean() > 0.95  # edges are blended


def test_why_there_is_a_style(tmp_path, maps):
    (maps / 'in.qml').unlink()
    (layer,) = in_qgis.view(tmp_path / 'seen', maps / 'in.tif')
    assert len(layer['legend']) == 257


def test_what_a_user_saves_is_kept(tmp_path, maps, predict):
    written = (maps / 'in.qml').read_text()
    in_qgis.view(tmp_path / 'seen', maps / 'in.tif', save=True)
    saved = (maps / 'in.qml').read_text()
    assert saved != written
    predict(window=64, overwrite=True, extra=('confidence', 'entropy'))
    assert (maps / 'in.qml').read_text() == saved


def test_a_map_in_degrees(tmp_path, predict):
    write(tmp_path / 'in.tif', smooth((40, 50)), from_origin(8.5, 47.5, 1e-5, 1e-5), crs='EPSG:4326')
    predict()
    (layer,) = in_qgis.view(tmp_path / 'seen', tmp_path / 'maps' / 'in.tif')
    with rasterio.open(tmp_path / 'in.tif') as raster:
        np.testing.assert_allclose(layer['extent'], raster.bounds, rtol=0, atol=1e-9)
    assert (layer['crs'], layer['legend'][1:]) == ('EPSG:4326', CLASSES)


def test_a_project_of_all_that_is_written(tmp_path, predict):
    places = {'a': from_origin(500000, 5000000, 0.5, 0.5), 'b': from_origin(500100, 5000000, 0.5, 0.5)}
    for name, place in places.items():
        write(tmp_path / 'images' / f'{name}.tif', smooth((160, 200)), place)
    joint = dict(vector=tmp_path / 'maps' / 'areas.gpkg', project=tmp_path / 'town.qgs')
    predict(tmp_path / 'images', window=128, extra=('confidence',), options=joint)
    found = in_qgis.view(tmp_path / 'seen', tmp_path / 'town.qgs')
    assert [(layer['name'], layer['renderer'], layer['visible']) for layer in found] == [
        ('areas', 'categorizedSymbol', False),
        ('a', 'paletted', True),
        ('b', 'paletted', True),
        ('a_confidence', 'singlebandpseudocolor', False),
        ('b_confidence', 'singlebandpseudocolor', False),
        ('a', 'singlebandgray', True),
        ('b', 'singlebandgray', True),
    ]
    assert {(layer['valid'], layer['crs'], layer['project_crs']) for layer in found} == {(True, *['EPSG:32633'] * 2)}
    assert found[0]['legend'] == found[1]['legend'][1:] == CLASSES
    assert found[3]['legend'][1:] == [['ramp', '#440154', '#fde725']]
    for number, layer in ((1, 'maps/a'), (2, 'maps/b')):
        expected = np.array([*ByValue.palette], np.uint8)[read(tmp_path / f'{layer}.tif')]
        np.testing.assert_array_equal(picture(tmp_path / 'seen', number), expected)
    # All is named relative to the project, so that the folder can be moved.
    (tmp_path / 'elsewhere').mkdir()
    for name in ('images', 'maps', 'town.qgs'):
        (tmp_path / name).rename(tmp_path / 'elsewhere' / name)
    moved = in_qgis.view(tmp_path / 'seen', tmp_path / 'elsewhere' / 'town.qgs')
    assert [layer['valid'] for layer in moved] == [True] * 7
