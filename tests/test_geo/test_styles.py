from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from mmrs.geo.qgis import MAGMA, VIRIDIS, colour_ramp, is_own_style, palette, style_text, write_style
from mmrs.utils.errors import OutputError


def test_names_of_classes_are_text(tmp_path):
    names = ['<field>', 'a "b" & c', 'Straße']
    write_style(tmp_path / 'map.tif', palette(names, [(1, 2, 3), (4, 5, 6), (255, 255, 255)]))
    root = ElementTree.parse(tmp_path / 'map.qml').getroot()
    found = [(e.get('value'), e.get('label'), e.get('color')) for e in root.iter('paletteEntry')]
    assert found == list(zip('012', names, ['#010203', '#040506', '#FFFFFF']))


@pytest.mark.parametrize(('colours', 'name'), [(VIRIDIS, 'viridis'), (MAGMA, 'magma')])
def test_ramps_are_matplotlibs(colours, name):
    np.testing.assert_allclose(colours, 255 * matplotlib.colormaps[name](np.linspace(0, 1, 5))[:, :3], atol=1)
    items = list(colour_ramp(colours, -1, 3).iter('item'))
    assert [float(item.get('value')) for item in items] == [-1, 0, 1, 2, 3]


def test_the_style_of_a_user_stays(tmp_path):
    path, renderer = tmp_path / 'map.qml', palette(['a'], [(0, 0, 0)])
    write_style(tmp_path / 'map.tif', renderer)
    assert is_own_style(path)
    path.write_text(path.read_text().replace('#000000', '#123456'))
    write_style(tmp_path / 'map.tif', renderer)
    assert path.read_text() == style_text(renderer)
    path.write_bytes(b'\xff\xfe no style at all')
    write_style(tmp_path / 'map.tif', renderer)
    assert path.read_bytes() == b'\xff\xfe no style at all'
    (tmp_path / 'a file').touch()
    with pytest.raises(OutputError, match=r'a file/map\.qml cannot be written'):
        write_style(tmp_path / 'a file' / 'map.tif', renderer)
