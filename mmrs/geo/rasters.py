"""Reading image and label files of any format that GDAL knows."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what rasterio lets through of GDAL's errors
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window
from scipy.sparse import csr_array

from mmrs.geo.folders import RASTER_SUFFIXES
from mmrs.geo.handles import bound_block_cache, file_state, handles
from mmrs.geo.orientation import require_upright
from mmrs.geo.resampling import resample, resampling_weights
from mmrs.utils.errors import DataError, UnreadableError, UnusableError

PathLike = str | Path

# These formats carry no geographic reference, so its absence is not worth a warning; in a GeoTIFF it is.
_PLAIN_SUFFIXES = ('.png', '.jpg', '.jpeg')

# What a file of such a suffix is read as, whichever of these formats it is in. GDAL would take its word for being a
# virtual raster or the address of a map server, too, and read other files or ask the network in its place.
_IMAGE_DRIVERS = ('GTiff', 'PNG', 'JPEG', 'JP2OpenJPEG', 'JP2KAK', 'JP2ECW', 'JP2MrSID', 'WEBP', 'BMP', 'GIF')

# A window of a resampled raster is made of strips, so that all of its own pixels are never in memory at once.
_STRIP_BYTES = 64 * 2**20

_RESTORE = 'Restore the file from its source'

_PNG_END = b'IEND\xaeB`\x82'

# Colour interpretations of open rasters. rasterio raises at this question whatever GDAL complained of last, about any
# file; only right after an opening, nothing can have been left behind.
_kinds_of: WeakKeyDictionary[DatasetReader, tuple[ColorInterp, ...]] = WeakKeyDictionary()

_OPTIONS = {
    # GDAL otherwise lists the whole folder at every open, looking for files that belong to the image: with thousands of
    # clips in one folder that takes longer than reading the clip. It still looks for such files by their names.
    'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE',
    # Otherwise what is missing from a cut JPEG is grey, and nothing is said.
    'GDAL_ERROR_ON_LIBJPEG_WARNING': 'TRUE',
    # A virtual raster may bring code for its pixels.
    'GDAL_VRT_ENABLE_PYTHON': 'NO',
}


@contextmanager
def open_raster(path: PathLike, quiet: bool = False) -> Iterator[DatasetReader]:
    """Opens a raster for reading.

    Args:
        path: A file, or a GDAL path such as `/vsizip/archive.zip/image.tif`.
        quiet: Whether a GeoTIFF without georeference is nothing to warn of; a PNG or JPEG never is.

    Raises:
        UnreadableError: There is no such file; it cannot be opened, holds no pixels or is cut; or a read inside the
            `with` block fails.
        UnusableError: Its EXIF orientation says that what it shows is not what it stores.
    """
    path = os.fspath(path)
    with reading(path), open_unmanaged(path, quiet) as raster:
        yield raster


@contextmanager
def shared_raster(path: PathLike) -> Iterator[DatasetReader]:
    """Opens a raster for reading by window, and leaves it open for the next time (see `HandlePool`).

    Takes paths and raises errors as `open_raster` does.
    """
    path = os.fspath(path)
    with reading(path):
        yield handles.get((path, file_state(path)), partial(_open_shared, path))


def _open_shared(path: str) -> DatasetReader:
    # Reads windows of uncompressed files as they are, without a detour over GDAL's block cache: twice as fast.
    with rasterio.Env(GTIFF_DIRECT_IO='YES'):
        return open_unmanaged(path)


def open_unmanaged(path: str, quiet: bool = True) -> DatasetReader:
    """Opens a raster for reading, without the care for GDAL's errors that `reading` around it takes."""
    with warnings.catch_warnings():
        if quiet or os.path.splitext(path)[1].lower() in _PLAIN_SUFFIXES:
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
        bound_block_cache()
        drivers = _IMAGE_DRIVERS if path.lower().endswith(RASTER_SUFFIXES) else None
        raster = DatasetReader(path, driver=drivers)  # `rasterio.open` takes one driver only
    _kinds_of[raster] = raster.colorinterp
    require_last_block(path, raster)
    require_upright(path, raster)
    return raster


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Sets GDAL's options for a file, and raises what goes wrong with it as `open_raster` says."""
    options = dict(_OPTIONS)
    if not os.path.isfile(path) and os.path.exists(path):  # opening a pipe waits for ever
        raise _unreadable(path, 'it is no file. An image was expected there')
    if path.lower().endswith('.png') and not path.startswith('/vsi') and not is_whole_png(path):
        # GDAL's fast way of reading a whole PNG fills what is missing from a cut file with zeros and says nothing; the
        # row by row way raises.
        options['GDAL_PNG_WHOLE_IMAGE_OPTIM'] = 'NO'
    try:
        with rasterio.Env(**options):
            yield
    except (RasterioError, CPLE_BaseError, UnicodeDecodeError) as error:
        if not path.startswith('/vsi') and not os.path.exists(path):
            raise UnreadableError(f'{path}: no such file') from error
        # GDAL's own words are in the cause of rasterio's general "Read failed".
        empty = os.path.isfile(path) and not os.path.getsize(path)
        reason = 'it has 0 bytes' if empty else str(error.__cause__ or error).rstrip('.')
        raise _unreadable(
            path, f'{reason}. {_RESTORE}, or remove it with its counterpart (image or label map)'
        ) from error


def _unreadable(path: str, reason: str) -> UnreadableError:
    return UnreadableError(f'{path} cannot be read as an image: {reason}.')


def require_last_block(path: str, raster: DatasetReader) -> None:
    """Raises UnreadableError for a GeoTIFF that was cut, or has lost the table of its blocks; reads no pixels.

    Not all ways of reading notice the former. The latter is black to GDAL, for blocks without data need not be there; a
    file that leaves all of them out on purpose declares what no data is.
    """
    if raster.driver != 'GTiff':
        return
    rows, columns = raster.block_shapes[-1]
    down, across = ceil(raster.height / rows), ceil(raster.width / columns)
    length = os.path.getsize(path) if os.path.isfile(path) else None

    def end(row: int, column: int) -> int | None:
        keys = (f'BLOCK_{key}_{column}_{row}' for key in ('OFFSET', 'SIZE'))
        offset, size = (raster.get_tag_item(key, 'TIFF', raster.count) for key in keys)
        return None if offset is None or size is None else int(offset) + int(size)

    last = end(down - 1, across - 1)
    if last is not None and length is not None and last > length:
        ends = f'it has {length} bytes, but its last block of pixels ends at byte {last}'
        raise _unreadable(path, f'it is cut: {ends}. {_RESTORE}')
    if last is None:
        # The table of the blocks takes some bytes for each, with or without pixels.
        lost = length is not None and down * across > length
        if not lost and MaskFlags.all_valid in raster.mask_flag_enums[-1]:
            lost = all(end(row, column) is None for row in range(down) for column in range(across))
        if lost:
            raise _unreadable(path, f'its blocks of pixels are missing. {_RESTORE}')


def require_all_blocks(raster: DatasetReader, length: int) -> None:
    """Raises OSError for an open GeoTIFF that was just written if it lacks a block: GDAL does not always say so.

    Args:
        raster: The file, or one of its overviews.
        length: Bytes of the file.
    """
    blocks = (ceil(side / block) for side, block in zip(raster.shape, raster.block_shapes[0]))
    for row, column in np.ndindex(*blocks):
        offset, size = (raster.get_tag_item(f'BLOCK_{key}_{column}_{row}', 'TIFF', 1) for key in ('OFFSET', 'SIZE'))
        if offset is None or size is None or int(offset) + int(size) > length:
            raise OSError('it is not complete; the disk may be full')


def is_whole_png(path: PathLike) -> bool:
    """Whether a PNG ends with its end mark, as one does that was written and copied to the end."""
    try:
        with open(path, 'rb') as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:  # also a file shorter than the mark; opening it says what is wrong
        return False


def read_image(
    path: PathLike,
    bands: Sequence[int] | None = None,
    window: Sequence[int] | None = None,
    grid_shape: tuple[int, int] | None = None,
    apply_scale: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an image, or a window of it, with its bands in the order of the file.

    A palette image becomes RGB. Values of uint8 stay as they are, all others become float32; with `apply_scale`, all
    but the colours of a palette do.

    Args:
        path: The file.
        bands: Numbers of the bands to read, counted from 1, in the wanted order. By default all but an alpha band.
        window: x0, y0, x1, y1 of a rectangle of pixels, x1 and y1 outside. By default the whole image.
        grid_shape: Rows and columns of the resampled raster to which `window` belongs: averaged where that has fewer
            than the file, interpolated linearly where it has more. By default the file's own.
        apply_scale: Whether values are multiplied by the scale that the file gives for their band, and its offset is
            added.

    Returns:
        The image, `(H, W, C)`, and a boolean map `(H, W)` of the pixels that hold data, or None where all do. Pixels
        without data are those that a mask or an alpha band hides (unless `bands` asks for that band), those that are
        not finite, and those with the declared nodata value: in any band, but for unsigned integers, whose nodata value
        is mostly 0 and common in single bands, in all of them. In the image these pixels have the mean of the others,
        so that they are no black hole to a convolution.

    Raises:
        UnreadableError: The file is missing or cannot be read.
        UnusableError: It has a scale that is 0 or no number, complex numbers, or more pixels than memory holds.
        DataError: It lacks one of the bands.
    """
    with open_raster(path) if window is None else shared_raster(path) as raster:
        numbers = list(chosen_bands(raster, bands))
        if window is None or grid_shape is None or tuple(grid_shape) == raster.shape:
            image, valid = _read_pixels(raster, numbers, window, apply_scale)
        else:
            image, valid = _read_resampled(raster, numbers, window, grid_shape, apply_scale)
    if valid is None or valid.all():
        return image, None
    fill_missing(image, valid)
    return image, valid


def chosen_bands(raster: DatasetReader, bands: Sequence[int] | None = None) -> tuple[int, ...]:
    """Numbers, from 1, of the bands that are read: `bands`, or all but transparency; a palette counts as three.

    Raises:
        DataError: The raster lacks one of `bands`.
    """
    paletted = colour_kinds(raster)[0] == ColorInterp.palette
    count = 3 if paletted else raster.count
    if bands is not None and not all(1 <= band <= count for band in bands):
        raise DataError(f'{raster.name} has {count} bands, numbered from 1; bands {list(bands)} were asked for.')
    return tuple(bands or ((1, 2, 3) if paletted else image_bands(raster)))


def _read_pixels(
    raster: DatasetReader, numbers: list[int], window: Sequence[int] | None, apply_scale: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels of an open raster as `read_image` has them, but for those without data, which may have any value."""
    part, shape = _part(raster, window, None)
    if colour_kinds(raster)[0] == ColorInterp.palette:
        image = expand_palette(read_ids(raster, window, None), raster.colormap(1))
        if numbers != [1, 2, 3]:
            image = np.ascontiguousarray(image[..., [number - 1 for number in numbers]])
        return image, shown_pixels(raster, [1], **part)
    kind = _kind(raster, numbers, apply_scale)
    _require_memory(raster.name, shape, len(numbers) * kind.itemsize)
    image = np.empty((*shape, len(numbers)), kind)
    # Straight into place: each further copy of a large window costs as much again, mostly for fresh memory.
    raster.read(numbers, out=image.transpose(2, 0, 1), **part)
    valid = where_all(shown_pixels(raster, numbers, **part), without_nodata(image, raster, numbers))
    if kind != np.uint8 and not np.isfinite(image).all():
        valid = where_all(valid, np.isfinite(image).all(axis=-1))
    if apply_scale:
        scale_values(image, raster, numbers)
    return image, valid


def scale_values(image: np.ndarray, raster: DatasetReader, numbers: Sequence[int]) -> None:
    """Multiplies values `(H, W, C)`, float32, by the scales of their bands and adds the offsets, in place.

    Raises:
        UnusableError: A scale is 0, or one of the numbers is none.
    """
    tags = scale_and_offset(raster, numbers)
    if tags is None:
        return
    if not np.isfinite(tags).all() or not tags[0].all():
        raise UnusableError(
            f'{raster.name} gives scale {", ".join(map(str, tags[0]))} and offset {", ".join(map(str, tags[1]))}; '
            'numbers were expected, and no scale of 0. Correct its tags, or leave apply_scale out.'
        )
    image *= tags[0].astype(np.float32)
    image += tags[1].astype(np.float32)


def scale_and_offset(raster: DatasetReader, numbers: Sequence[int]) -> np.ndarray | None:
    """By what the values of some bands are to be multiplied, and what then to be added, `(2, C)`, float64.

    None where the file says nothing of the kind, as for the colours of a palette.
    """
    if colour_kinds(raster)[0] == ColorInterp.palette:
        return None
    tags = np.array([[values[number - 1] for number in numbers] for values in (raster.scales, raster.offsets)])
    return None if (tags[0] == 1).all() and (tags[1] == 0).all() else tags


def _kind(raster: DatasetReader, numbers: Sequence[int], apply_scale: bool) -> np.dtype:
    """Type of the image that bands make."""
    paletted = colour_kinds(raster)[0] == ColorInterp.palette
    whole_bytes = paletted or (not apply_scale and all(raster.dtypes[number - 1] == 'uint8' for number in numbers))
    return np.dtype(np.uint8 if whole_bytes else np.float32)


def _read_resampled(
    raster: DatasetReader, numbers: list[int], window: Sequence[int], grid_shape: tuple[int, int], apply_scale: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The same for a window of the resampled raster; the pixels without data are 0."""
    kind, shape = _kind(raster, numbers, apply_scale), (window[3] - window[1], window[2] - window[0])
    _require_memory(raster.name, shape, len(numbers) * kind.itemsize)
    image, valid = np.empty((*shape, len(numbers)), kind), np.ones(shape, bool)
    for here, rows, columns, own in _strips(raster, window, grid_shape, len(numbers) * kind.itemsize):
        image[here], shown = resample(*_read_pixels(raster, numbers, own, apply_scale), rows, columns)
        if shown is not None:
            valid[here] = shown
    return image, valid


def _strips(
    raster: DatasetReader, window: Sequence[int], grid_shape: tuple[int, int], size: int
) -> Iterator[tuple[slice, csr_array, csr_array, tuple[int, int, int, int]]]:
    """Strips of a window of a resampled raster, of which a pixel takes `size` bytes.

    Yields:
        Rows of the window; the weights of `resample`; and the window of the raster's own pixels that they are for.
    """
    x0, y0, x1, y1 = window
    fy, fx = raster.height / grid_shape[0], raster.width / grid_shape[1]
    rows = resampling_weights(y0 * fy, y1 * fy, y1 - y0, raster.height)
    columns = resampling_weights(x0 * fx, x1 * fx, x1 - x0, raster.width)
    left, right = columns.indices.min(), columns.indices.max() + 1
    step = max(1, int(_STRIP_BYTES / (size * (right - left) * max(fy, 1))))
    for top in range(0, y1 - y0, step):
        part = rows[top : top + step]
        first, last = part.indices.min(), part.indices.max() + 1
        yield slice(top, top + step), part[:, first:last], columns[:, left:right], (left, first, right, last)


def _require_memory(path: PathLike, shape: tuple[int, int], size: int) -> None:
    """Raises UnusableError where the pixels, of `size` bytes each, would take most of this machine's memory."""
    needed, present = prod(shape) * size, os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if needed > present / 2:
        raise UnusableError(
            f'{path} says that it has {shape[1]} x {shape[0]} pixels (width x height): {needed / 1e9:.1f} GB, of '
            f'{present / 1e9:.1f} GB of memory. If that is true, read it by window, with '
            'RasterDataset(windows=dict(size=...)) or tools/predict.py; else restore the file from its source.'
        )


def fill_missing(image: np.ndarray, valid: np.ndarray) -> None:
    """Gives the pixels of an image `(H, W, C)` that are not valid `(H, W)` the mean of the others, in place; or 0."""
    image[~valid] = image[valid].mean(axis=0, dtype=np.float64) if valid.any() else 0


def shown_pixels(raster: DatasetReader, numbers: Sequence[int], **part: Any) -> np.ndarray | None:
    """Where no mask, alpha band or transparent palette entry hides the pixels of an open raster.

    Args:
        raster: The raster.
        numbers: Numbers of the bands that are read; an alpha band among them hides nothing.
        **part: Arguments of rasterio's `read` that say what is read.

    Returns:
        A boolean map `(H, W)`, or None where nothing can be hidden.
    """
    # Plain images declare no mask, and shall pay nothing for one.
    flags = {flag for number in numbers for flag in raster.mask_flag_enums[number - 1]}
    masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    masked |= MaskFlags.nodata in flags and colour_kinds(raster)[0] == ColorInterp.palette
    shown = raster.dataset_mask(**part) > 0 if masked else None
    alpha = _alpha(raster)
    if alpha is None or alpha in numbers:
        return shown
    # GDAL itself takes no mask from an alpha band of signed or real numbers, nor from one beside a nodata value.
    return where_all(shown, raster.read(alpha, **part) > 0)


def image_bands(raster: DatasetReader) -> list[int]:
    """Numbers of the bands that are no alpha band."""
    return [number for number in raster.indexes if number != _alpha(raster)] or list(raster.indexes)


def colour_kinds(raster: DatasetReader) -> tuple[ColorInterp, ...]:
    """What the bands of an open raster stand for."""
    return _kinds_of.get(raster) or raster.colorinterp


def _alpha(raster: DatasetReader) -> int | None:
    kinds = colour_kinds(raster)
    return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None


def without_nodata(image: np.ndarray, raster: DatasetReader, numbers: Sequence[int]) -> np.ndarray | None:
    """Where the pixels of an image do not have the declared nodata value, by the rule that `read_image` states.

    Args:
        image: Pixels `(H, W, C)` of any type.
        raster: The open raster that they are from.
        numbers: Numbers of its bands that they are.

    Returns:
        A boolean map `(H, W)`, or None where all have data.
    """
    # NaN, like no value at all, equals nothing here; that such pixels are not finite is another check. A double beyond
    # the range of a float becomes infinite, as do the pixels.
    with np.errstate(over='ignore'):
        kind = image.dtype if image.dtype.kind == 'f' else np.float64
        declared = np.array([raster.nodatavals[number - 1] for number in numbers], kind)
    if np.isnan(declared).all():
        return None
    found = image == declared
    if not found.any():
        return None
    unsigned = all(raster.dtypes[number - 1].startswith('uint') for number in numbers)
    return ~(found.all(axis=-1) if unsigned else found.any(axis=-1))


def where_all(*maps: np.ndarray | None) -> np.ndarray | None:
    """Where all of some boolean maps hold; None stands for a map that holds everywhere."""
    known = [own for own in maps if own is not None]
    return np.logical_and.reduce(known) if known else None


def _part(
    raster: DatasetReader,
    window: Sequence[int] | None,
    grid_shape: tuple[int, int] | None,
) -> tuple[dict[str, Any], tuple[int, int]]:
    """What makes rasterio read class ids in a window of a resampled raster, and rows and columns of the result."""
    if any(dtype.startswith('complex') for dtype in raster.dtypes):
        raise UnusableError(
            f'{raster.name} has complex numbers ({raster.dtypes[0]}) as pixels. Make images of real ones.'
        )
    if window is None:
        return {}, raster.shape
    x0, y0, x1, y1 = window
    shape = y1 - y0, x1 - x0
    if grid_shape is None or tuple(grid_shape) == raster.shape:
        return dict(window=Window(x0, y0, x1 - x0, y1 - y0)), shape
    fy, fx = raster.height / grid_shape[0], raster.width / grid_shape[1]
    source = Window(x0 * fx, y0 * fy, (x1 - x0) * fx, (y1 - y0) * fy)
    return dict(window=source, resampling=Resampling.mode if fx * fy > 1 else Resampling.nearest), shape


def expand_palette(indices: np.ndarray, palette: dict) -> np.ndarray:
    """Colours `(H, W, 3)`, uint8, of palette indices `(H, W)`; `palette` as `rasterio`'s `colormap()` returns it."""
    table = np.zeros((256, 3), np.uint8)
    for index, colour in palette.items():
        if index < 256:
            table[index] = colour[:3]
    return table[indices]


def read_label_map(
    path: PathLike, window: Sequence[int] | None = None, grid_shape: tuple[int, int] | None = None
) -> tuple[np.ndarray, float | None]:
    """Reads class ids `(H, W)`, which for a palette image are the palette's indices, and the declared nodata value.

    Args:
        path: The file.
        window: As for `read_image`.
        grid_shape: As for `read_image`; the most frequent id counts where the resampled raster is coarser than the
            file, and the nearest where it is finer.

    Raises:
        UnreadableError: The file is missing or cannot be read.
        DataError: It has several bands.
    """
    with open_raster(path) if window is None else shared_raster(path) as raster:
        require_one_band(path, raster.count)
        return read_ids(raster, window, grid_shape), raster.nodata


def require_one_band(path: PathLike, count: int) -> None:
    """Raises DataError for a label map with several bands."""
    if count != 1:
        raise DataError(
            f'{path} has {count} bands, but a label map has one band of class ids. Convert colour masks '
            'with tools/dataset_converters/color_masks.py first.'
        )


def read_ids(raster: DatasetReader, window: Sequence[int] | None, grid_shape: tuple[int, int] | None) -> np.ndarray:
    """Ids `(H, W)` in the first band of an open raster; see `read_label_map`."""
    part, shape = _part(raster, window, grid_shape)
    _require_memory(raster.name, shape, np.dtype(raster.dtypes[0]).itemsize)
    if part.get('resampling') == Resampling.mode:
        raster = handles.get((raster.name, file_state(raster.name), 'whole'), partial(_without_overviews, raster))
    return raster.read(1, out_shape=shape, **part)


def _without_overviews(raster: DatasetReader) -> DatasetReader:
    """The same raster, of which a read at a lower resolution takes no overviews: nobody knows how they were made, or
    whether the file was changed since.

    It is good for reading alone: of a raster without a transform, GDAL gives it an arbitrary one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        return DatasetReader(raster.name, driver=raster.driver, OVERVIEW_LEVEL='NONE')


def read_coverage(
    raster: DatasetReader, window: Sequence[int] | None, grid_shape: tuple[int, int] | None
) -> np.ndarray | None:
    """Where the first band of an open raster holds data, `(H, W)`, bool; None where all of it does.

    A resampled pixel holds data if any of the pixels in it does. What `read_ids` says of the others is arbitrary: GDAL
    makes them 0 where the nodata value is negative or NaN, and where a mask hides them.
    """
    if MaskFlags.all_valid in raster.mask_flag_enums[0]:
        return None
    part, shape = _part(raster, window, grid_shape)
    if window is None or grid_shape is None or prod(grid_shape) >= prod(raster.shape):
        return raster.read_masks(1, out_shape=shape, **part) > 0
    covered = np.empty(shape, bool)
    # GDAL would take the overviews of a mask, though it was told to take none of the raster.
    for here, rows, columns, own in _strips(raster, window, grid_shape, 1):
        mask = raster.read_masks(1, **_part(raster, own, None)[0])
        covered[here] = resample(mask[..., None], mask > 0, rows, columns)[1]
    return covered
