"""Areas that the errors of a map are taken out of, with confidence intervals."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from mmrs.utils.errors import DataError, require_file, require_number, some

__all__ = ['AreaEstimate', 'ErrorMatrix']

_EXPECTED = (
    'a table (CSV) of sample counts, with mapped classes as rows and reference classes as columns, or the metrics.json '
    'of tools/evaluate_raster.py,'
)


@dataclass(frozen=True)
class AreaEstimate:
    """Areas by reference class.

    Attributes:
        areas: ``(..., K)`` estimates, in the unit of the mapped areas.
        errors: ``(..., K)`` their standard errors.
        margins: ``(..., K)`` half of the confidence interval.
    """

    areas: np.ndarray
    errors: np.ndarray
    margins: np.ndarray

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the confidence interval, within what an area can be: from 0 to the sum of the estimates."""
        total = self.areas.sum(axis=-1, keepdims=True)
        return np.maximum(self.areas - self.margins, 0), np.minimum(self.areas + self.margins, total)


@dataclass(frozen=True)
class ErrorMatrix:
    """What reference data says of a map.

    Attributes:
        classes: Names of the K classes.
        counts: Counts by mapped class (rows) and reference class (columns): ``(K, K)`` of a random sample from each
            mapped class, or ``(C, K, K)`` of C clusters, such as labelled rasters, whose pixels are alike.
        name: The file, for messages.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    name: str = 'the error matrix'

    @classmethod
    def read(cls, path: str | Path, classes: Sequence[str]) -> ErrorMatrix:
        """Read a file.

        Args:
            path: A table (CSV) of sample counts: reference classes in the first row, a mapped class in the first
                column of each further row. Or the ``metrics.json`` of ``tools/evaluate_raster.py``, whose rasters are
                clusters.
            classes: Names of the map's classes. Those without row or column have no counts.

        Raises:
            DataError: It is no such file, or has other classes.
        """
        require_file(path, _EXPECTED.rstrip(','))
        text = Path(path).read_text(encoding='utf-8-sig', errors='replace')
        names, counts = (_from_json if str(path).lower().endswith('.json') else _from_csv)(path, text)
        unknown = [name for name in dict.fromkeys((*names[0], *names[1])) if name not in classes]
        if unknown:
            raise DataError(f'{path} has {some(unknown)}, which the map has not; its classes are {", ".join(classes)}')
        whole = np.zeros((*counts.shape[:-2], len(classes), len(classes)))
        rows, columns = ([classes.index(name) for name in side] for side in names)
        whole[..., np.array(rows)[:, None], columns] = counts
        return cls(tuple(classes), whole, str(path))

    @property
    def clustered(self) -> bool:
        """Whether the counts are of clusters."""
        return self.counts.ndim == 3

    def estimate(self, mapped: np.ndarray, level: float = 0.95) -> AreaEstimate:
        """Areas of the reference classes where a map has classes wrong as often as this matrix says.

        With ``A_i`` the mapped area of class i and ``n_ij`` the counts, the estimate is ``sum_i A_i n_ij / n_i``, the
        stratified estimator of Olofsson et al. 2014 (Good practices for estimating area and assessing accuracy of land
        change). Of a random sample from each mapped class, its variance is theirs,
        ``sum_i A_i² (n_ij / n_i) (1 - n_ij / n_i) / (n_i - 1)``, and the interval takes a quantile of the normal
        distribution. Of C clusters it is that of ratios which are estimated together, linearised (Cochran 1977,
        Sampling techniques, chapter 6): ``C / (C - 1) sum_c u_cj²`` with
        ``u_cj = sum_i A_i / n_i (n_cij - n_ci n_ij / n_i)``, and the quantile is of Student's distribution with C - 1
        degrees of freedom.

        Args:
            mapped: ``(..., K)`` areas by mapped class.
            level: Confidence of the intervals.

        Raises:
            ConfigError: The level is no share.
            DataError: A class that the map has was sampled less than twice.
        """
        require_number('level', level, above=0, below=1)
        mapped = np.asarray(mapped, np.float64)
        total = self.counts.sum(axis=0) if self.clustered else self.counts
        sampled = total.sum(axis=1)
        self._require_sample(mapped, sampled)
        rates = total / np.maximum(sampled, 1)[:, None]
        if self.clustered:
            number = len(self.counts)
            residuals = self.counts - self.counts.sum(axis=2, keepdims=True) * rates
            moved = np.tensordot(mapped / np.maximum(sampled, 1), residuals, axes=(-1, 1))  # (..., C, K)
            variances = number / (number - 1) * (moved**2).sum(axis=-2)
            quantile = special.stdtrit(number - 1, (1 + level) / 2)
        else:
            variances = mapped**2 @ (rates * (1 - rates) / np.maximum(sampled - 1, 1)[:, None])
            quantile = special.ndtri((1 + level) / 2)
        errors = np.sqrt(variances)
        return AreaEstimate(mapped @ rates, errors, quantile * errors)

    def _require_sample(self, mapped: np.ndarray, sampled: np.ndarray) -> None:
        units = (self.counts.sum(axis=2) > 0).sum(axis=0) if self.clustered else sampled
        present = mapped.reshape(-1, len(self.classes)).sum(axis=0) > 0
        rare = [name for name, there, number in zip(self.classes, present, units) if there and number < 2]
        if rare:
            what = 'rasters that the map has it in' if self.clustered else 'samples of it as a mapped class'
            raise DataError(
                f'{self.name} has less than two {what} for {some(rare)}, and the map has that class: how often it is '
                'wrong there cannot be told. Label more of it, or take the class out of the map.'
            )


_Names = tuple[list[str], list[str]]


def _from_csv(path: str | Path, text: str) -> tuple[_Names, np.ndarray]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    header, *body = [row for row in rows if any(row)] or [[]]
    columns, names = header[1:], [row[0] for row in body]
    if not columns or not body or any(len(row) != len(header) for row in body):
        raise DataError(f'{path} is no table with a header and rows of one length; {_EXPECTED} was expected')
    for side, kind in ((columns, 'columns'), (names, 'rows')):
        twice = sorted({name for name in side if side.count(name) > 1})
        if twice:
            raise DataError(f'{path} has several {kind} {some(twice)}; each class has one')
    counts = np.empty((len(body), len(columns)))
    for i, row in enumerate(body):
        for j, cell in enumerate(row[1:]):
            if not cell.isdecimal():
                raise DataError(
                    f'{path}: {names[i]}, {columns[j]} is {cell!r}; the number of samples that are mapped as the one '
                    'and are the other was expected. Counts, no shares: intervals depend on how many there are.'
                )
            counts[i, j] = int(cell)
    return (names, columns), counts


def _from_json(path: str | Path, text: str) -> tuple[_Names, np.ndarray]:
    try:
        content: Any = json.loads(text)
        names = list(content['classes'])
        found = {name: entry['confusion_matrix'] for name, entry in content['files'].items()}
        counts = np.array(list(found.values()), np.float64)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} has no confusion matrix of each raster ({type(error).__name__}: {error}); {_EXPECTED} was '
            'expected. An earlier version wrote none: score the rasters again.'
        ) from error
    if counts.shape != (len(found), len(names), len(names)) or not (counts >= 0).all():
        raise DataError(f'{path} holds no square matrices of its {len(names)} classes')
    if len(found) < 2:
        raise DataError(
            f'{path} has the pixels of one raster. They are alike, so that nothing tells how far its rates are off: '
            'score several rasters of different places, or give a table (CSV) of samples that were drawn at random'
        )
    return (names, names), counts.transpose(0, 2, 1)  # there, labels are the rows
