"""What is known of tiles before they have labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mmrs.geo.windows import Window
from mmrs.models.binary import two_logits
from mmrs.models.class_prior import predicting_heads
from mmrs.utils.errors import ConfigError, require_one_of

from ..label_free.criterion import entropy
from ..label_free.observation import Observation
from .gradients import gradients_by_class

__all__ = ['COSTS', 'FEATURES', 'GRADIENTS', 'UNCERTAINTIES', 'TileLook', 'Tiles']

#: Facts that cost more than a look at the map, by their names in :class:`Tiles`.
FEATURES, GRADIENTS = 'features', 'gradients'

#: Areas of fewer pixels are counted as no polygon: nobody draws them.
_SMALLEST_AREA = 32


def _entropy(seen: Observation) -> Tensor:
    return entropy(seen.pixels) / math.log(seen.probability.shape[0])


def _margin(seen: Observation) -> Tensor:
    best = seen.pixels.topk(2).values
    return 1 - (best[:, 0] - best[:, 1])


def _flip(seen: Observation) -> Tensor:
    others = [seen.label_under(change)[0] != seen.label for change in ('flip', 'vertical_flip')]
    return torch.stack(others).float().mean(0)[seen.valid]


#: How unsure a network is of each pixel that has data, ``(M,)``, 0 to 1. Entropy over that of equal probabilities; one
#: minus how far the best class is ahead of the next; the share of two flips under which the class is another.
UNCERTAINTIES: Mapping[str, Callable[[Observation], Tensor]] = dict(entropy=_entropy, margin=_margin, flip=_flip)


def _pixels(labels: np.ndarray, classes: int) -> int:
    return int((labels < classes).sum())


def _polygons(labels: np.ndarray, classes: int) -> int:
    number = 0
    for index in np.unique(labels[labels < classes]).tolist():
        areas, _ = ndimage.label(labels == index)
        number += int((np.bincount(areas.ravel())[1:] >= _SMALLEST_AREA).sum())
    return max(number, 1)


#: What a map ``(H, W)`` of so many classes costs to label, by what is counted: pixels with data, or areas of one class.
COSTS: Mapping[str, Callable[[np.ndarray, int], int]] = dict(pixels=_pixels, polygons=_polygons)


@dataclass(frozen=True)
class Tiles:
    """What is known of T tiles.

    Attributes:
        uncertainty: ``(T,)``, 0 to 1.
        shares: Of the classes in their maps, ``(T, K)``; 0 where no pixel has data.
        costs: ``(T,)``, above 0.
        candidates: Which of them may be chosen, ``(T,)``, bool.
        labelled: Which of them have labels already, ``(T,)``, bool: what is chosen complements these.
        classes: K names.
        features: Their mean features, ``(T, D)``; None: unknown.
        gradients: Their gradients ``(T, R, D)``; None: unknown.
    """

    uncertainty: np.ndarray
    shares: np.ndarray
    costs: np.ndarray
    candidates: np.ndarray
    labelled: np.ndarray
    classes: Sequence[str]
    features: np.ndarray | None = None
    gradients: np.ndarray | None = None

    @classmethod
    def of(
        cls, looks: Sequence[TileLook], candidates: np.ndarray, labelled: np.ndarray, classes: Sequence[str]
    ) -> Tiles:
        """What was seen of each tile, in one table."""

        def column(name: str) -> np.ndarray | None:
            values = [getattr(own, name) for own in looks]
            return None if any(value is None for value in values) else np.stack(values)

        return cls(
            np.array([own.uncertainty for own in looks]),
            np.stack([own.shares for own in looks]),
            np.array([own.cost for own in looks]),
            candidates,
            labelled,
            classes,
            column(FEATURES),
            column(GRADIENTS),
        )


class TileLook:
    """Looks at a tile, part by part.

    Args:
        model: The network that is asked, in evaluation mode.
        shape: Rows and columns of the tile.
        num_classes: K.
        uncertainties: Names of `UNCERTAINTIES`, whose mean is taken.
        cost: Name of `COSTS`.
        facts: Of `FEATURES` and `GRADIENTS`, what is wanted.

    Attributes:
        labels: The map, ``(H, W)``, uint8; 255 where there is no data.

    Raises:
        ConfigError: A name is unknown; or the network has no `conv_seg` whose features could be had.
    """

    def __init__(
        self,
        model: Any,
        shape: Sequence[int],
        num_classes: int,
        uncertainties: Sequence[str] = ('entropy',),
        cost: str = 'pixels',
        facts: Collection[str] = (),
    ) -> None:
        for name in uncertainties:
            require_one_of('uncertainty', name, UNCERTAINTIES)
        require_one_of('cost', cost, COSTS)
        self.labels = np.full(shape, 255, np.uint8)
        self._num_classes, self._uncertainties, self._cost, self._facts = num_classes, uncertainties, cost, facts
        self._layer = classifier_of(model) if facts else None
        self._sum, self._weight = 0.0, 0.0
        self._features: Tensor | float = 0.0
        self._gradients: Tensor | float = 0.0
        self._class_weights: Tensor | float = 0.0

    def update(self, seen: Observation, part: Window) -> None:
        """Look at one more part.

        Args:
            seen: The part, perhaps padded to the right and below; at none of which no pixel has data.
            part: Its place in the tile.
        """
        x0, y0, x1, y1 = part
        if not seen.valid.any():
            return
        with _recorded(self._layer) as found:
            label = seen.label
        shown = torch.where(seen.valid, label, 255)[: y1 - y0, : x1 - x0]
        self.labels[y0:y1, x0:x1] = shown.cpu().numpy()
        unsure = torch.stack([UNCERTAINTIES[name](seen) for name in self._uncertainties]).mean(0)
        self._sum += unsure.double().sum().item()
        if found:
            self._look_deeper(seen, *found[0])

    def _look_deeper(self, seen: Observation, features: Tensor, logits: Tensor) -> None:
        cells = (features.shape[-2], features.shape[-1])
        # A cell counts by the share of its pixels that have data.
        weights = F.adaptive_avg_pool2d(seen.valid[None, None].float(), cells).flatten().double()
        rows = features[0].flatten(1).double()
        if FEATURES in self._facts:
            self._features = self._features + (rows @ weights).cpu()
            self._weight += weights.sum().item()
        if GRADIENTS in self._facts:
            sums, counts = gradients_by_class(rows, two_logits(logits)[0].flatten(1).double(), weights)
            self._gradients = self._gradients + sums.cpu()
            self._class_weights = self._class_weights + counts.cpu()

    @property
    def pixels(self) -> int:
        """How many have data."""
        return int((self.labels != 255).sum())

    @property
    def uncertainty(self) -> float:
        """Mean over the pixels with data."""
        return self._sum / max(self.pixels, 1)

    @property
    def shares(self) -> np.ndarray:
        """Of the classes in the map, ``(K,)``."""
        counts = np.bincount(self.labels[self.labels != 255], minlength=self._num_classes)
        return counts / max(counts.sum(), 1)

    @property
    def cost(self) -> int:
        """What it costs to label."""
        return COSTS[self._cost](self.labels, self._num_classes)

    @property
    def features(self) -> np.ndarray | None:
        """Mean over the pixels with data of what the last layer reads, ``(D,)``."""
        if FEATURES not in self._facts or self._layer is None:
            return None
        mean = torch.zeros(self._layer.in_channels) + self._features / max(self._weight, 1e-12)
        return mean.numpy()

    @property
    def gradients(self) -> np.ndarray | None:
        """Mean over the classes of the mean gradient of the last layer where that class is predicted, ``(K, D)``."""
        if GRADIENTS not in self._facts or self._layer is None:
            return None
        counts = torch.zeros(self._num_classes) + self._class_weights
        sums = torch.zeros(self._num_classes, self._num_classes, self._layer.in_channels) + self._gradients
        return (sums / counts.clamp(min=1e-12)[:, None, None]).mean(0).numpy()


def classifier_of(model: Any) -> Any:
    """The last layer of a network; of the target student where two predict.

    Raises:
        ConfigError: It is no `conv_seg`.
    """
    head = predicting_heads(model)[-1]
    layer = getattr(head, 'conv_seg', None)
    if layer is None or not hasattr(layer, 'in_channels'):
        raise ConfigError(
            f'{type(head).__name__} has no convolution conv_seg, whose features and gradients are looked at: take '
            'criterion uncertainty or random'
        )
    return layer


@contextmanager
def _recorded(layer: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Input and output of each pass of a layer; without one nothing is recorded.

    The first pass is of the whole image; what a network looks at in detail comes after it.
    """
    found: list[tuple[Tensor, Tensor]] = []
    if layer is None:
        yield found
        return
    handle = layer.register_forward_hook(lambda _module, inputs, output: found.append((inputs[0], output)))
    try:
        yield found
    finally:
        handle.remove()
