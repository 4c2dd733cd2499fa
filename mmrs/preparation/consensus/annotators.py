"""How far an annotator agrees with himself: whether his labels of one part of an image tell those of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter

__all__ = [
    'BLOCKS',
    'REACH',
    'LinearClassifier',
    'Moments',
    'blocks_of',
    'cohen_kappa',
    'data_costs',
    'pixel_features',
    'relative_trust',
    'self_consistency',
]

#: Quarters of the image: what is learnt from three is tried on the fourth.
BLOCKS = 4

# Sides of the squares whose mean and standard deviation are features, in pixels.
_SIDES = (3, 9)

#: How far they reach.
REACH = max(_SIDES) // 2

#: No annotator counts for nothing, nor can any be right throughout.
_LOWEST, _HIGHEST = 0.05, 0.95

#: How much of a covariance is that of unrelated features of equal variance.
_SHRINKAGE = 0.1


def pixel_features(bands: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """What the neighbourhood of each pixel looks like.

    Args:
        bands: ``(C, H, W)``.
        valid: ``(H, W)`` bool, the pixels that hold data; the others take no part.

    Returns:
        ``(H, W, 5 C)`` float64: the bands, and of squares of 3 x 3 and 9 x 9 pixels the mean and the standard deviation
        of each.
    """
    shown = valid.astype(np.float64)
    middle = bands[:, valid].mean(axis=1, dtype=np.float64) if valid.any() else np.zeros(len(bands))
    # About their mean, so that the squares keep their digits.
    centred = np.where(valid, bands - middle[:, None, None], 0)
    maps = [centred]
    for side in _SIDES:
        size, near = (0, side, side), dict(mode='constant')
        share = np.maximum(uniform_filter(shown, side, **near), 0.5 / side**2)
        mean = uniform_filter(centred, size, **near) / share
        square = uniform_filter(centred**2, size, **near) / share
        maps += [mean, np.sqrt(np.maximum(square - mean**2, 0))]
    for own in maps[:2] + maps[3:4]:
        own += middle[:, None, None]
    return np.concatenate(maps).transpose(1, 2, 0)


def blocks_of(shape: tuple[int, int], window: Sequence[int]) -> np.ndarray:
    """The quarter, 0 to 3, that each pixel of a window ``x0, y0, x1, y1`` of an image lies in, ``(H, W)``."""
    x0, y0, x1, y1 = window
    below, right = np.arange(y0, y1) >= shape[0] / 2, np.arange(x0, x1) >= shape[1] / 2
    return 2 * below[:, None] + right


class Moments:
    """What is to be known of the features of labelled pixels to tell classes by them; adds up over windows.

    Args:
        classes: Number of classes, K.
        features: Number of features, F.
        centre: ``(F,)`` features that others are counted from, near their mean.

    Attributes:
        counts: ``(K,)`` pixels of each class.
        centre: The argument.
    """

    def __init__(self, classes: int, features: int, centre: np.ndarray) -> None:
        self.counts = np.zeros(classes)
        self.centre = centre
        self._sums = np.zeros((classes, features))
        self._squares = np.zeros((features, features))

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Adds pixels: their features ``(N, F)`` and class indices ``(N,)``."""
        features = features - self.centre
        chosen = np.eye(len(self.counts))[labels]
        self.counts += chosen.sum(axis=0)
        self._sums += chosen.T @ features
        self._squares += features.T @ features

    def __add__(self, other: Moments) -> Moments:
        total = Moments(len(self.counts), len(self.centre), self.centre)
        for name in ('counts', '_sums', '_squares'):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def spread(self) -> np.ndarray:
        """``(F,)`` standard deviation of the features; 1 of those that are the same everywhere."""
        number = max(self.counts.sum(), 1)
        variance = np.diag(self._squares) / number - (self._sums.sum(axis=0) / number) ** 2
        return np.where(variance > 1e-12 * np.diag(self._squares) / number, np.sqrt(np.maximum(variance, 0)), 1)

    def classifier(self, spread: np.ndarray) -> LinearClassifier:
        """Gaussian classes of one covariance, in features that are divided by their spread ``(F,)``."""
        known = np.flatnonzero(self.counts)
        means = self._sums[known] / self.counts[known, None]
        within = self._squares - (self.counts[known, None] * means).T @ means
        covariance = within / max(self.counts.sum(), 1) / np.outer(spread, spread)
        size = len(covariance)
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(size) * max(np.trace(covariance) / size, 1e-9)
        weights = np.linalg.solve(covariance, (means / spread).T)
        offsets = -0.5 * ((means / spread).T * weights).sum(axis=0)
        shares = self.counts[known] / max(self.counts.sum(), 1)
        return LinearClassifier(known, self.centre, weights / spread[:, None], offsets, shares)


class LinearClassifier:
    """Linear discriminant analysis: Gaussian classes that have one covariance in common.

    Args:
        classes: ``(M,)`` indices of the classes that it knows.
        centre: ``(F,)`` features that others are counted from.
        weights: ``(F, M)``.
        offsets: ``(M,)``.
        shares: ``(M,)`` of the pixels that it was fitted to.
    """

    def __init__(
        self, classes: np.ndarray, centre: np.ndarray, weights: np.ndarray, offsets: np.ndarray, shares: np.ndarray
    ) -> None:
        self.classes = classes
        self._centre, self._weights, self._offsets, self._shares = centre, weights, offsets, shares

    def _scores(self, features: np.ndarray) -> np.ndarray:
        return (features - self._centre) @ self._weights + self._offsets + np.log(self._shares)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The most probable classes ``(N,)`` of features ``(N, F)``."""
        return self.classes[self._scores(features).argmax(axis=1)]

    def probabilities(self, features: np.ndarray, number: int) -> np.ndarray:
        """Posterior probabilities ``(N, K)`` of K classes; 0 of those that it does not know."""
        scores = self._scores(features)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        found = np.zeros((len(features), number))
        found[:, self.classes] = scores / scores.sum(axis=1, keepdims=True)
        return found


def self_consistency(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How far annotators agree with themselves, by class: the mean over the blocks of an image.

    Args:
        hits: ``(R, B, K)`` pixels that annotator r calls k in block b, and that a classifier calls k which has learnt
            from what he calls things in the other blocks.
        counts: ``(R, B, K)`` pixels that he calls k and that could be found: where he uses k in other blocks too.

    Returns:
        ``(R, K)``, 0.05 to 0.95. A class that an annotator has in one block alone, or not at all, gets his mean over
        pixels; an annotator without any such class 0.5.
    """
    pixels = counts.sum(axis=(1, 2))
    mean = np.divide(hits.sum(axis=(1, 2)), pixels, out=np.full(len(hits), 0.5), where=pixels > 0)
    known = counts > 0
    shares = np.divide(hits, counts, out=np.zeros(hits.shape), where=known).sum(axis=1)
    blocks = known.sum(axis=1)
    found = np.divide(shares, blocks, out=np.repeat(mean[:, None], hits.shape[2], axis=1), where=blocks > 0)
    return found.clip(_LOWEST, _HIGHEST)


def relative_trust(consistency: np.ndarray, used: np.ndarray) -> np.ndarray:
    """What the classes of annotators weigh: their self-consistency, by its mean over the annotators for that class.

    Not the self-consistency itself, for some classes are hard to tell by what pixels look like, whoever draws them: two
    who say road would weigh less than a third who says land.

    Args:
        consistency: ``(R, K)``, above 0.
        used: ``(R, K)`` bool, whether an annotator uses a class.

    Returns:
        ``(R, K)``, above 0.
    """
    users = np.maximum(used.sum(axis=0), 1)
    mean = np.where(used, consistency, 0).sum(axis=0) / users
    return consistency / np.where(mean > 0, mean, 1)


def data_costs(masks: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """What each class costs at each pixel: the share of the annotators' weight that is against it.

    ``D_p(k) = sum_r w_r [m_r(p) != k] / sum_r w_r`` with ``w_r = trust[r, m_r(p)]``.

    Args:
        masks: ``(R, N)`` class indices; anything that is no index of `trust` is not annotated.
        trust: ``(R, K)``, above 0.

    Returns:
        ``(N, K)``, 0 to 1; 0 where nobody annotated.
    """
    number = trust.shape[1]
    votes, total = np.zeros((masks.shape[1], number)), np.zeros(masks.shape[1])
    for mask, own in zip(masks, trust):
        known = np.flatnonzero((mask >= 0) & (mask < number))
        labels = mask[known].astype(np.intp)
        votes[known, labels] += own[labels]
        total[known] += own[labels]
    votes /= np.maximum(total, np.finfo(float).tiny)[:, None]
    return np.where(total[:, None] > 0, 1 - votes, 0)


def cohen_kappa(counts: np.ndarray) -> float:
    """Agreement beyond chance of two annotators, -1 to 1, of the pixels ``(K, K)`` by the class that each gives.

    NaN where both know no pixel, or one class only.
    """
    total = counts.sum()
    if not total:
        return float('nan')
    observed = np.trace(counts) / total
    expected = counts.sum(axis=1) @ counts.sum(axis=0) / total**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else float('nan')
