"""Images that are stored turned, with a tag that tells viewers how to show them."""

import io
import os
import struct
from functools import lru_cache
from typing import BinaryIO

from PIL import Image
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from mmrs.geo.handles import file_state
from mmrs.utils.errors import UnusableError

_TAG = 0x112

# At most so many bytes of EXIF data are in a JPEG, from which a PNG has them.
_EXIF_BYTES = 1 << 16

# What a message offers; it writes over the files that it is given.
_TURN = (
    'python -c "import sys; from PIL import Image, ImageOps; '
    '[ImageOps.exif_transpose(Image.open(f)).save(f, quality=95) for f in sys.argv[1:]]" FILE ...'
)


def require_upright(path: str, raster: DatasetReader) -> None:
    """Raises UnusableError for an image whose EXIF orientation says that viewers turn or mirror it.

    What is drawn on the turned image would not fit the stored one, which is what GDAL reads. A georeferenced file
    counts as it is stored: where its pixels lie is what its georeference says.
    """
    if raster.transform != Affine.identity():
        return
    orientation = _orientation(path, raster)
    if 2 <= orientation <= 8:
        width, height = raster.width, raster.height
        shown = (height, width) if orientation >= 5 else (width, height)
        raise UnusableError(
            f'{path} is stored with {width} x {height} pixels (width x height), but its EXIF orientation is '
            f'{orientation}, with which viewers and labelling tools show {shown[0]} x {shown[1]} pixels, turned or '
            f'mirrored. Expected: 1. Turn the pixels of all such images and masks, in copies of the files: `{_TURN}`. '
            'If labels were drawn on the image as it is stored, remove the tag instead.'
        )


def _orientation(path: str, raster: DatasetReader) -> int:
    """The tag, 1 to 8 if the file is right; 1 where there is none."""
    if raster.driver == 'JPEG':
        # From the open file. (In files of other formats that GDAL made of a JPEG, it means nothing.)
        text = raster.get_tag_item('EXIF_Orientation') or '1'
        return int(text) if text.strip().isdigit() else 1
    if raster.driver not in ('GTiff', 'PNG', 'WEBP') or path.startswith('/vsi'):
        return 1
    return _unread_by_gdal(path, raster.driver, file_state(path))


@lru_cache(1 << 16)  # so that a file is opened once more for this, and not for each sample
def _unread_by_gdal(path: str, driver: str, _state: tuple[int, ...]) -> int:
    try:
        with open(path, 'rb') as file:
            if driver == 'GTiff':
                return _tiff_orientation(file)
            exif = _png_exif(file) if driver == 'PNG' else Image.open(file).info.get('exif', b'')
        return _tiff_orientation(io.BytesIO(exif.removeprefix(b'Exif\0\0'))) if exif else 1
    except (OSError, KeyError, struct.error):  # whether the file is whole is not the question here
        return 1


def _tiff_orientation(file: BinaryIO) -> int:
    """The tag in the first directory of a TIFF, which is also the form of EXIF data."""
    start = file.read(16)
    order = {b'II': '<', b'MM': '>'}[start[:2]]
    is_big = struct.unpack_from(order + 'H', start, 2)[0] == 43
    number, entry, first = ('Q', 20, 8) if is_big else ('H', 12, 4)
    file.seek(struct.unpack_from(order + ('Q' if is_big else 'I'), start, first)[0])
    count = struct.unpack(order + number, file.read(struct.calcsize(number)))[0]
    entries = file.read(entry * min(count, 4096))
    for place in range(0, len(entries) - entry + 1, entry):
        if struct.unpack_from(order + 'H', entries, place)[0] == _TAG:
            return struct.unpack_from(order + 'H', entries, place + entry - first)[0]
    return 1


def _png_exif(file: BinaryIO) -> bytes:
    """The EXIF data of a PNG, which stand in front of the pixels or behind them."""
    size = os.fstat(file.fileno()).st_size
    for start in (0, max(0, size - _EXIF_BYTES)):
        file.seek(start)
        part = file.read(_EXIF_BYTES)
        for mark in (b'eXIfII*\0', b'eXIfMM\0*'):
            if mark in part:
                return part[part.index(mark) + 4 :]
    return b''
