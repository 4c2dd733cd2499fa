"""Label maps as polygons."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform

from mmrs.geo.classes import Colour
from mmrs.geo.grids import RasterGrid, describe_crs, place, write_crs
from mmrs.geo.handles import scanning
from mmrs.geo.label_maps import open_classes
from mmrs.geo.rasters import open_raster
from mmrs.prediction.geopackage import new_polygon_layer
from mmrs.prediction.maps import NODATA
from mmrs.prediction.outlines import Outlines, OutlineTracer
from mmrs.utils.errors import DataError, require, require_number
from mmrs.utils.progress import progress_bar

# Bounds what is in memory at once, with the areas that are not complete yet.
_STRIP_PIXELS = 2**18


class _Map(NamedTuple):
    path: Path
    grid: RasterGrid

    @property
    def strips(self) -> list[tuple[int, int]]:
        """First row and the row after the last of each strip."""
        step = max(1, _STRIP_PIXELS // self.grid.width)
        return [(row, min(row + step, self.grid.height)) for row in range(0, self.grid.height, step)]


class _Polygons(NamedTuple):
    shapes: np.ndarray
    class_ids: np.ndarray
    square_metres: np.ndarray


def write_polygons(
    maps: Sequence[Path],
    out: Path,
    min_area: float = 0,
    simplify: float = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> int:
    """Writes the areas of each class as polygons, each area of pixels that touch by their sides as one.

    The fields of the layer `classes` are `class_id`, `class`, `area_m2` (on the ground, of the polygon as it is
    written; none without CRS) and, where there are several maps, `raster`: the map's path from the file's folder.
    Polygons end where a map ends, and are in the CRS of the first one. A map is read once, in strips of rows, so that
    its size does not matter.

    Args:
        maps: Label maps of a prediction, all with the same classes.
        out: The GeoPackage to write.
        min_area: Square metres. Holes that are smaller are filled, and polygons that are still smaller are left out.
        simplify: Metres by which an outline may be moved to have fewer corners (Douglas and Peucker's method). Borders
            that two polygons share may then part or overlap by as much.
        overwrite: Whether to replace a file.
        progress: Whether to show a bar on stderr.

    Returns:
        The number of polygons.

    Raises:
        ConfigError: An argument that cannot work.
        DataError: A map cannot be read, is no label map, or does not go with the first one.
        OutputError: The file exists, or cannot be written.
    """
    check_polygon_options(out, min_area, simplify)
    checked, classes, colours = _check(maps, bool(min_area or simplify))
    crs = checked[0].grid.crs
    with new_polygon_layer(out, crs, classes, colours, len(checked) > 1, overwrite) as layer:
        strips = sum(len(map_.strips) for map_ in checked)
        with progress_bar(disable=not progress) as bar:
            for map_, outlines in bar.track(_outlines(checked, len(classes)), strips, description='polygons'):
                polygons = _to_crs(_to_polygons(outlines, map_, min_area, simplify), map_, crs)
                layer.add(*polygons, os.path.relpath(map_.path, out.parent))
    return layer.count


def check_polygon_options(out: Path, min_area: float, simplify: float) -> None:
    """Raises ConfigError for options of `write_polygons` that cannot work."""
    require(out.suffix.lower() == '.gpkg', 'vector', str(out), 'a file name that ends in .gpkg')
    require_number('min_area', min_area, at_least=0, unit='square metres')
    require_number('simplify', simplify, at_least=0, unit='metres')


def check_polygon_grids(grids: Mapping[str, RasterGrid], in_metres: bool) -> None:
    """Check that the polygons of several maps can be in one file.

    Args:
        grids: The grid by the map, in the order of the maps.
        in_metres: Whether there is a minimum area or a simplification.

    Raises:
        DataError: They cannot.
    """
    (first, crs), *_ = ((path, grid.crs) for path, grid in grids.items())
    for path, grid in grids.items():
        if in_metres:
            try:
                grid.pixel_metres()
            except ValueError as error:
                advice = f' {write_crs(path)}, or leave' if grid.crs is None else ' Leave'
                raise DataError(
                    f'{path}: {error}; a minimum area and simplification are in metres.{advice} both out.'
                ) from error
        if (grid.crs is None) != (crs is None):
            raise DataError(
                f'{path} has {describe_crs(grid.crs)}, but {first} has {describe_crs(crs)}: their polygons cannot be '
                f'in one file. {write_crs(path if grid.crs is None else first)}, or write those without CRS to a file '
                'of their own.'
            )
        if grid.crs is not None and crs is not None and not np.isfinite(grid.bounds_in(crs)).all():
            raise _no_place(path, crs)


def _no_place(path: str | Path, crs: CRS) -> DataError:
    return DataError(
        f'{path}: parts of it have no place in {describe_crs(crs)}, the CRS of the first map. Write its polygons to a '
        'file of their own.'
    )


def _check(maps: Sequence[Path], in_metres: bool) -> tuple[list[_Map], list[str], list[Colour]]:
    """The maps, their classes and the colours of these; raises what `write_polygons` says of its maps."""
    checked: list[_Map] = []
    first_classes, colours = open_classes(maps[0])
    for path in map(Path, maps):
        classes, _ = open_classes(path)
        with open_raster(path, quiet=True) as raster:
            checked.append(_Map(path, RasterGrid.of(raster)))
        if classes != first_classes:
            raise DataError(
                f'{path} has the classes {", ".join(classes)}, but {maps[0]} has {", ".join(first_classes)}. Write '
                'maps of other classes to a file of their own.'
            )
    check_polygon_grids({str(path): grid for path, grid in checked}, in_metres)
    return checked, first_classes, colours


def _outlines(maps: Sequence[_Map], classes: int) -> Iterator[tuple[_Map, Outlines]]:
    """The outlines that each strip of each map completes."""
    for map_ in maps:
        tracer = OutlineTracer(map_.grid.shape, NODATA)
        with scanning(), open_raster(map_.path, quiet=True) as raster:
            for top, bottom in map_.strips:
                outlines = tracer.add(raster.read(1, window=((top, bottom), (0, map_.grid.width))))
                if (largest := outlines.values.max(initial=0)) >= classes:
                    raise DataError(
                        f'{map_.path}: it holds the value {largest}, but its tag names {classes} classes, 0 to '
                        f'{classes - 1}. Predict it anew.'
                    )
                yield map_, outlines


def _to_polygons(outlines: Outlines, map_: _Map, min_area: float, simplify: float) -> _Polygons:
    """Polygons in pixels of the map, without what is too small, simplified."""
    values, points, starts, areas = outlines
    if not len(values):
        return _Polygons(np.empty(0, object), values, np.empty(0))
    # Sums over the horizontal edges, which are every second one from the first of a ring on; holes come out negative.
    (x0, y), (x1, _) = points[::2].T, points[1::2].T
    edges = starts // 2
    sizes = np.add.reduceat(y * (x0 - x1), edges)
    first_ring = np.flatnonzero(np.diff(areas, prepend=-1))
    moments = [np.add.reduceat(moment, edges[first_ring]) for moment in (y * (x0 - x1) * (x0 + x1), y * y * (x0 - x1))]
    centres = np.stack(moments, axis=1) / (2 * np.add.reduceat(sizes, first_ring)[:, None])

    try:
        metres = map_.grid.pixel_vectors(centres)
    except ValueError:  # without CRS, areas are unknown
        metres = np.full((len(centres), 2, 2), np.nan)
    # Not `np.linalg.det`, which rounds: areas of just the smallest size are to stay.
    square_metres = np.abs(metres[:, 0, 0] * metres[:, 1, 1] - metres[:, 0, 1] * metres[:, 1, 0])
    if (min_area or simplify) and not np.isfinite(square_metres).all():
        raise DataError(f'{map_.path}: parts of it have no place on the ground in {describe_crs(map_.grid.crs)}')
    keep = ~((sizes < 0) & (-sizes * square_metres[areas] < min_area))
    size = np.bincount(areas, sizes * keep) * square_metres
    keep &= ~(size < min_area)[areas]
    keep_area = np.bincount(areas, keep) > 0

    lengths = np.diff(starts, append=len(points))
    points, lengths = points[np.repeat(keep, lengths)], lengths[keep]
    rings = shapely.linearrings(points.astype(float), indices=np.repeat(np.arange(len(lengths)), lengths))
    shapes = shapely.polygons(rings, indices=np.unique(areas[keep], return_inverse=True)[1])
    values, size = values[keep_area], size[keep_area]
    if not simplify or not len(shapes):
        return _Polygons(shapes, values, size)
    centres, metres = centres[keep_area], metres[keep_area]
    shapes = _moved(shapes, lambda xy, i: _times(metres[i], xy - centres[i]))
    shapes, index = _valid(shapely.simplify(shapes, simplify))
    size, centres, back = shapely.area(shapes), centres[index], np.linalg.inv(metres)[index]
    return _Polygons(_moved(shapes, lambda xy, i: _times(back[i], xy) + centres[i]), values[index], size)


def _to_crs(polygons: _Polygons, map_: _Map, crs: CRS | None) -> _Polygons:
    own = map_.grid.crs
    shapes = _moved(polygons.shapes, lambda xy, _: np.stack(place(map_.grid.transform, *xy.T), axis=1))
    if crs is None or own == crs:
        return polygons._replace(shapes=_oriented(shapes))
    turn = 2 * math.pi / crs.units_factor[1] if crs.is_geographic else 0

    def to_first(xy: np.ndarray, index: np.ndarray) -> np.ndarray:
        try:
            x, y = np.array(transform(own, crs, *xy.T))
        except Exception:  # GDAL's own errors are of no public kind
            x = y = np.full(len(xy), np.nan)
        if not np.isfinite([x, y]).all():
            raise _no_place(map_.path, crs)
        # A polygon across the date line stays in one piece, beyond 180 degrees, instead of going around the globe.
        x -= turn * np.round((x - x[np.searchsorted(index, index)]) / turn) if turn else 0
        return np.stack([x, y], axis=1)

    shapes = _moved(shapes, to_first)
    shapes, index = _valid(shapes)
    sizes = shapely.area(shapes)
    square_metres = polygons.square_metres[index] * (sizes / np.bincount(index, sizes)[index])
    return _Polygons(_oriented(shapes), polygons.class_ids[index], square_metres)


def _moved(shapes: np.ndarray, move: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Shapes with other coordinates: a function of the coordinates `(N, 2)` and of the index of each one's shape."""
    return shapely.set_coordinates(shapes.copy(), move(*shapely.get_coordinates(shapes, return_index=True)))


def _times(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum('nij,nj->ni', matrices, vectors)


def _oriented(shapes: np.ndarray) -> np.ndarray:
    """Polygons whose outer rings run counter-clockwise and holes clockwise, as the standards have it."""
    clockwise = ~shapely.is_ccw(shapely.get_exterior_ring(shapes))
    shapes[clockwise] = shapely.reverse(shapes[clockwise])
    return shapes


def _valid(shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid polygons, and of each the index of the shape that it was: a repair may take one apart."""
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = shapely.buffer(shapely.make_valid(shapes[broken]), 0)  # drops lines, which it may have made
    shapes, index = shapely.get_parts(shapes, return_index=True)
    return shapes, index
