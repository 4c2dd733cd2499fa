from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.sep_aspp_head import DepthwiseSeparableASPPModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import require_one_of

from ..recomputation import recomputed

__all__ = ['DAFormerHead']

_CONTEXT = dict(sepaspp=DepthwiseSeparableASPPModule, aspp=ASPPModule)


@MODELS.register_module()
class DAFormerHead(BaseDecodeHead):
    """DAFormer's head: features of all levels are fused with the context around each pixel.

    Each level is embedded by a linear layer and resized to the finest. Parallel convolutions of several dilations see
    all levels together; unlike in DeepLab, none of them pools the whole image. Parameters are named as in the authors'
    release, so that published checkpoints load.

    Convolutions of 1x1 commute with resizing: they run at the resolution of each level, and the results are added. What
    depthwise convolutions yield is computed again in the backward pass instead of kept.

    Args:
        in_channels: Channels of each level.
        channels: Channels of the fused map.
        embed_dims: Channels of an embedded level.
        fusion: ``sepaspp``, dilated convolutions separable in depth, which is the published head; ``aspp``, dense ones;
            ``conv1``, a 1x1 convolution, without context.
        context: ``all`` levels are seen with context, or the ``last`` alone, as the paper's ablation has it.
        dilations: Of the parallel convolutions; 1 stands for one of 1x1.
        **kwargs: As for every decode head; `in_index` has the levels, the finest first.

    Raises:
        ConfigError: There is no such `fusion` or `context`.

    Reference:
        Hoyer et al., DAFormer, arXiv 2111.14887, section 3.2 and table 7.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        embed_dims: int = 256,
        fusion: str = 'sepaspp',
        context: str = 'all',
        dilations: Sequence[int] = (1, 6, 12, 18),
        **kwargs: Any,
    ) -> None:
        require_one_of('decode_head.fusion', fusion, (*_CONTEXT, 'conv1'))
        require_one_of('decode_head.context', context, ('all', 'last'))
        super().__init__(in_channels, channels, input_transform='multiple_select', **kwargs)
        options = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        last = context == 'last' and fusion != 'conv1'
        embeddings: list[nn.Module] = [_embedding(width, embed_dims) for width in self.in_channels]
        if last:
            embeddings[-1] = _Context(self.in_channels[-1], embed_dims, fusion, dilations, options)
        self.embed_layers = nn.ModuleList(embeddings)
        width = embed_dims * len(self.in_channels)
        self.fuse_layer: nn.Module
        if last or fusion == 'conv1':
            self.fuse_layer = ConvModule(width, channels, 1, **options)
        else:
            self.fuse_layer = _Context(width, channels, fusion, dilations, options)
        for module in self.modules():  # in evaluation mode a convolution and its BatchNorm become one
            if isinstance(module, ConvModule):
                module.turn_on_efficient_conv_bn_eval()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Predict class logits.

        Args:
            inputs: Feature maps ``(N, C_i, H_i, W_i)``, the finest at the first of `in_index`.

        Returns:
            Logits ``(N, K, H_0, W_0)``.
        """
        maps = self._transform_inputs(inputs)
        levels = [self._embed(layer, level) for layer, level in zip(self.embed_layers, maps)]
        if isinstance(self.fuse_layer, _Context):
            return self.cls_seg(self.fuse_layer(levels, self.align_corners))
        return self.cls_seg(_pointwise(self.fuse_layer, levels, self.align_corners))

    def _embed(self, layer: nn.Module, level: Tensor) -> Tensor:
        if isinstance(layer, _Context):
            return layer([level], self.align_corners)
        # Channels last: what convolutions take without a copy.
        return layer(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _embedding(width: int, embed_dims: int) -> nn.Module:
    return nn.Sequential(OrderedDict(proj=nn.Linear(width, embed_dims)))


class _Context(nn.Module):
    """Parallel convolutions of several dilations, joined by one of 3x3."""

    def __init__(self, width: int, channels: int, fusion: str, dilations: Sequence[int], options: dict) -> None:
        super().__init__()
        self.dilations = tuple(dilations)
        self.aspp_modules = _CONTEXT[fusion](
            dilations=self.dilations, in_channels=width, channels=channels, conv_cfg=None, **options
        )
        self.bottleneck = ConvModule(len(self.dilations) * channels, channels, 3, padding=1, **options)

    def forward(self, levels: Sequence[Tensor], align_corners: bool) -> Tensor:
        """The joint map of levels ``(N, C_i, H_i, W_i)``, of the size of the first."""
        together = torch.cat(_resized(levels, levels[0], align_corners), dim=1)
        if together.device.type == 'cpu':
            # In bfloat16 and with channels last, oneDNN's gradients of kernels that are dilated and separable in depth
            # are not finite, or the process ends.
            together = together.contiguous()
        branches = [
            _pointwise(branch, levels, align_corners) if dilation == 1 else _dilated(branch, together)
            for dilation, branch in zip(self.dilations, self.aspp_modules)
        ]
        return self.bottleneck(torch.cat(branches, dim=1))


def _pointwise(module: Any, levels: Sequence[Tensor], align_corners: bool) -> Tensor:
    """A 1x1 convolution of the concatenation of levels, resized to the first, which never exists."""
    weights = module.conv.weight.split([level.shape[1] for level in levels], dim=1)
    maps = [F.conv2d(level, weight) for level, weight in zip(levels, weights)]
    out, *others = _resized(maps, maps[0], align_corners)
    for other in others:
        out = out.add_(other)
    if module.conv.bias is not None:  # where there is no norm layer
        out = out.add_(module.conv.bias[:, None, None])
    return module.activate(module.norm(out) if module.with_norm else out)


def _dilated(module: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(module, DepthwiseSeparableConvModule):
        return module(x)
    depthwise, pointwise = module.depthwise_conv, module.pointwise_conv
    # What a depthwise convolution yields is as large as all levels together, and cheap.
    out = recomputed(lambda x: pointwise.conv(depthwise(x)), x, depthwise)
    return pointwise.activate(pointwise.norm(out) if pointwise.with_norm else out)


def _resized(maps: Sequence[Tensor], like: Tensor, align_corners: bool) -> list[Tensor]:
    size = like.shape[2:]
    return [
        m if m.shape[2:] == size else F.interpolate(m, size, mode='bilinear', align_corners=align_corners) for m in maps
    ]
