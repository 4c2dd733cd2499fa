from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from mmrs.utils.errors import require_one_of

from ..iou_metric import confusion_matrix
from .changes import CHANGES
from .criterion import LabelFreeCriterion, Score, mean_over_classes, shares_of
from .observation import Observation

__all__ = ['DEFAULT_CHANGES', 'Consistency', 'TeacherAgreement']

#: Changes that every candidate has been trained for alike, or none.
DEFAULT_CHANGES = ('flip', 'vertical_flip', 'quarter_turn', 'shift')


class Consistency(LabelFreeCriterion):
    """Mean IoU, 0 to 1, between the map of an image and that of the changed image, moved back.

    Geometric changes alone, by default: photometric ones prefer networks that were trained with changes of colour,
    whether they are right or wrong.

    Args:
        num_classes: K.
        changes: Names of ``CHANGES``: of each a score is made, and the value is their mean.

    Raises:
        ConfigError: There is no such change.
    """

    name = 'consistency'

    def __init__(self, num_classes: int, changes: Sequence[str] = DEFAULT_CHANGES) -> None:
        super().__init__(num_classes)
        for change in changes:
            require_one_of('changes', change, CHANGES)
        self._matrices = {change: torch.zeros(num_classes, num_classes, dtype=torch.int64) for change in changes}

    def _look(self, seen: Observation) -> None:
        for change, matrix in self._matrices.items():
            label, valid = seen.label_under(change)
            matrix += confusion_matrix(label[valid], self._reference(seen)[valid], self.num_classes, -1)

    def _reference(self, seen: Observation) -> Tensor:
        return seen.label

    def _score(self, expected: Tensor | None) -> Score:
        ious = {change: agreement(matrix) for change, matrix in self._matrices.items()}
        shares = [shares_of(matrix.sum(1)) for matrix in self._matrices.values()]
        parts = {
            change: mean_over_classes(own, share, expected, 0.0) for (change, own), share in zip(ious.items(), shares)
        }
        per_class = torch.stack(list(ious.values())).mean(0)
        return Score(fmean(parts.values()), per_class.nanmean().item(), tuple(per_class.tolist()), parts)


class TeacherAgreement(Consistency):
    """:class:`Consistency` of the network with what its teacher says of the image as it is.

    Without a teacher it is that with what the network says itself. It does not compare methods of which one trains this
    very agreement.
    """

    name = 'teacher_agreement'

    def _reference(self, seen: Observation) -> Tensor:
        return seen.classified(seen.taught)


def agreement(matrix: Tensor) -> Tensor:
    """IoU of each class of two maps, from the ``(K, K)`` counts of their pairs; NaN for a class of neither."""
    both = matrix.diagonal().double()
    return both / (matrix.sum(0) + matrix.sum(1) - both)
