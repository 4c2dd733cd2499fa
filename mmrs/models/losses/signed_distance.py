from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils.errors import require_number

__all__ = ['SignedDistanceLoss', 'signed_distances']

# More than any distance that counts.
_FAR = 1e6


@MODELS.register_module()
class SignedDistanceLoss(nn.Module):
    r"""Lets a head learn how far each pixel is from the boundary of each class, inside of it and outside.

    .. math:: L = \frac{1}{N K H W} \sum_{i, k} c_{ik} \, v_i \, |z_{ik} - d_{ik} / t|

    where :math:`d_{ik}`, cut at :math:`\pm t`, is the distance of pixel i from the boundary of class k in pixels,
    positive inside, and :math:`c_{ik}` is 1 where that is known, see :func:`signed_distances`; else 0. It is for an
    auxiliary head: the structure of what the labels show is learnt by the features, and prediction costs nothing more.

    Args:
        truncation: t, pixels. What is further from a boundary counts as that far.
        loss_weight: Factor on the result.
        loss_name: Key in mmseg's loss dict; has to start with ``loss_``.

    Shape:
        - logits: ``(N, K, H, W)``, the distances in units of t; with K = 1 those of the second of two classes
        - label: ``(N, H, W)``, class indices or ``ignore_index``
        - weight: ``(N, H, W)``, non-negative; optional
        - output: scalar

    Raises:
        ConfigError: A number out of its range.
    """

    def __init__(self, truncation: float = 10.0, loss_weight: float = 0.1, loss_name: str = 'loss_distance') -> None:
        super().__init__()
        # The time that a distance takes grows with t.
        require_number('truncation', truncation, at_least=1, at_most=64, unit='pixels')
        require_number('loss_weight', loss_weight, at_least=0)
        self.truncation, self.loss_weight, self.loss_name = float(truncation), loss_weight, loss_name

    def forward(
        self, logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **_: object
    ) -> Tensor:
        """Compute the loss; see the class for shapes."""
        channels = logits.shape[1]
        distances, known = signed_distances(label, max(channels, 2), self.truncation, ignore_index)
        loss = (logits - (distances / self.truncation)[:, -channels:].to(logits.dtype)).abs() * known[:, -channels:]
        return self.loss_weight * (loss if weight is None else loss * weight[:, None]).mean()


@torch.no_grad()
def signed_distances(label: Tensor, classes: int, truncation: float, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """How far pixels are from the boundaries of classes.

    A boundary runs between pixels: of two neighbours, one of a class and one of another, the distances from it are 0.5
    and -0.5. What pixels without label are, and those outside of the image, is unknown; so is a distance that depends
    on it. What is known is therefore the same in a crop of the image, and in one that is flipped, as in the whole.

    Args:
        label: ``(N, H, W)``, class indices or `ignore_index`.
        classes: K.
        truncation: Distance in pixels at which the result is cut.
        ignore_index: The label that does not count.

    Returns:
        ``(N, K, H, W)`` float32 distances, positive inside a class, -truncation to truncation; and ``(N, K, H, W)``
        bool, whether they are known.
    """
    index = torch.arange(classes, device=label.device)[:, None, None]
    inside = label[:, None] == index
    to_class = _distances(inside, truncation, outside=False)
    to_unknown = _distances((label == ignore_index)[:, None], truncation, outside=True)
    # Of a pixel of class k, the distance to what is no k: the least but its own, which is 0.
    nearest = to_class.topk(2, dim=1, largest=False).values[:, 1:]
    distance = torch.where(inside, nearest, to_class) - 0.5
    # Nearer than the nearest unknown pixel, or both too far to count. An unknown pixel itself is 0 from one.
    known = (distance.clamp(max=truncation) <= to_unknown - 0.5) & (to_unknown > 0)
    distance = distance.clamp(max=truncation)
    return torch.where(inside, distance, -distance), known


def _distances(there: Tensor, truncation: float, outside: bool) -> Tensor:
    """Euclidean distance of each pixel to the nearest of some, ``(N, M, H, W)``; of no meaning beyond truncation + 1.

    Two passes, along rows and along columns, are exact: a squared distance is the sum of those of the two axes. On a
    GPU this costs less than the way to the CPU and back.

    Args:
        there: ``(N, M, H, W)`` bool.
        truncation: Pixels.
        outside: Whether the pixels outside of the image are such pixels.
    """
    reach = math.ceil(truncation) + 1
    squares = torch.where(there, 0.0, _FAR)
    for axis in (-1, -2):
        size = squares.shape[axis]
        padded = _pad(squares, axis, reach, 0.0 if outside else _FAR)
        squares = padded.narrow(axis, reach, size).clone()
        for step in range(1, reach + 1):
            for start in (reach - step, reach + step):
                torch.minimum(squares, padded.narrow(axis, start, size) + step**2, out=squares)
    return squares.sqrt_()


def _pad(values: Tensor, axis: int, reach: int, value: float) -> Tensor:
    sides = (reach, reach) if axis == -1 else (0, 0, reach, reach)
    return nn.functional.pad(values, sides, value=value)
