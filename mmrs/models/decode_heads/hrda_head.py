from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number

from ..backbones.multi_resolution import Box, MultiResolutionFeatures
from ..losses.head_loss import FusedLogits, head_loss

__all__ = ['HRDAHead', 'average', 'classifying', 'fuse']


def fuse(context: Tensor, detail: Tensor, attention: Tensor, box: Box | None, stride: int = 4) -> Tensor:
    """Logits of the whole image, of those of its context and of its detail, by a weight of the latter.

    Args:
        context: ``(N, K, h, w)``.
        detail: Those of the part in `box`, at twice the resolution; without a box ``(N, K, 2 h, 2 w)``.
        attention: Weight of the detail, ``(N, K, h, w)`` or ``(N, 1, h, w)``, 0 to 1. Outside of the box it is 0.
        box: The part of the image; None: the detail is of all of it.
        stride: Pixels of the image for each logit of the detail.

    Returns:
        ``(N, K, 2 h, 2 w)``.

    Reference:
        HRDA, arXiv 2204.13132, equations 7 to 9.
    """
    size = context.shape[-2] * 2, context.shape[-1] * 2
    if box is not None:
        attention = box.insert(box.crop(attention, 2 * stride), context.shape[-2:], 2 * stride)
    coarse = _doubled((1 - attention) * context)
    attention = _doubled(attention)
    if box is None:
        return coarse + attention * detail
    return coarse + box.insert(box.crop(attention, stride) * detail, size, stride)


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode='bilinear', align_corners=False)


def average(windows: Tensor, boxes: Sequence[Box], size: Sequence[int], stride: int = 4) -> Tensor:
    """Mean of overlapping windows.

    Args:
        windows: Logits ``(boxes * N, K, h, w)``, all images of the first box before those of the second.
        boxes: Where each is in the image; together they cover it.
        size: Height and width of the image in pixels.
        stride: Pixels of the image for each logit.

    Returns:
        ``(N, K, H / stride, W / stride)``.
    """
    parts = windows.view(len(boxes), -1, *windows.shape[1:])
    total = windows.new_zeros(*parts.shape[1:3], *(side // stride for side in size))
    count = windows.new_zeros(total.shape[-2:])
    for box, part in zip(boxes, parts):
        box.crop(total, stride).add_(part)
        box.crop(count, stride).add_(1)
    return total / count


@MODELS.register_module()
class HRDAHead(BaseDecodeHead):
    """HRDA's head: the same decode head on context and detail of an image, and an attention that joins the two.

    Its weights are ``head.*`` and ``scale_attention.*``, as in the authors' release. On a part of the image, as in
    training, it returns :class:`FusedLogits`, of which :func:`head_loss` makes the loss of both.

    Args:
        base: Type of the decode head.
        attention: What the attention, a decode head too, has other than that; `type` among it.
        detail_weight: Share of the detail's own loss in the loss, 0 to 1.
        **head: Arguments of the decode head.

    Raises:
        ConfigError: A backbone of one resolution.

    Reference:
        Hoyer et al., HRDA: Context-Aware High-Resolution Domain-Adaptive Semantic Segmentation, arXiv 2204.13132,
        section 3.3.
    """

    def __init__(self, base: str, attention: dict | None = None, detail_weight: float = 0.1, **head: Any) -> None:
        require_number('decode_head.detail_weight', detail_weight, at_least=0, below=1)
        both = MODELS.build({**head, 'type': base})
        known = inspect.signature(BaseDecodeHead).parameters
        own = {key: value for key, value in head.items() if key in known}
        own.update(channels=both.channels, dropout_ratio=0, input_transform=both.input_transform, init_cfg=None)
        super().__init__(**own)
        del self.conv_seg  # the parts have one each
        self.head = both
        self.scale_attention = MODELS.build({**head, 'type': base, **(attention or {})})
        self.detail_weight = detail_weight

    def forward(self, inputs: MultiResolutionFeatures) -> Tensor:
        """Predict class logits ``(N, K, H / stride, W / stride)`` of the images, rounded up."""
        if not isinstance(inputs, MultiResolutionFeatures):
            raise ConfigError(
                'model.decode_head is an HRDAHead, which needs the features of a backbone of several resolutions: set '
                "model.backbone.base to the backbone's type and model.backbone.type to 'MultiResolution', without a "
                'neck behind it'
            )
        stride, boxes = inputs.stride, inputs.boxes
        context, attention = self.head(inputs), self.scale_attention(inputs).sigmoid()
        detail = self.head(inputs.detail)
        self._require_stride(detail, boxes[0], stride)
        whole = average(detail, boxes, inputs.size, stride) if inputs.slide else detail
        fused = fuse(context, whole, attention, None if inputs.slide else boxes[0], stride)
        height, width = (math.ceil(side / stride) for side in inputs.image_size)
        fused = fused[..., :height, :width]
        return fused if inputs.slide else FusedLogits.of(fused, detail, boxes[0].crop, self.detail_weight)

    @staticmethod
    def _require_stride(detail: Tensor, box: Box, stride: int) -> None:
        sides = box.bottom - box.top, box.right - box.left
        if [side * stride for side in detail.shape[-2:]] != list(sides):
            raise ConfigError(
                f'a part of {sides[0]} x {sides[1]} px has {detail.shape[-2]} x {detail.shape[-1]} logits, but '
                f'model.backbone.stride is {stride}: set it to what decode_head.base has, which must divide them'
            )

    def loss(self, inputs: Any, batch_data_samples: list[SegDataSample], train_cfg: Any) -> dict[str, Tensor]:
        """The loss as mmseg's encoder-decoder asks for it: ``loss_seg``."""
        labels = torch.cat([sample.gt_sem_seg.data for sample in batch_data_samples])
        return dict(loss_seg=head_loss(self, self(inputs), labels))


def classifying(head: Any) -> Any:
    """The part of a decode head whose `conv_seg` classifies: nearly always itself, else the head of all resolutions."""
    return head.head if isinstance(head, HRDAHead) else head
