"""How much of each class lies in polygons."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import transform
from rasterio.windows import Window

from mmrs.geo.grids import RasterGrid, move_bounds, place, write_crs
from mmrs.geo.handles import scanning
from mmrs.geo.label_maps import open_classes
from mmrs.geo.rasters import open_raster
from mmrs.geo.statistics import raster_windows
from mmrs.geo.vectors import Polygons, VectorLayer
from mmrs.prediction.area import describe_miss
from mmrs.prediction.areas import row_sizes
from mmrs.prediction.maps import NODATA
from mmrs.utils.errors import DataError

__all__ = ['ZonalAreas', 'zonal_areas']

# The longest side of a polygon is cut into so many for another CRS, where it is an arc.
_POINTS = 64


@dataclass
class ZonalAreas:
    """Areas of the classes in each of P zones.

    Attributes:
        classes: Names of the K classes.
        pixels: ``(P, K)``, int64: those whose centre is in the zone.
        square_metres: ``(P, K)`` what these cover on the ground.
        expected: ``(P, K)`` square metres by the probabilities of these pixels, if there are any.
        covered: ``(P,)`` share of the zone where the map has data, 0 to 1; NaN where that cannot be told.
        outside: ``(P,)``, bool: zones that do not meet the map.
    """

    classes: list[str]
    pixels: np.ndarray
    square_metres: np.ndarray
    expected: np.ndarray | None
    covered: np.ndarray
    outside: np.ndarray


def zonal_areas(
    path: str | Path,
    layer: VectorLayer | None = None,
    polygons: Polygons | None = None,
    probabilities: str | Path | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> ZonalAreas:
    """Measure a map by windows.

    A pixel belongs to a polygon if its centre lies in it. Polygons may overlap. In degrees, and in projections that
    stretch, each row of pixels has its own size on the ground.

    Args:
        path: A label map that a prediction has written, or a mosaic of such.
        layer: Where `polygons` are from; without it the only zone is the map.
        polygons: The zones.
        probabilities: Those of the map's classes, as a prediction writes them beside it.
        advance: Called with the number of windows that are done and that there are.

    Raises:
        DataError: A file is none of these, has no place, or cannot be read; or no polygon meets the map.
    """
    classes = open_classes(path)[0]
    with ExitStack() as stack:
        stack.enter_context(scanning())
        raster = stack.enter_context(open_raster(path, quiet=True))
        grid = RasterGrid.of(raster)
        if grid.crs is None:
            raise DataError(f'{path} has no CRS, so that its areas are unknown. {write_crs(str(path))}.')
        try:
            grid.pixel_metres()
        except DataError as error:
            raise DataError(f'{path}: {error}') from error
        soft = None
        if probabilities is not None:
            soft = stack.enter_context(open_raster(probabilities, quiet=True))
            _require_probabilities(str(probabilities), soft, str(path), grid, classes)
        whole = shapely.box(0, 0, grid.width, grid.height)
        if layer is None or polygons is None:
            shapes, sizes = np.array([whole], object), np.array([float(grid.width * grid.height)])
        else:
            shapes, sizes = _in_pixels(polygons.shapes, layer, grid)
        outside = ~shapely.intersects(shapes, whole)
        if outside.all() and layer is not None:
            raise DataError(describe_miss({str(path): grid}, None, None, layer))
        measure = _Measure(str(path), raster, grid, soft, shapes, len(classes))
        tree, windows = shapely.STRtree(shapes), list(raster_windows(raster))
        for number, window in enumerate(windows, 1):
            x0, y0 = window.col_off, window.row_off
            found = tree.query(shapely.box(x0, y0, x0 + window.width, y0 + window.height), predicate='intersects')
            if len(found):
                measure.add(window, np.sort(found))
            advance(number, len(windows))
        beyond = np.maximum(sizes - shapely.area(shapely.intersection(shapes, whole)), 0)
        beyond[shapely.covered_by(shapes, whole)] = 0
    with np.errstate(invalid='ignore'):
        covered = measure.pixels.sum(axis=1) / (measure.inside + beyond)
    covered[outside] = 0
    return ZonalAreas(classes, measure.pixels, measure.square_metres, measure.expected, covered, outside)


class _Measure:
    """Sums over windows; `shapes` are polygons in columns and rows of the raster."""

    def __init__(
        self,
        path: str,
        raster: DatasetReader,
        grid: RasterGrid,
        soft: DatasetReader | None,
        shapes: np.ndarray,
        classes: int,
    ) -> None:
        self._path, self._raster, self._grid, self._soft, self._shapes = path, raster, grid, soft, shapes
        self.pixels = np.zeros((len(shapes), classes), np.int64)
        self.square_metres = np.zeros((len(shapes), classes))
        self.expected = None if soft is None else np.zeros((len(shapes), classes))
        #: Pixels of the raster, with data and without.
        self.inside = np.zeros(len(shapes), np.int64)

    def add(self, window: Window, zones: np.ndarray) -> None:
        """Count a window in some zones."""
        labels = self._raster.read(1, window=window)
        classes = self.pixels.shape[1]
        strange = np.unique(labels[(labels >= classes) & (labels != NODATA)])
        if len(strange):
            raise DataError(f'{self._path} has the value {strange[0]}, which is none of its {classes} classes')
        sizes = row_sizes(self._grid, window)
        probabilities = None if self._soft is None else _read_probabilities(self._soft, window, labels != NODATA)
        for zone in zones.tolist():
            rows, columns = self._rows_and_columns(zone, window)
            if not rows.size:
                continue
            self.inside[zone] += rows.size
            found = labels[rows, columns]
            shown = found != NODATA
            rows, columns, found = rows[shown], columns[shown], found[shown]
            self.pixels[zone] += np.bincount(found, minlength=classes)
            self.square_metres[zone] += np.bincount(found, sizes[rows], minlength=classes)
            if probabilities is not None and self.expected is not None:
                self.expected[zone] += probabilities[:, rows, columns] @ sizes[rows]

    def _rows_and_columns(self, zone: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a window whose centre is in a zone."""
        x, y = window.col_off, window.row_off
        part = shapely.clip_by_rect(self._shapes[zone], x, y, x + window.width, y + window.height)
        if part.is_empty:
            return np.empty(0, int), np.empty(0, int)
        x0, y0, x1, y1 = part.bounds
        left, top = math.floor(x0), math.floor(y0)
        shape = math.ceil(y1) - top, math.ceil(x1) - left
        if min(shape) == 0:  # it touches with an edge
            return np.empty(0, int), np.empty(0, int)
        inside = rasterize([(part, 1)], shape, transform=Affine.translation(left, top), dtype='uint8')
        rows, columns = np.nonzero(inside)
        return rows + (top - y), columns + (left - x)


def _in_pixels(shapes: np.ndarray, layer: VectorLayer, grid: RasterGrid) -> tuple[np.ndarray, np.ndarray]:
    """Polygons in columns and rows of a raster, and their areas in pixels: NaN where a part has no place there."""
    shapes = shapes.copy()
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.make_valid(shapes[broken])
    moved = _moved(shapes, layer, grid)
    sizes = shapely.area(moved)
    lost = ~np.isfinite(shapely.bounds(moved)).all(axis=1)
    if lost.any():  # of polygons that reach too far for the raster's CRS, what is near has a place in it
        around = move_bounds(grid.window((-1, -1, grid.width + 1, grid.height + 1)).bounds, grid.crs, layer.crs)
        near = shapely.intersection(shapes[lost], shapely.box(*around)) if np.isfinite(around).all() else shapes[lost]
        moved[lost] = _moved(near, layer, grid)
        lost &= ~np.isfinite(shapely.bounds(moved)).all(axis=1)
        moved[lost] = shapely.Polygon()
        sizes[~np.isfinite(sizes)] = np.nan
    return moved, sizes


def _moved(shapes: np.ndarray, layer: VectorLayer, grid: RasterGrid) -> np.ndarray:
    if layer.crs != grid.crs:
        x0, y0, x1, y1 = shapely.bounds(shapes).T
        side = np.maximum(x1 - x0, y1 - y0) / _POINTS
        shapes = shapely.segmentize(shapes, np.where(side > 0, side, 1))
    points, index = shapely.get_coordinates(shapes, return_index=True)
    xs, ys = points.T if layer.crs == grid.crs else np.array(transform(layer.crs, grid.crs, *points.T))
    if grid.crs is not None and grid.crs.is_geographic:
        # Longitudes may count from another meridian, or on across the 180th.
        turn = 2 * math.pi / grid.crs.units_factor[1]
        lowest, highest = np.full(len(shapes), np.inf), np.full(len(shapes), -np.inf)
        np.minimum.at(lowest, index, xs)
        np.maximum.at(highest, index, xs)
        middle = place(grid.transform, grid.width / 2, grid.height / 2)[0]
        with np.errstate(invalid='ignore'):
            xs = xs - (turn * np.round(((lowest + highest) / 2 - middle) / turn))[index]
    columns, rows = place(~grid.transform, xs, ys)
    return shapely.set_coordinates(shapes.copy(), np.stack([columns, rows], axis=1))


def _require_probabilities(path: str, soft: DatasetReader, map_: str, grid: RasterGrid, classes: list[str]) -> None:
    if soft.count != len(classes) or list(soft.descriptions) != classes:
        bands = ', '.join(str(name) for name in soft.descriptions)
        raise DataError(
            f'{path} has the bands {bands}; probabilities of the classes of {map_} were expected, '
            f'{", ".join(classes)}: predict with --extra probabilities'
        )
    if not grid.matches(RasterGrid.of(soft)):
        raise DataError(f'{path} has other pixels than {map_}; both have to be of one prediction')


def _read_probabilities(soft: DatasetReader, window: Window, shown: np.ndarray) -> np.ndarray:
    """Probabilities `(K, H, W)`, float64, whose sum is 1 where the map has data."""
    stored = soft.read(window=window, masked=True)
    if np.ma.getmaskarray(stored)[:, shown].any():
        raise DataError(f'{soft.name} has no data where the map has; both have to be of one prediction')
    values = stored.filled(0).astype(np.float64)
    # As they are stored, rounded to 8 bits, their sum is 1 but for some thousandths.
    return values / np.maximum(values.sum(axis=0), np.finfo(float).tiny)
