"""A threshold for each class, from how sure the teacher is of that class: CBST and IAST, batch by batch."""

from __future__ import annotations

from abc import abstractmethod

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils.errors import require_number

__all__ = ['CBSTThresholds', 'ClassThresholds', 'IASTThresholds']


class ClassThresholds(nn.Module):
    """Thresholds that move with the teacher's predictions, and which pixels pass them.

    They are the buffer ``values``, so that a resumed run goes on with them. The predictions are those of all processes
    together, which therefore have to call this module at the same time; then all have the same thresholds.

    Args:
        num_classes: K.
        initial: The thresholds before the first batch, in (0, 1].
        momentum: What a batch leaves of the thresholds before it, in [0, 1); 0: they are those of the batch alone.
        samples: At most so many pixels of a batch are looked at, at even distances.

    Raises:
        ConfigError: A number out of its range.
    """

    values: Tensor

    def __init__(self, num_classes: int, initial: float = 0.9, momentum: float = 0.9, samples: int = 65536) -> None:
        super().__init__()
        where = 'self_training.thresholds'
        require_number(f'{where}.initial', initial, above=0, at_most=1)
        require_number(f'{where}.momentum', momentum, at_least=0, below=1)
        require_number(f'{where}.samples', samples, at_least=1, unit='pixels', whole=True)
        self.momentum, self.samples = momentum, samples
        self.register_buffer('values', torch.full((num_classes,), float(initial)))

    @torch.no_grad()
    def forward(self, probabilities: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Move the thresholds by a batch, then choose among its pixels.

        Args:
            probabilities: ``(N, K, H, W)``.
            valid: ``(N, H, W)``, bool; the others do not move the thresholds.

        Returns:
            The classes ``(N, H, W)``, and which of them pass, bool; no pixel passes that is not finite.
        """
        confidence, label = probabilities.max(1)
        counted = confidence.isfinite() if valid is None else confidence.isfinite() & valid
        self.values.copy_(self._moved(self._keys(confidence.flatten(), label.flatten(), counted.flatten())))
        return self._choose(probabilities, confidence, label)

    def _keys(self, confidence: Tensor, label: Tensor, counted: Tensor) -> Tensor:
        """2 c + confidence for pixels of class c, and infinity for those that do not count, in float64.

        Sorted, they are the confidences of one class after the other. Each process gives equally many, because the
        sizes of their images may differ.
        """
        number, size = max(1, self.samples // get_world_size()), len(label)
        places = torch.arange(number, device=label.device) * -(-size // number)
        inside, places = places < size, places.clamp(max=size - 1)
        keys = torch.where(inside & counted[places], 2 * label[places].double() + confidence[places], torch.inf)
        return torch.cat(all_gather(keys))

    def _by_class(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sorted keys; where the keys of each class begin, ``(K,)``, and how many they are."""
        keys = keys.sort().values
        edges = torch.searchsorted(keys, 2 * torch.arange(len(self.values) + 1, device=keys.device).double())
        return keys, edges[:-1], edges.diff()

    def _towards(self, own: Tensor) -> Tensor:
        """The thresholds after a batch whose own ones are these."""
        return self.values.double().lerp(own, 1 - self.momentum)

    @abstractmethod
    def _moved(self, keys: Tensor) -> Tensor:
        """The thresholds after a batch of these keys."""

    @abstractmethod
    def _choose(self, probabilities: Tensor, confidence: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, and which of them pass, by the most probable class of each pixel and its probability."""


@MODELS.register_module()
class CBSTThresholds(ClassThresholds):
    """Class-balanced self-training: of each class the same share of its pixels passes.

    The threshold t of a class is the confidence that the share ``portion`` of the pixels predicted as this class
    reaches. A class of which a batch has too few pixels for a single one to pass keeps its threshold. A pixel's class
    is the one of the largest P / t, which may be another than the most probable one, and passes if P / t >= 1.

    Args:
        portion: In (0, 1].
        num_classes: See :class:`ClassThresholds`, as for the next ones.
        initial: Likewise.
        momentum: Likewise. The original has no batches: it takes all target images at once, between rounds of
            training, which is a momentum of 0 with ``initial`` 1.
        samples: Likewise.

    Reference:
        Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training,
        arXiv 1810.07911.
    """

    def __init__(
        self,
        num_classes: int,
        portion: float = 0.5,
        initial: float = 0.9,
        momentum: float = 0.9,
        samples: int = 65536,
    ) -> None:
        super().__init__(num_classes, initial, momentum, samples)
        require_number('self_training.thresholds.portion', portion, above=0, at_most=1)
        self.portion = portion

    def _moved(self, keys: Tensor) -> Tensor:
        keys, begin, number = self._by_class(keys)
        passing = (number * torch.tensor(self.portion, dtype=torch.float64, device=keys.device)).long()
        lowest = keys[(begin + number - passing).clamp(max=len(keys) - 1)]
        own = lowest - 2 * torch.arange(len(number), device=keys.device)
        return torch.where(passing > 0, self._towards(own), self.values)

    def _choose(self, probabilities: Tensor, confidence: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        ratio, label = (probabilities / self.values.to(probabilities.dtype)[:, None, None]).max(1)
        return label, ratio >= 1


@MODELS.register_module()
class IASTThresholds(ClassThresholds):
    r"""Instance-adaptive self-training: thresholds follow each batch, high ones the more slowly downwards.

    .. math:: t_c \leftarrow \beta t_c + (1 - \beta) Q_c(1 - \alpha t_c^\gamma)

    Q is the quantile of the confidences of the batch's pixels predicted as class c, and of t itself. A pixel passes if
    the confidence of its most probable class reaches this class's threshold.

    Args:
        alpha: Share of a class's pixels that pass where its threshold is 1, in (0, 1].
        gamma: The larger, the fewer pixels pass where a threshold is low: hard classes are trusted less. At least 0.
        num_classes: See :class:`ClassThresholds`, as for the next ones.
        initial: Likewise.
        momentum: :math:`\beta`; likewise.
        samples: Likewise.

    Reference:
        Mei et al., Instance Adaptive Self-Training for Unsupervised Domain Adaptation, arXiv 2008.12197.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.2,
        gamma: float = 8.0,
        initial: float = 0.9,
        momentum: float = 0.9,
        samples: int = 65536,
    ) -> None:
        super().__init__(num_classes, initial, momentum, samples)
        require_number('self_training.thresholds.alpha', alpha, above=0, at_most=1)
        require_number('self_training.thresholds.gamma', gamma, at_least=0)
        self.alpha, self.gamma = alpha, gamma

    def _moved(self, keys: Tensor) -> Tensor:
        values = self.values.double()
        first = 2 * torch.arange(len(values), device=keys.device)
        keys, begin, number = self._by_class(torch.cat((keys, first + values)))
        place = (number - 1) * (1 - self.alpha * values**self.gamma)
        below = place.long()
        above = torch.minimum(below + 1, number - 1)
        own = keys[begin + below].lerp(keys[begin + above], place - below) - first
        moved = self._towards(own)
        return torch.where(moved >= 1, 0.999, moved)

    def _choose(self, probabilities: Tensor, confidence: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return label, confidence >= self.values.to(confidence.dtype)[label]
