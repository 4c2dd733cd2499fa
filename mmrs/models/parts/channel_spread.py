from __future__ import annotations

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


class ChannelSpread(nn.Module):
    """Running standard deviation of each channel of a feature map.

    It is the one of all batches so far, the later ones counting more: a batch counts 1 / n as the n-th, but no less
    than `momentum`. Pixels count by their validity; several processes measure together.

    Args:
        channels: C.
        momentum: 0 to 1.
        floor: A channel's variance counts as no less than this share of the mean over the channels, for a channel that
            is silent in the reference would drown all others.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, momentum: float = 0.01, floor: float = 1e-2) -> None:
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('variance', torch.ones(channels))
        self.register_buffer('batches', torch.zeros(()))

    @torch.no_grad()
    def update(self, features: Tensor, valid: Tensor) -> None:
        """Take a batch ``(N, C, H, W)`` of the reference's features and its ``(N, H, W)`` weights into account."""
        weight = valid[:, None]
        sums = torch.cat(((features * weight).sum((0, 2, 3)), weight.sum().view(1)))
        all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count.clamp(min=torch.finfo(count.dtype).tiny)
        squares = ((features - mean[:, None, None]).square() * weight).sum((0, 2, 3))
        all_reduce(squares)
        variance = squares / count.clamp(min=torch.finfo(count.dtype).tiny)

        # A batch without a valid pixel changes nothing.
        some = (count > 0).to(count.dtype)
        self.batches += some
        share = some * (1 / self.batches.clamp(min=1)).clamp(min=self.momentum)
        offset = mean - self.mean
        self.mean += share * offset
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * offset.square())

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(N, C, H, W)`` in units of the running standard deviation."""
        least = self.floor * self.variance.mean()
        return features / self.variance.clamp(min=least + torch.finfo(least.dtype).tiny).sqrt()[:, None, None]
