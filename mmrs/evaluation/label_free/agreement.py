from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..iou_metric import confusion_matrix
from .consistency import agreement
from .criterion import Score, mean_over_classes, shares_of

__all__ = ['EnsembleAgreement']


class EnsembleAgreement:
    """Mean IoU, 0 to 1, of each candidate's map with that of all candidates' mean probability.

    It is a measure while fewer than half of them are bad, and takes five of different runs.

    Args:
        num_classes: K.
        candidates: How many there are.

    Reference:
        EnsV, of the authors of :class:`MixVal`, which scores images, not pixels.
    """

    name = 'ensemble_agreement'

    def __init__(self, num_classes: int, candidates: int) -> None:
        self._matrices = torch.zeros(candidates, num_classes, num_classes, dtype=torch.int64)

    def update(self, labels: Sequence[Tensor], mean: Tensor, valid: Tensor) -> None:
        """Look at one more image.

        Args:
            labels: The map of each candidate, ``(H, W)``.
            mean: Mean of their probabilities, ``(K, H, W)``.
            valid: Where there are data, ``(H, W)``.
        """
        together = mean.argmax(0)[valid]
        for matrix, label in zip(self._matrices, labels):
            matrix += confusion_matrix(label[valid], together, len(matrix), -1)

    def compute(self, expected: Tensor | None = None) -> list[Score]:
        """The score of each candidate; see :meth:`LabelFreeCriterion.compute`."""
        scores = []
        for matrix in self._matrices:
            per_class, shares = agreement(matrix), shares_of(matrix.sum(0))
            value = mean_over_classes(per_class, shares, expected, 0.0)
            scores.append(Score(value, per_class.nanmean().item(), tuple(per_class.tolist())))
        return scores
