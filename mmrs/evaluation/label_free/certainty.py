"""Criteria of single predictions and their sums: how sure, how diverse."""

from __future__ import annotations

import torch
from torch import Tensor

from .criterion import LabelFreeCriterion, Score, entropy, mean_over_classes, shares_of
from .observation import Observation

__all__ = ['BatchNuclearNorm', 'Diversity', 'Entropy', 'InformationMaximisation']


class Entropy(LabelFreeCriterion):
    """Mean entropy of the predictions, negative: ``-ln K`` to 0 nats. A network that predicts one class wins.

    Reference:
        ``EntropyValidator`` of pytorch-adapt, arXiv 2211.15673.
    """

    name = 'entropy'

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._sums, self._counts = torch.zeros(2, num_classes, dtype=torch.float64).unbind()

    def _look(self, seen: Observation) -> None:
        label = seen.label[seen.valid].cpu()
        self._sums.index_add_(0, label, -entropy(seen.pixels).double().cpu())
        self._counts += torch.bincount(label, minlength=self.num_classes)

    def _score(self, expected: Tensor | None) -> Score:
        per_class = self._sums / self._counts
        worst = -torch.tensor(float(self.num_classes)).log().item()
        value = mean_over_classes(per_class, shares_of(self._counts), expected, worst)
        return Score(value, (self._sums.sum() / self._counts.sum()).item(), tuple(per_class.tolist()))


class Diversity(LabelFreeCriterion):
    """Entropy of the mean prediction: 0 to ``ln K`` nats. A network that predicts all classes everywhere wins.

    Reference:
        ``DiversityValidator`` of pytorch-adapt.
    """

    name = 'diversity'

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._sum, self._number = torch.zeros(num_classes, dtype=torch.float64), 0

    def _look(self, seen: Observation) -> None:
        self._sum += seen.pixels.sum(0, dtype=torch.float64).cpu()
        self._number += len(seen.pixels)

    def _score(self, expected: Tensor | None) -> Score:
        value = entropy(self._sum / self._number).item()
        return Score(value, value)


class InformationMaximisation(LabelFreeCriterion):
    """Diversity plus (negative) entropy: 0 to ``ln K`` nats. It rewards equal shares of the classes, which a target
    need not have.

    Reference:
        ``IMValidator`` of pytorch-adapt, both weights 1; Shi & Sha 2012.
    """

    name = 'information_maximisation'

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._parts = Entropy(num_classes), Diversity(num_classes)

    def _look(self, seen: Observation) -> None:
        for part in self._parts:
            part.update(seen)

    def _score(self, expected: Tensor | None) -> Score:
        parts = [part.compute(expected) for part in self._parts]
        named = {part.name: score.plain for part, score in zip(self._parts, parts)}
        return Score(sum(score.value for score in parts), sum(named.values()), parts=named)


class BatchNuclearNorm(LabelFreeCriterion):
    """Nuclear norm of all predictions ``(M, K)`` over ``sqrt(M K)``: ``1 / K`` for predictions that are all uniform,
    ``1 / sqrt(K)`` for one class, 1 for sure ones in equal shares.

    The singular values are roots of the eigenvalues of a ``(K, K)`` matrix that is summed image by image.

    Reference:
        ``BNMValidator`` of pytorch-adapt, which divides by M; Cui et al., arXiv 2003.12237.
    """

    name = 'batch_nuclear_norm'

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._products, self._number = torch.zeros(num_classes, num_classes, dtype=torch.float64), 0

    def _look(self, seen: Observation) -> None:
        pixels = seen.pixels.double()
        self._products += (pixels.T @ pixels).cpu()
        self._number += len(pixels)

    def _score(self, expected: Tensor | None) -> Score:
        singular = torch.linalg.eigvalsh(self._products).clamp(min=0).sqrt()
        value = (singular.sum() / (self._number * self.num_classes) ** 0.5).item()
        return Score(value, value)
