from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require, require_number

__all__ = [
    'Box',
    'MultiResolutionBackbone',
    'MultiResolutionFeatures',
    'multi_resolution',
    'per_resolution',
    'sliding_boxes',
]


class Box(NamedTuple):
    """A part of an image, in pixels: rows `top` to `bottom`, columns `left` to `right`, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, maps: Tensor, stride: int = 1) -> Tensor:
        """That part of maps ``(..., H / stride, W / stride)``."""
        top, bottom, left, right = (side // stride for side in self)
        return maps[..., top:bottom, left:right]

    def insert(self, part: Tensor, size: Sequence[int], stride: int = 1) -> Tensor:
        """Maps ``(..., *size)`` that have `part` there and 0 elsewhere."""
        top, bottom, left, right = (side // stride for side in self)
        return F.pad(part, (left, size[1] - right, top, size[0] - bottom))


class MultiResolutionFeatures(list[Tensor]):
    """Stages of images at half of their size, the context; and, for who asks, those of parts at full size, the detail.

    It is a list of the context's stages: whoever knows nothing of a detail sees these alone, and the detail is never
    computed.

    Args:
        context: Stages ``(N, C_i, H_i, W_i)``.
        compute_detail: From boxes to the stages of these parts of the images ``(boxes * N, C_i, h_i, w_i)``, all images
            of the first box before those of the second.
        boxes: Parts that make up the detail: one, or in a slide as many as cover the images.
        slide: Whether they cover the images.
        size: Height and width in pixels of the images, rounded up to whole strides.
        image_size: Those of the images themselves.
        stride: Pixels of the image for each logit of a detail.
    """

    def __init__(
        self,
        context: Sequence[Tensor],
        compute_detail: Callable[[Sequence[Box]], list[Tensor]],
        boxes: Sequence[Box],
        slide: bool,
        size: Sequence[int],
        image_size: Sequence[int],
        stride: int,
    ) -> None:
        super().__init__(context)
        self._compute_detail, self._with_graph = compute_detail, torch.is_grad_enabled()
        self.boxes, self.slide = tuple(boxes), slide
        self.size, self.image_size, self.stride = size, image_size, stride

    @functools.cached_property
    def detail(self) -> list[Tensor]:
        """Stages of the parts; see `compute_detail`."""
        return self._compute(self.boxes)

    def detail_in(self, boxes: Sequence[Box]) -> list[Tensor]:
        """Those of other parts."""
        return self.detail if tuple(boxes) == self.boxes else self._compute(boxes)

    def _compute(self, boxes: Sequence[Box]) -> list[Tensor]:
        # Who asks first may be a teacher, and who asks next a student that learns from the same features.
        with torch.set_grad_enabled(self._with_graph):
            return self._compute_detail(boxes)

    def with_stages(
        self, context: Sequence[Tensor], compute_detail: Callable[[Sequence[Box]], list[Tensor]]
    ) -> MultiResolutionFeatures:
        """Other stages of the same images and parts."""
        return MultiResolutionFeatures(
            context, compute_detail, self.boxes, self.slide, self.size, self.image_size, self.stride
        )


def per_resolution(run: Callable[..., tuple[list[Tensor], ...]], *features: Any) -> tuple[Any, ...]:
    """Run what makes stages of several backbones' stages of the same images, as a neck does, at either resolution.

    Args:
        run: From the stages of each backbone to as many lists of stages.
        *features: Of each backbone: `MultiResolutionFeatures`, of which the first one's boxes are taken; or plain
            stages, which are just passed on.

    Returns:
        What `run` returns, with a detail if `features` have one.
    """
    context = run(*features)
    first = features[0]
    if not isinstance(first, MultiResolutionFeatures):
        return context

    @functools.cache
    def detail(boxes: tuple[Box, ...]) -> tuple[list[Tensor], ...]:
        return run(*(own.detail_in(boxes) for own in features))

    def of(i: int, boxes: Sequence[Box]) -> list[Tensor]:
        return detail(tuple(boxes))[i]

    return tuple(first.with_stages(stages, functools.partial(of, i)) for i, stages in enumerate(context))


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def sliding_boxes(size: Sequence[int], window: Sequence[int]) -> list[Box]:
    """Windows that cover an image, row by row, each half a window further; the last ones are shifted inwards."""
    starts = []
    for side, own in zip(size, window):
        step = max(own // 2, 1)
        starts.append([min(i * step, side - own) for i in range(math.ceil((side - own) / step) + 1)])
    return [Box(top, top + window[0], left, left + window[1]) for top in starts[0] for left in starts[1]]


class MultiResolutionBackbone:
    """What a backbone of several resolutions has beside its plain class; see :func:`multi_resolution`."""

    detail_size: tuple[int, int] | None
    stride: int
    training: bool

    def forward(self, images: Tensor) -> MultiResolutionFeatures:
        """Encode images ``(N, C, H, W)``."""
        if torch.onnx.is_in_onnx_export():
            raise ConfigError(
                'a network of several resolutions cannot be exported, for its windows depend on the size of the image: '
                'predict in PyTorch, or export a network with one resolution that this has taught'
            )
        image_size = images.shape[-2], images.shape[-1]
        # A logit of the context stands for two strides, and the detail is one half of the image if nothing is said.
        unit = 2 * self.stride
        height, width = size = tuple(_rounded_up(side, unit if self.detail_size else 2 * unit) for side in image_size)
        images = F.pad(images, (0, width - image_size[1], 0, height - image_size[0]))
        window = [min(own, side) for own, side in zip(self.detail_size or (height // 2, width // 2), size)]
        if self.training:  # what was padded has no labels
            window = [min(own, side // unit * unit) for own, side in zip(window, image_size)]
            boxes = [self._draw_box(image_size, window)]
        else:
            boxes = sliding_boxes(size, window)
        # Bilinear interpolation to one half is the mean of four pixels.
        context = self.encode(F.avg_pool2d(images, 2))
        detail = functools.partial(self._encode_parts, images)
        return MultiResolutionFeatures(context, detail, boxes, not self.training, size, image_size, self.stride)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The plain backbone's stages of images ``(N, C, H, W)``."""
        return list(super().forward(images))  # type: ignore[misc]

    def _encode_parts(self, images: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
        return self.encode(torch.cat([box.crop(images) for box in boxes]))

    def _draw_box(self, size: Sequence[int], window: Sequence[int]) -> Box:
        unit = 2 * self.stride
        top, left = (unit * self.draw((side - own) // unit + 1) for side, own in zip(size, window))
        return Box(top, top + window[0], left, left + window[1])

    def draw(self, number: int) -> int:
        """One of the numbers from 0 to `number` - 1, by torch's generator on the CPU."""
        return int(torch.randint(number, ())) if number > 1 else 0


@functools.cache
def _class_on(base: type) -> type:
    """A subclass of a backbone, so that weights, modes and options are the backbone's own."""
    return type(f'MultiResolution{base.__name__}', (MultiResolutionBackbone, base), {})


@MODELS.register_module(name='MultiResolution')
def multi_resolution(base: str, detail_size: int | None = None, stride: int = 4, **backbone: Any) -> nn.Module:
    """A backbone that sees the whole images at half their size, and parts of them at full size: HRDA's encoder.

    In training mode the detail is one part, drawn at random, the same for all images of a batch; in evaluation mode,
    which is a teacher's too, windows slide over the images by half their size. Weights are those of the plain backbone,
    by the same names. It takes :class:`HRDAHead` to make something of the detail; all else sees the context.

    Args:
        base: Type of the backbone.
        detail_size: Side of the parts in pixels; None: half of the image's height and width.
        stride: Pixels of the image for each logit of the decode head.
        **backbone: Arguments of the backbone.

    Returns:
        The backbone; its forward returns :class:`MultiResolutionFeatures`.

    Raises:
        ConfigError: There is no such backbone, or a number makes no sense.

    Reference:
        Hoyer et al., HRDA: Context-Aware High-Resolution Domain-Adaptive Semantic Segmentation, arXiv 2204.13132,
        sections 3.2 and 3.4.
    """
    require_number('backbone.stride', stride, at_least=1)
    if detail_size is not None:
        require_number('backbone.detail_size', detail_size, at_least=1)
        fits = detail_size % (2 * stride) == 0
        require(fits, 'backbone.detail_size', detail_size, f'a multiple of {2 * stride} px, two strides,')
    kind = MODELS.get(base)
    require(isinstance(kind, type), 'backbone.base', base, 'the type of a backbone, such as EfficientMiT,')
    built = _class_on(kind)(**backbone)
    built.detail_size = None if detail_size is None else (detail_size, detail_size)
    built.stride = stride
    return built
