"""Binary segmentation by one output channel: mmseg's ``num_classes=2, out_channels=1, threshold=...``."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['channel_offsets', 'two_logits']


def two_logits(logits: Tensor) -> Tensor:
    """Logits with one channel per class.

    The sigmoid of z is the softmax of (0, z), so that everything made for a softmax serves.

    Args:
        logits: ``(N, K, H, W)``; with K = 1 those of the second of two classes.

    Returns:
        ``(N, 2, H, W)`` for K = 1, else `logits` itself.
    """
    return torch.cat((torch.zeros_like(logits), logits), 1) if logits.shape[1] == 1 else logits


def channel_offsets(offsets: Tensor, channels: int) -> Tensor:
    """From offsets by class ``(K,)`` to those by output channel: one channel for two classes has their difference."""
    return offsets[1:] - offsets[:1] if channels == 1 and len(offsets) == 2 else offsets
