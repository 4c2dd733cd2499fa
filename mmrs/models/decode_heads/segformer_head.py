from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import SegformerHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmrs.registry import MODELS


@MODELS.register_module()
class EfficientSegformerHead(SegformerHead):
    """MMSegmentation's SegFormer head, computed in less time and memory.

    Arguments, parameters, their names and results are those of `SegformerHead`, which resizes every level to the
    finest, concatenates them and applies a 1x1 fusion convolution. But the convolution commutes with resizing, both
    being linear and acting on different axes: here each level passes its own slice of the convolution at its own
    resolution, the resized results are added, and the concatenation of all levels never exists.

    Reference: SegFormer, https://arxiv.org/abs/2105.15203, section 3.2.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        for conv in self.convs:  # in eval mode a convolution and its BatchNorm become one
            conv.turn_on_efficient_conv_bn_eval()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Predict class logits.

        Args:
            inputs: Feature maps (N, C_i, H_i, W_i), the finest at the first of `in_index`.

        Returns:
            Logits (N, num_classes, H_0, W_0).
        """
        inputs = self._transform_inputs(inputs)
        size = inputs[0].shape[2:]
        fusion = self.fusion_conv
        out: Any = None
        for x, conv, weight in zip(inputs, self.convs, fusion.conv.weight.split(self.channels, dim=1)):
            x = conv(x.contiguous(memory_format=torch.channels_last))
            # The bias, present only without a norm layer, is added once: resizing does not change it.
            x = F.conv2d(x, weight, fusion.conv.bias if out is None else None)
            if x.shape[2:] != size:
                x = resize(x, size, mode=self.interpolate_mode, align_corners=self.align_corners)
            out = x if out is None else out.add_(x)
        if fusion.with_norm:
            out = fusion.norm(out)
        if isinstance(self.dropout, nn.Dropout2d) and self.dropout.training:
            # Scaling a channel by a number >= 0 commutes with the ReLU; before it, it needs no memory of its own.
            out = F.dropout2d(out, self.dropout.p, inplace=True)
        return self.conv_seg(fusion.activate(out))
