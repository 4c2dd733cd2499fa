"""Polygons of classes in a GeoPackage."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS

from mmrs.geo.classes import Colour
from mmrs.geo.qgis import categorised_polygons, style_text
from mmrs.utils.errors import OutputError
from mmrs.utils.files import atomic_path, writing

LAYER = 'classes'

# Polygons that are written at once: each time, the file is opened again.
_BATCH = 2**16

_ERRORS = DataSourceError, DataLayerError, OSError


class PolygonLayer:
    """The only layer of a new GeoPackage, which polygons are appended to; see `new_polygon_layer`.

    Args:
        path: The file to write to.
        name: How messages call it.
        crs: Of the polygons.
        classes: Names of the classes.
        colours: RGB of each class, for QGIS.
        several: Whether the polygons are from several rasters, whose names are then a field.

    Attributes:
        count: Number of polygons so far.
    """

    def __init__(
        self,
        path: Path,
        name: Path,
        crs: CRS | None,
        classes: Sequence[str],
        colours: Sequence[Colour],
        several: bool,
    ) -> None:
        self.count = 0
        self._path, self._name = path, name
        self._crs = None if crs is None else crs.to_wkt()
        self._classes = np.array(classes, object)
        self._colours = colours
        self._fields = ['class_id', 'class', 'area_m2', 'raster'][: 4 if several else 3]
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._exists = False

    def add(self, shapes: np.ndarray, class_ids: np.ndarray, square_metres: np.ndarray, raster: str) -> None:
        """Appends polygons.

        Args:
            shapes: `(N,)` valid polygons.
            class_ids: `(N,)` index of each one's class.
            square_metres: `(N,)` its area; NaN where that is unknown.
            raster: Name of the raster that they are from.

        Raises:
            OutputError: They cannot be written.
        """
        names = np.full(len(shapes), raster, object)
        columns = shapely.to_wkb(shapes), class_ids.astype(np.int32), self._classes[class_ids], square_metres, names
        self._waiting.append(columns)
        self.count += len(shapes)
        if sum(len(columns[0]) for columns in self._waiting) >= _BATCH:
            self._write()

    def finish(self) -> None:
        """Writes what is left, and checks that all is there; raises OutputError otherwise."""
        if self._waiting or not self._exists:
            self._write()
        with writing(self._name, _ERRORS):
            _write_style(self._path, self._classes.tolist(), self._colours)
            found = pyogrio.read_info(self._path, layer=LAYER, force_feature_count=True)['features']
        if found != self.count:
            raise OutputError(f'{self._name} cannot be written: it holds {found} of {self.count} polygons')

    def _write(self) -> None:
        shapes, *fields = (
            (np.concatenate(column) for column in zip(*self._waiting))
            if self._waiting
            else (np.empty(0, kind) for kind in (object, np.int32, object, float, object))
        )
        with writing(self._name, _ERRORS), warnings.catch_warnings():
            warnings.filterwarnings('ignore', "'crs' was not provided")
            pyogrio.raw.write(
                self._path,
                shapes,
                fields[: len(self._fields)],
                self._fields,
                layer=LAYER,
                driver='GPKG',
                geometry_type='Polygon',
                crs=self._crs,
                append=self._exists,
            )
        self._exists, self._waiting = True, []


def _write_style(path: Path, classes: Sequence[str], colours: Sequence[Colour]) -> None:
    """Adds the table in which QGIS looks for the style of a layer: each class filled with its colour."""
    add_qgis_style(path, LAYER, style_text(categorised_polygons('class', classes, colours)))


def add_qgis_style(path: Path, layer: str, style: str) -> None:
    """Adds a style to the table of a GeoPackage in which QGIS looks for those of its layers.

    Args:
        path: The file.
        layer: The layer of which it is the default.
        style: As QGIS writes it to a QML file.
    """
    row = dict(
        f_table_catalog='',
        f_table_schema='',
        f_table_name=layer,
        f_geometry_column='geom',
        styleName=layer,
        styleQML=style,
        styleSLD='',
        useAsDefault=True,
        description='',
        owner='',
        ui='',
        update_time=np.datetime64('now', 'ms'),
    )
    values = [np.array([value], object if isinstance(value, str) else None) for value in row.values()]
    pyogrio.raw.write(
        path, None, values, list(row), layer='layer_styles', driver='GPKG', append=True, layer_options={'FID': 'id'}
    )


@contextmanager
def new_polygon_layer(
    path: Path,
    crs: CRS | None,
    classes: Sequence[str],
    colours: Sequence[Colour],
    several: bool = False,
    overwrite: bool = False,
) -> Iterator[PolygonLayer]:
    """A layer `classes` in a new GeoPackage, which has its name when the block has ended well.

    Args:
        path: The file.
        crs: See `PolygonLayer`.
        classes: Likewise.
        colours: Likewise.
        several: Likewise.
        overwrite: Whether to replace a file.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    with atomic_path(path, overwrite) as temporary:
        try:
            layer = PolygonLayer(temporary, path, crs, classes, colours, several)
            yield layer
            layer.finish()
        finally:
            for suffix in ('-journal', '-wal', '-shm'):
                Path(f'{temporary}{suffix}').unlink(missing_ok=True)
