from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError, require_number

__all__ = ['AugmentationDraws', 'StrongAugmentation', 'colour_jitter', 'gaussian_blur']

#: Colour changes by their numbers in an order.
_CHANGES = ('brightness', 'contrast', 'saturation', 'hue')

#: Smallest and largest sigma of the blur, in pixels.
_SIGMA = (0.15, 1.15)


class AugmentationDraws(NamedTuple):
    """What was drawn for a batch of N images.

    Attributes:
        order: The four colour changes in the order in which they are made, by their numbers: 0 brightness, 1 contrast,
            2 saturation, 3 hue; None: the colours stay.
        factors: ``(4, N)``: brightness, contrast and saturation around 1, hue in turns around 0.
        sigma: ``(N,)``, of the blur, in pixels; None: no blur.
    """

    order: Sequence[int] | None
    factors: Tensor
    sigma: Tensor | None


def _hue_and_saturation(rgb: Tensor, factor: Tensor | float, turns: Tensor | float) -> Tensor:
    """Multiply the saturation of images ``(N, 3, H, W)``, 0 to 1, and turn their hue."""
    value, low = rgb.amax(1), rgb.amin(1)
    span = value - low
    saturation = (span / value.clamp(min=1e-8) * factor).clamp(0, 1)
    red, green, blue = rgb.unbind(1)
    sixths = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * span, red - green + 4 * span),
    ) / span.clamp(min=1e-8)
    chroma, sixths = value * saturation, sixths + 6 * turns
    # A band is at its lowest for a third of the circle, at its highest for another one, and linear between.
    bands = [(sixths + shift) % 6 for shift in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(band, 4 - band).clamp(0, 1) for band in bands], 1)


def colour_jitter(images: Tensor, order: Sequence[int], factors: Tensor, rgb: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Change brightness and contrast of all bands, saturation and hue of three of them.

    Args:
        images: ``(N, C, H, W)``, 0 to 1; what is outside is cut off.
        order: See :class:`AugmentationDraws`, as for the next one.
        factors: Likewise.
        rgb: The bands red, green and blue; empty: there are none.

    Returns:
        ``(N, C, H, W)``, 0 to 1. Brightness adds its factor less 1, contrast multiplies, and saturation and hue are
        those of the HSV space, as in the releases of DACS and DAFormer.
    """
    images = images.clamp(0, 1)
    own = dict(zip(_CHANGES, factors[:, :, None, None].to(images).unbind()))  # (N, 1, 1) each
    for change in (_CHANGES[i] for i in order):
        if change == 'brightness':
            images = (images + (own[change][:, None] - 1)).clamp_(0, 1)
        elif change == 'contrast':
            images = (images * own[change][:, None]).clamp_(0, 1)
        elif rgb:
            factor, turns = (own[change], 0) if change == 'saturation' else (1, own[change])
            changed = _hue_and_saturation(images[:, list(rgb)], factor, turns)
            images = changed if images.shape[1] == 3 and list(rgb) == [0, 1, 2] else _with(images, rgb, changed)
    return images


def _with(images: Tensor, bands: Sequence[int], values: Tensor) -> Tensor:
    images = images.clone()
    images[:, list(bands)] = values
    return images


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images ``(N, C, H, W)``, each by its own sigma ``(N,)`` in pixels.

    The kernel is the largest of odd size within a tenth of each side, rounded up, but no wider than the weights are
    above 1e-10 for the largest sigma that is drawn.
    """
    number, bands, height, width = images.shape
    maps = images.reshape(1, number * bands, height, width)
    for axis, side in ((2, height), (3, width)):
        radius = min((math.ceil(side / 10) - 1) // 2, math.ceil(7 * _SIGMA[1]))
        if radius < 1:
            continue
        distance = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.softmax(-(distance**2) / (2 * sigma.to(images)[:, None] ** 2), 1)
        shape, pad = [1, 1, 1, 1], [0, 0, 0, 0]
        shape[axis], pad[2 * (3 - axis) : 2 * (3 - axis) + 2] = -1, [radius, radius]
        kernel = kernel.repeat_interleave(bands, 0).view(number * bands, *shape[1:])
        maps = F.conv2d(F.pad(maps, pad, mode='reflect'), kernel, groups=number * bands)
    return maps.view_as(images)


class StrongAugmentation:
    """Colour jitter and blur of the images that a student learns pseudo-labels on.

    Whether the colours of a batch change is drawn once for all its images, and so are the order of changes and whether
    it is blurred; how much is drawn for each image. All is drawn from torch's generator of the CPU, whose state a
    checkpoint holds.

    Args:
        jitter: Strength s: brightness, contrast and saturation are multiplied by up to 1 + s, and the hue is turned by
            up to s turns.
        jitter_probability: How often the colours of a batch change.
        blur_probability: How often a batch is blurred, by a sigma of 0.15 to 1.15 px.
        rgb: Which bands are red, green and blue, or stand for them: of these alone, saturation and hue change. Empty:
            none; None: the bands of images that have three of them.

    Raises:
        ConfigError: A number is out of its range.

    Reference:
        Tranheden et al., DACS, arXiv 2007.08702, section 4; Hoyer et al., DAFormer, arXiv 2111.14887.
    """

    def __init__(
        self,
        jitter: float = 0.25,
        jitter_probability: float = 0.8,
        blur_probability: float = 0.5,
        rgb: Sequence[int] | None = None,
    ) -> None:
        require_number('augmentation.jitter', jitter, at_least=0, at_most=0.5)
        require_number('augmentation.jitter_probability', jitter_probability, at_least=0, at_most=1)
        require_number('augmentation.blur_probability', blur_probability, at_least=0, at_most=1)
        if rgb is not None and len(set(rgb)) not in (0, 3):
            raise ConfigError(f'augmentation.rgb is {rgb!r}; the numbers of three bands were expected, or none')
        self.jitter, self.rgb = jitter, rgb
        self.jitter_probability, self.blur_probability = jitter_probability, blur_probability

    def draw(self, number: int) -> AugmentationDraws:
        """Draw what happens to a batch of so many images."""
        changes, blurs = (torch.rand(2) < torch.tensor([self.jitter_probability, self.blur_probability])).tolist()
        factors = self.jitter * (2 * torch.rand(4, number) - 1) + torch.tensor([[1.0], [1.0], [1.0], [0.0]])
        order = torch.randperm(4).tolist() if changes else None
        sigma = torch.empty(number).uniform_(*_SIGMA)
        return AugmentationDraws(order, factors, sigma if blurs else None)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, preprocessor: Any, domain: str, draws: AugmentationDraws | None = None
    ) -> Tensor:
        """Augmented images.

        Args:
            images: ``(N, C, H, W)``, normalised.
            preprocessor: The :class:`DomainAdaptationDataPreprocessor`, which knows the range of values.
            domain: Whose mean, deviation and range of values hold.
            draws: What was drawn; None: see :meth:`draw`.

        Raises:
            ConfigError: `rgb` names a band that is not there.
        """
        bands = images.shape[1]
        rgb = self.rgb if self.rgb is not None else (0, 1, 2) if bands == 3 else ()
        if rgb and not 0 <= min(rgb) <= max(rgb) < bands:
            raise ConfigError(f'augmentation.rgb is {rgb!r}, but images have {bands} bands, 0 to {bands - 1}')
        order, factors, sigma = draws or self.draw(len(images))
        with torch.autocast(images.device.type, enabled=False):  # half precision is too coarse for colours
            if order is not None:
                factors = factors.to(images.device, non_blocking=True)
                images = colour_jitter(preprocessor.denormalize(images, domain), order, factors, rgb)
                images = preprocessor.normalize(images, domain)
            if sigma is not None:
                images = gaussian_blur(images, sigma.to(images.device, non_blocking=True))
        return images
