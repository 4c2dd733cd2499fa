from __future__ import annotations

import re
from collections.abc import Callable

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

_PYRAMID = (2, 4, 8)


def l2(first: Tensor, second: Tensor) -> Tensor:
    """Mean over the channels of the squared difference, ``(N, C, H, W)`` to ``(N, H, W)``."""
    return (first - second).square().mean(1)


def smooth_l1(first: Tensor, second: Tensor) -> Tensor:
    """Mean over the channels of ``d² / 2`` where the difference d is below 1, and of ``|d| - 1/2`` above."""
    return F.smooth_l1_loss(first, second, reduction='none').mean(1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """One minus the cosine of the angle between the channels' vectors, 0 to 2; a zero vector is at 1 from all."""
    return 1 - F.cosine_similarity(first, second, dim=1, eps=1e-3)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(l2=l2, smooth_l1=smooth_l1, cosine=cosine)
TOLERANCES = 'exact, local(K) with an odd K, pyramid, pyramid(S, ...), gram'


def parse_tolerance(text: str) -> tuple[str, tuple[int, ...]]:
    """``'local(3)'`` as ``('local', (3,))``.

    Raises:
        ConfigError: There is no such tolerance.
    """
    match = re.fullmatch(r'(\w+)(?:\(([\d, ]+)\))?', text)
    name = match[1] if match else ''
    numbers = tuple(int(number) for number in re.findall(r'\d+', match[2] or '')) if match else ()
    known = {
        'exact': not numbers,
        'gram': not numbers,
        'local': len(numbers) == 1 and numbers[0] % 2 == 1,
        'pyramid': all(number > 0 for number in numbers),
    }
    if not known.get(name):
        raise ConfigError(f'tolerance {text!r} is none of {TOLERANCES}')
    return name, numbers or (_PYRAMID if name == 'pyramid' else ())


@MODELS.register_module()
class FeatureRegressionLoss(nn.Module):
    """How far a student's feature map is from the reference's.

    The maps are compared as they come; :class:`FeatureRegression` normalises them before.

    Args:
        distance: ``l2``, ``smooth_l1`` or ``cosine``, see :func:`l2`, :func:`smooth_l1`, :func:`cosine`.
        tolerance: What misalignment of the two images is forgiven. All sizes count in pixels of the feature map, which
            are as many pixels of the image as the map's stride.

            - ``exact``: None. Pixels are compared one by one.
            - ``local(K)``: Each pixel of the student is compared with the pixel of the reference that it is closest to
              within K x K around it; shifts of up to (K - 1) / 2 cost nothing.
            - ``pyramid(S, ...)``: Means over cells of S x S pixels are compared, for each of the sizes; ``pyramid`` has
              2, 4 and 8.
            - ``gram``: Only the channels' products, averaged over all pixels, are compared: what there is, not where.

    Reference:
        Benbihi et al., Semi-Supervised Domain Adaptation with Representation Learning for Semantic Segmentation across
        Time, arXiv 1805.04141, has the regression between feature maps. Distances and tolerances are this project's.
    """

    def __init__(self, distance: str = 'smooth_l1', tolerance: str = 'exact') -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ConfigError(f'distance {distance!r} is none of {", ".join(DISTANCES)}')
        self.distance = DISTANCES[distance]
        self.kind, self.sizes = parse_tolerance(tolerance)

    def forward(self, student: Tensor, reference: Tensor, student_valid: Tensor, reference_valid: Tensor) -> Tensor:
        """Weighted mean of the distance, over the batch.

        Several processes have to call this at the same time. Each returns its own sum, divided by the weight of all
        and times their number: the mean over the processes, of losses as of gradients, is that of the whole batch.

        Args:
            student: Feature map ``(N, C, H, W)``.
            reference: The same of the reference, which gets no gradient.
            student_valid: ``(N, H, W)``, 0 to 1: the share of each pixel for which the student's image has data.
            reference_valid: The same for the reference's image.

        Returns:
            A scalar; 0 where no pixel is valid.
        """
        total, weight = self.sums(student, reference, student_valid, reference_valid)
        share = weight.sum()
        all_reduce(share, 'mean')
        return total.sum() / share.clamp(min=torch.finfo(share.dtype).tiny)

    def sums(
        self, student: Tensor, reference: Tensor, student_valid: Tensor, reference_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sum of the distance and sum of the weights for each image, ``(N,)``; arguments as ``forward``'s."""
        # Autocast would compute the channels' products in half precision.
        with torch.autocast(student.device.type, enabled=False):
            return self._sums(student, reference.detach(), student_valid, reference_valid)

    def _sums(
        self, student: Tensor, reference: Tensor, student_valid: Tensor, reference_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.kind == 'local':
            reference, found = _closest(self.distance, student, reference, reference_valid, self.sizes[0])
            weight = student_valid * found
        else:
            weight = student_valid * reference_valid
        if self.kind == 'pyramid':
            pairs = [_pooled(student, reference, weight, size) for size in self.sizes]
        elif self.kind == 'gram':
            pairs = [_grams(student, reference, weight)]
        else:
            pairs = [(student, reference, weight)]
        sums = [((self.distance(a, b) * w).flatten(1).sum(1), w.flatten(1).sum(1)) for a, b, w in pairs]
        if len(sums) == 1:
            return sums[0]
        # Each size counts alike, however many cells it has.
        tiny = torch.finfo(weight.dtype).tiny
        means = torch.stack([total / w.clamp(min=tiny) for total, w in sums]).mean(0)
        share = weight.flatten(1).mean(1)
        return means * share, share


@torch.no_grad()
def _closest(
    distance: Callable[[Tensor, Tensor], Tensor], student: Tensor, reference: Tensor, valid: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """For each pixel of the student the closest valid pixel around it in the reference, and how valid this one is."""
    radius = size // 2
    height, width = student.shape[-2:]
    padded = F.pad(reference, [radius] * 4)
    weight = F.pad(valid, [radius] * 4)
    # From the middle outwards, so that among equally close pixels the least shifted counts.
    offsets = sorted(
        ((dy, dx) for dy in range(size) for dx in range(size)),
        key=lambda offset: (offset[0] - radius) ** 2 + (offset[1] - radius) ** 2,
    )
    best = torch.full_like(valid, torch.inf, dtype=student.dtype)
    rows = torch.arange(height, device=student.device)[:, None]
    columns = torch.arange(width, device=student.device)
    # The middle stays where no candidate is valid, or the student's pixel is NaN, which must reach the loss.
    index = ((rows + radius) * padded.shape[-1] + columns + radius).expand(len(valid), -1, -1)
    for dy, dx in offsets:
        window = slice(dy, dy + height), slice(dx, dx + width)
        candidate = distance(student, padded[..., window[0], window[1]])
        candidate = candidate.masked_fill(weight[..., window[0], window[1]] == 0, torch.inf)
        closer = candidate < best
        best = torch.where(closer, candidate, best)
        index = torch.where(closer, (rows + dy) * padded.shape[-1] + columns + dx, index)
    flat = index.flatten(1)
    matched = padded.flatten(2).gather(2, flat[:, None].expand(-1, padded.shape[1], -1))
    found = weight.flatten(1).gather(1, flat).view_as(valid)
    return matched.view_as(student), found


def _pooled(first: Tensor, second: Tensor, weight: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of both maps over cells, and the sums of the weights in each cell."""
    kernel = [min(size, length) for length in weight.shape[-2:]]

    def pool(x: Tensor) -> Tensor:
        # With a divisor of 1 the average is a sum, also in the smaller cells at the right and at the bottom.
        return F.avg_pool2d(x, kernel, ceil_mode=True, divisor_override=1)

    total = pool(weight[:, None])
    share = total.clamp(min=torch.finfo(weight.dtype).tiny)
    return pool(first * weight[:, None]) / share, pool(second * weight[:, None]) / share, total[:, 0]


def _grams(first: Tensor, second: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means over the pixels of all products of two channels, ``(N, C², 1, 1)``, and the mean weights."""
    share = weight.flatten(1)
    normalised = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)

    def gram(x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return torch.bmm(flat * normalised[:, None], flat.transpose(1, 2)).flatten(1)[..., None, None]

    return gram(first), gram(second), share.mean(1)[:, None, None]
