from __future__ import annotations

from typing import Any

from mmseg.models.backbones import ResNetV1c as MMSegResNetV1c
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mmrs.registry import MODELS

from ..recomputation import recomputed


class _RecomputedBlock(nn.Module):
    """A residual block whose activations, `with_cp`, are computed again in the backward pass instead of kept."""

    def __init__(self, *args: Any, with_cp: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recomputed = with_cp

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(super().forward, x, self) if self.recomputed else super().forward(x)


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
