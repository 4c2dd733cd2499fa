"""Other shares of the classes than those a network was trained with, after training."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mmrs.utils.errors import ConfigError
from mmrs.utils.wrappers import unwrapped

from .binary import channel_offsets
from .decode_heads.hrda_head import classifying
from .widths import bands_of, run_once

__all__ = ['predicting_heads', 'shift_logits']

#: Side of the image, in pixels, on which the shift is tried, where the backbone takes any.
_SIDE = 64
#: How far a logit may be from where the shift should have put it, as a share of the greatest one: rounding errors.
_TOLERANCE = 1e-4


def predicting_heads(model: nn.Module) -> list[Any]:
    """The decode heads whose logits, or whose mean, are the prediction: of a cascade the last one alone.

    Raises:
        ConfigError: The model has no decode head.
    """
    heads = getattr(model, 'heads', None)
    if heads is not None:
        return [classifying(head) for head in heads]
    head = getattr(model, 'decode_head', None)
    if head is None:
        raise ConfigError(f'{type(model).__name__} has no decode_head, whose class prior could be changed')
    return [classifying(head[-1] if isinstance(head, nn.ModuleList) else head)]


@torch.no_grad()
def shift_logits(model: nn.Module, offsets: Sequence[float]) -> None:
    """Add a constant to the logits of each class, in place, by the bias of the layer that computes them.

    Prediction of whole images and by sliding windows, test-time augmentation and exported graphs follow without any
    code of their own, for resizing and averaging logits keep a constant. A trial on a small image makes sure of it.

    Args:
        model: The model, also wrapped. It must have its weights.
        offsets: One number for each class.

    Raises:
        ConfigError: The model is none with one logit for each class (or one for two), or a predicting head's last layer
            is no `conv_seg`; the model is as it was then.
    """
    model = unwrapped(model)
    by_class = torch.tensor(list(offsets), dtype=torch.float64)
    convolutions = []
    for head in predicting_heads(model):
        last = getattr(head, 'conv_seg', None)
        if not isinstance(last, _ConvNd):
            raise _unsuited(head, f'it has no convolution conv_seg ({type(last).__name__})')
        own = channel_offsets(by_class, last.out_channels)
        if len(own) != last.out_channels:
            raise _unsuited(head, f'its conv_seg has {last.out_channels} outputs, and there are {len(own)} classes')
        convolutions.append((last, last.bias, own.to(last.weight)))
    before = _logits(model)
    for last, bias, own in convolutions:
        last.bias = nn.Parameter(own if bias is None else bias + own, last.weight.requires_grad)
    after = _logits(model)
    moved, expected = (after - before).double(), channel_offsets(by_class, after.shape[1]).to(after.device)
    scale = max(1.0, float(before.abs().max()), float(after.abs().max()))
    # A layer that several heads share would have moved twice.
    if len(expected) != after.shape[1] or not (moved - expected[:, None, None]).abs().max() <= _TOLERANCE * scale:
        for last, bias, _ in convolutions:
            last.bias = bias
        raise _unsuited(predicting_heads(model)[-1], 'a bias of its conv_seg does not move its logits by as much')


def _logits(model: Any) -> Tensor:
    size = to_2tuple(getattr(model.backbone if hasattr(model, 'backbone') else None, 'img_size', _SIDE))
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
    try:
        return run_once(model, lambda image: model.encode_decode(image, [meta]), bands_of(model) or 3, size)
    except Exception as error:  # of any class: networks have their own ways to reject an image
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 200)
        raise ConfigError(
            f'{type(model).__name__}: its class prior cannot be changed, as it does not predict an image of zeros of '
            f'{size[0]} x {size[1]} px ({reason})'
        ) from error


def _unsuited(head: Any, why: str) -> ConfigError:
    return ConfigError(
        f'{type(head).__name__}: the class prior of a model is changed by the bias of conv_seg, the last layer of '
        f"mmseg's decode heads, but {why}. Predict without a class prior, or take a head that ends in conv_seg"
    )
