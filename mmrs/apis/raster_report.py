"""What the comparison of predicted rasters with references says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.evaluation.iou_metric import scores
from mmrs.geo.masks import nodata_is_class
from mmrs.utils.errors import OutputError
from mmrs.utils.files import write_json
from mmrs.visualization import plot_confusion_matrix

__all__ = ['RasterReport', 'RasterScores']


@dataclass
class RasterScores:
    """Pixels by labelled and predicted class, and what follows from them.

    Attributes:
        classes: Names of the K classes.
        counts: ``(K, K + 1)`` pixels: rows are labels, columns predictions; the last column is no prediction.
        missing_as_error: Whether labelled pixels without prediction count as wrong; otherwise they do not count.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    missing_as_error: bool = False

    @property
    def matrix(self) -> np.ndarray:
        """``(K, K)`` pixels that have a label and a prediction."""
        return self.counts[:, :-1]

    @property
    def labelled(self) -> np.ndarray:
        """``(K,)`` pixels of each class that are scored."""
        return (self.counts if self.missing_as_error else self.matrix).sum(1)

    @property
    def missing(self) -> int:
        """Labelled pixels without prediction."""
        return int(self.counts[:, -1].sum())

    @property
    def by_class(self) -> dict[str, np.ndarray]:
        """``(K,)`` scores in percent under the names of :func:`mmrs.evaluation.iou_metric.scores`."""
        count = len(self.classes)
        if not self.missing_as_error:
            return scores(self.matrix)
        square = np.vstack([self.counts, np.zeros((1, count + 1), np.int64)])  # a class that is never labelled
        return {name: values[:count] for name, values in scores(square).items()}

    @property
    def overall(self) -> dict[str, float]:
        """Overall accuracy ``aAcc`` and means over the classes that have a score, in percent."""
        pixels = self.labelled.sum()
        result = {'aAcc': 100 * float(np.trace(self.matrix) / pixels) if pixels else float('nan')}
        for name, values in self.by_class.items():
            known = values[np.isfinite(values)]
            result[f'm{name}'] = float(known.mean()) if known.size else float('nan')
        return result

    def summary(self) -> dict[str, Any]:
        """``overall``, and the numbers of pixels that are scored and that have no prediction."""
        return dict(**self.overall, pixels=int(self.labelled.sum()), missing=self.missing)

    def as_dict(self) -> dict[str, Any]:
        """``summary`` with the scores of each class and the confusion matrix."""
        by_class, labelled = self.by_class, self.labelled
        classes = {
            name: {**{key: float(values[i]) for key, values in by_class.items()}, 'pixels': int(labelled[i])}
            for i, name in enumerate(self.classes)
        }
        return dict(**self.summary(), classes=classes, confusion_matrix=self.matrix.tolist())

    def __add__(self, other: RasterScores) -> RasterScores:
        return RasterScores(self.classes, self.counts + other.counts, self.missing_as_error)


@dataclass
class RasterReport:
    """Scores of predicted rasters.

    Attributes:
        erode: Radius in pixels of the reference within which class boundaries are left out of `eroded`; 0 for none.
        files: Scores of each pair by its name: of all labelled pixels, and of those away from boundaries.
        failed: Why a pair could not be scored, by its name.
        hidden_classes: Files that declare the id of a class as nodata, so that its pixels are not scored.
    """

    erode: float = 0
    files: dict[str, tuple[RasterScores, RasterScores]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    hidden_classes: list[str] = field(default_factory=list)

    @property
    def full(self) -> RasterScores:
        """Scores of all labelled pixels of all pairs."""
        return self._total(0)

    @property
    def eroded(self) -> RasterScores:
        """The same of the pixels away from boundaries."""
        return self._total(1)

    def _total(self, which: int) -> RasterScores:
        first, *others = (pair[which] for pair in self.files.values())
        return sum(others, first)

    def as_dict(self) -> dict[str, Any]:
        """All scores, in the form of the ``metrics.json`` of ``tools/test.py``."""
        about = dict(missing_as_error=self.full.missing_as_error, erode=self.erode)
        files = {
            name: {
                **full.summary(),
                'confusion_matrix': full.matrix.tolist(),
                **({'eroded': eroded.summary()} if self.erode else {}),
            }
            for name, (full, eroded) in self.files.items()
        }
        eroded = {'eroded': self.eroded.as_dict()} if self.erode else {}
        others = dict(files=files, failed=self.failed, hidden_classes=self.hidden_classes)
        return {**about, **self.full.as_dict(), **eroded, **others}

    def save(self, folder: str | Path) -> None:
        """Write ``metrics.json`` and pictures of the confusion matrices, over those that are there.

        Raises:
            OutputError: A file cannot be written.
        """
        folder = Path(folder)
        write_json(self.as_dict(), folder / 'metrics.json', overwrite=True)
        parts = {'': self.full, **({'_eroded': self.eroded} if self.erode else {})}
        for suffix, part in parts.items():
            path = folder / f'confusion_matrix{suffix}.png'
            try:
                plot_confusion_matrix(part.matrix, part.classes, path, 'without boundaries' if suffix else '')
            except OSError as error:
                raise OutputError(f'{path} cannot be written: {error.strerror}') from error

    def print(self, console: Console) -> None:
        """Show the scores of the classes, with boundaries and without."""
        labelled = int(self.full.counts.sum())
        console.print(_class_table(self.full, f'Scores of {len(self.files)} raster{"s" * (len(self.files) > 1)}'))
        if self.erode:
            console.print(_class_table(self.eroded, f'Without boundaries (a disc of {self.erode:g} px)'))
            share = _percent(labelled - int(self.eroded.counts.sum()), labelled)
            console.print(f'boundaries: {share} of the labelled pixels', highlight=False)
        if self.full.missing:
            share = _percent(self.full.missing, labelled)
            counted = 'counted as wrong' if self.full.missing_as_error else 'not scored'
            console.print(f'missing: {share} of the labelled pixels have no prediction ({counted})', highlight=False)
        if self.hidden_classes:
            text = nodata_is_class(self.hidden_classes)
            console.print(f'warning: {text}', highlight=False, markup=False, soft_wrap=True)


def _class_table(part: RasterScores, title: str) -> Table:
    table = Table(title=title, title_justify='left')
    for heading in ('class', 'IoU', 'F1', 'precision', 'recall', 'pixels'):
        table.add_column(heading, justify='left' if heading == 'class' else 'right')
    keys = ('IoU', 'F1', 'Precision', 'Acc')
    by_class, overall = part.by_class, part.overall
    for i, (name, pixels) in enumerate(zip(part.classes, part.labelled)):
        last = i == len(part.classes) - 1
        table.add_row(escape(name), *(_cell(by_class[key][i]) for key in keys), f'{pixels:,}', end_section=last)
    table.add_row('mean', *(_cell(overall[f'm{key}']) for key in keys), f'{part.labelled.sum():,}')
    table.caption, table.caption_justify = f'overall accuracy {_cell(overall["aAcc"])}; all in percent', 'left'
    return table


def _cell(value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.2f}'


def _percent(part: int, whole: int) -> str:
    return f'{100 * part / max(whole, 1):.3g} %'
