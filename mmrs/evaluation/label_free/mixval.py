from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrs.utils.errors import require_number

from .criterion import LabelFreeCriterion, Score
from .observation import Observation

__all__ = ['MixVal']


class MixVal(LabelFreeCriterion):
    """Whether a mixture of two images is mapped as the image that dominates it.

    Each image is mixed with the one before. Where the maps of both agree, the mixture should keep the class (``intra``;
    a network that predicts one class wins this part); where they do not, it should take that of the dominant image
    (``inter``). Both are accuracies, 0 to 1, of each class of the dominant image, and their mean. Candidates are ranked
    by either, and compared by their mean rank.

    Args:
        num_classes: K.
        share: Of the dominant image in the mixture, above 0.5.

    Reference:
        Hu et al., Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation, NeurIPS 2023,
        which scores images, not pixels.
    """

    name = 'mixval'

    def __init__(self, num_classes: int, share: float = 0.55) -> None:
        super().__init__(num_classes)
        require_number('share', share, at_least=0.5, at_most=1)
        self._share = share
        self._last: Observation | None = None
        self._counts = {part: torch.zeros(2, num_classes, dtype=torch.int64) for part in ('inter', 'intra')}

    def _look(self, seen: Observation) -> None:
        last = self._last
        if last is not None and last.image.shape == seen.image.shape:
            mixed = seen.classified(seen.predict(self._share * seen.image + (1 - self._share) * last.image))
            valid, equal = seen.valid & last.valid, seen.label == last.label
            for part, where in (('inter', ~equal), ('intra', equal)):
                for row, counted in enumerate((where & valid & (mixed == seen.label), where & valid)):
                    counts = torch.bincount(seen.label[counted], minlength=self.num_classes)
                    self._counts[part][row] += counts.cpu()
        self._last = seen

    def _score(self, expected: Tensor | None) -> Score:
        parts = {part: (hit / total).nanmean().item() for part, (hit, total) in self._counts.items()}
        known = [value for value in parts.values() if value == value]
        value = sum(known) / len(known) if known else float('nan')
        return Score(value, value, parts=parts)

    @classmethod
    def compared(cls, scores: Sequence[Score]) -> list[float]:
        """Mean rank of each candidate by the two parts, the best one's the highest."""
        ranks = [_ranks([score.parts[part] for score in scores]) for part in ('inter', 'intra')]
        return [(a + b) / 2 for a, b in zip(*ranks)]


def _ranks(values: Sequence[float]) -> list[float]:
    """Number of lower values, and half of the equal others; NaN is the lowest."""
    known = [-1.0 if value != value else value for value in values]
    return [sum(b < a for b in known) + (sum(b == a for b in known) - 1) / 2 for a in known]
