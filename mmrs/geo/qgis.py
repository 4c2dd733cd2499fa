"""How QGIS shows maps: styles that it takes up by itself when a file is opened.

QGIS looks for the style of a raster `NAME.tif` in `NAME.qml` beside it, and for that of a layer of a GeoPackage in the
table `layer_styles`. Without a style it lists all 256 colours of a GeoTIFF's colour table in the legend, whatever
classes there are.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from mmrs.geo.classes import Colour, to_hex
from mmrs.geo.rasters import PathLike
from mmrs.utils.files import write_text

__all__ = [
    'MAGMA',
    'MARK',
    'VERSION',
    'VIRIDIS',
    'categorised_polygons',
    'colour_ramp',
    'is_own_style',
    'palette',
    'style_path',
    'style_text',
    'write_style',
]

#: QGIS drops comments when a user saves a file, so that one with this comment is as it was written.
MARK = ' Written with the maps. Save your own over it, and it is kept. '

#: Of the format. QGIS reads files of earlier versions than its own, and warns of later ones.
VERSION = '3.22'

#: Colours from the lowest value to the highest, at equal distances: those of matplotlib's colour maps of these names.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
MAGMA = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))


def palette(labels: Sequence[str], colours: Sequence[Colour]) -> Element:
    """The renderer of a raster whose values from 0 on have a label and a colour each; no other value is shown."""
    renderer = Element('rasterrenderer', type='paletted', band='1', opacity='1', alphaBand='-1', nodataColor='')
    entries = SubElement(renderer, 'colorPalette')
    for value, (label, colour) in enumerate(zip(labels, colours)):
        SubElement(entries, 'paletteEntry', value=str(value), label=label, color=to_hex(colour), alpha='255')
    return renderer


def colour_ramp(colours: Sequence[Colour], low: float = 0, high: float = 1) -> Element:
    """The renderer of a raster whose first band is shown by colours at equal distances from `low` to `high`."""
    renderer = Element(
        'rasterrenderer',
        type='singlebandpseudocolor',
        band='1',
        opacity='1',
        alphaBand='-1',
        nodataColor='',
        classificationMin=str(low),
        classificationMax=str(high),
    )
    shader = SubElement(
        SubElement(renderer, 'rastershader'),
        'colorrampshader',
        colorRampType='INTERPOLATED',
        classificationMode='1',
        clip='0',
        minimumValue=str(low),
        maximumValue=str(high),
    )
    shares = [i / (len(colours) - 1) for i in range(len(colours))]
    stops = (f'{share:g};{_rgba(colour)}' for share, colour in list(zip(shares, colours))[1:-1])
    ramp = SubElement(shader, 'colorramp', name='[source]', type='gradient')
    _options(ramp, color1=_rgba(colours[0]), color2=_rgba(colours[-1]), discrete='0', rampType='gradient',
             stops=':'.join(stops))  # fmt: skip
    for share, colour in zip(shares, colours):
        value = f'{low + share * (high - low):g}'
        SubElement(shader, 'item', value=value, label=value, color=to_hex(colour), alpha='255')
    return renderer


def categorised_polygons(field: str, values: Sequence[str], colours: Sequence[Colour]) -> Element:
    """The renderer of polygons that are filled, without outline, with the colour of the value of a field."""
    renderer = Element('renderer-v2', type='categorizedSymbol', attr=field)
    categories, symbols = (SubElement(renderer, name) for name in ('categories', 'symbols'))
    for index, (value, colour) in enumerate(zip(values, colours)):
        SubElement(categories, 'category', value=value, label=value, symbol=str(index), render='true')
        symbol = SubElement(symbols, 'symbol', type='fill', name=str(index), alpha='1')
        fill = SubElement(symbol, 'layer', {'class': 'SimpleFill'}, enabled='1')
        _options(fill, color=_rgba(colour), style='solid', outline_style='no')
    return renderer


def style_text(renderer: Element) -> str:
    """The text of a style (QML) that has a renderer of rasters or of polygons, and nothing else."""
    root = Element('qgis', version=VERSION, styleCategories='Symbology')
    root.append(ElementTree.Comment(MARK))
    (SubElement(root, 'pipe') if renderer.tag == 'rasterrenderer' else root).append(renderer)
    ElementTree.indent(root, ' ')
    return ElementTree.tostring(root, 'unicode') + '\n'


def style_path(raster: PathLike) -> Path:
    """Where QGIS looks for the style of a raster."""
    return Path(raster).with_suffix('.qml')


def is_own_style(path: Path) -> bool:
    """Whether a style was written by `write_style`, and not saved by a user since."""
    return MARK in path.read_text(encoding='utf-8', errors='replace')


def write_style(raster: PathLike, renderer: Element) -> None:
    """Writes the style of a raster beside it, unless there is one that a user has made.

    Raises:
        OutputError: It cannot be written.
    """
    path = style_path(raster)
    if not path.exists() or is_own_style(path):
        write_text(style_text(renderer), path, overwrite=True)


def _options(parent: Element, **options: str) -> None:
    node = SubElement(parent, 'Option', type='Map')
    for name, value in options.items():
        SubElement(node, 'Option', name=name, value=value, type='QString')


def _rgba(colour: Sequence[int]) -> str:
    return '{},{},{},255'.format(*colour)
