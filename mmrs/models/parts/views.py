"""Two views of the same ground, which know where it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError, require_number, require_one_of

from .strong_augmentation import gaussian_blur

__all__ = [
    'KINDS',
    'Places',
    'RandomViews',
    'View',
    'ViewColours',
    'cell_size',
    'centres',
    'inverse',
    'move',
    'places_of',
    'read_at',
    'then',
]

#: Where the second view comes from: the same window, as a part of it that shows other ground too, or the other domain.
KINDS = ('same', 'near', 'other')

#: Parts of a window that are drawn for a view, of which the first good one is taken.
_TRIES = 16
#: Side of the lattice of pixels by which it is seen how much of a part has data.
_LATTICE = 8


# Affine maps ----------------------------------------------------------------------------------------------------------
# ``(N, 2, 3)``. Places are x (to the right) and y (down), in pixels from the outer edge: the first pixel's centre is
# 0.5, and a map of another resolution has the same places, divided by its stride.


def move(affine: Tensor, places: Tensor) -> Tensor:
    """Where places ``(N, M, 2)`` come to by maps ``(N, 2, 3)``."""
    return places @ affine[..., :2].mT + affine[..., 2].unsqueeze(-2)


def then(first: Tensor, second: Tensor) -> Tensor:
    """The map ``(N, 2, 3)`` that does one after the other."""
    return torch.cat([second[..., :2] @ first[..., :2], move(second, first[..., 2:].mT).mT], -1)


def inverse(affine: Tensor) -> Tensor:
    """The map back, by Cramer's rule: exact enough, and nothing waits for a device."""
    (a, b, c), (d, e, f) = (row.unbind(-1) for row in affine.unbind(-2))
    rows = torch.stack([e, -b, b * f - c * e]), torch.stack([-d, a, c * d - a * f])
    return torch.stack([row.movedim(0, -1) for row in rows], -2) / (a * e - b * d)[..., None, None]


def read_at(maps: Tensor, places: Tensor, size: float | Tensor, mode: str = 'bilinear') -> Tensor:
    """What maps ``(N, C, h, w)`` have at places ``(N, M, 2)`` of an image: ``(N, M, C)``.

    Args:
        maps: At any resolution.
        places: In pixels of the image.
        size: The image's width and height: a number, or a tensor ``(2,)``.
        mode: As of `grid_sample`; beyond the edge it is as at the edge.
    """
    grid = (places * 2 / size - 1)[:, None].to(maps.dtype)
    return F.grid_sample(maps, grid, mode, 'border', align_corners=False)[:, :, 0].mT


def centres(size: int, like: Tensor) -> Tensor:
    """Centres of the pixels of a square image, row by row, ``(size * size, 2)``."""
    side = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
    return torch.stack([side.repeat(size), side.repeat_interleave(size)], -1)


# Places ---------------------------------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where the windows of a batch lie.

    Attributes:
        to_ground: ``(N, 2, 3)``, float64: from places in a window to coordinates.
        ground: ``(N,)``, int64: equal for windows with the same coordinates.
    """

    to_ground: Tensor
    ground: Tensor


def places_of(metas: Any, domain: str, device: Any) -> Places:
    """Where windows lie, by what :class:`GroundCrop` says; a window of which nothing is known lies by itself."""
    known = [meta.get('to_ground', ((1, 0, 0), (0, 1, 0))) for meta in metas]
    grounds = [_number(meta.get('ground', f'{domain} {get_rank()} {i}')) for i, meta in enumerate(metas)]
    affine = torch.from_numpy(np.array(known, np.float64).reshape(-1, 2, 3))
    return Places(affine.to(device, non_blocking=True), torch.tensor(grounds).to(device, non_blocking=True))


def _number(ground: str) -> int:
    """The same in every process, unlike Python's own hash."""
    return int.from_bytes(hashlib.sha256(ground.encode()).digest()[:8], 'little', signed=True)


# Colours --------------------------------------------------------------------------------------------------------------


class ViewColours:
    """Changes of colour that make sense for any bands: no hue, no saturation, which tell vegetation, soil and roof.

    All is drawn for each image by itself, from torch's generator of the CPU, whose state a checkpoint holds. Values are
    shares of the range of a band, see :class:`DomainAdaptationDataPreprocessor`.

    Args:
        gain: Largest factor on a band, and on all of them together; the least one is its inverse.
        gamma: Largest exponent, likewise.
        grey: How often all bands become their mean.
        drop: How often a band becomes its mean over the image, where there are more than three.
        blur: How often an image is blurred, by a sigma of 0.1 to 2 px.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self, gain: float = 1.25, gamma: float = 1.25, grey: float = 0.1, drop: float = 0.1, blur: float = 0.5
    ) -> None:
        for name, value in dict(gain=gain, gamma=gamma).items():
            require_number(f'model.views.colours.{name}', value, at_least=1)
        for name, value in dict(grey=grey, drop=drop, blur=blur).items():
            require_number(f'model.views.colours.{name}', value, at_least=0, at_most=1)
        self.gain, self.gamma, self.grey, self.drop, self.blur = gain, gamma, grey, drop, blur

    @torch.no_grad()
    def __call__(self, images: Tensor, valid: Tensor, preprocessor: Any, domain: str) -> Tensor:
        """Changed images.

        Args:
            images: ``(N, C, H, W)``, normalised.
            valid: ``(N, H, W)``, bool.
            preprocessor: The :class:`DomainAdaptationDataPreprocessor`, which knows the range of values.
            domain: Whose statistics and range hold.

        Returns:
            ``(N, C, H, W)``; 0 where there is no data.
        """
        number, bands = images.shape[:2]
        drawn = torch.rand(number, 2 * bands + 5).to(images, non_blocking=True)
        own, drops, common, gamma, grey, blurred, sigma = drawn.split([bands, bands, 1, 1, 1, 1, 1], 1)

        def factors(largest: float, uniform: Tensor) -> Tensor:
            return (largest ** (2 * uniform - 1))[:, :, None, None]

        shares = preprocessor.denormalize(images, domain) * factors(self.gain, own) * factors(self.gain, common)
        shares = torch.copysign(shares.abs() ** factors(self.gamma, gamma), shares)
        shares = torch.where((grey < self.grey)[:, :, None, None], shares.mean(1, keepdim=True), shares)
        if bands > 3:
            weight = valid[:, None].to(shares.dtype)
            mean = (shares * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)
            shares = torch.where((drops < self.drop)[:, :, None, None], mean, shares)
        images = preprocessor.normalize(shares, domain) * valid[:, None]
        if self.blur:
            # With a tiny sigma an image stays exactly as it is.
            images = gaussian_blur(images, torch.where(blurred < self.blur, 0.1 + 1.9 * sigma, 1e-3)[:, 0])
        return images * valid[:, None]


# Views ----------------------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A view of each window of a batch.

    Attributes:
        images: ``(N, C, S, S)``, normalised; 0 where there is no data.
        valid: ``(N, S, S)``, bool: where there is data.
        places: Where the views lie: from places in a view to coordinates. Two views of one pair have the same ones.
    """

    images: Tensor
    valid: Tensor
    places: Places

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    def share(self, maps: Tensor) -> Tensor:
        """``(N, h, w)``: how much of each cell of maps ``(N, C, h, w)`` of the view has data."""
        return F.interpolate(self.valid[:, None].to(maps.dtype), maps.shape[-2:], mode='area')[:, 0]

    def to(self, other: View) -> Tensor:
        """``(N, 2, 3)``, float64: from places in this view to those of the same ground in another one."""
        return then(self.places.to_ground, inverse(other.places.to_ground))


def _together(views: Sequence[View]) -> View:
    """Those of several batches as one."""
    images, valid, places = zip(*views)
    return View(torch.cat(images), torch.cat(valid), Places(*map(torch.cat, zip(*places))))


class RandomViews:
    """Draws two views of each window: a part of it, flipped, turned, at another scale and in other colours.

    Parts are about square, and become square images whose side is the shorter one of the windows. Of some parts that
    are drawn, the first one is taken of which at least half has data and, of second views, which shows enough of what
    the first one shows. All is drawn from torch's generator of the CPU, whose state a checkpoint holds.

    Args:
        kinds: Probability of each of `KINDS`, drawn anew for each batch. ``same``: two views of a window, so large that
            both show most of it. ``near``: two smaller parts of it, which show ground that the other does not.
            ``other``: the first view is of the source and the second of the target, whose images have to be pairs of
            the same place.
        area: Smallest and largest area of a view, as a share of the largest square in the window.
        near_area: The same for ``near``.
        aspect: Largest ratio of the sides of a part.
        min_overlap: Share of the smaller view that the other one has to show.
        turns: Whether views are flipped and turned by quarters.
        colours: Arguments of :class:`ViewColours`; None: colours stay.

    Raises:
        ConfigError: A number is out of its range, or there is no such kind.
    """

    def __init__(
        self,
        kinds: Mapping[str, float] | None = None,
        area: tuple[float, float] = (0.4, 1.0),
        near_area: tuple[float, float] = (0.2, 0.4),
        aspect: float = 4 / 3,
        min_overlap: float = 0.3,
        turns: bool = True,
        colours: Mapping[str, Any] | None = {},
    ) -> None:
        kinds = dict(same=1.0) if kinds is None else dict(kinds)
        for kind, probability in kinds.items():
            require_one_of('model.views.kinds', kind, KINDS)
            require_number(f'model.views.kinds.{kind}', probability, at_least=0)
        if not sum(kinds.values()):
            raise ConfigError(f'model.views.kinds is {kinds}; a kind with a probability above 0 was expected')
        for name, (least, most) in dict(area=area, near_area=near_area).items():
            require_number(f'model.views.{name}.0', least, above=0, at_most=1)
            require_number(f'model.views.{name}.1', most, at_least=least, at_most=1)
        require_number('model.views.aspect', aspect, at_least=1)
        require_number('model.views.min_overlap', min_overlap, above=0, at_most=1)
        self.kinds = {kind: p / sum(kinds.values()) for kind, p in kinds.items() if p}
        self.area, self.near_area, self.aspect, self.min_overlap = area, near_area, aspect, min_overlap
        self.turns = turns
        self.colours = None if colours is None else ViewColours(**colours)

    @torch.no_grad()
    def __call__(self, source: Any, target: Any, preprocessor: Any) -> tuple[View, View]:
        """The first and the second view of each window: of the source's and behind them the target's, or of the pairs.

        Args:
            source: The :class:`Domain`; None: there is none.
            target: Likewise.
            preprocessor: The :class:`DomainAdaptationDataPreprocessor`.

        Raises:
            ConfigError: Views are to be of pairs, and the images are none.
        """
        if 'other' in self.kinds and not (source is not None and all(meta.get('paired') for meta in source.metas)):
            raise ConfigError(
                "model.views.kinds has 'other', which needs pairs of images of the same place: take a task with a "
                'PairedDataset or a GeographicPairedDataset'
            )
        kind = self._draw_kind()
        near = self.near_area if kind == 'near' else self.area
        with torch.autocast(target.images.device.type, enabled=False):  # half precision is too coarse for places
            if kind != 'other':
                domains = dict(source=source, target=target)
                pairs = [
                    self._pair((own, own), (name, name), near, preprocessor)
                    for name, own in domains.items()
                    if own is not None
                ]
                first, second = (_together(views) for views in zip(*pairs))
                return first, second
            return self._pair((source, target), ('source', 'target'), near, preprocessor)

    def _draw_kind(self) -> str:
        """One for the images of all processes, whose generators go alike."""
        drawn = float(torch.rand(())) if len(self.kinds) > 1 else 0.0
        bounds = np.cumsum(list(self.kinds.values()))
        return list(self.kinds)[min(int(np.searchsorted(bounds, drawn, side='right')), len(self.kinds) - 1)]

    def _pair(
        self, domains: tuple[Any, Any], names: tuple[str, str], area: tuple[float, float], preprocessor: Any
    ) -> tuple[View, View]:
        first, second = domains
        where = places_of(first.metas, names[0], first.images.device)
        boxes, found = None, []
        for domain, name in zip((first, second), names):
            boxes = self._boxes(domain, area, boxes)
            found.append(self._view(domain, name, boxes, where, preprocessor))
        return found[0], found[1]

    def _boxes(self, domain: Any, area: tuple[float, float], shown: Tensor | None) -> Tensor:
        """x, y, width and height of a part of each window, in its pixels: ``(N, 4)``."""
        images = domain.images
        number, (height, width) = len(images), images.shape[-2:]
        sizes = images.new_tensor([width, height])
        drawn = torch.rand(_TRIES, number, 4).to(images, non_blocking=True)
        side = min(height, width) * (area[0] + (area[1] - area[0]) * drawn[..., 0]).sqrt()
        stretch = self.aspect ** (drawn[..., 1] - 0.5)
        sides = torch.minimum(torch.stack([side * stretch, side / stretch], -1), sizes)
        boxes = torch.cat([drawn[..., 2:] * (sizes - sides), sides], -1)  # (tries, N, 4)
        # Good ones have 2 or more; of the rest, the best one is taken.
        score = torch.zeros_like(side)
        if domain.valid is not None:
            lattice = centres(_LATTICE, images) / _LATTICE
            places = boxes[..., None, :2] + lattice * boxes[..., None, 2:]
            valid = domain.valid[:, None].to(images.dtype)
            share = read_at(valid, places.movedim(0, 1).flatten(1, 2), sizes, 'nearest').view(number, _TRIES, -1)
            score = score + (share.mean(-1).T * 2).clamp(max=1)
        if shown is not None:
            ends = [box[..., :2] + box[..., 2:] for box in (boxes, shown)]
            common = torch.minimum(*ends) - torch.maximum(boxes[..., :2], shown[..., :2])
            smaller = torch.minimum(boxes[..., 2:].prod(-1), shown[..., 2:].prod(-1))
            score = score + (common.clamp(min=0).prod(-1) / smaller / self.min_overlap).clamp(max=1)
        score = score - 1e-4 * torch.arange(_TRIES).to(score)[:, None]  # the first one of them
        return boxes.gather(0, score.argmax(0)[None, :, None].expand(1, -1, 4))[0]

    def _view(self, domain: Any, name: str, boxes: Tensor, where: Places, preprocessor: Any) -> View:
        images, number, size = domain.images, len(domain.images), min(domain.images.shape[-2:])
        flips, turned = torch.zeros(number, 2), torch.zeros(number)
        if self.turns:
            flips, turned = (torch.rand(number, 2) < 0.5).float(), (torch.rand(number) < 0.5).float()
        flips, turned = (drawn.to(images, non_blocking=True) for drawn in (flips, turned))
        (x, y, width, height), (flip_x, flip_y) = boxes.unbind(-1), flips.unbind(-1)
        right, down = width / size * (1 - 2 * flip_x), height / size * (1 - 2 * flip_y)
        rows = (
            torch.stack([right * (1 - turned), right * turned, x + width * flip_x], -1),
            torch.stack([down * turned, down * (1 - turned), y + height * flip_y], -1),
        )
        to_window = torch.stack(rows, -2)
        sizes = images.new_tensor([images.shape[-1], images.shape[-2]])
        places = move(to_window, centres(size, images).expand(number, -1, -1))
        seen = read_at(images, places, sizes).mT.unflatten(-1, (size, size))
        valid = images.new_ones(number, size, size, dtype=torch.bool)
        if domain.valid is not None:
            shares = read_at(domain.valid[:, None].to(images.dtype), places, sizes).mT.unflatten(-1, (size, size))
            valid = shares[:, 0] > 0.5
        seen = seen * valid[:, None]
        if self.colours is not None:
            seen = self.colours(seen, valid, preprocessor, name)
        return View(seen, valid, Places(then(to_window.double(), where.to_ground), where.ground))


def cell_size(affine: Tensor, stride: float) -> Tensor:
    """Side of the cells of maps on the ground, ``(N,)``, by where the views of them lie."""
    (a, b), (c, d) = (row.unbind(-1) for row in affine[..., :2].unbind(-2))
    return (a * d - b * c).abs().sqrt() * stride
