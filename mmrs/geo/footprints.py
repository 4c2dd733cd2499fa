"""Where rasters lie on the ground, as polygons."""

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform

from mmrs.geo.grids import RasterGrid, place
from mmrs.utils.errors import DataError

# Points along each side. In another CRS a side is an arc, and the chord between two points is off by 1/POINTS² of what
# the chord of the whole side would be: for a tile of 10 km, 1/100 of a millimetre to a millimetre.
_POINTS = 64


def boundary(grid: RasterGrid, crs: CRS | None) -> np.ndarray:
    """The edge of a grid in another CRS, `(N, 2)`; NaN where a point has no place there.

    Raises:
        DataError: The grid lies across the 180th meridian or on a pole, and that CRS counts in degrees.
    """
    steps = np.linspace(0, 1, _POINTS, endpoint=False)
    nil, one = np.zeros(_POINTS), np.ones(_POINTS)
    columns = np.concatenate((steps, one, 1 - steps, nil)) * grid.width
    rows = np.concatenate((nil, steps, one, 1 - steps)) * grid.height
    points = np.stack(place(grid.transform, columns, rows))
    if grid.crs != crs:
        try:
            points = np.array(transform(grid.crs, crs, *points))
        except Exception:  # GDAL's own errors are of no public kind
            points = np.full_like(points, np.nan)
        points[~np.isfinite(points)] = np.nan
        if crs is not None and crs.is_geographic and np.ptp(points[0]) > 180:
            raise DataError(
                f'it lies across the 180th meridian or on a pole, where {crs.to_string()[:80]} jumps. Warp both sides '
                'to one projected CRS (`rio warp --dst-crs EPSG:...`)'
            )
    return points.T


def footprint(grid: RasterGrid, crs: CRS | None) -> shapely.Polygon:
    """The area that a grid covers, in another CRS; empty where it has no place there.

    Raises:
        DataError: As `boundary` does.
    """
    points = boundary(grid, crs)
    if not np.isfinite(points).all():
        return shapely.Polygon()
    polygon = shapely.Polygon(points)
    return polygon if polygon.is_valid else shapely.Polygon()


def window_footprints(grid: RasterGrid, windows: np.ndarray) -> np.ndarray:
    """The areas of windows of a grid, in its own CRS.

    Args:
        grid: The grid.
        windows: x0, y0, x1, y1 of each window in its pixels, `(N, 4)`.

    Returns:
        Polygons, `(N,)`.
    """
    x0, y0, x1, y1 = windows.T
    corners = place(grid.transform, np.stack((x0, x1, x1, x0), 1), np.stack((y0, y0, y1, y1), 1))
    return shapely.polygons(np.stack(corners, -1))


def move(area: shapely.Geometry, crs: CRS, to: CRS) -> shapely.Geometry:
    """An area in another CRS, by its corners."""
    if crs == to:
        return area
    return shapely.transform(area, lambda points: np.stack(transform(crs, to, *points.T), axis=-1))
