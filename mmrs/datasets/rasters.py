"""Reading image and label files of any format that GDAL knows."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

PathLike = str | Path

#: Suffixes under which a folder is searched for images and label maps; compared without regard to case.
RASTER_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.jp2')

# These formats carry no geographic reference, so its absence is not worth a warning; in a GeoTIFF it is.
_PLAIN_SUFFIXES = ('.png', '.jpg', '.jpeg')

_PNG_END = b'IEND\xaeB`\x82'

# GDAL otherwise lists the whole folder at every open, looking for files that belong to the image: with thousands of
# clips in one folder that takes longer than reading the clip. It still looks for such files by their names.
_OPTIONS = {'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE'}


@contextmanager
def open_raster(path: PathLike, quiet: bool = False) -> Iterator[DatasetReader]:
    """Opens a raster for reading.

    Args:
        path: A file, or a GDAL path such as `/vsizip/archive.zip/image.tif`.
        quiet: Whether a GeoTIFF without georeference is nothing to warn of; a PNG or JPEG never is.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be opened, or a read inside the `with` block fails.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    options = dict(_OPTIONS)
    if suffix == '.png' and not path.startswith('/vsi') and not is_whole_png(path):
        # GDAL's fast way of reading a whole PNG fills what is missing from a cut file with zeros and says nothing; the
        # row by row way raises.
        options['GDAL_PNG_WHOLE_IMAGE_OPTIM'] = 'NO'
    try:
        with rasterio.Env(**options), warnings.catch_warnings():
            if quiet or suffix in _PLAIN_SUFFIXES:
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as raster:
                yield raster
    except RasterioError as error:
        if not path.startswith('/vsi') and not os.path.exists(path):
            raise FileNotFoundError(f'{path}: no such file') from error
        raise OSError(
            f'{path} cannot be read as an image: {_reason(error)}. Restore the file from its source, or remove it '
            'together with its counterpart (image or label map).'
        ) from error


def is_whole_png(path: PathLike) -> bool:
    """Whether a PNG ends with its end mark, as one does that was written and copied to the end."""
    try:
        with open(path, 'rb') as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:  # also a file shorter than the mark; opening it says what is wrong
        return False


def _reason(error: BaseException) -> str:
    """GDAL's own words, which rasterio keeps in the cause of its general "Read failed"."""
    return str(error.__cause__ or error).rstrip('.')


def read_image(path: PathLike, bands: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an image with its bands in the order of the file.

    A palette image becomes RGB. Values of uint8 stay as they are, all others become float32.

    Args:
        path: The file.
        bands: Numbers of the bands to read, counted from 1, in the wanted order. All of them by default.

    Returns:
        The image, `(H, W, C)`, and a boolean map `(H, W)` of the pixels that hold data, or None where all do. Pixels
        without data are those that the file declares as nodata or hides by a mask, and those that are not finite; in
        the image they have the mean of the others, so that they are no black hole to a convolution.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It lacks one of the bands.
    """
    with open_raster(path) as raster:
        paletted = raster.colorinterp[0] == ColorInterp.palette
        count = 3 if paletted else raster.count
        if bands is not None and not all(1 <= band <= count for band in bands):
            raise ValueError(f'{path} has {count} bands, numbered from 1; bands {list(bands)} were asked for.')
        if paletted:
            image = expand_palette(raster.read(1), raster.colormap(1))
            image = image if bands is None else np.ascontiguousarray(image[..., [band - 1 for band in bands]])
        else:
            planes = raster.read(list(bands) if bands is not None else None)
            planes = planes if planes.dtype == np.uint8 else planes.astype(np.float32)
            # Ten times as fast as a transposed copy.
            image = cv2.merge(tuple(planes)).reshape(*planes.shape[1:], len(planes))
        # Plain images declare no mask, and shall pay nothing for one.
        declares_mask = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
        valid = raster.dataset_mask() > 0 if declares_mask else None
    if image.dtype != np.uint8:
        finite = np.isfinite(image).all(axis=-1)
        if not finite.all():
            valid = finite if valid is None else valid & finite
    if valid is None or valid.all():
        return image, None
    image[~valid] = image[valid].mean(axis=0) if valid.any() else 0
    return image, valid


def expand_palette(indices: np.ndarray, palette: dict) -> np.ndarray:
    """Colours `(H, W, 3)`, uint8, of palette indices `(H, W)`; `palette` as `rasterio`'s `colormap()` returns it."""
    table = np.zeros((256, 3), np.uint8)
    for index, colour in palette.items():
        if index < 256:
            table[index] = colour[:3]
    return table[indices]


def read_label_map(path: PathLike) -> tuple[np.ndarray, float | None]:
    """Reads class ids `(H, W)`, which for a palette image are the palette's indices, and the declared nodata value.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It has several bands.
    """
    with open_raster(path) as raster:
        if raster.count != 1:
            raise ValueError(
                f'{path} has {raster.count} bands, but a label map has one band of class ids. Convert colour masks '
                'with tools/dataset_converters/color_masks.py first.'
            )
        return raster.read(1), raster.nodata


def list_rasters(folder: PathLike, suffixes: Sequence[str] = RASTER_SUFFIXES) -> dict[str, str]:
    """Finds the rasters in a folder and below it.

    Returns:
        The path of each one inside the folder, by that path without its suffix, sorted.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: Two files differ by their suffixes only.
    """
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'{folder}: no such folder')
    suffixes = tuple(suffix.lower() for suffix in suffixes)
    found: dict[str, str] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            suffix = next((s for s in suffixes if name.lower().endswith(s)), None)
            # A dot in front marks what belongs to a tool, such as a file that a converter has not finished.
            if suffix is None or name.startswith('.'):
                continue
            path = os.path.relpath(os.path.join(parent, name), folder)
            stem = path[: -len(suffix)]
            if stem in found:
                raise ValueError(
                    f'{folder} holds both {found[stem]} and {path}, which differ by their suffixes only. Remove one of '
                    'them, or name the suffix to use.'
                )
            found[stem] = path
    return dict(sorted(found.items()))
