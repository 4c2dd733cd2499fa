from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmseg.models.backbones import ResNetV1c as MMSegResNetV1c
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmrs.registry import MODELS


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation uses the statistics of the batch and leaves its running ones as they are."""
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


class _RecomputedBlock(nn.Module):
    """A residual block whose activations, `with_cp`, are computed again in the backward pass instead of kept."""

    def __init__(self, *args: Any, with_cp: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recomputed = with_cp

    def forward(self, x: Tensor) -> Tensor:
        if not (self.recomputed and torch.is_grad_enabled()):
            return super().forward(x)

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), _statistics_kept(self)  # the forward pass has updated the running statistics

        return checkpoint(super().forward, x, use_reentrant=False, context_fn=contexts)


class RecomputedBasicBlock(_RecomputedBlock, BasicBlock):
    """The block of ResNet-18 and ResNet-34."""


class RecomputedBottleneck(_RecomputedBlock, Bottleneck):
    """The block of the deeper ResNets."""


@MODELS.register_module()
class ResNetV1c(MMSegResNetV1c):
    """MMSegmentation's ResNetV1c, with activation checkpointing that changes no result.

    MMSegmentation's `with_cp` updates the running statistics of batch normalisation a second time in the backward pass.
    """

    arch_settings = {
        depth: (RecomputedBasicBlock if block is BasicBlock else RecomputedBottleneck, numbers)
        for depth, (block, numbers) in MMSegResNetV1c.arch_settings.items()
    }

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that it returns."""
        return tuple(self.base_channels * 2**stage * self.block.expansion for stage in sorted(self.out_indices))
