"""A project file for QGIS, with all that a prediction has written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from rasterio.crs import CRS

from mmrs.geo.grids import RasterGrid, move_bounds
from mmrs.geo.qgis import MARK, VERSION, categorised_polygons
from mmrs.prediction.geopackage import LAYER
from mmrs.prediction.maps import MapLayer
from mmrs.utils.files import write_text

__all__ = ['write_project']

_SHOWN = {True: 'Qt::Checked', False: 'Qt::Unchecked'}


def write_project(
    path: Path,
    maps: Mapping[str, tuple[Path, RasterGrid]],
    layers: Sequence[MapLayer],
    vector: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a project that shows maps above their rasters; what else belongs to them is in it, too, and switched off.

    All files are named relative to the project.

    Args:
        path: The file, ``NAME.qgs``.
        maps: The label map and its grid, by the raster.
        layers: The rasters of each map, the labels first.
        vector: GeoPackage with the polygons of all maps, in the CRS of the first one.
        overwrite: Replace a file.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    crs = next(grid.crs for _, grid in maps.values())
    project = _Project(path, crs, [grid for _, grid in maps.values()])
    if vector is not None:
        renderer = categorised_polygons('class', layers[0].classes, layers[0].palette)
        project.add(project.tree, vector, vector.stem, crs, renderer, shown=False)
    for layer in layers:
        group = project.group(layer.name, shown=layer.categorical)
        for target, grid in maps.values():
            file = layer.path(target)
            project.add(group, file, file.stem, grid.crs, layer.renderer)
    group = project.group('images', shown=True)
    for raster, (_, grid) in maps.items():
        project.add(group, raster, Path(raster).stem, grid.crs)
    project.write(overwrite)


class _Project:
    def __init__(self, path: Path, crs: CRS | None, grids: Sequence[RasterGrid]) -> None:
        self._path = path
        self._root = Element('qgis', version=VERSION, projectname='')
        self._root.append(ElementTree.Comment(MARK))
        _add_crs(self._root, 'projectCrs', crs)
        self.tree = SubElement(self._root, 'layer-tree-group')
        self._layers = SubElement(self._root, 'projectlayers')
        self._add_view(crs, grids)
        properties = SubElement(self._root, 'properties')
        SubElement(SubElement(properties, 'Paths'), 'Absolute', type='bool').text = 'false'
        # Without it, the CRS of the project is not read.
        SubElement(SubElement(properties, 'SpatialRefSys'), 'ProjectionsEnabled', type='int').text = '1'

    def _add_view(self, crs: CRS | None, grids: Sequence[RasterGrid]) -> None:
        canvas = SubElement(self._root, 'mapcanvas', name='theMapCanvas')
        bounds = np.array([g.bounds if g.crs == crs else move_bounds(g.bounds, g.crs, crs) for g in grids])
        low, high = np.nanmin(bounds[:, :2], axis=0), np.nanmax(bounds[:, 2:], axis=0)
        extent = SubElement(canvas, 'extent')
        for name, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), (*low.tolist(), *high.tolist())):
            SubElement(extent, name).text = repr(value)
        _add_crs(canvas, 'destinationsrs', crs)

    def group(self, name: str, shown: bool) -> Element:
        """A new group of layers, below those that are there."""
        return SubElement(self.tree, 'layer-tree-group', name=name, checked=_SHOWN[shown], expanded=str(int(shown)))

    def add(
        self,
        group: Element,
        file: str | Path,
        name: str,
        crs: CRS | None,
        renderer: Element | None = None,
        shown: bool = True,
    ) -> None:
        """Add a file; without renderer QGIS chooses one."""
        source = os.fspath(file)
        if os.path.exists(source):  # else it is a path of GDAL's own
            source = f'./{Path(os.path.relpath(source, self._path.parent)).as_posix()}'
        polygons = renderer is not None and renderer.tag == 'renderer-v2'
        source, provider = (f'{source}|layername={LAYER}', 'ogr') if polygons else (source, 'gdal')
        # QGIS gives up an id of less than ten characters, and with it the layer's place in the tree.
        key = f'layer_{hashlib.sha256(source.encode()).hexdigest()[:16]}'
        facts = dict(id=key, name=name, source=source, providerKey=provider, checked=_SHOWN[shown], expanded='0')
        SubElement(group, 'layer-tree-layer', facts)
        kind = dict(type='vector', geometry='Polygon') if polygons else dict(type='raster')
        layer = SubElement(self._layers, 'maplayer', kind)
        for tag, text in (('id', key), ('datasource', source), ('layername', name), ('provider', provider)):
            SubElement(layer, tag).text = text
        _add_crs(layer, 'srs', crs)
        if renderer is not None:
            (layer if polygons else SubElement(layer, 'pipe')).append(renderer)

    def write(self, overwrite: bool) -> None:
        ElementTree.indent(self._root, ' ')
        write_text(ElementTree.tostring(self._root, 'unicode') + '\n', self._path, overwrite)


def _add_crs(parent: Element, tag: str, crs: CRS | None) -> None:
    if crs is not None:
        SubElement(SubElement(SubElement(parent, tag), 'spatialrefsys'), 'wkt').text = crs.to_wkt()
