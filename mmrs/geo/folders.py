"""Rasters in folders, by their suffixes."""

import logging
import os
from collections import Counter
from collections.abc import Sequence

import rasterio
from mmengine.logging import print_log
from rasterio.errors import RasterioError

from mmrs.utils.errors import DataError, require_folder

#: Suffixes under which a folder is searched for images and label maps; compared without regard to case.
RASTER_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.jp2')

#: What to do about rasters of other formats, as the beginning or the end of a sentence.
CONVERT = 'convert them (`rio convert IN OUT.tif`)'

# Those of other formats of GDAL. What may be anything, or is mostly a table or the thumbnail of an image, is not here.
_OTHER_SUFFIXES = (
    '.img', '.bil', '.bip', '.bsq', '.vrt', '.asc', '.grd', '.flt', '.dem', '.hgt', '.ecw', '.sid', '.j2k', '.jpf',
    '.ntf', '.nitf', '.pix', '.rst', '.sdat', '.ers', '.kea', '.mrf', '.mbtiles', '.nc', '.hdf', '.grb', '.grb2',
    '.bmp',
)  # fmt: skip

# Those of ENVI's files, which may be anything but for the header beside them.
_SUFFIXES_WITH_HEADER = ('.dat', '.bin', '.raw', '')


def list_rasters(
    folder: str | os.PathLike, suffixes: Sequence[str] = RASTER_SUFFIXES, advice: str | None = None
) -> dict[str, str]:
    """Finds the rasters in a folder and below it.

    Args:
        folder: The folder.
        suffixes: Ends of the names of the files that count.
        advice: What can be done about rasters of other formats, which a warning then names; by default nothing is said.

    Returns:
        The path of each one inside the folder, by that path without its suffix, sorted.

    Raises:
        DataError: There is no such folder, or two files differ by their suffixes only.
    """
    folder = os.fspath(folder)
    require_folder(folder, 'a folder of rasters')
    found, others = files_by_stem(folder, suffixes)
    twice = next((paths for paths in found.values() if len(paths) > 1), None)
    if twice:
        raise DataError(
            f'{folder} holds both {twice[0]} and {twice[1]}, which differ by their suffixes only. Remove one of them, '
            'or name the suffix to use.'
        )
    if found and advice and (left_out := _describe_rasters(folder, others)):
        print_log(f'{folder}: {left_out} left out; {advice}', logger='current', level=logging.WARNING)
    return {stem: path for stem, (path,) in found.items()}


def files_by_stem(folder: str, suffixes: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The files in a folder and below it.

    A dot in front of a name marks what belongs to a tool, such as what a converter has not finished.

    Args:
        folder: The folder.
        suffixes: Ends of the names of the files that are wanted, compared without regard to case.

    Returns:
        The paths inside the folder of those that are wanted, by that path without its suffix, sorted; several where
        they differ by the suffix alone. And the paths of all others.
    """
    found: dict[str, list[str]] = {}
    others = []
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in sorted(names):
            if name.startswith('.'):
                continue
            path = os.path.relpath(os.path.join(parent, name), folder)
            suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
            if suffix is None:
                others.append(path)
            else:
                found.setdefault(path[: -len(suffix)], []).append(path)
    return dict(sorted(found.items())), others


def other_rasters(folder: str | os.PathLike, suffixes: Sequence[str] = RASTER_SUFFIXES) -> str:
    """Rasters in a folder and below it whose formats it is not searched for, for a message: `3 rasters (.dat, .img)`.

    Args:
        folder: The folder.
        suffixes: Those that it is searched for.

    Returns:
        Empty if there are none.
    """
    folder = os.fspath(folder)
    return _describe_rasters(folder, files_by_stem(folder, suffixes)[1])


def _describe_rasters(folder: str, paths: Sequence[str]) -> str:
    kinds = Counter(kind for path in paths if (kind := _other_format(os.path.join(folder, path))) is not None)
    number = sum(kinds.values())
    return f'{number} raster{"s" * (number > 1)} ({", ".join(sorted(kinds))})' if number else ''


def _other_format(path: str) -> str | None:
    """Suffix of a file that GDAL can probably read, although it is none of `RASTER_SUFFIXES`."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() in _OTHER_SUFFIXES:
        return suffix.lower()
    if suffix.lower() in _SUFFIXES_WITH_HEADER and any(os.path.isfile(f'{name}.hdr') for name in {stem, path}):
        return suffix.lower() or 'without suffix'
    if suffix.lower() == '.gpkg':  # mostly polygons
        try:
            rasterio.open(path, driver='GPKG').close()
        except RasterioError:
            return None
        return suffix.lower()
    return None
