"""What the pixels of a mask stand for: ids of classes, or colours.

The classes say which of the two it is, and not how a file happens to store them; everything that reads masks asks here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mmrs.geo.classes import IGNORE_INDEX, Colour, to_hex
from mmrs.geo.rasters import (
    PathLike,
    colour_kinds,
    image_bands,
    open_raster,
    read_coverage,
    read_ids,
    shown_pixels,
    where_all,
    without_nodata,
)
from mmrs.utils.errors import DataError, UnusableError, some

#: Stands for "no class" in what `look_up` returns; a table of classes never reaches it.
UNKNOWN = 254

#: What is wrong where a mask hides pixels of a class by its nodata value, and what to do.
NODATA_IS_CLASS = 'Nodata value that is a class', 'Remove the nodata tag, or use another id.'

# Strips of about this many pixels keep the reading of a large mask within some tens of megabytes.
_STRIP_PIXELS = 4_000_000

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def holds_colours(path: str, bands: int, index_of_colour: Mapping[Colour, int], by_colour: bool) -> bool:
    """Whether a mask holds colours: one of three bands always does, one of one band if the classes say so.

    Args:
        path: Its file, for messages.
        bands: Number of its bands that are no alpha band.
        index_of_colour: The colours of the classes; empty if they have none.
        by_colour: See `ClassTable.by_colour`.

    Raises:
        UnusableError: It has another number of bands, or is in colours where the classes have none.
    """
    if bands < 3:
        if bands == 2:
            raise UnusableError(f'{path} has 2 bands; a mask has one band of ids or grey, or three of a colour.')
        return by_colour
    if not index_of_colour:
        raise UnusableError(
            f'{path} has {bands} bands, which is a mask in colours, but the classes are given by id. Give each class '
            'its `color` in the table of classes (classes_file, --classes); of bands that all hold the same ids, id 3 '
            'is the color [3, 3, 3].'
        )
    return True


class MaskColours:
    """The colours of an open mask, as viewers show them.

    A palette stands for its colours. Grey and colour channels are scaled to 0 to 255 by the file's bit depth: in one of
    1, 2, 4, 12 or 16 bits, the highest value is 255. In a TIFF where the lowest value is white, it is.

    Attributes:
        bands: Numbers of the bands: of grey or a palette one, otherwise red, green and blue.

    Raises:
        UnusableError: The values are of a type, or the bands of a colour model, that masks do not have.
    """

    def __init__(self, mask: DatasetReader) -> None:
        self._path, kinds, kind = mask.name, colour_kinds(mask), mask.dtypes[0]
        if kind not in ('uint8', 'uint16') or ColorInterp.cyan in kinds:
            found = kind if ColorInterp.cyan not in kinds else 'CMYK'
            raise UnusableError(
                f'{mask.name} holds {found}; a mask in colours is RGB, grey or has a palette, of at most 16 unsigned '
                'bits. If the values are ids, give the classes an `id` each.'
            )
        if all(kind in kinds for kind in _RGB):
            self.bands = [kinds.index(kind) + 1 for kind in _RGB]
        else:
            bands = image_bands(mask)
            self.bands = bands[:3] if len(bands) >= 3 else bands[:1]
        size = 8 * np.dtype(kind).itemsize
        bits = int(mask.get_tag_item('NBITS', 'IMAGE_STRUCTURE', 1) or size)
        values, top = np.arange(1 << size, dtype=np.int32), (1 << bits) - 1
        levels = (np.minimum(values, top) * 255 + top // 2) // top
        reverse = mask.get_tag_item('MINISWHITE', 'IMAGE_STRUCTURE') == 'YES'
        paletted = kinds[0] == ColorInterp.palette and not reverse
        levels = 255 - levels if reverse else levels
        # The colour of each value of a single band; or the level of each value of a channel, if that is another one.
        self._table: np.ndarray | None = levels
        if paletted:
            self._table = np.zeros_like(values)
            for value, colour in mask.colormap(1).items():
                self._table[value] = pack(np.array(colour))
        elif len(self.bands) == 1:
            self._table = pack(np.stack([levels] * 3, axis=-1))
        elif (levels == values).all():
            self._table = None
        self._may_be_ids = bits == 16 and not paletted

    def pack(self, planes: np.ndarray) -> np.ndarray:
        """Colours packed into whole numbers, `(H, W)`, int32, of the values `(C, H, W)` of `bands`.

        Raises:
            UnusableError: Values of 16 bits up to 255, which may be colours of 8 bits, or ids.
        """
        if self._may_be_ids and ((planes > 0) & (planes < 256)).any():
            raise UnusableError(
                f'{self._path} has 16 bits, but values from 1 to 255: by its bit depth they are black, which may not '
                'be meant. If they are ids, give the classes an `id` each and no `color`; if they are colours, '
                'write the mask with 8 bits (`rio convert --dtype uint8 IN.tif OUT.tif`).'
            )
        if len(self.bands) == 1:
            assert self._table is not None
            return self._table[planes[0]]
        return pack(np.moveaxis(planes if self._table is None else self._table[planes], 0, -1))


_colours_of: WeakKeyDictionary[DatasetReader, MaskColours] = WeakKeyDictionary()


def mask_colours(mask: DatasetReader) -> MaskColours:
    """The colours of an open mask, found out once."""
    if mask not in _colours_of:
        _colours_of[mask] = MaskColours(mask)
    return _colours_of[mask]


def read_mask(
    mask: DatasetReader,
    by_colour: bool,
    window: tuple[int, int, int, int] | None = None,
    grid_shape: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads what the pixels of an open mask stand for.

    Args:
        mask: The mask.
        by_colour: Whether that is a colour; otherwise it is an id, which a palette's indices are.
        window: x0, y0, x1, y1, x1 and y1 outside. By default the whole mask.
        grid_shape: Rows and columns of the resampled mask to which `window` belongs; see `read_label_map`.

    Returns:
        Ids in the type of the file, or colours packed into whole numbers, `(H, W)`; and a boolean map `(H, W)` of the
        pixels that no nodata value, mask or alpha band hides, or None where all are shown.

    Raises:
        DataError: The values are no colours, or a mask of three bands is to be resampled.
    """
    if not by_colour:
        return read_ids(mask, window, grid_shape), read_coverage(mask, window, grid_shape)
    colours = mask_colours(mask)
    if len(colours.bands) == 1:
        return colours.pack(read_ids(mask, window, grid_shape)[None]), read_coverage(mask, window, grid_shape)
    if grid_shape is not None and tuple(grid_shape) != mask.shape:
        raise not_resampled(mask.name)
    part = {}
    if window is not None:
        x0, y0, x1, y1 = window
        part['window'] = Window(x0, y0, x1 - x0, y1 - y0)
    planes = mask.read(colours.bands, **part)
    shown = shown_pixels(mask, colours.bands, **part)
    return colours.pack(planes), where_all(shown, without_nodata(planes.transpose(1, 2, 0), mask, colours.bands))


def hidden_values(mask: DatasetReader, by_colour: bool, values: np.ndarray, covered: np.ndarray | None) -> np.ndarray:
    """Those of the values that `read_mask` returned, `(N,)`, which a file hides although it says what they are.

    Of ids, only the nodata value counts: under a mask or an alpha band they are 0, whatever that stands for.
    """
    if covered is None:
        return values[:0, 0]
    hidden = values[~covered]
    return hidden if by_colour else hidden[hidden == mask.nodata]


def hidden_class(value: str, pixels: int | None, name: str) -> str:
    """What is wrong with a mask that hides pixels of a class; see `hidden_values`."""
    return f'nodata {value} {"" if pixels is None else f"on {pixels} pixels "}is {name}'


def nodata_is_class(found: Sequence[str]) -> str:
    """One line on all such masks, of what `hidden_class` says of each."""
    title, advice = NODATA_IS_CLASS
    return f'{title} ({len(found)}). {advice} {some(found)}'


def find_hidden_class(
    path: PathLike, by_colour: bool, index_of_value: Mapping[Any, int], classes: Sequence[str], count: bool = True
) -> str:
    """What `hidden_class` says of a mask whose nodata value is a class, with the path in front; or nothing.

    Args:
        path: The mask.
        by_colour: See `read_mask`.
        index_of_value: Training index by id, or by packed colour.
        classes: Names by training index.
        count: Whether to read such a mask to its end, and to say nothing where no pixel has the value.
    """
    with open_raster(path, quiet=True) as mask:
        value = mask.nodata
        if value is not None and by_colour:
            inside = value in range(np.iinfo(mask.dtypes[0]).max + 1)
            planes = np.full((len(mask_colours(mask).bands), 1, 1), value if inside else 0, mask.dtypes[0])
            value = int(mask_colours(mask).pack(planes)[0, 0]) if inside else None
        index = IGNORE_INDEX if value is None else index_of_value.get(value, IGNORE_INDEX)
        if value is None or index == IGNORE_INDEX:
            return ''
        pixels = None
        if count:
            hidden = (hidden_values(mask, by_colour, *read_mask(mask, by_colour, window)) for window in strips(mask))
            pixels = sum(int((values == value).sum()) for values in hidden)
    return '' if pixels == 0 else f'{path}: {hidden_class(value_name(value, by_colour), pixels, classes[index])}'


def strips(mask: DatasetReader) -> Iterator[tuple[int, int, int, int]]:
    """Windows of whole rows, from the first to the last."""
    rows = max(1, _STRIP_PIXELS // mask.width)
    for top in range(0, mask.height, rows):
        yield 0, top, mask.width, min(top + rows, mask.height)


def value_name(value: float, by_colour: bool) -> str:
    """An id or packed colour, as messages show it."""
    return to_hex(unpack(np.array(int(value))).tolist()) if by_colour else f'{value:g}'


def not_resampled(path: str) -> DataError:
    """What to raise for a mask of three bands on other pixels than the image's: channels cannot be resampled each."""
    return DataError(
        f'{path} is a mask in colours of three bands, and on another grid than the image, or resampled by gsd. Turn it '
        'into class ids with tools/dataset_converters/color_masks.py first.'
    )


def look_up(values: np.ndarray, index_of_value: Mapping[Any, int]) -> np.ndarray:
    """Indices, uint8, of ids or packed colours; `UNKNOWN` for a value that has none, 255 for NaN."""
    if values.dtype == np.uint8:
        table = np.full(256, UNKNOWN, np.uint8)
        for value, index in index_of_value.items():
            if 0 <= value < 256 and value == int(value):
                table[int(value)] = index
        return table[values]
    kind = values.dtype if values.dtype.kind in 'iu' else np.dtype(np.float64)
    if kind.kind == 'f':
        possible = [value for value in index_of_value if value == value]
    else:  # in the type of the values, which need not be converted then
        span = np.iinfo(kind)
        possible = [value for value in index_of_value if span.min <= value <= span.max and value == int(value)]
    if not possible:
        return np.full(values.shape, UNKNOWN, np.uint8)
    keys = np.array(sorted(possible), kind)
    indices = np.array([index_of_value[key] for key in keys.tolist()], np.uint8)
    position = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    found = np.where(keys[position] == values, indices[position], np.uint8(UNKNOWN))
    if values.dtype.kind == 'f':
        found[np.isnan(values)] = IGNORE_INDEX
    return found


def pack(colours: np.ndarray) -> np.ndarray:
    """Whole numbers 0xRRGGBB, int32, of colours `(..., 3)`."""
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def unpack(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of what `pack` returned."""
    return np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=-1)


def packed(index_of_colour: Mapping[Colour, int]) -> dict[int, int]:
    """The same with packed colours as keys."""
    return {red << 16 | green << 8 | blue: index for (red, green, blue), index in index_of_colour.items()}
