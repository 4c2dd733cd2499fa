"""Gradients of a network's last layer, and how far apart two of them are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ['gradient_distance', 'gradients_by_class']

#: As the release of DCC has it.
_EPSILON = 1e-6


def gradient_distance(first: Tensor, second: Tensor) -> Tensor:
    """Sum over the rows of two gradients of one minus the cosine between them.

    A row is what one output of a layer gets: a convolution's weights are flattened to rows.

    Args:
        first: ``(..., R, D)``.
        second: Likewise, or of a shape that can be broadcast to it.

    Returns:
        ``(...,)``, 0 to 2 R.

    Reference:
        Lee et al., Dataset Condensation with Contrastive Signals, arXiv 2202.02916; Zhao et al., Dataset Condensation
        with Gradient Matching, arXiv 2006.05929, equation 9.
    """
    lengths = first.norm(dim=-1) * second.norm(dim=-1)
    return (1 - (first * second).sum(-1) / (lengths + _EPSILON)).sum(-1)


def gradients_by_class(features: Tensor, logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over cells of the gradient of the cross entropy to the weights of a 1x1 convolution, by predicted class.

    The predicted class is taken for the label, as no other is there.

    Args:
        features: Input of the convolution, ``(D, M)``.
        logits: One for each class, ``(K, M)``.
        weights: Of the cells, ``(M,)``.

    Returns:
        The sums ``(K, K, D)``, by predicted class and row; and the weights of each class ``(K,)``.
    """
    predicted = F.one_hot(logits.argmax(0), len(logits)).T.to(logits)
    residuals = logits.softmax(0) - predicted
    share = predicted * weights
    return torch.einsum('ckm,dm->ckd', share[:, None] * residuals, features), share.sum(1)
