"""Tiles to label in a GeoPackage, as QGIS shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS

from mmrs.geo.qgis import VERSION
from mmrs.prediction.geopackage import add_qgis_style
from mmrs.utils.files import atomic_path, writing

__all__ = ['TILES', 'write_tile_layer']

#: Name of the layer.
TILES = 'tiles'
#: The one hue that neither vegetation nor roofs nor water have, opaque.
_PINK = '255,0,160,255'


def write_tile_layer(
    path: Path,
    shapes: Sequence[shapely.Polygon],
    fields: Mapping[str, Sequence[Any]],
    crs: CRS,
    overwrite: bool = False,
) -> None:
    """Write rectangles with their fields to a new GeoPackage, outlined and with their rank.

    Args:
        path: The file, which appears when it is complete.
        shapes: N rectangles.
        fields: Of each, N values by name: text, whole numbers or numbers. ``rank`` and ``picture`` (the path of one,
            shown where the mouse rests) are among them.
        crs: Of the rectangles.
        overwrite: Whether to replace a file.

    Raises:
        OutputError: It exists, or cannot be written.
    """
    columns = [np.array(values, object if isinstance(values[0], str) else None) for values in fields.values()]
    with atomic_path(path, overwrite) as temporary, writing(path, (DataSourceError, DataLayerError, OSError)):
        pyogrio.raw.write(
            temporary,
            shapely.to_wkb(np.array(shapes, object)),
            columns,
            list(fields),
            layer=TILES,
            driver='GPKG',
            geometry_type='Polygon',
            crs=crs.to_wkt(),
        )
        add_qgis_style(temporary, TILES, _style())


def _style() -> str:
    root = ElementTree.Element('qgis', version=VERSION, styleCategories='Symbology|Labeling|MapTips', labelsEnabled='1')
    renderer = ElementTree.SubElement(root, 'renderer-v2', type='singleSymbol')
    symbols = ElementTree.SubElement(renderer, 'symbols')
    symbol = ElementTree.SubElement(symbols, 'symbol', type='fill', name='0', alpha='1')
    fill = ElementTree.SubElement(symbol, 'layer', {'class': 'SimpleFill'}, enabled='1')
    options = ElementTree.SubElement(fill, 'Option', type='Map')
    look = dict(style='no', outline_style='solid', outline_color=_PINK, outline_width='0.7', outline_width_unit='MM')
    for key, value in look.items():
        ElementTree.SubElement(options, 'Option', name=key, value=value, type='QString')
    labeling = ElementTree.SubElement(root, 'labeling', type='simple')
    settings = ElementTree.SubElement(labeling, 'settings')
    ElementTree.SubElement(settings, 'text-style', fieldName='rank', fontSize='14', textColor=_PINK)
    tip = ElementTree.SubElement(root, 'mapTip', enabled='1')
    tip.text = '<p>[% "reason" %]</p><img src="file:///[% "picture" %]" width="600"/>'
    return ElementTree.tostring(root, 'unicode')
