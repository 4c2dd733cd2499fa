from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmrs.utils.errors import DataError

from .observation import Observation

__all__ = ['DEAD', 'PRESENT', 'LabelFreeCriterion', 'Score', 'look', 'mean_over_classes']

#: Share of the source's labelled pixels from which on a class is expected in the target.
PRESENT = 0.005
#: A class that is expected and has less than this part of that share has died.
DEAD = 0.05


@dataclass(frozen=True)
class Score:
    """What a criterion says of a candidate; higher is better.

    Attributes:
        value: Mean over the classes that are expected, dead ones at their worst, where a criterion has a value for each
            class; else as `plain`.
        plain: As published.
        per_class: ``(K,)``; NaN for a class that is not predicted.
        parts: What the value is made of, by name.
    """

    value: float
    plain: float
    per_class: tuple[float, ...] | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


class LabelFreeCriterion(ABC):
    """A score of a network on images without labels, in one pass over them; higher is better.

    Args:
        num_classes: K.
    """

    #: Name in tables and of a log value.
    name: str

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._seen_any = False

    def update(self, seen: Observation) -> None:
        """Look at one more image; at none of which no pixel has data."""
        if seen.valid.any():
            self._seen_any = True
            self._look(seen)

    def compute(self, expected: Tensor | None = None) -> Score:
        """The score of all images.

        Args:
            expected: Shares ``(K,)`` of the classes in the source's labels; None: every class that is predicted counts,
                and none is missed.

        Raises:
            DataError: No pixel of any image had data.
        """
        if not self._seen_any:
            raise DataError(f'{self.name}: no pixel of the target has data')
        return self._score(expected)

    @abstractmethod
    def _look(self, seen: Observation) -> None: ...

    @abstractmethod
    def _score(self, expected: Tensor | None) -> Score: ...

    @classmethod
    def compared(cls, scores: Sequence[Score]) -> list[float]:
        """Values of several candidates, on one scale."""
        return [score.value for score in scores]


def look(
    views: Iterable[Observation],
    criteria: Sequence[Sequence[LabelFreeCriterion]],
    num_classes: int,
    offsets: Sequence[Tensor | None] = (None,),
) -> list[Tensor]:
    """Show all images to criteria, once under each class prior.

    Args:
        views: Images, see :func:`observe`.
        criteria: Those of each class prior.
        num_classes: K.
        offsets: Added to the logits, ``(K,)``, for each class prior; None: nothing.

    Returns:
        Shares of the classes in the maps under each of them, ``(K,)``; 0 where no pixel has data.
    """
    counts = [torch.zeros(num_classes, dtype=torch.int64) for _ in offsets]
    for seen in views:
        for count, shift, own in zip(counts, offsets, criteria):
            view = seen if shift is None else seen.shifted(shift)
            count += torch.bincount(view.label[view.valid].cpu(), minlength=num_classes)
            for criterion in own:
                criterion.update(view)
    return [shares_of(count) for count in counts]


def mean_over_classes(values: Tensor, shares: Tensor, expected: Tensor | None, worst: float) -> float:
    """Mean of a value over the classes that are expected.

    Args:
        values: Of each class, ``(K,)``; NaN where there is none.
        shares: Of the classes in the predictions, ``(K,)``.
        expected: See :meth:`LabelFreeCriterion.compute`.
        worst: The value of a class that is expected and hardly predicted.
    """
    counted = shares > 0
    if expected is not None:
        expected = expected.to(shares)
        counted = expected >= PRESENT
        values = values.masked_fill(shares < DEAD * expected, worst)
    chosen = values[counted].nan_to_num(nan=worst)
    return chosen.mean().item() if chosen.numel() else math.nan


def shares_of(counts: Tensor) -> Tensor:
    """Counts of the classes as shares, 0 where nothing was counted."""
    return counts.double() / counts.sum().clamp(min=1)


def entropy(probability: Tensor, dim: int = -1) -> Tensor:
    """Shannon's entropy, in nats; of a probability of 0 it is 0."""
    return torch.special.entr(probability).sum(dim)
