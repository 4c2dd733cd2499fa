from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmrs.utils.errors import OutputError

__all__ = ['atomic_path', 'new_directory', 'write_json', 'write_text', 'writing']


@contextmanager
def writing(path: str | os.PathLike, errors: type[Exception] | tuple[type[Exception], ...] = OSError) -> Iterator[None]:
    """Names the file that is written when that goes wrong in the block.

    Args:
        path: The file, by its final name.
        errors: What counts as such: also those of a library, or Exception where they are of no public kind.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        yield
    except OutputError:
        raise
    except errors as error:
        reason = getattr(error, 'strerror', None) or error.__cause__ or error
        raise OutputError(f'{path} cannot be written: {reason}') from error


@contextmanager
def atomic_path(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes the final name when the block ends well.

    The suffix stays, so that writers which go by it work.

    Raises:
        OutputError: `path` exists and `overwrite` is off, it is a folder, or its folder cannot be made.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f'{path} is a folder; a file is to be written there')
    if path.exists() and not overwrite:
        raise OutputError(f'{path} exists already; choose another name or ask for it to be overwritten')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'{path} cannot be written: {error.filename}: {error.strerror}') from error
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}.part{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def new_directory(path: str | os.PathLike, overwrite: bool = False) -> Path:
    """Make a folder for outputs.

    Raises:
        OutputError: It holds something already and `overwrite` is off, it is a file, or it cannot be made.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise OutputError(f'{path} is a file; a folder is needed here')
    if path.is_dir() and not overwrite and any(path.iterdir()):
        raise OutputError(f'{path} is not empty; choose another folder, or pass --overwrite to write into it')
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'{path} cannot be made: {error.filename}: {error.strerror}') from error
    return path


def write_text(text: str, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write a text file, which appears when it is complete.

    Raises:
        OutputError: It exists and `overwrite` is off, or cannot be written.
    """
    with atomic_path(path, overwrite) as temporary, writing(path):
        temporary.write_text(text, encoding='utf-8')


def write_json(data: Any, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Write JSON as :func:`write_text` does; NaN and infinities, which JSON lacks, become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if hasattr(value, 'tolist'):
            return plain(value.tolist())
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    write_text(json.dumps(plain(data), indent=2, allow_nan=False) + '\n', path, overwrite)
