"""Which part of a raster is wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from mmrs.geo.apart import describe_gap, guess_reason
from mmrs.geo.footprints import footprint
from mmrs.geo.grids import (
    Bounds,
    RasterGrid,
    describe_bounds,
    describe_crs,
    move_bounds,
    overlap,
    place,
    write_crs,
)
from mmrs.geo.vectors import VectorLayer, open_layer
from mmrs.geo.windows import Window
from mmrs.utils.errors import ConfigError, DataError

__all__ = ['describe_miss', 'open_area', 'parse_crs', 'wanted_area']

# A rectangle that was made from the raster's own bounds shall not reach into the next pixel by rounding.
_TOLERANCE = 1e-4

# The sides of a rectangle are curved in another CRS: this many points on each follow them.
_POINTS = 33


def parse_crs(text: str) -> CRS:
    """A CRS by its name, such as ``EPSG:4326``.

    Raises:
        ConfigError: There is none of that name.
    """
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(f'{text!r} is no CRS ({error}); something like EPSG:4326 was expected') from error


def open_area(path: str, layer: str | None) -> VectorLayer:
    """The polygons of an area of interest.

    Args:
        path: The vector file.
        layer: Its layer; may be left out where there is only one.

    Raises:
        ConfigError: There is no polygon.
        DataError: The file is missing, cannot be read or has no such layer.
    """
    area = open_layer(path, layer, None, 'aoi')
    if not np.isfinite(area.bounds).all():
        raise ConfigError(f'{path}: the layer {area.name} has no polygons: it is no area of interest')
    return area


def wanted_area(
    path: str, grid: RasterGrid, bbox: Bounds | None, bbox_crs: CRS | None, aoi: VectorLayer | None
) -> Window | None:
    """The rectangle of pixels that a bounding box and an area of interest leave of a raster.

    Args:
        path: The raster, for messages.
        grid: Its grid.
        bbox: Smallest x and y, largest x and y; without it the whole raster.
        bbox_crs: Its CRS; by default the raster's.
        aoi: Polygons, whose extent counts.

    Returns:
        Every pixel that is touched; None if there is none.

    Raises:
        ConfigError: The polygons cannot be read.
        DataError: The raster has no CRS, so that its place in the area is unknown.
    """
    area: Window | None = (0, 0, grid.width, grid.height)
    if bbox is not None:
        area = _common(area, _pixels(path, grid, bbox, bbox_crs))
    if aoi is not None and area is not None:
        extent = _pixels(path, grid, aoi.bounds, aoi.crs)
        # An extent that is too large for the raster's CRS says nothing; the polygons may also lie all around a raster.
        area = area if extent is None else _common(area, extent)
        if area is not None and not _touches(aoi, grid.window(area)):
            area = None
    return area


def _touches(aoi: VectorLayer, grid: RasterGrid) -> bool:
    try:
        place = footprint(grid, aoi.crs)
    except ValueError:  # across the date line
        return True
    if place.is_empty:
        return True
    try:
        return bool(shapely.intersects(aoi.within(place.bounds).shapes, place).any())
    except ValueError as error:  # it concerns all rasters
        raise ConfigError(str(error)) from error


def describe_miss(
    grids: Mapping[str, RasterGrid], bbox: Bounds | None, bbox_crs: CRS | None, aoi: VectorLayer | None
) -> str:
    """How an area and rasters that do not meet lie apart, and why that may be.

    Args:
        grids: The grid by the raster.
        bbox: See `wanted_area`.
        bbox_crs: Likewise.
        aoi: Likewise.
    """
    areas: list[tuple[str, Bounds, CRS | None]] = []
    if bbox is not None and not any(wanted_area(path, grid, bbox, bbox_crs, None) for path, grid in grids.items()):
        areas.append(('The bounding box', bbox, bbox_crs))
    if aoi is not None and not any(wanted_area(path, grid, None, None, aoi) for path, grid in grids.items()):
        areas.append((aoi.path, aoi.bounds, aoi.crs))
    if not areas:
        return f'No raster meets both the bounding box and {aoi.path if aoi else ""}, though some meet one of them.'
    name, bounds, crs = areas[0]
    gaps = {path: describe_gap(bounds, crs, grid) for path, grid in grids.items()}
    path = min(gaps, key=lambda path: gaps[path][0])
    grid, gap = grids[path], gaps[path][1]
    own = crs or grid.crs
    moved = None if own is None or grid.crs is None else move_bounds(grid.bounds, grid.crs, own)
    if moved is None or not np.isfinite(moved).all():
        moved, own = grid.bounds, grid.crs
    around = 'Their extents overlap, but nothing of the area is on the raster.' if overlap(bounds, moved) else ''
    parts = [
        f'{name} meets no raster: it covers {describe_bounds(bounds)} ({describe_crs(crs or grid.crs)}), and {path} '
        f'{describe_bounds(moved)} ({describe_crs(own)}).',
        f'It lies {gap} of that{" raster, the nearest one" * (len(grids) > 1)}.' if gap else around,
        next(filter(None, (guess_reason(bounds, crs, grid) for grid in grids.values())), ''),
    ]
    return ' '.join(filter(None, parts))


def _common(first: Window | None, second: Window | None) -> Window | None:
    if first is None or second is None:
        return None
    x0, y0, x1, y1 = (*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _pixels(path: str, grid: RasterGrid, bounds: Bounds, crs: CRS | None) -> Window | None:
    """The pixels of a raster, and perhaps beyond it, that a rectangle in a CRS touches; None without a place there."""
    if crs is not None and grid.crs is None:
        raise DataError(
            f'{path} has no CRS, so that the area in {describe_crs(crs)} has no place on it. {write_crs(path)}.'
        )
    step = max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / _POINTS
    xs, ys = shapely.get_coordinates(shapely.segmentize(shapely.box(*bounds), step)).T
    if crs is not None and crs != grid.crs:
        try:
            xs, ys = np.array(transform(crs, grid.crs, xs, ys))
        except Exception:  # GDAL's own errors are of no public kind
            return None
    columns, rows = place(~grid.transform, xs, ys)
    if not np.isfinite([columns, rows]).all():
        return None
    return (
        math.floor(columns.min() + _TOLERANCE),
        math.floor(rows.min() + _TOLERANCE),
        math.ceil(columns.max() - _TOLERANCE),
        math.ceil(rows.max() - _TOLERANCE),
    )
