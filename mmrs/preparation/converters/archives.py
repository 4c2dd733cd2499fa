"""Finding the files of a published data set, unpacked or in zip files."""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmrs.utils.errors import DataError, require_folder

# Bytes; a few thousand in a zip file can stand for all of memory.
_MOST_TEXT = 1 << 26


class Member(NamedTuple):
    """A file of a data set.

    Attributes:
        path: Its name and the folders above it, as they are when unpacked.
        file: Where it is: the file itself, or the zip file.
        inside: Its name inside the zip file; None if it is unpacked.
    """

    path: PurePosixPath
    file: Path
    inside: str | None = None

    @property
    def gdal_path(self) -> str:
        """The name under which GDAL opens it."""
        # Braces keep GDAL from guessing where the name of the zip file ends.
        return str(self.file) if self.inside is None else f'/vsizip/{{{self.file.resolve()}}}/{self.inside}'

    def read_text(self) -> str:
        """The text that it holds; raises DataError if it cannot be read."""
        try:
            if self.inside is None:
                return self.file.read_text(encoding='utf-8-sig')
            with zipfile.ZipFile(self.file) as archive:
                if (size := archive.getinfo(self.inside).file_size) > _MOST_TEXT:
                    raise ValueError(f'it has {size} bytes, and no text file of a data set has more than {_MOST_TEXT}')
                return archive.read(self.inside).decode('utf-8-sig')
        except Exception as error:  # zipfile has a dozen classes for what a damaged file can lead to
            raise DataError(f'{self.gdal_path} cannot be read as text: {error}. Restore it from its source.') from error


def find_files(
    source: Path, classify: Callable[[PurePosixPath], tuple[str, str] | None], suffixes: Sequence[str], data: str
) -> dict[str, dict[str, Member]]:
    """A data set's files by kind and name; unpacked files go before those in zip files.

    Args:
        source: Folder of the zip files, or of what was in them, at any depth.
        classify: Kind and name of a file by its path; None for all that does not belong to the data set.
        suffixes: Suffixes of the files, in small letters.
        data: Name of the data set, for messages.

    Raises:
        DataError: There is no such folder, or a zip file is broken.
    """
    require_folder(source, f'a folder with the files of {data}')
    found: dict[str, dict[str, Member]] = {}
    for member in (*_unpacked(source, tuple(suffixes)), *_zipped(source)):
        if kind_and_name := classify(member.path):
            found.setdefault(kind_and_name[0], {}).setdefault(kind_and_name[1], member)
    return found


def _unpacked(source: Path, suffixes: tuple[str, ...]) -> Iterator[Member]:
    for parent, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                # Absolute, so that the name of the given folder itself counts, too.
                yield Member(PurePosixPath(Path(os.path.abspath(parent), name).as_posix()), Path(parent, name))


def _zipped(source: Path) -> Iterator[Member]:
    for path in zip_files(source):
        for inside in _inside(path):
            yield Member(PurePosixPath(path.stem) / inside, path, inside)


def zip_files(source: Path) -> list[Path]:
    """All zip files in a folder and below it."""
    return sorted(source.rglob('*.[zZ][iI][pP]'))


def holds_zip(path: Path) -> bool:
    """Whether a zip file holds further zip files."""
    return any(name.lower().endswith('.zip') for name in _inside(path))


def _inside(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception as error:  # as in `Member.read_text`
        raise DataError(f'{path} is no whole zip file: {error}. Download it again.') from error
