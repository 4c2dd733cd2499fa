"""How an area and a raster that do not meet lie apart, and why that may be."""

from __future__ import annotations

import math

import numpy as np
from rasterio.crs import CRS

from mmrs.geo.grids import Bounds, RasterGrid, describe_crs, move_bounds, overlap

__all__ = ['describe_gap', 'guess_reason']

_WGS84 = CRS.from_epsg(4326)

# Mean radius of the earth in metres.
_RADIUS = 6371008.8

_WINDS = ('north', 'north-east', 'east', 'south-east', 'south', 'south-west', 'west', 'north-west')


def describe_gap(bounds: Bounds, crs: CRS | None, grid: RasterGrid) -> tuple[float, str]:
    """How far an area lies from a raster.

    Args:
        bounds: Extent of the area.
        crs: Its CRS; None for the raster's.
        grid: The raster.

    Returns:
        The distance between the extents, in metres (without any CRS, in units of the coordinates; infinite where it
        is unknown); and distance and direction for a message, `98.6 km east`, empty where there are none.
    """
    crs = crs or grid.crs
    others = grid.bounds if crs is None or grid.crs is None else move_bounds(grid.bounds, grid.crs, crs)
    if not np.isfinite([*bounds, *others]).all():
        return math.inf, ''
    (x, other_x), (y, other_y) = (_nearest(bounds[i::2], others[i::2]) for i in (0, 1))
    if crs is not None and crs.is_geographic:
        if abs(x - other_x) > 180:  # perhaps near, across the date line or counted from another meridian
            return math.inf, ''
        east, north = _great_circle(*np.radians([other_x, other_y, x, y]).tolist())
    else:
        east, north = x - other_x, y - other_y
    distance = math.hypot(east, north)
    if not distance:
        return 0.0, ''
    wind = _WINDS[round(math.atan2(east, north) / (math.pi / 4)) % 8]
    if crs is None:
        return distance, f'{distance:.4g} units {wind}'
    try:
        metres = distance * (1.0 if crs.is_geographic else crs.linear_units_factor[1])
    except Exception:  # GDAL's own errors are of no public kind
        return distance, f'{distance:.4g} units {wind}'
    kilometres = metres / 1000
    length = f'{metres:.3g} m' if metres < 1000 else f'{kilometres:{".3g" if kilometres < 1000 else ",.0f"}} km'
    return metres, f'{length} {wind}'


def _great_circle(lon0: float, lat0: float, lon1: float, lat1: float) -> tuple[float, float]:
    """Metres to the east and to the north at the beginning of the shortest way, which are as long as the way."""
    turn = lon1 - lon0
    east = math.cos(lat1) * math.sin(turn)
    north = math.cos(lat0) * math.sin(lat1) - math.sin(lat0) * math.cos(lat1) * math.cos(turn)
    up = math.sin(lat0) * math.sin(lat1) + math.cos(lat0) * math.cos(lat1) * math.cos(turn)
    sine = math.hypot(east, north)
    way = _RADIUS * math.atan2(sine, up)
    return (way * east / sine, way * north / sine) if sine else (0.0, way)


def _nearest(own: tuple[float, ...], others: tuple[float, ...]) -> tuple[float, float]:
    """The places of two intervals that are nearest to each other."""
    if own[0] > others[1]:
        return own[0], others[1]
    if own[1] < others[0]:
        return own[1], others[0]
    middle = (max(own[0], others[0]) + min(own[1], others[1])) / 2
    return middle, middle


def guess_reason(bounds: Bounds, crs: CRS | None, grid: RasterGrid) -> str:
    """What would make an area and a raster meet, as a sentence; empty where nothing of what is common would.

    Args:
        bounds: Extent of the area.
        crs: Its CRS; None for the raster's.
        grid: The raster.
    """

    def meet(area: Bounds, area_crs: CRS | None) -> bool:
        if area_crs is not None and grid.crs is not None and area_crs != grid.crs:
            area = move_bounds(area, area_crs, grid.crs)
        return overlap(area, grid.bounds)

    exchanged = bounds[1], bounds[0], bounds[3], bounds[2]
    if meet(exchanged, crs):
        own = crs or grid.crs
        degrees = own is not None and own.is_geographic
        order = 'longitude comes before latitude' if degrees else 'the easting comes before the northing'
        return f'With x and y exchanged they would meet: {order}.'
    if grid.crs is None:
        return ''
    if grid.crs.is_geographic:
        west, south, east, north = bounds if crs is None else move_bounds(bounds, crs, grid.crs)
        for turn, change in ((360, 'added to'), (-360, 'taken from')):
            if meet((west + turn, south, east + turn, north), None):
                return (
                    f'With 360 degrees {change} the longitudes of the area they would meet: one counts from -180 to '
                    '180, the other from 0 to 360.'
                )
    if crs is None and meet(bounds, _WGS84):
        return 'As degrees they would meet: --bbox-crs EPSG:4326.'
    if crs is None and meet(exchanged, _WGS84):
        return 'As degrees with x and y exchanged they would meet: longitude before latitude, --bbox-crs EPSG:4326.'
    if crs is not None and meet(bounds, grid.crs):
        return (
            f'As coordinates in {describe_crs(grid.crs)}, which those of the raster are, they would meet: is '
            f'{describe_crs(crs)} right?'
        )
    return ''
