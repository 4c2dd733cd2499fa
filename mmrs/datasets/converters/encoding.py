"""From the values of a published mask, colours or ids, to the ids of a label map."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mmrs.datasets.classes import IGNORE_INDEX, Colour, to_hex
from mmrs.datasets.rasters import expand_palette

#: Stands for "no class" in encoded masks; label maps never hold it.
UNKNOWN = 254

# What `read` returns for pixels without a value: no id that a file would hold.
_NODATA = -(2**62)

# Strips of about this many pixels keep the check of a large mask within some tens of megabytes.
_STRIP_PIXELS = 4_000_000


class MaskEncoder:
    """Turns windows of masks into label ids.

    Args:
        label_of: Label id (0 to 253, or 255) by colour (RGB) or by mask value.
        tolerance: How far, in each channel, a colour may be from a class's to count as that class; the nearest wins.
            For ids it must be 0.
    """

    def __init__(self, label_of: Mapping[Colour, int] | Mapping[int, int], tolerance: int = 0) -> None:
        self.label_of = dict(label_of)
        self.by_colour = isinstance(next(iter(label_of)), tuple)
        self.tolerance = tolerance
        if tolerance < 0 or (tolerance and not self.by_colour):
            raise ValueError(f'Tolerance is {tolerance}; it must be at least 0, and 0 for id masks.')
        keys = [int(_pack(np.array(key))) if self.by_colour else key for key in self.label_of]
        table = sorted(zip((*keys, _NODATA), (*self.label_of.values(), IGNORE_INDEX)))
        self._keys = np.array([key for key, _ in table], np.int64)
        self._labels = np.array([label for _, label in table], np.uint8)

    def read(self, mask: DatasetReader, window: Window | None = None) -> np.ndarray:
        """Values of a mask: colours packed into whole numbers, or ids; `(H, W)`, int64.

        In an id mask, NaN and the declared nodata value are ignored pixels.

        Raises:
            ValueError: The mask is not of 8 bits (colours), holds fractions (ids), or has a wrong number of bands.
        """
        first = mask.read(1, window=window)
        if not self.by_colour:
            if mask.count != 1:
                raise ValueError(
                    f'{mask.name} has {mask.count} bands; an id mask has one. If the bands are a colour, give the '
                    'classes colours instead of ids.'
                )
            empty = ~np.isfinite(first) if mask.nodata is None else ~np.isfinite(first) | (first == mask.nodata)
            values = np.where(empty, 0, first)
            if not (values == np.trunc(values)).all():
                raise ValueError(f'{mask.name} holds fractions; an id mask holds whole numbers.')
            return np.where(empty, _NODATA, values.astype(np.int64))
        if first.dtype != np.uint8:
            raise ValueError(f'{mask.name} holds {first.dtype}; a colour mask has 8 bits a channel (uint8).')
        if mask.colorinterp[0] == ColorInterp.palette:
            return _pack(expand_palette(first, mask.colormap(1)))
        if mask.count < 3:  # grey, perhaps with transparency
            return _pack(np.repeat(first[..., None], 3, axis=-1))
        return _pack(mask.read([1, 2, 3], window=window).transpose(1, 2, 0))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Label ids, uint8, of what `read` returned; `UNKNOWN` where there is no class."""
        position = np.searchsorted(self._keys, values).clip(max=len(self._keys) - 1)
        labels = np.where(self._keys[position] == values, self._labels[position], np.uint8(UNKNOWN))
        if self.tolerance:
            unknown = labels == UNKNOWN
            found, inverse = np.unique(values[unknown], return_inverse=True)
            labels[unknown] = self._nearest(found)[inverse]
        return labels

    def _nearest(self, values: np.ndarray) -> np.ndarray:
        distance = np.abs(_unpack(values)[:, None] - _unpack(self._keys[1:])[None]).max(axis=-1)
        nearest = distance.argmin(axis=1)
        return np.where(distance.min(axis=1) <= self.tolerance, self._labels[1:][nearest], np.uint8(UNKNOWN))

    def survey(self, mask: DatasetReader) -> tuple[np.ndarray, Counter]:
        """Counts a whole mask, strip by strip.

        Returns:
            Pixels by label id (256 numbers), and pixels by value (as `read` returns them) of what is no class.
        """
        counts, unknown = np.zeros(256, np.int64), Counter[int]()
        rows = max(1, _STRIP_PIXELS // mask.width)
        for top in range(0, mask.height, rows):
            values = self.read(mask, Window(0, top, mask.width, min(rows, mask.height - top)))
            labels = self.encode(values)
            counts += np.bincount(labels.ravel(), minlength=256)
            found, pixels = np.unique(values[labels == UNKNOWN], return_counts=True)
            unknown.update(dict(zip(found.tolist(), pixels.tolist())))
        return counts, unknown

    @property
    def known(self) -> str:
        """The values of all classes, as messages show them."""
        return ', '.join(to_hex(key) if isinstance(key, tuple) else str(key) for key in self.label_of)

    def name(self, value: int) -> str:
        """A value as messages show it: `#RRGGBB` or the id."""
        return to_hex(_unpack(np.array(value)).tolist()) if self.by_colour else str(value)

    def describe_unknown(self, unknown: Counter, pixels: int, shown: int = 5) -> str:
        """`#FF00FE (1.2 %, 4 away from #FF0000)` and the like, most frequent first."""
        parts = []
        for value, count in unknown.most_common(shown):
            text = f'{100 * count / pixels:.3g} %'
            if self.by_colour:
                distance = np.abs(_unpack(self._keys[1:]) - _unpack(np.array(value))).max(axis=-1)
                text += f', {distance.min()} away from {self.name(int(self._keys[1:][distance.argmin()]))}'
            parts.append(f'{self.name(value)} ({text})')
        rest = len(unknown) - shown
        return ', '.join(parts) + (f' and {rest} more' if rest > 0 else '')


def _pack(colours: np.ndarray) -> np.ndarray:
    red, green, blue = (colours[..., i].astype(np.int64) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _unpack(values: np.ndarray) -> np.ndarray:
    return np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)
