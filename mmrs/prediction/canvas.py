from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmrs.geo.windows import Window
from mmrs.prediction.window_grid import GridWindow, Run, WindowGrid

__all__ = ['Blended', 'Canvas']

#: A part, its probabilities ``(K, h, w)`` and which pixels ``(h, w)`` have any.
Blended = tuple[Window, np.ndarray, np.ndarray]


class Canvas:
    """Blends the windows of a run into its parts.

    It holds the rows of pixels that windows are still to come for: as many as a window has.

    Args:
        grid: The windows.
        run: The parts to make.
    """

    def __init__(self, grid: WindowGrid, run: Run) -> None:
        self._grid, self._parts = grid, iter(run.parts)
        self._part: Window | None = next(self._parts)
        self._x0, self._top, self._x1, _ = run.parts[0]
        self._bottom = run.parts[-1][3]
        height, width = grid.size[0], self._x1 - self._x0
        self._sum = np.zeros((grid.classes, height, width), np.float32)
        self._shown = np.zeros((height, width), bool)

    def before(self, window: GridWindow) -> Iterator[Blended]:
        """The parts that are finished before a window.

        Windows come row by row. To be called for each of them, also for those that show nothing.
        """
        while self._part is not None and self._part[3] <= self._grid.y.starts[window.row]:
            yield self._take(self._part)

    def rest(self) -> Iterator[Blended]:
        """The parts that are finished after the last window."""
        while self._part is not None:
            yield self._take(self._part)

    def add(self, window: GridWindow, probabilities: np.ndarray, shown: np.ndarray) -> None:
        """Add a window.

        Args:
            window: The window.
            probabilities: ``(K, h, w)``.
            shown: ``(h, w)``, bool: pixels of the image that are wanted.
        """
        x0, y0, x1, y1 = window.pixels
        left, right = max(x0, self._x0), min(x1, self._x1)
        top, bottom = max(y0, self._top), min(y1, self._bottom)
        if left >= right or top >= bottom:
            return
        rows, columns = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
        weights = np.outer(self._grid.y.weights[window.row][rows], self._grid.x.weights[window.column][columns])
        here = slice(top - self._top, bottom - self._top), slice(left - self._x0, right - self._x0)
        self._sum[(slice(None), *here)] += probabilities[:, rows, columns] * weights
        self._shown[here] |= shown[rows, columns]

    def _take(self, part: Window) -> Blended:
        rows = part[3] - part[1]
        taken = part, self._sum[:, :rows].copy(), self._shown[:rows].copy()
        for held in (self._sum.swapaxes(0, 1), self._shown):  # rows first
            held[: len(held) - rows] = held[rows:]
            held[len(held) - rows :] = 0
        self._top = part[3]
        self._part = next(self._parts, None)
        return taken
