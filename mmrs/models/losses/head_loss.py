"""The loss of one of mmseg's decode heads on labels that are a tensor, each pixel with a weight if need be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.utils import ConfigError

from .prior_neutral import PriorNeutralLoss
from .probing import loss_probes, loss_terms

__all__ = ['FusedLogits', 'head_loss', 'terms_by_pixel']


class FusedLogits(Tensor):
    """Logits ``(N, K, h, w)`` of images that know which part of them was seen at a higher resolution.

    What is computed of them is a plain tensor.

    Attributes:
        detail: Logits of that part alone.
        crop: Cuts it out of maps ``(N, H, W)`` at the resolution of the images.
        detail_weight: Share of the detail's loss in the loss of both.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    detail: Tensor
    crop: Callable[[Tensor], Tensor]
    detail_weight: float

    @classmethod
    def of(cls, logits: Tensor, detail: Tensor, crop: Callable[[Tensor], Tensor], detail_weight: float) -> FusedLogits:
        """Plain logits, with what else they shall know."""
        fused = logits.as_subclass(cls)
        fused.detail, fused.crop, fused.detail_weight = detail, crop, detail_weight
        return fused

    def divided(self, number: float) -> FusedLogits:
        """Both divided by a number."""
        return FusedLogits.of(self / number, self.detail / number, self.crop, self.detail_weight)

    def rows(self, images: slice) -> FusedLogits:
        """Those of some of the images."""
        return FusedLogits.of(self[images], self.detail[images], self.crop, self.detail_weight)


def head_loss(
    head: Any,
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    terms: Sequence[int] | None = None,
    from_source: Tensor | bool = True,
) -> Tensor:
    """The sum of the terms of a head's loss, each averaged if it is a map, as mmseg does.

    Args:
        head: The decode head; its pixel sampler, if any, chooses pixels where there is no `weight`.
        logits: ``(N, K, h, w)``, which are resized to the labels. Those of two resolutions are :class:`FusedLogits`:
            the loss is then the mean of theirs and that of the detail, by its share.
        label: ``(N, H, W)``.
        weight: ``(N, H, W)``, a factor on each pixel.
        terms: Which terms count, by their indices; None: all.
        from_source: Whether the labels are the source's, or for which pixels ``(N, H, W)``; the rest are pseudo-labels,
            which :class:`PriorNeutralLoss` does not change.
    """
    loss = _loss(head, logits, label, weight, terms, from_source)
    if not isinstance(logits, FusedLogits) or not logits.detail_weight:
        return loss
    crop = logits.crop
    weight = None if weight is None else crop(weight)
    from_source = crop(from_source) if isinstance(from_source, Tensor) else from_source
    return torch.lerp(loss, _loss(head, logits.detail, crop(label), weight, terms, from_source), logits.detail_weight)


def _loss(
    head: Any,
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None,
    terms: Sequence[int] | None,
    from_source: Tensor | bool,
) -> Tensor:
    logits = F.interpolate(logits, label.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    if weight is None and head.sampler is not None:
        weight = head.sampler.sample(logits, label[:, None])
    chosen: Iterable[Any] = loss_terms(head)
    if terms is not None:
        chosen = [term for n, term in enumerate(chosen) if n in terms]
    values = []
    for term in chosen:
        of_labels = dict(from_source=from_source) if isinstance(term, PriorNeutralLoss) else {}
        values.append(term(logits, label, weight=weight, ignore_index=head.ignore_index, **of_labels).mean())
    return torch.stack(values).sum()


def terms_by_pixel(heads: Iterable[nn.Module]) -> list[list[int]]:
    """For each head the indices of the terms of its loss that pseudo-labels are learnt by.

    The others would count pixels in full that the teacher is not sure of, or nothing when it is sure of all.

    Raises:
        ConfigError: There are none.
    """
    found, left = [], []
    for head in heads:
        probes = loss_probes(head, 'model.decode_head')
        honours = [probe.honours_weights() for probe in probes]
        others = [probe.title for probe, honoured in zip(probes, honours) if not honoured]
        if not any(honours):
            raise ConfigError(
                f'{", ".join(others)}: no term multiplies the loss of each pixel by its weight, so that pixels '
                'the teacher is not sure of would count in full in self-training. Add one that does, such as '
                "dict(type='PixelMeanCrossEntropyLoss'), to decode_head.loss_decode, or set model.self_training to None"
            )
        found.append([n for n, honoured in enumerate(honours) if honoured])
        left += others
    if left:
        print_log(
            f'{", ".join(dict.fromkeys(left))}: learnt from the labels of the source only, not from pseudo-labels, '
            'whose weights it does not apply to each pixel',
            logger='current',
            level=logging.WARNING,
        )
    return found
