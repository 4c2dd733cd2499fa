"""Labels that are drawn as polygons."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyogrio.raw
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform

from mmrs.geo.grids import Bounds, RasterGrid, move_bounds
from mmrs.geo.handles import file_state, handles
from mmrs.utils.errors import DataError, UnreadableError

#: Suffixes of vector files.
VECTOR_SUFFIXES = ('.gpkg', '.geojson', '.fgb', '.shp')

# A whole number as a text field may hold it. One with leading zeros is no number: 052 and 52 may be two codes.
_WHOLE = re.compile(r'\s*(0|-?[1-9][0-9]{0,15})(?:\.0*)?\s*')

# Without a spatial index, looking for the polygons of a window means reading the whole file: better once, into memory.
_UNINDEXED = ('.geojson',)


def is_vector(path: str) -> bool:
    """Whether a file is a vector file, by its suffix."""
    return path.lower().endswith(VECTOR_SUFFIXES)


class Polygons(NamedTuple):
    """Polygons and, of each, the value of the attribute that names its class (None throughout without attribute).

    Whole numbers are integers, and truth values the texts `true` and `false`.
    """

    shapes: np.ndarray
    values: list


class VectorLayer:
    """One layer of a vector file.

    Args:
        path: The file.
        name: Name of the layer; may be left out where there is only one.
        attribute: Field with the name or id of each polygon's class, if there is one.
        role: What stands before `_layer` and `_attribute` in the options that name these two.

    Attributes:
        crs: Its coordinate reference system.
        count: Number of polygons.

    Raises:
        UnreadableError: There is no such file, or it cannot be read.
        DataError: It has several layers and none is named, no such layer or field, no CRS, or
            no polygons.
    """

    def __init__(self, path: str, name: str | None = None, attribute: str | None = None, role: str = 'label') -> None:
        if not os.path.isfile(path):
            raise UnreadableError(f'{path}: no such file; a vector file was expected there')
        self.path, self.attribute = path, attribute
        option = f'{role}_layer (--{role}-layer)'
        with _reading(path):
            # A table without geometry, such as QGIS's styles, is no layer to choose from.
            found = pyogrio.list_layers(path)
            layers = [name for name, kind in found if kind is not None] or found[:, 0].tolist()
            if name is None and len(layers) > 1:
                raise DataError(
                    f'{path} has several layers, {", ".join(layers)}. Choose one by {option}, or put it into a file of '
                    'its own.'
                )
            if name is not None and name not in layers:
                raise DataError(f'{path} has no layer {name!r}; it has {", ".join(layers)}. Correct {option}.')
            self.name = name or layers[0]
            info = pyogrio.read_info(path, layer=self.name, force_feature_count=True)
        fields = list(info['fields'])
        self._of_truth = attribute is not None and dict(zip(fields, info['dtypes'])).get(attribute) == 'bool'
        if attribute is not None and attribute not in fields:
            raise DataError(
                f'{path}: the layer {self.name} has no field {attribute!r}; it has '
                f'{", ".join(fields) or "none"}. Correct {role}_attribute.'
            )
        if info['crs'] is None:
            raise DataError(
                f'{path}: the layer {self.name} has no CRS, so that its place on an image is unknown. Set the one that '
                'its coordinates are in: ogr2ogr -a_srs EPSG:CODE NEW.gpkg OLD'
            )
        with _reading(path):
            self.crs = CRS.from_user_input(info['crs'])
        self.count: int = info['features']
        kind = info['geometry_type'] or 'no geometry'
        if 'Polygon' not in kind and kind not in ('Unknown', 'GeometryCollection'):
            raise DataError(
                f'{path}: the layer {self.name} holds {kind}; polygons were expected. Buffer its shapes first.'
            )
        self._all: Polygons | None = None
        self._tree: shapely.STRtree | None = None

    def values(self) -> list:
        """The attribute's value of every polygon."""
        return self._read(None, read_geometry=False).values

    @cached_property
    def bounds(self) -> Bounds:
        """Extent, in its CRS; NaN where there are no polygons."""
        with _reading(self.path):
            info = pyogrio.read_info(self.path, layer=self.name, force_total_bounds=True)
        return tuple(info['total_bounds']) if info['total_bounds'] is not None else (np.nan,) * 4

    def within(self, bounds: Bounds) -> Polygons:
        """The polygons that may touch a rectangle, in the order of the file."""
        west, south, east, north = bounds
        if west > east:  # in degrees, across the date line
            bounds = -360.0, south, 360.0, north
        if not self.path.lower().endswith(_UNINDEXED):
            return self._read(bounds)
        if self._all is None or self._tree is None:
            self._all = self._read(None)
            self._tree = shapely.STRtree(self._all.shapes)
        found = np.sort(self._tree.query(shapely.box(*bounds)))
        return Polygons(self._all.shapes[found], [self._all.values[i] for i in found])

    def _read(self, bounds: Bounds | None, read_geometry: bool = True) -> Polygons:
        with _reading(self.path):
            _, ids, shapes, fields = pyogrio.raw.read(
                self.path,
                layer=self.name,
                columns=[] if self.attribute is None else [self.attribute],
                bbox=bounds,
                read_geometry=read_geometry,
                force_2d=True,
                return_fids=True,
            )
        values = [None] * len(ids) if self.attribute is None else [_plain(value) for value in fields[0].tolist()]
        if self._of_truth:
            values = [value if value is None else 'true' if value else 'false' for value in values]
        if not read_geometry:
            return Polygons(np.empty(0, object), values)
        with _reading(self.path):
            shapes = shapely.from_wkb(shapes)
        # A spatial index finds polygons in an order of its own.
        order = np.argsort(ids, kind='stable')
        order = order[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))[order]]
        for i in order[shapely.get_dimensions(shapes[order]) < 2]:  # layers of any type may hold some
            raise DataError(
                f'{self.path}: feature {ids[i]} is a {shapes[i].geom_type}; polygons were expected. Buffer it, or take '
                'it out.'
            )
        return Polygons(shapes[order], [values[i] for i in order])


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Raises UnreadableError for what goes wrong with a file; pyogrio's errors are RuntimeErrors."""
    try:
        yield
    except (RuntimeError, shapely.errors.ShapelyError, RasterioError, CRSError, UnicodeDecodeError) as error:
        raise UnreadableError(
            f'{path} cannot be read as a vector file: {str(error).rstrip(".")}. Restore it from its source.'
        ) from error


def _plain(value: Any) -> Any:
    """Whole numbers as such: in files whose field has gaps or no type, ids come as floats."""
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return str(value) if isinstance(value, np.ndarray) else value  # lists


def id_of(value: Any) -> Any:
    """The id that a polygon's attribute stands for, if it is a whole number in text; else the value itself."""
    number = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return int(number[1]) if number else value


def class_of(value: Any, index_of_value: Mapping[Any, int]) -> int | None:
    """Training index of an attribute's value, by the name or the id of a class; None if it is no class."""
    index = index_of_value.get(value)
    return index_of_value.get(id_of(value)) if index is None else index


def open_layer(path: str, name: str | None, attribute: str | None, role: str = 'label') -> VectorLayer:
    """A layer, kept for the next time (see `HandlePool`); raises as `VectorLayer`."""
    key = (path, file_state(path), name, attribute)
    return handles.get(key, lambda: VectorLayer(path, name, attribute, role))


def _move(shapes: np.ndarray, crs: CRS, to: CRS) -> np.ndarray:
    return shapely.transform(shapes, lambda points: np.column_stack(transform(crs, to, points[:, 0], points[:, 1])))


def burn_labels(
    path: str,
    grid: RasterGrid,
    index_of_value: Mapping[Any, int],
    background: int,
    layer: str | None = None,
    attribute: str | None = None,
) -> np.ndarray:
    """Training indices of the pixels whose centre lies in a polygon.

    Where polygons overlap, the later one in the file counts; FlatGeobuf files with a spatial index have an order of
    their own.

    Args:
        path: The vector file.
        grid: Pixels to fill.
        index_of_value: Training index by the name and by the id of a class; by None where there is no attribute.
        background: Training index outside of all polygons.
        layer: See `VectorLayer`.
        attribute: Likewise.

    Returns:
        `(H, W)`, uint8.

    Raises:
        UnreadableError: The file cannot be read.
        DataError: It is not such a layer, or a value is no class.
    """
    source = open_layer(path, layer, attribute)
    # A pixel on each side, for a straight edge in one CRS is slightly curved in another.
    around = grid.window((-1, -1, grid.width + 1, grid.height + 1)).bounds
    around = move_bounds(around, grid.crs, source.crs)
    shapes, values = source.within(around)
    indices = {value: class_of(value, index_of_value) for value in set(values)}
    unknown = [value for value, index in indices.items() if index is None]
    if unknown:
        raise DataError(f'{path}: {attribute} is {", ".join(sorted(map(repr, unknown)))}, which is no class.')
    if not values:
        return np.full(grid.shape, background, np.uint8)
    if source.crs != grid.crs:
        moved = _move(shapes, source.crs, grid.crs)
        # Of one that reaches too far for the raster's CRS, what is near has a place in it.
        lost = ~np.isfinite(shapely.bounds(moved)).all(axis=1)
        if lost.any():
            near = shapely.intersection(shapely.make_valid(shapes[lost]), shapely.box(*around))
            moved[lost] = _move(near, source.crs, grid.crs)
        shapes = moved
    burnt = ((shape, indices[value]) for shape, value in zip(shapes, values))
    return rasterize(burnt, grid.shape, fill=background, transform=grid.transform, dtype='uint8')
