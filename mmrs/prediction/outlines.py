"""Outlines of the areas of one class in a label map, strip by strip."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Outlines(NamedTuple):
    """Outlines of some areas, in pixels from the upper left corner of the raster.

    Attributes:
        values: `(A,)` value of the pixels of each area.
        points: `(N, 2)` column and row of the corners, ring after ring; the first of a ring is not repeated.
        ring_starts: `(R,)` index of the first corner of each ring.
        areas: `(R,)` index of each ring's area, ascending. The first ring of an area is around it, others are holes.
    """

    values: np.ndarray
    points: np.ndarray
    ring_starts: np.ndarray
    areas: np.ndarray


class OutlineTracer:
    """Finds the areas of equal pixels that touch by their sides, and their outlines, in one pass over a raster.

    Only the corners of areas that are not complete yet are kept from strip to strip. `rasterio.features.shapes`, which
    finds the same areas, keeps all of them until the end and makes a Python object of each coordinate.

    Args:
        shape: Rows and columns of the raster.
        nodata: Value of the pixels that belong to no area.
    """

    def __init__(self, shape: tuple[int, int], nodata: int) -> None:
        self._height, self._width = shape
        self._nodata = nodata
        self._row = 0
        # A frame of nodata on all sides, so that the raster's edge is a boundary like any other.
        self._values = np.full(self._width + 2, nodata, np.uint8)  # the last row that was seen
        self._areas = np.zeros(self._width + 2, np.int64)  # and the areas in it
        self._corner_areas = self._corners = np.empty(0, np.int64)  # of the areas in it

    def add(self, rows: np.ndarray) -> Outlines:
        """Takes the next rows, from top to bottom.

        Args:
            rows: `(h, W)`, uint8.

        Returns:
            The outlines of the areas that are complete now.
        """
        last = self._row + len(rows) == self._height
        values = np.full((1 + len(rows) + last, self._width + 2), self._nodata, np.uint8)
        values[0], values[1 : len(rows) + 1, 1:-1] = self._values, rows

        # Runs of equal pixels in a row are linked to those that they touch in the next one.
        starts = np.ones(values.shape, bool)
        starts[:, 1:] = values[:, 1:] != values[:, :-1]
        runs = starts.ravel().cumsum(dtype=np.int32).reshape(values.shape) - 1
        same = values[1:] == values[:-1]
        links = same & (starts[1:] | starts[:-1])
        count = int(runs[-1, -1]) + 1
        known = count + self._areas
        pairs = np.concatenate([runs[:-1][links], runs[0]]), np.concatenate([runs[1:][links], known])
        size = known.max() + 1
        _, area_of_run = connected_components(coo_array((np.ones(len(pairs[0]), bool), pairs), (size, size)), False)
        values_of_area = np.empty(area_of_run.max() + 1, np.uint8)
        values_of_area[area_of_run[:count]] = values[starts]

        areas, corners = self._find_corners(starts, same, runs, area_of_run)
        wanted = values_of_area[areas] != self._nodata
        areas = np.concatenate([area_of_run[count + self._corner_areas], areas[wanted]])
        corners = np.concatenate([self._corners, corners[wanted]])

        open_areas, self._areas = np.unique(area_of_run[runs[-1]], return_inverse=True)
        number = np.full(len(values_of_area), -1)
        number[open_areas] = np.arange(len(open_areas))
        done = number[areas] < 0
        self._corner_areas, self._corners = number[areas[~done]], corners[~done]
        self._values = values[-1]
        self._row += len(rows)
        return self._trace(areas[done], corners[done], values_of_area)

    def _find_corners(
        self, starts: np.ndarray, same: np.ndarray, runs: np.ndarray, area_of_run: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The corners of all areas between the rows of a strip.

        Returns:
            The area of each corner, and in one number its row, its column, whether the area lies to the east of it and
            whether it lies above the horizontal edge that ends there. An area that touches itself diagonally has two
            corners at one place.
        """
        width = self._width + 1
        top, bottom, left, right = ~starts[:-1, 1:], ~starts[1:, 1:], same[:, :-1], same[:, 1:]
        at = np.flatnonzero(~(top & bottom) & ~(left & right))
        top, bottom, left, right = (equal.ravel()[at] for equal in (top, bottom, left, right))
        place = at + self._row * width
        at += at // width  # rows of pixels have one more than rows of places between them
        runs = runs.ravel()
        nw, ne, sw, se = (area_of_run[runs[at + step]] for step in (0, 1, width + 1, width + 2))
        areas, corners = [], []
        for own, beside, upright, opposite, beside_opposite, upright_opposite, east, north in (
            (nw, top, left, se, bottom, right, 0, 1),
            (ne, top, right, sw, bottom, left, 1, 1),
            (sw, bottom, left, ne, top, right, 0, 0),
            (se, bottom, right, nw, top, left, 1, 0),
        ):
            alone = ~beside & ~upright
            three = alone & beside_opposite & upright_opposite  # the other three pixels are one area
            areas += [own[alone], opposite[three]]
            corners += [place[alone] * 4 + (2 * east + north), place[three] * 4 + (2 * east + 1 - north)]
        return np.concatenate(areas), np.concatenate(corners)

    def _trace(self, areas: np.ndarray, corners: np.ndarray, values_of_area: np.ndarray) -> Outlines:
        """Links the corners of complete areas to rings."""
        # In every row, the corners of an area are in turn the left and the right end of a horizontal edge; in every
        # column, the upper and the lower end of a vertical one. Of two corners at one place, the western one ends the
        # edge from the left. The southern one ends the edge from above: so the rings turn around what is not the area,
        # and no ring touches itself.
        order = np.lexsort((corners, areas))
        areas, corners = areas[order], corners[order]
        place, above = corners >> 2, corners & 1
        y, x = np.divmod(place, self._width + 1)
        order = np.lexsort(((x * (self._height + 1) + y) * 2 + above, areas))
        across = np.empty(len(order), np.int64)
        across[order[0::2]], across[order[1::2]] = order[1::2], order[0::2]
        # With the area on the right-hand side: rightwards above it, leftwards below it.
        first = np.arange(0, len(order), 2)
        begin, end = first + above[::2], first + 1 - above[::2]
        edges, ring_starts = _cycles(across[end] // 2)
        ends = np.stack([begin[edges], end[edges]], axis=1).ravel()
        # Edges are sorted by area, row and column, and the first of an area is on the ring around it.
        found, area_of_ring = np.unique(areas[2 * edges[ring_starts]], return_inverse=True)
        return Outlines(values_of_area[found], np.stack([x[ends], y[ends]], axis=1), 2 * ring_starts, area_of_ring)


def _cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cycles of a permutation one after the other, by their smallest members, and where each begins."""
    members = np.arange(len(following))
    # Steps of 1, 2, 4, ...: as many rounds as the logarithm of the longest cycle.
    smallest, jump = members, following
    while True:
        smaller = np.minimum(smallest, smallest[jump])
        if np.array_equal(smaller, smallest):
            break
        smallest, jump = smaller, jump[jump]
    last = following == smallest
    steps, jump = np.where(last, 0, 1), np.where(last, members, following)  # to the end of the cycle
    while (more := steps[jump]).any():
        steps, jump = steps + more, jump[jump]
    starts = np.flatnonzero(smallest == members)
    lengths = steps[starts] + 1
    begins = np.zeros(len(starts), np.int64)
    begins[1:] = lengths[:-1].cumsum()
    offset = np.empty(len(following), np.int64)
    offset[starts] = begins + lengths - 1
    order = np.empty(len(following), np.int64)
    order[offset[smallest] - steps] = members
    return order, begins
