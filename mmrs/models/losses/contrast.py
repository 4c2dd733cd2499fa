"""Contrastive losses: what shows the same ground shall be alike, and what does not shall differ."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from mmengine.dist import all_gather, get_rank, get_world_size
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    'Contrasted',
    'dense_contrast',
    'nt_xent',
    'of_all',
    'smoothed',
    'unified',
    'unified_views',
    'uniformity',
    'whole',
]


class Contrasted(NamedTuple):
    """What a loss says of a batch.

    Attributes:
        loss: A scalar.
        recall: A scalar, 0 to 1: how often the right counterpart is the most similar one of all.
    """

    loss: Tensor
    recall: Tensor


# Several processes ----------------------------------------------------------------------------------------------------


def of_all(rows: Tensor) -> Tensor:
    """The rows of all processes, of which each has as many. A gradient flows into the own ones; see :func:`whole`."""
    if get_world_size() == 1:
        return rows
    parts = all_gather(rows.detach().contiguous())
    parts[get_rank()] = rows
    return torch.cat(parts)


def whole(loss: Tensor) -> Tensor:
    """A loss of the rows of all processes, whose gradients' mean over the processes is the gradient of the whole.

    Each process has the gradient of its own rows alone, and data-parallel training takes the mean of them.
    """
    return loss.detach() + get_world_size() * (loss - loss.detach())


def spread(rows: Tensor) -> Tensor:
    """How far unit vectors ``(N, D)`` are spread: a scalar from 0, they are all one, to 1. No gradient."""
    return (rows.detach().std(0, correction=0).mean() * math.sqrt(rows.shape[1])).clamp(max=1)


# Whole windows --------------------------------------------------------------------------------------------------------


def _compared(first: Tensor, second: Tensor, excluded: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 2N rows of both: its cosine to its counterpart, ``(2 N,)``; those to all rows, ``(2 N, 2 N)``,
    with -inf for what is no negative; and whether it is the most similar one.
    """
    rows = torch.cat([first, second])
    own = torch.eye(len(first), dtype=torch.bool, device=rows.device)
    hidden = own if excluded is None else excluded | own
    positive = (first * second).sum(-1).repeat(2)
    negatives = (rows @ rows.mT).masked_fill((hidden | (weight == 0)).repeat(2, 2), -math.inf)
    return positive, negatives, (positive >= negatives.amax(1)).to(rows.dtype)


def _mean(weight: Tensor, *values: Tensor) -> Contrasted:
    """Means over the rows of both views of values ``(2 N,)``, weighted by ``(N,)``."""
    own = weight.repeat(2)
    return Contrasted(*((value * own).sum() / own.sum().clamp(min=1) for value in values))


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
    weight: Tensor | None = None,
) -> Contrasted:
    """Normalised temperature-scaled cross entropy between the views of windows.

    Args:
        first: ``(N, D)``, unit vectors of the first views.
        second: Likewise, of the second views.
        temperature: Divides the cosines.
        excluded: ``(N, N)``, bool: windows that are no negatives of each other, such as neighbours.
        weight: ``(N,)``, 1 or 0: windows with and without any part; None: all have some.

    Returns:
        The mean over the 2N views, which is half of what SimCLR's release has.

    Reference:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709,
        equation 1.
    """
    weight = first.new_ones(len(first)) if weight is None else weight
    positive, negatives, right = _compared(first, second, excluded, weight)
    logits = torch.cat([positive[:, None], negatives], 1) / temperature
    return _mean(weight, logits.logsumexp(1) - logits[:, 0], right)


def smoothed(kernel: Tensor, strength: float) -> Tensor:
    """What mixes centroids, ``(K + strength I)^-1 K``, of a kernel matrix ``(N, N)``."""
    own = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    return torch.linalg.solve(kernel + strength * own, kernel)


def uniformity(views: Tensor, mixing: Tensor | None = None, weight: Tensor | None = None, t: float = 2.0) -> Tensor:
    """Decoupled uniformity: the centroids of windows shall lie far apart; their length is how alike the views are.

    Args:
        views: ``(N, V, D)``, unit vectors of the views of each window.
        mixing: ``(N, N)``, of :func:`smoothed`: windows that are alike share their centroids. None: each has its own.
        weight: ``(N,)``, 1 or 0: windows with and without any part; None: all have some.
        t: Of the Gaussian potential.

    Returns:
        The logarithm of the mean potential of the pairs of windows: 0 where all is alike, and -4N / (N - 1) at best for
        `t` 2. 0 where there is no pair.

    Reference:
        Dufumier et al., Integrating Prior Knowledge in Contrastive Learning with Kernel, arXiv 2206.01646, equations 4
        and 9.
    """
    centroids = views.mean(1)
    if mixing is not None:
        centroids = mixing @ centroids
    weight = views.new_ones(len(views)) if weight is None else weight
    pairs = (weight[:, None] * weight[None]).triu(1)
    squares = (centroids[:, None] - centroids[None]).square().sum(-1)
    potential = (-t * squares).masked_fill(pairs == 0, -math.inf).flatten()
    none = pairs.sum() == 0
    loss = potential.masked_fill(none, 0).logsumexp(0) - pairs.sum().clamp(min=1).log()
    return torch.where(none, 0 * squares.sum(), loss)


def unified(positives: Tensor, negatives: Tensor, gamma: float = 16.0, margin: float = 0.0) -> Tensor:
    """Unified contrastive loss of several positives and negatives at once.

    Args:
        positives: ``(N, P)``, cosines of each row to what is alike.
        negatives: ``(N, K)``, likewise to what is not; -inf for what does not count.
        gamma: Sharpness.
        margin: By how much, of the range of similarities, positives are to be above negatives.

    Returns:
        ``(N,)``.

    Reference:
        Li et al., MetAug, arXiv 2203.05119. As in its release, all pairs weigh the same, the margin is 0 and the factor
        16 / gamma.
    """
    exponent = (gamma / 2 * negatives).logsumexp(1) + (-gamma / 2 * positives).logsumexp(1) + gamma * margin
    return 16 / gamma * F.softplus(exponent)


def unified_views(
    first: Tensor, second: Tensor, gamma: float, excluded: Tensor | None = None, weight: Tensor | None = None
) -> Contrasted:
    """The unified loss between the views of windows; see :func:`nt_xent` for the arguments."""
    weight = first.new_ones(len(first)) if weight is None else weight
    positive, negatives, right = _compared(first, second, excluded, weight)
    return _mean(weight, unified(positive[:, None], negatives, gamma), right)


# Cells ----------------------------------------------------------------------------------------------------------------


def dense_contrast(first: Tensor, second: Tensor, negatives: Tensor, temperature: float) -> Contrasted:
    """Contrast of the cells of a window in its two views, for each cell.

    The positive of a cell is the same place in the other view, and its negatives are other places in both views.

    Args:
        first: ``(N, M, D)``, unit vectors of M places in the first view.
        second: Likewise, of the same places in the second view.
        negatives: ``(N, M, M)``, bool: which places are negatives of each.
        temperature: Divides the cosines.

    Returns:
        Loss and recall ``(N, M)``, means of both directions.

    Reference:
        Chaitanya et al., Contrastive learning of global and local features for medical image segmentation with limited
        annotations, arXiv 2006.10511, equation 3.
    """
    found = []
    for own, other in ((first, second), (second, first)):
        positive = (own * other).sum(-1, keepdim=True)
        others = torch.cat([own @ own.mT, own @ other.mT], -1).masked_fill(~negatives.repeat(1, 1, 2), -math.inf)
        logits = torch.cat([positive, others], -1) / temperature
        recall = (positive[..., 0] >= others.amax(-1)).to(first.dtype)
        found.append((logits.logsumexp(-1) - logits[..., 0], recall))
    return Contrasted(*((one + other) / 2 for one, other in zip(*found)))
