"""What a checkpoint was trained on, as its card has it, and whether a raster looks like that."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmrs.geo.headers import read_header
from mmrs.geo.rasters import open_raster, read_image
from mmrs.utils.errors import DataError

__all__ = ['Card', 'Domain', 'card_beside']

#: Windows of a raster that are looked at: of a grid of so many rows and columns, with sides of so many pixels.
_GRID, _SIDE = 3, 256
#: Values are of another scale from this factor on. What a factor may come from:
_SCALE = 4.0
_SCALES = {
    256.0: '16 bits where those have 8, or 8 bits where those have 0 to 1',
    1 / 256: '8 bits where those have 16, or 0 to 1 where those have 8 bits',
    1e4: 'reflectance times 10000 where those have 0 to 1',
    1e-4: '0 to 1 where those have reflectance times 10000',
}
#: Another order of the bands is spoken of where it is off by less than this share of what the present one is off by,
#: and fits within so many standard deviations, and the present one does not.
_BETTER, _FITS = 0.5, 0.5
#: Pixels are of another size from this factor on.
_COARSER = 1.5


@dataclass(frozen=True)
class Domain:
    """Images of a domain that were trained on.

    Attributes:
        images: Their number.
        dtypes: Data types of their files.
        mean: Of each band, over the pixels with data.
        std: Likewise.
        high: Likewise: value that 98 % of the pixels do not exceed.
        metres: Smallest and largest pixel; None where files do not say.
    """

    images: int
    dtypes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    high: Sequence[float]
    metres: Sequence[float] | None = None


@dataclass(frozen=True)
class Card:
    """A checkpoint's card: a Markdown file whose head is YAML.

    Attributes:
        checkpoint: Name of its file.
        weights: SHA-256 of it.
        about: Whatever else there is to say: `config`, `method`, `licence`, `scores` and so on.
        classes: Names.
        domains: What was trained on, by `source`, `target` or `train`.
    """

    checkpoint: str
    weights: str
    about: Mapping[str, Any]
    classes: Sequence[str]
    domains: Mapping[str, Domain]

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """Read a card.

        Raises:
            DataError: The file is none.
        """
        try:
            head = yaml.safe_load(Path(path).read_text(encoding='utf-8').split('---\n')[1])
            domains = {name: Domain(**own) for name, own in head.pop('domains').items()}
            return cls(domains=domains, **head)
        except (OSError, IndexError, TypeError, KeyError, AttributeError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f'{path} is no card of a checkpoint, as `mmrs card` writes it ({error})') from error

    def head(self) -> str:
        """The YAML."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True, width=120)

    def warnings(self, path: str, bands: Sequence[int] | None, apply_scale: bool, resampled: bool) -> list[str]:
        """What about a raster is not as in the images that were trained on.

        Args:
            path: The raster.
            bands: Numbers of the bands that are read; None: all.
            apply_scale: Whether the scale and offset that it gives are applied.
            resampled: Whether it is predicted at another resolution than its own.

        Returns:
            A sentence for each thing.

        Raises:
            DataError: It cannot be read.
        """
        found = [] if resampled else self._about_size(path)
        values = _sample(path, bands, apply_scale)
        if values is None or any(len(own.mean) != values.shape[1] for own in self.domains.values()):
            return found  # said where it is read
        scale = self._about_scale(path, np.sqrt((values**2).mean(0)))
        return [*found, *scale, *([] if scale else self._about_order(path, values.mean(0)))]

    def _about_size(self, path: str) -> list[str]:
        own = read_header(path, find_empty=False).pixel_metres
        ranges = [domain.metres for domain in self.domains.values() if domain.metres]
        if own is None or not ranges:
            return []
        metres, low, high = max(own), min(low for low, _ in ranges), max(high for _, high in ranges)
        if low / _COARSER <= metres <= high * _COARSER:
            return []
        trained = f'{low:.3g}' if low == high else f'{low:.3g} to {high:.3g}'
        return [f'{path} has pixels of {metres:.3g} m, those that were trained on {trained} m: --gsd {low:.3g}?']

    def _about_scale(self, path: str, magnitude: np.ndarray) -> list[str]:
        """By the root mean square of each band, which has no sign: decibels are mostly negative."""
        known = [np.hypot(own.mean, own.std) for own in self.domains.values()]
        factors = [f for own in known if np.isfinite(f := np.median(magnitude / np.maximum(own, 1e-12))) and f > 0]
        factor = min(factors, key=lambda f: abs(np.log(f)), default=1.0)
        if 1 / _SCALE < factor < _SCALE:
            return []
        off, kind = min((abs(np.log(own / scale)), scale) for own in factors for scale in _SCALES)
        guess = f': {_SCALES[kind]}?' if off < np.log(2) else ''
        return [f'{path} has values about {factor:.3g} times as high as those that were trained on{guess}']

    def _about_order(self, path: str, mean: np.ndarray) -> list[str]:
        number = len(mean)
        orders = itertools.permutations(range(number)) if number <= 4 else [
            tuple(range(number)), (2, 1, 0, *range(3, number)), tuple(reversed(range(number)))
        ]  # fmt: skip
        off = {
            order: min(
                float(np.mean(np.abs(mean[list(order)] - own.mean) / np.maximum(own.std, 1e-12)))
                for own in self.domains.values()
            )
            for order in orders
        }
        present, best = tuple(range(number)), min(off, key=lambda order: off[order])
        if off[present] <= _FITS or off[best] > min(_FITS, _BETTER * off[present]):
            return []
        order = ' '.join(str(i + 1) for i in best)
        return [f'{path}: its bands look like those that were trained on in the order {order} of what is read.']


def card_beside(checkpoint: str | Path) -> Path:
    """Where the card of a checkpoint lies."""
    return Path(checkpoint).with_suffix('.card.md')


def _sample(path: str, bands: Sequence[int] | None, apply_scale: bool) -> np.ndarray | None:
    """Values ``(N, C)`` of pixels with data in windows all over a raster; None where there are none."""
    found = []
    with open_raster(path, quiet=True) as raster:
        height, width = (min(side, _SIDE) for side in raster.shape)
        tops = np.unique(np.linspace(0, raster.height - height, _GRID).astype(int))
        lefts = np.unique(np.linspace(0, raster.width - width, _GRID).astype(int))
    for top, left in itertools.product(tops.tolist(), lefts.tolist()):
        image, valid = read_image(path, bands, window=(left, top, left + width, top + height), apply_scale=apply_scale)
        found.append(image[valid] if valid is not None else image.reshape(-1, image.shape[-1]))
    values = np.concatenate(found).astype(np.float64)
    return values if len(values) else None
