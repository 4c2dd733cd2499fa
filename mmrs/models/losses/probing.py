"""What a decode loss does, found out on a few pixels: a user's own loss is judged like any other."""

from __future__ import annotations

import copy
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from mmrs.utils import ConfigError

__all__ = ['LossProbe', 'loss_probes', 'loss_terms']


class LossProbe:
    """A decode loss on logits of a few pixels, called as mmseg's decode heads call it.

    Args:
        loss: The loss.
        num_classes: K.
        out_channels: Channels of the logits, K, or 1 for binary segmentation.
        ignore_index: The label that does not count.
        name: Configuration key of the loss, for messages.
        device: Device that the loss will be computed on.
    """

    def __init__(
        self,
        loss: nn.Module,
        num_classes: int,
        out_channels: int,
        ignore_index: int,
        name: str,
        device: torch.device | str = 'cpu',
    ) -> None:
        self.loss, self.ignore_index = copy.deepcopy(loss), ignore_index  # a call may change its state
        self.title = f'{name} ({type(loss).__name__})'
        # No side equals the number of classes, so that a weight per class cannot pass for a weight per pixel.
        height, width = (side + 1 if side in (num_classes, out_channels) else side for side in (6, 8))
        pixels = torch.arange(2 * height * width, device=device)
        self.label = (pixels % num_classes).view(2, height, width)
        self.half = (pixels % 7 < 3).view(2, height, width)
        one_hot = nn.functional.one_hot(self.label, num_classes).movedim(-1, 1).float()
        self.right = 8 * one_hot[:, 1:] - 4 if out_channels == 1 else 8 * one_hot - 4
        self.varied = (1.3 * torch.arange(self.right.numel(), device=device)).sin().view_as(self.right)

    @torch.no_grad()
    def _value(self, logits: Tensor, weight: Tensor | None = None, label: Tensor | None = None) -> float:
        label = self.label.clone() if label is None else label
        value: Any = self.loss(logits.clone(), label, weight=weight, ignore_index=self.ignore_index)
        return float(value.mean())

    def require_sense(self) -> None:
        """Check that the loss can be computed, and is lower for a right prediction than for a wrong one.

        Raises:
            ConfigError: The loss cannot be computed, or is not lower for the right prediction.
        """
        try:
            right, wrong = self._value(self.right), self._value(-self.right)
        except Exception as error:  # of any class: the loss may be a user's own
            where = f'on logits {tuple(self.right.shape)} on the device {self.right.device.type}'
            raise self._refusal(where, error) from error
        if right == wrong == getattr(self.loss, 'loss_weight', None) == 0:
            return  # a term that is switched off
        if not right < wrong:
            raise ConfigError(
                f'{self.title} is {right:.4g} for a right prediction and {wrong:.4g} for a wrong one, with '
                f'{self.right.shape[1]} output channels: it cannot be learnt from. A loss that is lower for the right '
                'one was expected'
            )

    def honours_weights(self) -> bool:
        """Whether the loss is a sum over pixels, each multiplied by its weight."""
        weight = 0.5 + (0.7 * torch.arange(self.label.numel(), device=self.label.device)).cos().square()
        weight = weight.view(self.label.shape)
        none, half = torch.zeros_like(weight), weight * self.half
        try:
            whole, first, second = (self._value(self.varied, w) for w in (weight, half, weight - half))
            nothing, double = self._value(self.varied, none), self._value(self.varied, 2 * weight)
            elsewhere = self._value(torch.where(self.half[:, None], self.varied, -self.right), half)
        except Exception:  # of any class: the loss does not take weights of pixels
            return False
        # NaN is equal to nothing.
        pairs = ((nothing, 0.0), (double, 2 * whole), (first + second, whole), (elsewhere, first))
        return whole > 0 and first > 0 and all(abs(a - b) <= 1e-4 * whole for a, b in pairs)

    def honours_ignored(self) -> bool:
        """Whether the prediction of a pixel without label has no part in the loss.

        Raises:
            ConfigError: The loss cannot be computed where there are such pixels.
        """
        label = self.label.masked_fill(self.half, self.ignore_index)
        other = torch.where(self.half[:, None], self.right, self.varied)
        try:
            values = [self._value(logits, label=label.clone()) for logits in (self.varied, other)]
        except Exception as error:  # of any class, as above
            raise self._refusal(f'where pixels have no label ({self.ignore_index})', error) from error
        return abs(values[0] - values[1]) <= 1e-4 * abs(values[0])

    def _refusal(self, where: str, error: Exception) -> ConfigError:
        if isinstance(error, ConfigError):
            return ConfigError(f'{self.title}: {error}')
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 200).rstrip(':. ')
        return ConfigError(
            f'{self.title} cannot be computed {where}: {reason}. mmrs.PixelMeanCrossEntropyLoss and mmrs.FocalLoss '
            'can, on any device and for one channel too'
        )


def loss_terms(head: Any) -> list[nn.Module]:
    """The terms of a decode head's loss."""
    return list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]


def loss_probes(head: Any, name: str) -> list[LossProbe]:
    """A probe for each term of the loss of mmseg's decode head `name`, on the device of the head."""
    terms, device = loss_terms(head), next(head.parameters()).device
    names = [f'{name}.loss_decode' + f'.{i}' * (len(terms) > 1) for i in range(len(terms))]
    settings = head.num_classes, head.out_channels, head.ignore_index
    return [LossProbe(term, *settings, key, device) for term, key in zip(terms, names)]
