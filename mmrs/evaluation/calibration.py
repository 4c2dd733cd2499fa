"""Probabilities that say how often they are right, by a scaling of the logits."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError, DataError, require_file, require_one_of, some

__all__ = ['METHODS', 'Calibration', 'Scaling', 'calibration_figures', 'fit_scaling', 'reliability']

METHODS = ('temperature', 'vector')
#: Of confidence, from 0 to 1.
BINS = 15
#: A fit that ends at such a temperature or beyond has found none.
_EXTREME = 1e3


@dataclass(frozen=True)
class Scaling:
    """``scale * logits + offset`` of each class in place of a model's logits.

    Attributes:
        scale: K numbers; all are 1 / temperature where that is the method.
        offset: K numbers, whose sum is 0.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        """Scaled logits, ``(M, K)``."""
        return logits * logits.new_tensor(self.scale) + logits.new_tensor(self.offset)


def fit_scaling(logits: Tensor, label: Tensor, method: str = 'temperature', classes: Sequence[str] = ()) -> Scaling:
    """The scaling under which labelled pixels are most likely, found by L-BFGS in double precision.

    Temperature scaling divides all logits by one number, vector scaling has a factor and an offset for each class.

    Args:
        logits: ``(M, K)``.
        label: Class indices, ``(M,)``.
        method: One of `METHODS`.
        classes: Names, for messages.

    Raises:
        ConfigError: There is no such method.
        DataError: The most likely scaling is none: no pixel, or no wrong one, or for a vector a class without any.

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, section 4.2.
    """
    require_one_of('method', method, METHODS)
    logits, label = logits.double(), label.long()
    number = logits.shape[1]
    counts = torch.bincount(label, minlength=number)
    if not len(label):
        raise DataError('there is no labelled pixel, by which probabilities could be calibrated')
    if bool((logits.argmax(1) == label).all()):
        raise DataError(
            f'the class of all {len(label):,} labelled pixels is right: how often probabilities are wrong cannot be '
            'learnt from them. Calibrate on images that the model has not learnt by heart'
        )
    names = classes or [f'class {i}' for i in range(number)]
    if method == 'vector' and (absent := [name for name, count in zip(names, counts.tolist()) if not count]):
        raise DataError(
            f'vector scaling needs labelled pixels of each class in either half of the images, but there are none of '
            f'{some(absent)}: take more images, or temperature scaling'
        )
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    _minimise([logarithm], lambda: F.cross_entropy(logits * torch.exp(-logarithm), label))
    temperature = math.exp(logarithm.item())
    if not 1 / _EXTREME < temperature < _EXTREME:
        raise DataError(
            f'the most likely temperature is {temperature:.3g}, which is none: the probabilities of the model have '
            f'nothing to do with the labels of these {len(label):,} pixels, or are all right'
        )
    scale = torch.full((number,), 1 / temperature, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(number, dtype=torch.float64, requires_grad=True)
    if method == 'vector':
        _minimise([scale, offset], lambda: F.cross_entropy(logits * scale + offset, label))
    offset = offset - offset.mean()
    return Scaling(tuple(scale.tolist()), tuple(offset.tolist()))


def _minimise(parameters: list[Tensor], loss: Any) -> None:
    solver = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn='strong_wolfe'
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)


@dataclass(frozen=True)
class Calibration:
    """The scaling of a certain model.

    Attributes:
        method: One of `METHODS`.
        classes: Names, in the order of the class indices.
        scaling: Numbers of these classes.
        weights: SHA-256 of the checkpoint.
    """

    method: str
    classes: tuple[str, ...]
    scaling: Scaling
    weights: str

    @classmethod
    def read(cls, path: str | os.PathLike) -> Calibration:
        """Read what `tools/analysis_tools/calibrate.py` has written.

        Raises:
            DataError: It is not there, or no such file.
        """
        require_file(path, 'a calibration that tools/analysis_tools/calibrate.py has written')
        try:
            found = json.loads(Path(path).read_text(encoding='utf-8'))
            classes = tuple(map(str, found['classes']))
            scale, offset = (tuple(float(found[key][name]) for name in classes) for key in ('scale', 'offset'))
            method, weights = str(found['method']), str(found['weights'])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f'{path} is no calibration ({type(error).__name__}: {error}); a file that '
                'tools/analysis_tools/calibrate.py has written was expected'
            ) from error
        if not classes or not all(map(math.isfinite, (*scale, *offset))):
            raise DataError(
                f'{path} is no calibration: scale {scale} and offset {offset}; finite numbers were expected'
            )
        return cls(method, classes, Scaling(scale, offset), weights)

    def record(self) -> dict[str, Any]:
        """What is written beside predictions, in six digits."""
        columns = dict(scale=self.scaling.scale, offset=self.scaling.offset)
        by_class = {
            key: {name: float(f'{value:.6g}') for name, value in zip(self.classes, values)}
            for key, values in columns.items()
        }
        return dict(method=self.method, **by_class)

    def require_model(self, classes: Sequence[str], weights: str | None, checkpoint: str | os.PathLike) -> None:
        """Raise ConfigError where this is the calibration of another model.

        Args:
            classes: The model's.
            weights: SHA-256 of the checkpoint that it is from; None: not known.
            checkpoint: The model's file.
        """
        if tuple(classes) != self.classes:
            raise ConfigError(
                f'{checkpoint} has the classes {", ".join(classes)}, but its calibration has {", ".join(self.classes)}'
            )
        if weights != self.weights:
            found = f'weights with the hash {weights[:12]}...' if weights else 'weights of which no hash is known'
            raise ConfigError(
                f'{checkpoint} has {found}, but the calibration is of those with {self.weights[:12]}...: each '
                'checkpoint has its own. Calibrate this checkpoint with tools/analysis_tools/calibrate.py'
                + ('' if weights else ', and export it again')
            )


# Figures -------------------------------------------------------------------------------------------------------------


def calibration_figures(probability: Tensor, label: Tensor, bins: int = BINS) -> dict[str, Any]:
    """How far probabilities are from how often they are right.

    Args:
        probability: ``(M, K)``; their sum is 1.
        label: Class indices, ``(M,)``.
        bins: Of equal width, or with equally many pixels.

    Returns:
        All as shares, in brackets over how many bins they are summed up: ``ece``: mean distance of accuracy and
        confidence of a pixel's bin of equal width; ``ece_equal_mass``: the same with bins of as many pixels; both of
        the most probable class. ``classwise``: for each class that of its share and its probability, in bins of equal
        width of its probability; ``classwise_ece``: their mean. ``nll``, in nats, and ``brier``, 0 to 2, of a pixel;
        ``accuracy``, ``confidence``, the mean of the largest probability, and the number of ``pixels``.

    Reference:
        Guo et al., arXiv 1706.04599, section 2; of equal mass and by class: Nixon et al., arXiv 1904.01685.
    """
    probability, label = probability.double(), label.long()
    number = len(label)
    confidence, best = probability.max(1)
    hit = (best == label).double()
    one_hot = F.one_hot(label, probability.shape[1]).double()
    top = confidence[:, None], hit[:, None]
    order = confidence.argsort(stable=True)
    mass = torch.empty_like(order)
    mass[order] = torch.arange(number) * bins // max(number, 1)
    by_class = _error(probability, one_hot, _index(probability, bins), bins)
    true = probability.gather(1, label[:, None])
    return dict(
        ece=_error(*top, _index(top[0], bins), bins).item(),
        ece_equal_mass=_error(*top, mass[:, None], bins).item(),
        classwise_ece=by_class.mean().item(),
        classwise=by_class.tolist(),
        nll=-true.clamp(min=torch.finfo(torch.float64).tiny).log().mean().item(),
        brier=(probability - one_hot).square().sum(1).mean().item(),
        accuracy=hit.mean().item(),
        confidence=confidence.mean().item(),
        pixels=number,
    )


def reliability(probability: Tensor, label: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor, Tensor]:
    """What a reliability diagram shows of the most probable class, by bins of equal width of its probability.

    Args:
        probability: ``(M, K)``.
        label: ``(M,)``.
        bins: Their number.

    Returns:
        Share of the pixels, mean confidence and accuracy, ``(bins,)`` each; NaN in bins without pixels.
    """
    confidence, best = probability.double().max(1)
    confidence, hit = confidence[:, None], (best == label)[:, None].double()
    count, sure, right = _sums(confidence, hit, _index(confidence, bins), bins)
    return count[0] / len(label), sure[0] / count[0], right[0] / count[0]


def _index(confidence: Tensor, bins: int) -> Tensor:
    """The bin of equal width, of which the lower bound is not part."""
    return (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)


def _sums(confidence: Tensor, hit: Tensor, index: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, confidence and hits in the bins of each column: ``(columns, bins)`` from ``(M, columns)``."""
    columns = index.shape[1]
    place = (index + bins * torch.arange(columns)).flatten()
    weights = (None, confidence.flatten(), hit.flatten())
    count, sure, right = (torch.bincount(place, own, bins * columns).view(columns, bins) for own in weights)
    return count, sure, right


def _error(confidence: Tensor, hit: Tensor, index: Tensor, bins: int) -> Tensor:
    """Of each column, ``(columns,)``."""
    _, sure, right = _sums(confidence, hit, index, bins)
    return (sure - right).abs().sum(1) / len(confidence)
