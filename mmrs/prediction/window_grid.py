"""Overlapping windows over an image, the weights that blend their predictions, and the parts that a map is made in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmrs.geo.windows import Window, clip_origins
from mmrs.utils.errors import require_number, require_one_of

#: How the predictions of overlapping windows are weighted.
BLENDS = ('cosine', 'gaussian', 'flat')

# Sums of probabilities that a lane may hold at a time: what memory is bounded by, whatever the size of the image.
_LANE_BYTES = 128 * 2**20

# Lanes begin at multiples of a map's blocks, so that a block of the map is made of few parts.
_BLOCK = 512


def taper(size: int, blend: str) -> np.ndarray:
    """Weights ``(size,)`` of a window's pixels along one side, above 0.

    ``cosine`` is sin² from edge to edge, so that half overlapping windows add up to 1. ``gaussian`` has a standard
    deviation of an eighth of the side. ``flat`` counts all pixels alike.
    """
    require_one_of('blend', blend, BLENDS)
    x = (np.arange(size) + 0.5) / size
    if blend == 'cosine':
        return np.sin(np.pi * x) ** 2
    return np.exp(-0.5 * ((x - 0.5) * 8) ** 2) if blend == 'gaussian' else np.ones(size)


class Axis:
    """Windows along one side of an image.

    Where a window lies depends on the image alone, not on the part of it that is predicted: a pixel gets the same
    windows in any part. The last window is shifted back into the image.

    Args:
        length: Pixels of the image.
        size: Pixels of a window, at most `length`.
        overlap: Share of a window that it has in common with the next one, from 0 and below 1.
        blend: See :func:`taper`.

    Attributes:
        starts: First pixel of each window.
        weights: Of each window's pixels, ``(size,)`` float32; those of all windows on a pixel add up to 1.
    """

    def __init__(self, length: int, size: int, overlap: float, blend: str) -> None:
        self.size = size
        self.starts = clip_origins(length, size, max(1, round(size * (1 - overlap))), 'shift')
        own = taper(size, blend)
        total = np.zeros(length)
        for start in self.starts:
            total[start : start + size] += own
        self.weights = [(own / total[start : start + size]).astype(np.float32) for start in self.starts]

    def touching(self, first: int, last: int) -> range:
        """Indices of the windows that have pixels from `first` up to but without `last`."""
        begin = np.searchsorted(self.starts, first - self.size, side='right')
        return range(int(begin), int(np.searchsorted(self.starts, last)))


@dataclass(frozen=True)
class GridWindow:
    """A window: its row and column in the grid, and its pixels."""

    row: int
    column: int
    pixels: Window


@dataclass(frozen=True)
class Run:
    """Consecutive parts of a lane, and the batches of windows that they are made from.

    The first and last batch may hold windows that have no say in these parts: a batch is always made of the same
    windows, wherever a run begins, for the result of a window can depend, in the last digit, on what else is in its
    batch.

    Attributes:
        lane: Index of the lane.
        parts: From top to bottom.
        batches: Their numbers, counted in the lane.
        windows: Number of windows in them.
    """

    lane: int
    parts: list[Window]
    batches: range
    windows: int


@dataclass(frozen=True)
class WindowGrid:
    """The windows over an image and the parts of its map.

    The map is made in lanes, which are as wide as memory allows; mostly there is one. Windows are predicted along a
    lane, row by row, and after each row of windows the rows of pixels that no later window reaches are a finished part.

    Args:
        shape: Rows and columns of the image.
        size: Rows and columns of a window; those of the image, where it is smaller.
        overlap: See :class:`Axis`.
        blend: See :func:`taper`.
        area: The rectangle of pixels that is wanted; by default the image.
        classes: Number of classes, which decides how wide a lane can be.
        batch_size: Windows of a batch.

    Raises:
        ConfigError: A value that makes no windows.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    overlap: float = 0.25
    blend: str = 'cosine'
    area: Window | None = None
    classes: int = 2
    batch_size: int = 1
    lane_bytes: int = field(default=_LANE_BYTES, repr=False)

    def __post_init__(self) -> None:
        require_number('overlap', self.overlap, at_least=0, below=1)
        require_number('batch_size', self.batch_size, at_least=1, unit='windows')
        require_number('window', min(self.size), at_least=1, unit='pixels')
        object.__setattr__(self, 'size', tuple(map(min, self.size, self.shape)))

    @cached_property
    def y(self) -> Axis:
        """Rows of windows."""
        return Axis(self.shape[0], self.size[0], self.overlap, self.blend)

    @cached_property
    def x(self) -> Axis:
        """Columns of windows."""
        return Axis(self.shape[1], self.size[1], self.overlap, self.blend)

    @property
    def wanted(self) -> Window:
        """The rectangle of pixels that is wanted."""
        return self.area or (0, 0, self.shape[1], self.shape[0])

    @cached_property
    def lanes(self) -> list[tuple[int, int]]:
        """First and last column of pixels of each lane, the last one outside."""
        first, _, last, _ = self.wanted
        fits = self.lane_bytes // (4 * self.classes * self.size[0]) // _BLOCK
        width = _BLOCK * max(fits, -(-4 * self.size[1] // _BLOCK))
        return [(start, min(start + width, last)) for start in range(first, last, width)]

    def parts(self, lane: int) -> list[Window]:
        """The finished parts of a lane, from top to bottom."""
        return [part for part, _ in self._finished(lane)]

    def _finished(self, lane: int) -> list[tuple[Window, int]]:
        """Each part, and the row of windows that finishes it."""
        _, top, _, last = self.wanted
        x0, x1 = self.lanes[lane]
        rows, _ = self._windows(lane)
        found = []
        for row in rows:
            # Rows of pixels above the next row of windows are finished.
            bottom = last if row == rows[-1] else min(max(self.y.starts[row + 1], top), last)
            if bottom > top:
                found.append(((x0, top, x1, bottom), row))
                top = bottom
        return found

    def runs(self, lane: int, wanted: Collection[Window] | None = None) -> Iterator[Run]:
        """The runs that make some parts of a lane; by default all."""
        finished = self._finished(lane)
        chosen = [wanted is None or part in wanted for part, _ in finished]
        first = 0
        while first < len(finished):
            last = first
            while last < len(finished) and chosen[last]:
                last += 1
            if last > first:
                yield self._run(lane, finished[first:last])
            first = last + 1

    def _run(self, lane: int, finished: list[tuple[Window, int]]) -> Run:
        rows, columns = self._windows(lane)
        needed = range(self.y.touching(finished[0][0][1], self.wanted[3])[0], finished[-1][1] + 1)
        first = (needed[0] - rows[0]) * len(columns) // self.batch_size
        last = -(-(needed[-1] + 1 - rows[0]) * len(columns) // self.batch_size)
        windows = min(last * self.batch_size, len(rows) * len(columns)) - first * self.batch_size
        return Run(lane, [part for part, _ in finished], range(first, last), windows)

    def _windows(self, lane: int) -> tuple[range, range]:
        """Rows and columns of the windows that a lane needs."""
        _, top, _, bottom = self.wanted
        return self.y.touching(top, bottom), self.x.touching(*self.lanes[lane])

    def batches(self, run: Run) -> Iterator[list[GridWindow]]:
        """The batches of a run."""
        rows, columns = self._windows(run.lane)
        number = len(rows) * len(columns)
        for batch in run.batches:
            indices = range(batch * self.batch_size, min((batch + 1) * self.batch_size, number))
            places = (divmod(index, len(columns)) for index in indices)
            yield [self._window(rows[row], columns[column]) for row, column in places]

    def _window(self, row: int, column: int) -> GridWindow:
        x, y = self.x.starts[column], self.y.starts[row]
        return GridWindow(row, column, (x, y, x + self.size[1], y + self.size[0]))
