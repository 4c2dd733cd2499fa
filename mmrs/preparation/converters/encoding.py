"""From the values of a published mask, colours or ids, to the ids of a label map."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rasterio.io import DatasetReader

from mmrs.geo.classes import IGNORE_INDEX, Colour, to_hex
from mmrs.geo.masks import (
    UNKNOWN,
    hidden_values,
    holds_colours,
    look_up,
    packed,
    read_mask,
    strips,
    unpack,
    value_name,
)
from mmrs.geo.rasters import image_bands
from mmrs.utils.errors import DataError, require_number


class MaskEncoder:
    """Turns windows of masks into label ids.

    Args:
        label_of: Label id (0 to 253, or 255) by colour (RGB) or by mask value.
        tolerance: How far, in each channel, a colour may be from a class's to count as that class; the nearest wins.
            For ids it must be 0.
    """

    def __init__(self, label_of: Mapping[Colour, int] | Mapping[int, int], tolerance: int = 0) -> None:
        self.label_of: dict[Any, int] = dict(label_of)
        self.by_colour = isinstance(next(iter(label_of)), tuple)
        self.tolerance = tolerance
        name, most = ('tolerance', None) if self.by_colour else ('tolerance of id masks', 0)
        require_number(name, tolerance, at_least=0, at_most=most, whole=True)
        self._label_of_value: dict[int, int] = packed(self.label_of) if self.by_colour else self.label_of

    def encode(self, mask: DatasetReader, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Label ids `(H, W)`, uint8, of a window (x0, y0, x1, y1) of a mask; `UNKNOWN` where there is no class.

        What a nodata value, NaN, a mask or an alpha band hides is ignored (255).

        Raises:
            DataError: The mask's values or bands are not what the classes say; see `read_mask` and `holds_colours`.
        """
        return self._encode(mask, window)[0]

    def _encode(
        self, mask: DatasetReader, window: tuple[int, int, int, int] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, the values that they are of, and those of the values that are hidden (see `hidden_values`)."""
        by_colour = holds_colours(
            mask.name, len(image_bands(mask)), self.label_of if self.by_colour else {}, self.by_colour
        )
        values, covered = read_mask(mask, by_colour, window)
        if values.dtype.kind == 'f':
            shown = np.isfinite(values) if covered is None else np.isfinite(values) & covered
            if (values != np.trunc(values)).any(where=shown):
                raise DataError(f'{mask.name} holds fractions; an id mask holds whole numbers.')
        labels = self._labels(values)
        if covered is not None:
            labels[~covered] = IGNORE_INDEX
        return labels, values, hidden_values(mask, by_colour, values, covered)

    def _labels(self, values: np.ndarray) -> np.ndarray:
        labels = look_up(values, self._label_of_value)
        if self.tolerance:
            unknown = labels == UNKNOWN
            found, inverse = np.unique(values[unknown], return_inverse=True)
            labels[unknown] = self._nearest(found)[inverse]
        return labels

    def _nearest(self, values: np.ndarray) -> np.ndarray:
        keys = np.array(sorted(self._label_of_value))
        labels = np.array([self._label_of_value[key] for key in keys.tolist()])
        distance = np.abs(unpack(values)[:, None] - unpack(keys)[None]).max(axis=-1)
        return np.where(distance.min(axis=1) <= self.tolerance, labels[distance.argmin(axis=1)], UNKNOWN)

    def survey(self, mask: DatasetReader) -> tuple[np.ndarray, Counter, Counter]:
        """Counts a whole mask, strip by strip.

        Returns:
            Pixels by label id (256 numbers), and pixels by value (ids, or colours as `pack` makes them) of what is no
            class, and of what is a class and hidden.
        """
        counts, unknown, hidden = np.zeros(256, np.int64), Counter[int](), Counter[int]()
        for window in strips(mask):
            labels, values, not_shown = self._encode(mask, window)
            _count(not_shown[self._labels(not_shown) < UNKNOWN], hidden)
            counts += np.bincount(labels.ravel(), minlength=256)
            _count(values[labels == UNKNOWN], unknown)
        return counts, unknown, hidden

    @property
    def known(self) -> str:
        """The values of all classes, as messages show them."""
        return ', '.join(to_hex(key) if isinstance(key, tuple) else str(key) for key in self.label_of)

    def name(self, value: int) -> str:
        """A value as messages show it: `#RRGGBB` or the id."""
        return value_name(value, self.by_colour)

    def label(self, value: int) -> int:
        """The label id of a value, as `encode` gives it."""
        return int(self._labels(np.array([value]))[0])

    def describe_unknown(self, unknown: Counter, pixels: int, shown: int = 5) -> str:
        """`#FF00FE (1.2 %, 4 away from #FF0000)` and the like, most frequent first."""
        parts = []
        for value, count in unknown.most_common(shown):
            text = f'{100 * count / pixels:.3g} %'
            if self.by_colour:
                keys = np.array(sorted(self._label_of_value))
                distance = np.abs(unpack(keys) - unpack(np.array(value))).max(axis=-1)
                text += f', {distance.min()} away from {self.name(keys[distance.argmin()])}'
            parts.append(f'{self.name(value)} ({text})')
        rest = len(unknown) - shown
        return ', '.join(parts) + (f' and {rest} more' if rest > 0 else '')


def _count(values: np.ndarray, into: Counter) -> None:
    found, pixels = np.unique(values, return_counts=True)
    into.update(dict(zip(found.tolist(), pixels.tolist())))
