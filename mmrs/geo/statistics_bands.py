"""Moments and counts of the values of bands, which can be merged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Types of which every single value is counted.
_COUNTED = ('uint8', 'int8', 'uint16', 'int16')


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of C bands over the pixels that hold data.

    Of 8- and 16-bit integers, every value is counted, and all numbers follow from the counts in whole-number
    arithmetic, rounded once at the end. Of other types, mean and deviation are accumulated in float64 window by window
    around each window's own mean (Chan, Golub and LeVeque 1983), and values are counted in bins as fine as the upper 16
    bits of a float32: 1/128 of the value at most, which bounds the error of the quantiles.

    Attributes:
        dtypes: Data types of the files.
        moments: Number of valid pixels, mean, sum of the squared deviations from the mean, minimum and maximum of each
            band, `(5, C)`, float64; NaN where there is no valid pixel.
        values: For each band the values that occur, ascending; lower ends of the bins where `is_exact` is false.
        counts: For each band the pixels of each of `values`.
    """

    dtypes: tuple[str, ...]
    moments: np.ndarray
    values: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]

    @property
    def is_exact(self) -> bool:
        """Whether every value is counted, rather than bins."""
        return all(dtype in _COUNTED for dtype in self.dtypes)

    @property
    def count(self) -> np.ndarray:
        """Number of valid pixels, `(C,)`, int64."""
        return self.moments[0].astype(np.int64)

    @property
    def mean(self) -> np.ndarray:
        """Mean, `(C,)`."""
        return self.moments[1]

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the population, `(C,)`."""
        with np.errstate(invalid='ignore'):
            return np.sqrt(self.moments[2] / self.moments[0])

    @property
    def minimum(self) -> np.ndarray:
        """Smallest value, `(C,)`."""
        return self.moments[3]

    @property
    def maximum(self) -> np.ndarray:
        """Largest value, `(C,)`."""
        return self.moments[4]

    def bin_ends(self, band: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the bins of a band (an index from 0); both are the value itself where it is exact."""
        lower = self.values[band].astype(np.float64)
        if self.is_exact:
            return lower, lower
        upper = _lower_end(_bin(lower) + 1)
        return lower.clip(self.minimum[band]), upper.clip(max=self.maximum[band])

    def quantile(self, share: float) -> np.ndarray:
        """The smallest value that at least `share` (0 to 1) of the pixels do not exceed, `(C,)`.

        In bins, values are taken to be spread evenly.
        """
        result = np.full(len(self.count), np.nan)
        for band, counts in enumerate(self.counts):
            if not counts.size:
                continue
            total, wanted = counts.cumsum(), share * counts.sum()
            i = min(int(np.searchsorted(total, wanted)), len(counts) - 1)
            lower, upper = (ends[i] for ends in self.bin_ends(band))
            inside = (wanted - total[i] + counts[i]) / counts[i]
            result[band] = lower + inside * (upper - lower)
        return result

    def histogram(self, band: int, edges: np.ndarray) -> np.ndarray:
        """Pixels of a band (an index from 0) between neighbouring `edges`, `(len(edges) - 1,)`, float64."""
        lower, upper = self.bin_ends(band)
        if self.is_exact:
            return np.histogram(lower, edges, weights=self.counts[band])[0].astype(np.float64)
        # The share of a bin that lies below an edge; bins do not overlap.
        total = np.concatenate(([0], self.counts[band].cumsum()))
        i = np.searchsorted(lower, edges, side='right') - 1
        width = np.maximum(upper - lower, np.finfo(np.float64).tiny)[i.clip(0)]
        share = ((edges - lower[i.clip(0)]) / width).clip(0, 1)
        below = np.where(i < 0, 0, total[i.clip(0)] + share * self.counts[band][i.clip(0)])
        if lower.size and edges[-1] >= upper[-1]:
            below[-1] = total[-1]
        return np.diff(below)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: one list of C numbers each."""
        return dict(
            dtypes=list(self.dtypes),
            valid_pixels=self.count,
            mean=self.mean,
            std=self.std,
            minimum=self.minimum,
            maximum=self.maximum,
            **{f'quantile_{share:g}': self.quantile(share) for share in (0.02, 0.5, 0.98)},
        )

    @classmethod
    def merge(cls, parts: Sequence['BandStatistics']) -> 'BandStatistics':
        """Statistics of all parts together; they must have the same number of bands."""
        if len(parts) == 1:
            return parts[0]
        dtypes = tuple(sorted({dtype for part in parts for dtype in part.dtypes}))
        exact = all(part.is_exact for part in parts)
        values, counts = [], []
        for band in range(len(parts[0].count)):
            own = [part.values[band] if exact or not part.is_exact else _to_bins(part.values[band]) for part in parts]
            distinct, position = np.unique(np.concatenate(own), return_inverse=True)
            number = np.zeros(len(distinct), np.int64)
            np.add.at(number, position, np.concatenate([part.counts[band] for part in parts]))
            values.append(distinct)
            counts.append(number)
        moments = _exact_moments(values, counts) if exact else _merge_moments([part.moments for part in parts])
        return cls(dtypes, moments, tuple(values), tuple(counts))


#: Moments of a band without valid pixels.
_NO_PIXEL = (0, np.nan, np.nan, np.nan, np.nan)


def _exact_moments(values: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> np.ndarray:
    """Moments of bands whose values are counted."""
    columns: list[tuple] = []
    for own_values, own_counts in zip(values, counts):
        number = int(own_counts.sum())
        if not number:
            columns.append(_NO_PIXEL)
            continue
        # Python's whole numbers: squares of 16-bit values overflow int64 from some 10^9 pixels on.
        v, n = own_values.astype(np.int64).astype(object), own_counts.astype(object)
        first, second = v @ n, (v * v) @ n
        columns.append((number, first / number, (number * second - first**2) / number, v[0], v[-1]))
    return np.array(columns, np.float64).T


def _merge_moments(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Moments of the pixels of all parts together."""
    total = parts[0]
    for part in parts[1:]:
        both = total[0] + part[0]
        share = part[0] / np.maximum(both, 1)
        merged = np.array(
            [
                both,
                total[1] + (part[1] - total[1]) * share,
                total[2] + part[2] + (part[1] - total[1]) ** 2 * total[0] * share,
                np.minimum(total[3], part[3]),
                np.maximum(total[4], part[4]),
            ]
        )
        # A part without valid pixels has no mean, and must not spoil the others'.
        total = np.where(part[0] == 0, total, np.where(total[0] == 0, part, merged))
    return total


def _bin(values: np.ndarray) -> np.ndarray:
    """Upper 16 bits of float32 values, changed so that they have the order of the values; int64."""
    with np.errstate(over='ignore'):
        bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0: there is a negative zero
    return (np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)) >> 16).astype(np.int64)


def _lower_end(bins: np.ndarray) -> np.ndarray:
    """The smallest value of each bin, float64."""
    ordered = (bins << 16).astype(np.uint32)
    return np.where(ordered >> 31, ordered ^ np.uint32(1 << 31), ~ordered).view(np.float32).astype(np.float64)


def _to_bins(values: np.ndarray) -> np.ndarray:
    return _lower_end(_bin(values)).astype(np.float32)


class BandAccumulator:
    """Statistics of one raster, from its windows one after the other.

    Args:
        bands: Number of bands.
        dtype: Data type of the raster.
    """

    def __init__(self, bands: int, dtype: str) -> None:
        self._dtype = dtype
        self._moments: list[np.ndarray] = []
        info = np.iinfo(dtype) if dtype in _COUNTED else None
        self._first = int(info.min) if info else 0
        self._counts = np.zeros((bands, int(info.max) - self._first + 1 if info else 1 << 16), np.int64)

    def add(self, planes: np.ndarray, valid: np.ndarray | None) -> None:
        """Adds what `read_windows` yields."""
        columns: list[tuple] = []
        for counts, plane in zip(self._counts, planes):
            pixels = plane.ravel() if valid is None else plane[valid]
            if self._dtype in _COUNTED:
                counts += np.bincount(pixels.astype(np.intp) - self._first, minlength=len(counts))
                continue
            counts += np.bincount(_bin(pixels), minlength=len(counts))
            pixels = pixels.astype(np.float64)
            if pixels.size:
                mean = pixels.mean()
                columns.append((pixels.size, mean, ((pixels - mean) ** 2).sum(), pixels.min(), pixels.max()))
            else:
                columns.append(_NO_PIXEL)
        if columns:
            self._moments.append(np.array(columns).T)

    def result(self) -> BandStatistics:
        """The statistics of all windows."""
        present = [counts.nonzero()[0] for counts in self._counts]
        counts = tuple(own[i] for own, i in zip(self._counts, present))
        if self._dtype in _COUNTED:
            values = tuple((i + self._first).astype(np.float32) for i in present)
            moments = _exact_moments(values, counts)
        else:
            values = tuple(_lower_end(i).astype(np.float32) for i in present)
            moments = _merge_moments(self._moments)
        return BandStatistics((self._dtype,), moments, values, counts)


def wasserstein_shift(first: BandStatistics, second: BandStatistics) -> np.ndarray:
    """How far apart the values of each band are in two domains, `(C,)`; 0 where they are distributed alike.

    The 1-Wasserstein distance of the two histograms, which is the area between their cumulative distributions in the
    unit of the band, over the root mean square of the two standard deviations: W / sqrt((s1^2 + s2^2) / 2). A shift of
    a band by one standard deviation gives 1. NaN where a domain has no valid pixel, infinite where both are constant.
    """
    from scipy.stats import wasserstein_distance  # a tenth of the start of a training, which has no use for it

    shift = np.full(len(first.count), np.nan)
    for band in map(int, np.flatnonzero((first.count > 0) & (second.count > 0))):
        centres = [np.mean(statistics.bin_ends(band), axis=0) for statistics in (first, second)]
        distance = wasserstein_distance(*centres, first.counts[band], second.counts[band])
        spread = np.sqrt((first.std[band] ** 2 + second.std[band] ** 2) / 2)
        shift[band] = distance / spread if spread else (np.inf if distance else 0)
    return shift
