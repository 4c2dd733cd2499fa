"""What a report page is made of; each kind of block has a template, which draws what is worked out here."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from PIL import Image

__all__ = ['Bars', 'Code', 'Grid', 'Legend', 'Lines', 'Matrix', 'Pictures', 'Section', 'Table', 'Text']


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Args:
        title: The heading.
        blocks: What it shows, top down.
        absent: Why it shows nothing.
    """

    title: str
    blocks: Sequence[Any] = ()
    absent: str = ''

    @property
    def id(self) -> str:
        """Where links lead."""
        return self.title.lower().replace(' ', '-')


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    template: ClassVar[str] = 'text.html'
    text: str


@dataclass(frozen=True)
class Code:
    """Lines for a terminal."""

    template: ClassVar[str] = 'code.html'
    lines: Sequence[str]


@dataclass(frozen=True)
class Grid:
    """Blocks beside one another; with a summary they are folded away under it."""

    template: ClassVar[str] = 'grid.html'
    blocks: Sequence[Any]
    summary: str = ''


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first cell of a row names it.

    Args:
        caption: Caption.
        header: Names of the columns.
        rows: Cells, as many as names.
        code: Cells are settings rather than numbers.
    """

    template: ClassVar[str] = 'table.html'
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    code: bool = False


@dataclass(frozen=True)
class Legend:
    """Names of classes beside their colours (RGB)."""

    template: ClassVar[str] = 'legend.html'
    classes: Sequence[str]
    colours: Sequence[Sequence[int]]


class Axis:
    """Round ticks around values, and where a value is drawn.

    Args:
        values: What has to fit.
        start: Coordinate of the first tick.
        end: Coordinate of the last one.
    """

    def __init__(self, values: np.ndarray, start: float, end: float) -> None:
        from matplotlib.ticker import MaxNLocator  # slow to import, and rarely needed

        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
        ticks = MaxNLocator(5).tick_values(low, high if high > low else low + 1)
        self.first, self.scale, self.start = ticks[0], (end - start) / (ticks[-1] - ticks[0]), start
        self.ticks = [(self.at(tick), f'{tick:.10g}') for tick in ticks]

    def at(self, value: float) -> float:
        """Coordinate of a value."""
        return round(float(self.start + (value - self.first) * self.scale), 1)


@dataclass(frozen=True)
class Lines:
    """Lines of one or more series.

    Args:
        title: What is drawn.
        names: Of all series of the page, in the order of their colours.
        series: x and y by name, for those that have them; NaN is a gap.
        x_label: What x is.
    """

    template: ClassVar[str] = 'lines.svg'
    title: str
    names: Sequence[str]
    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    x_label: str = 'iteration'
    width: ClassVar[int] = 420
    height: ClassVar[int] = 250
    x: Axis = field(init=False)
    y: Axis = field(init=False)

    def __post_init__(self) -> None:
        for name, axis, start, end in (('x', 0, 52, self.width - 14), ('y', 1, self.height - 46, 10)):
            values = np.concatenate([np.asarray(own[axis], float) for own in self.series.values()])
            object.__setattr__(self, name, Axis(values, start, end))

    @property
    def lines(self) -> list[tuple[int, str, list[tuple[float, float]], str]]:
        """For each series the number of its colour, its name, its points, and the path through them."""
        drawn = []
        for name, (x, y) in self.series.items():
            points, path, gap = [], [], True
            for a, b in zip(x, y):
                if math.isfinite(b):
                    points.append((self.x.at(a), self.y.at(b)))
                    path.append(f'{"M" if gap else "L"}{points[-1][0]:g} {points[-1][1]:g}')
                gap = not math.isfinite(b)
            drawn.append((self.names.index(name), name, points, ''.join(path)))
        return drawn

    @property
    def description(self) -> str:
        """The ends of the lines in words."""
        ends = ((name, *x[[0, -1]], *y[[0, -1]]) for name, (x, y) in self.series.items())
        return '; '.join(f'{name}: {c:.4g} at {a:g}, {d:.4g} at {b:g}' for name, a, b, c, d in ends)


@dataclass(frozen=True)
class Bars:
    """A bar for each name, shared out among classes.

    Args:
        title: What is drawn.
        classes: Names.
        colours: RGB of each.
        rows: Shares of the classes, 0 to 1, by the name of the bar.
    """

    template: ClassVar[str] = 'bars.svg'
    title: str
    classes: Sequence[str]
    colours: Sequence[Sequence[int]]
    rows: Mapping[str, Sequence[float]]
    width: ClassVar[int] = 420
    step: ClassVar[int] = 44

    @property
    def parts(self) -> list[tuple[str, list[tuple[str, Sequence[int], float, float, float]]]]:
        """For each bar its name, and for each class: name, colour, left end, width, percent."""
        drawn = []
        for name, shares in self.rows.items():
            left, cells = 0.0, []
            for kind, colour, share in zip(self.classes, self.colours, shares):
                cells.append((kind, colour, round(left, 1), round(self.width * share, 1), 100 * share))
                left += self.width * share
            drawn.append((name, cells))
        return drawn

    @property
    def description(self) -> str:
        """All shares in words."""
        return '; '.join(
            f'{name}: ' + ', '.join(f'{kind} {percent:.1f} %' for kind, *_, percent in cells)
            for name, cells in self.parts
        )


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, in percent of the labelled pixels of each class.

    Args:
        title: Whose.
        classes: Names.
        counts: ``(K, K)``, labels as rows.
    """

    template: ClassVar[str] = 'matrix.svg'
    title: str
    classes: Sequence[str]
    counts: np.ndarray
    cell: ClassVar[int] = 46

    @property
    def margin(self) -> int:
        """Room for the names, in pixels."""
        return 26 + 7 * max(10, *map(len, self.classes))

    @property
    def shares(self) -> list[list[float | None]]:
        """Of each labelled class (rows), 0 to 1; None where it has no pixel."""
        counts = np.asarray(self.counts, float)
        return [[float(n / row.sum()) if row.sum() else None for n in row] for row in counts]

    @property
    def description(self) -> str:
        """Each row in words, without what is below 1 %."""
        rows = []
        for name, row in zip(self.classes, self.shares):
            found = [(share, other) for share, other in zip(row, self.classes) if share is not None and share >= 0.01]
            text = ', '.join(f'{100 * share:.0f} % {other}' for share, other in sorted(found, reverse=True))
            rows.append(f'{name} is mapped as {text or "nothing: it has no labelled pixel"}')
        return '; '.join(rows)


@dataclass(frozen=True)
class Pictures:
    """Pictures of one place, between which a slider wipes.

    Args:
        caption: Caption.
        layers: ``(H, W, 3)``, uint8, of one size, by name.
    """

    template: ClassVar[str] = 'pictures.html'
    caption: str
    layers: Mapping[str, np.ndarray]

    @property
    def uris(self) -> list[tuple[str, str]]:
        """Name and data URI of each."""
        return [(name, _data_uri(picture)) for name, picture in self.layers.items()]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = next(iter(self.layers.values())).shape[:2]
        return width, height


def _data_uri(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, 'WEBP', quality=85, method=4)
    return f'data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}'
