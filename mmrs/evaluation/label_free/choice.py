"""From scores of candidates to one of them: which are admissible, and is any clearly better than the source's?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .criterion import DEAD, PRESENT, entropy

__all__ = ['MARGIN', 'Choice', 'choose', 'dead_classes', 'inadmissible']

#: How much more consistent a candidate has to be than the least adapted one.
MARGIN = 0.08


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        candidate: Its index.
        verdict: ``adapted``, another one than the least adapted is clearly better; ``kept``, none is; ``none``, no
            candidate is admissible, and the least adapted is what is left.
        gain: By how much the best admissible other candidate's value is above that of the least adapted; NaN where
            there is no other.
    """

    candidate: int
    verdict: str
    gain: float


def dead_classes(shares: Tensor, expected: Tensor) -> Tensor:
    """Which classes ``(K,)`` the source has, and a map of the target hardly.

    Args:
        shares: Of the classes in its predictions on the target, ``(K,)``.
        expected: Those in the source's labels, ``(K,)``.
    """
    return (expected >= PRESENT) & (shares < DEAD * expected)


def inadmissible(shares: Sequence[Tensor], expected: Tensor, against: int | None = None) -> list[str | None]:
    """Why a candidate is out, whatever its score; None: it is not.

    More than half of its classes have died, or more than of the median candidate's; or it predicts, effectively, fewer
    than half as many classes as that one.

    Args:
        shares: Of the classes in each candidate's predictions on the target, ``(K,)``.
        expected: Those in the source's labels.
        against: Index of the candidate that stands for the usual in place of the median, where the others have been
            made of that one.
    """
    dead = torch.tensor([int(dead_classes(own, expected).sum()) for own in shares])
    number = int((expected >= PRESENT).sum())
    effective = torch.stack([entropy(own.double()).exp() for own in shares])
    usual_dead, usual = (own.double().quantile(0.5) if against is None else own[against] for own in (dead, effective))
    reasons: list[str | None] = []
    for own_dead, own in zip(dead.tolist(), effective.tolist()):
        if own_dead > number / 2:
            reasons.append(f'{own_dead} of its {number} classes have died')
        elif own_dead > usual_dead:
            reasons.append(f'{own_dead} of its classes have died, where {usual_dead:g} is usual')
        elif own < usual / 2:
            reasons.append(f'it predicts {own:.1f} classes, effectively, where {usual:.1f} is usual')
        else:
            reasons.append(None)
    return reasons


def choose(values: Sequence[float], reasons: Sequence[str | None], margin: float = MARGIN, least: int = 0) -> Choice:
    """The candidate of the highest value if it is clearly above the least adapted one, or that one is out; else that.

    Args:
        values: Of a criterion, higher is better.
        reasons: See :func:`inadmissible`.
        margin: By how much the value has to be higher; 0 chooses by the value alone.
        least: Index of the least adapted candidate.
    """
    admitted = [i for i, reason in enumerate(reasons) if reason is None and values[i] == values[i]]
    best = max((i for i in admitted if i != least), key=lambda i: values[i], default=None)
    gain = math.nan if best is None else values[best] - values[least]
    if not admitted:
        return Choice(least, 'none', gain)
    if best is None or (least in admitted and gain < margin):
        return Choice(least, 'kept', gain)
    return Choice(best, 'adapted', gain)
