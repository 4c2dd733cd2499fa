"""A model that follows each raster before it predicts it, from the raster's pixels alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmrs.models.adaptors.tent import normalisation_parameters
from mmrs.models.batch_statistics import (
    NoBatchStatisticsError,
    adapt_batch_statistics,
    kept_batch_statistics,
    running_norms,
)
from mmrs.models.binary import two_logits
from mmrs.prediction.predictors import TorchPredictor, by_class
from mmrs.prediction.sources import Source, WindowPixels
from mmrs.prediction.stream import predict_batch
from mmrs.prediction.window_grid import WindowGrid
from mmrs.utils.errors import require_number

__all__ = ['SceneAdaptation', 'SceneEntropy', 'ScenePrior', 'SceneStatistics']

#: Windows that are looked at: this share of them, but no fewer than the second and no more than the third number.
_SHARE, _LEAST, _MOST = 0.25, 8, 64
#: Part of the estimated shares that is equal for all classes: a class that a scene seems to lack stays possible.
_EQUAL = 0.01

Windows = Callable[[], Iterator[WindowPixels]]


class SceneAdaptation(ABC):
    """Adapts the model of a predictor to one scene at a time; each starts from the checkpoint.

    Some windows of the scene are looked at first, drawn from its grid alike in all processes and attempts, whatever
    part of the map they make. They pass one by one, so that memory is bounded and the size of batches changes nothing.

    Args:
        predictor: Its model changes while a scene is predicted.
        continual: Whether the maps of several rasters want :meth:`sequence`.
    """

    #: Name of the option.
    name: str

    def __init__(self, predictor: TorchPredictor, continual: bool = False) -> None:
        self.predictor, self.continual = predictor, continual
        self._goes_on = False

    @contextmanager
    def sequence(self) -> Iterator[None]:
        """Each scene inside of the block goes on where the one before it ended, not from the checkpoint."""
        with self._kept():
            self._goes_on = True
            try:
                yield
            finally:
                self._goes_on = False

    @contextmanager
    def of(self, source: Source, grid: WindowGrid) -> Iterator[None]:
        """Adapt the model to a scene inside of the block; to one without any data it does not.

        Raises:
            DataError: The scene cannot be read, or is too small for the adaptation.
        """
        with nullcontext() if self._goes_on else self._kept():
            windows = partial(scene_windows, source, grid)
            if next(windows(), None) is not None:
                self._follow(windows)
            yield

    def _normalised(self, window: WindowPixels) -> tuple[Tensor, Tensor | None]:
        """A window as the model takes it, ``(1, C, h, w)``, and where it has data, ``(1, h, w)``."""
        size = tuple(window.image.shape[-2:])
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        if window.valid is not None:
            sample.valid_map = PixelData(data=window.valid[None])
        data: Any = self.predictor.model.data_preprocessor(dict(inputs=[window.image], data_samples=[sample]))
        images, valid = data['inputs'], None
        if window.valid is not None or images.shape[-2:] != size:  # what a test pads is no data
            valid = images.new_zeros(1, *images.shape[-2:], dtype=torch.bool)
            valid[:, : size[0], : size[1]] = True if window.valid is None else window.valid.to(valid.device)
        return images, valid

    def record(self) -> dict[str, Any]:
        """What maps depend on, as JSON has it."""
        return dict(method=self.name, **self._settings()) | (dict(continual=True) if self.continual else {})

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What a map depends on beside the method."""

    @abstractmethod
    def _kept(self) -> Any:
        """A context after which the model is bit for bit as before."""

    @abstractmethod
    def _follow(self, windows: Windows) -> None:
        """Change the model by windows that have data; each call begins with the first."""


def scene_windows(source: Source, grid: WindowGrid) -> Iterator[WindowPixels]:
    """Windows of a scene that have data, in an order that is drawn once for all."""
    x0, y0, x1, y1 = grid.wanted
    rows, columns = grid.y.touching(y0, y1), grid.x.touching(x0, x1)
    number = len(rows) * len(columns)
    left = min(_MOST, max(_LEAST, math.ceil(_SHARE * number)))
    for index in np.random.default_rng(0).permutation(number).tolist():
        row, column = divmod(index, len(columns))
        x, y = grid.x.starts[columns[column]], grid.y.starts[rows[row]]
        if (found := source.read((x, y, x + grid.size[1], y + grid.size[0]))) is not None:
            yield found
            left -= 1
            if not left:
                return


class SceneStatistics(SceneAdaptation):
    """Statistics of batch normalisation, blended with the scene's; see :func:`adapt_batch_statistics`.

    Args:
        predictor: See :class:`SceneAdaptation`.
        weight: Of the scene, 0 to 1. In a sequence, the n-th scene before counts ``weight * (1 - weight)**n``.
        continual: See :class:`SceneAdaptation`.

    Raises:
        ConfigError: The model has no batch normalisation, or the weight makes no sense.
    """

    name = 'bn'

    def __init__(self, predictor: TorchPredictor, weight: float = 0.5, continual: bool = False) -> None:
        super().__init__(predictor, continual)
        require_number('adapt_weight', weight, at_least=0, at_most=1)
        running_norms(predictor.model)
        self.weight = weight

    def _settings(self) -> dict[str, Any]:
        return dict(weight=self.weight)

    def _kept(self) -> Any:
        return kept_batch_statistics(self.predictor.model)

    def _follow(self, windows: Windows) -> None:
        adapt_batch_statistics(self.predictor.model, map(self._normalised, windows()), self.weight)


class SceneEntropy(SceneAdaptation):
    """TENT: after the statistics, scales and shifts of normalisation layers make predictions of the scene surer.

    Each window that is looked at is a step of Adam, at the rate of :class:`TENT` in `tools/adapt.py`.

    Args:
        predictor: See :class:`SceneAdaptation`.
        weight: See :class:`SceneStatistics`; without effect where there is no batch normalisation.
        continual: See :class:`SceneAdaptation`; Adam's moments go on, too.

    Raises:
        ConfigError: The model has no normalisation with scales and shifts, or the weight makes no sense.

    Reference:
        Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, arXiv 2006.10726, section 3.
    """

    name, learning_rate = 'tent', 1e-3

    def __init__(self, predictor: TorchPredictor, weight: float = 0.5, continual: bool = False) -> None:
        super().__init__(predictor, continual)
        self._affine = normalisation_parameters(predictor.model)
        try:
            self._statistics: SceneStatistics | None = SceneStatistics(predictor, weight)
        except NoBatchStatisticsError:
            self._statistics = None

    def _settings(self) -> dict[str, Any]:
        weight = None if self._statistics is None else self._statistics.weight
        return dict(weight=weight, learning_rate=self.learning_rate)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        before = [(parameter, parameter.detach().clone(), parameter.requires_grad) for parameter in self._affine]
        with nullcontext() if self._statistics is None else self._statistics._kept():
            for parameter in self._affine:
                parameter.requires_grad_()
            self._optimizer = torch.optim.Adam(self._affine, lr=self.learning_rate)
            try:
                yield
            finally:
                for parameter, values, trains in before:
                    parameter.requires_grad_(trains).data.copy_(values)

    def _follow(self, windows: Windows) -> None:
        if self._statistics is not None:
            self._statistics._follow(windows)
        for images, valid in map(self._normalised, windows()):
            gradients = torch.autograd.grad(self._entropy(images, valid), self._affine, allow_unused=True)
            for parameter, gradient in zip(self._affine, gradients):
                parameter.grad = gradient  # none of layers that do not predict
            self._optimizer.step()
        self._optimizer.zero_grad()

    def _entropy(self, images: Tensor, valid: Tensor | None) -> Tensor:
        meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), tuple(images.shape[-2:]))
        log_p = F.log_softmax(two_logits(self.predictor.model.encode_decode(images, [meta])).float(), 1)
        entropy = -(log_p.exp() * log_p).sum(1)
        return entropy.mean() if valid is None else entropy[valid].mean()


class ScenePrior(SceneAdaptation):
    """Shares of the classes that a scene seems to have, in place of those that the model has learned.

    The estimate is the mean prediction under equal shares. It is not repeated with the shares that it gives, as
    expectation maximisation does, which ends at one or two classes where predictions are not calibrated.

    Args:
        predictor: See :class:`SceneAdaptation`.
        trained: Shares that the model has learned, ``(K,)``.
        strength: Of the correction, 0 to 1.
        continual: See :class:`SceneAdaptation`. The shares are those of the windows of all scenes so far.

    Reference:
        Saerens et al., Adjusting the Outputs of a Classifier to New a Priori Probabilities, Neural Computation 14,
        2002: the first step.
    """

    name = 'prior'

    def __init__(
        self, predictor: TorchPredictor, trained: Sequence[float], strength: float, continual: bool = False
    ) -> None:
        super().__init__(predictor, continual)
        self.trained, self.strength = np.asarray(trained, float), strength

    def _settings(self) -> dict[str, Any]:
        trained = {name: float(f'{p:.6g}') for name, p in zip(self.predictor.classes, self.trained)}
        return dict(strength=self.strength, trained=trained)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        self._before = self.predictor.adjustment
        self._total, self._pixels = np.zeros(len(self.trained)), 0
        try:
            yield
        finally:
            self.predictor.adjustment = self._before

    def _follow(self, windows: Windows) -> None:
        self.predictor.adjustment = self._before
        for window in windows():
            own, number = self._shares(window)
            self._total, self._pixels = self._total + own, self._pixels + number
        shares = (1 - _EQUAL) * self._total / max(self._pixels, 1) + _EQUAL / len(self._total)
        shift = by_class((self.strength * np.log(shares / self.trained)).tolist(), self.predictor.device)
        scale, offsets = self._before or (1.0, 0.0)
        self.predictor.adjustment = scale * torch.ones_like(shift), offsets + shift

    def _shares(self, window: WindowPixels) -> tuple[np.ndarray, int]:
        """Sum of a window's probabilities under equal shares ``(K,)``, and the number of its pixels with data."""
        probabilities: Any = predict_batch(self.predictor, [window])
        neutral = probabilities[0].double().cpu().numpy() / self.trained[:, None, None]
        height, width = neutral.shape[1:]
        valid = np.ones((height, width), bool)
        if window.valid is not None:
            valid = window.valid[:height, :width].cpu().numpy()
        return (neutral / neutral.sum(0))[:, valid].sum(1), int(valid.sum())
