"""Changes of an image under which a map should stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.models.parts.strong_augmentation import gaussian_blur

__all__ = ['CHANGES', 'GEOMETRIC', 'OUTSIDE', 'PHOTOMETRIC', 'Change']

#: Probability of every class where a changed image shows nothing of the image itself.
OUTSIDE = -1.0
#: Rows and columns by which a window is moved: no multiple of a network's strides.
_SHIFT = (20, 12)
_SCALE = 0.75


class Change(NamedTuple):
    """A change of images, and what takes it back from maps.

    Attributes:
        apply: From images ``(N, C, H, W)`` to changed ones; of photometric changes, with values from 0 to 1.
        undo: From the maps ``(N, K, h, w)`` of changed images and the size of the image to maps ``(N, K, H, W)``,
            with ``OUTSIDE`` where there are none.
    """

    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor, torch.Size], Tensor]


def _in_place(maps: Tensor, size: torch.Size) -> Tensor:
    return maps


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode='bilinear', align_corners=False)


def _scaled(images: Tensor) -> Tensor:
    size = [max(1, round(side * _SCALE)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode='bilinear', align_corners=False, antialias=True)


def _shift(size: Sequence[int]) -> list[int]:
    # Less than half of the image: the rest is mirrored to keep its size, and networks take no image of any size.
    return [min(shift, (side - 1) // 2) for shift, side in zip(_SHIFT, size)]


def _moved(images: Tensor) -> Tensor:
    rows, columns = _shift(images.shape[-2:])
    return F.pad(images[..., rows:, columns:], (0, columns, 0, rows), mode='reflect')


def _moved_back(maps: Tensor, size: torch.Size) -> Tensor:
    rows, columns = _shift(size)
    return F.pad(maps[..., : size[0] - rows, : size[1] - columns], (columns, 0, rows, 0), value=OUTSIDE)


def _blurred(images: Tensor) -> Tensor:
    return gaussian_blur(images, images.new_ones(len(images)))


#: Changes that move pixels. All that training does with images it does alike for every candidate: flips and turns.
GEOMETRIC: dict[str, Change] = dict(
    flip=Change(lambda images: images.flip(-1), lambda maps, _: maps.flip(-1)),
    vertical_flip=Change(lambda images: images.flip(-2), lambda maps, _: maps.flip(-2)),
    quarter_turn=Change(lambda images: images.rot90(1, (-2, -1)), lambda maps, _: maps.rot90(-1, (-2, -1))),
    shift=Change(_moved, _moved_back),
    scale=Change(_scaled, _resized),
)
#: Changes of values. Candidates that were trained with strong changes of colour stand them, right or wrong.
PHOTOMETRIC: dict[str, Change] = dict(
    gamma=Change(lambda images: images.clamp(min=0) ** 1.25, _in_place),
    brightness=Change(lambda images: images + 0.08, _in_place),
    contrast=Change(lambda images: (images - 0.5) * 0.92 + 0.5, _in_place),
    blur=Change(_blurred, _in_place),
)
CHANGES: dict[str, Change] = {**GEOMETRIC, **PHOTOMETRIC}
