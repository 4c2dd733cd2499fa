"""Which part of a raster is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from mmrs.datasets.grids import Bounds, RasterGrid, describe_crs, place
from mmrs.datasets.vectors import open_layer
from mmrs.datasets.windows import Window
from mmrs.utils.errors import ConfigError

__all__ = ['parse_crs', 'wanted_area']

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


def wanted_area(
    path: str, grid: RasterGrid, bbox: Sequence[float] | None, bbox_crs: CRS | None, aoi: str | None
) -> Window | None:
    """The rectangle of pixels that a bounding box and an area of interest leave of a raster.

    Args:
        path: The raster, for messages.
        grid: Its grid.
        bbox: Smallest x and y, largest x and y; without it the whole raster.
        bbox_crs: Its CRS; by default the raster's.
        aoi: Vector file with polygons, whose extent counts.

    Returns:
        Every pixel that is touched; None if there is none.

    Raises:
        ConfigError: A rectangle that is none.
        ValueError: The raster has no CRS, so that its place in the area is unknown.
    """
    area: Window | None = (0, 0, grid.width, grid.height)
    if bbox is not None:
        x0, y0, x1, y1 = bbox
        if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, bbox))):
            raise ConfigError(f'bbox is {" ".join(map(str, bbox))}; XMIN YMIN XMAX YMAX with XMIN < XMAX were expected')
        area = _common(area, _pixels(path, grid, (x0, y0, x1, y1), bbox_crs))
    if aoi is not None:
        layer = open_layer(aoi, None, None)
        if layer.count == 0:
            raise ConfigError(f'{aoi} has no polygons: it is no area of interest')
        area = _common(area, _pixels(path, grid, layer.bounds, layer.crs))
    return area


def _common(first: Window | None, second: Window | None) -> Window | None:
    if first is None or second is None:
        return None
    x0, y0, x1, y1 = (*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _pixels(path: str, grid: RasterGrid, bounds: Bounds, crs: CRS | None) -> Window | None:
    """The pixels of a raster, and perhaps beyond it, that a rectangle in a CRS touches."""
    if crs is not None and grid.crs is None:
        raise ValueError(
            f'{path} has no CRS, so that the area in {describe_crs(crs)} has no place on it. Write it into the file '
            '(`rio edit-info --crs`).'
        )
    step = max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / _POINTS
    xs, ys = shapely.get_coordinates(shapely.segmentize(shapely.box(*bounds), step)).T
    if crs is not None and crs != grid.crs:
        try:
            xs, ys = np.array(transform(crs, grid.crs, xs, ys))
        except Exception as error:  # GDAL's own errors are of no public kind
            raise ValueError(
                f'{path} has {describe_crs(grid.crs)}, in which the area in {describe_crs(crs)} has no place. Give the '
                "area in the raster's own CRS."
            ) from error
    columns, rows = place(~grid.transform, xs, ys)
    if not np.isfinite([columns, rows]).all():
        return None
    return (
        math.floor(columns.min() + _TOLERANCE),
        math.floor(rows.min() + _TOLERANCE),
        math.ceil(columns.max() - _TOLERANCE),
        math.ceil(rows.max() - _TOLERANCE),
    )
