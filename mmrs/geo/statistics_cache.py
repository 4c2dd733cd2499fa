"""Where statistics of files are kept, so that they are computed once."""

import hashlib
import json
import os
from collections.abc import Mapping
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmrs.utils.errors import UnreadableError
from mmrs.utils.files import atomic_path

# Part of every cache file's name: raised when what is stored changes its meaning.
_FORMAT = 1

Stamp = tuple[int, int]


def cache_folder() -> Path:
    """Folder for what can be computed again: `$MMRS_CACHE`, or `~/.cache/mmrs`."""
    return Path(os.environ.get('MMRS_CACHE') or Path.home() / '.cache' / 'mmrs')


def file_stamp(path: str | Path) -> Stamp:
    """Size in bytes and time of the last change in nanoseconds, by which a changed file is known.

    Files beside it that GDAL reads along, with a nodata value or a mask, count as parts of it.

    Raises:
        UnreadableError: There is no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnreadableError(f'{path}: {(error.strerror or str(error)).lower()}') from error
    beside = [os.stat(name) for name in (f'{path}.aux.xml', f'{path}.msk') if os.path.exists(name)]
    return sum(s.st_size for s in (status, *beside)), max(s.st_mtime_ns for s in (status, *beside))


class StatisticsCache:
    """Arrays by file, in one `.npz` for each data root and setting.

    Processes may compute the same statistics at once: the file is replaced as a whole, and the last one to finish wins.
    A file that cannot be read is reported and made anew; a folder that cannot be written is reported and done without.

    Args:
        kind: What is stored.
        root: Folder of the data; two data sets never share a cache file.
        settings: Everything else that the numbers depend on; must be JSON.
        enabled: Off: nothing is read or written.
    """

    def __init__(self, kind: str, root: str | Path, settings: Mapping[str, Any], enabled: bool = True) -> None:
        self.root = os.path.abspath(root)
        text = json.dumps([_FORMAT, kind, self.root, settings], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = cache_folder() / 'statistics' / f'{kind}_{os.path.basename(self.root)}_{digest}.npz'
        self._enabled = enabled
        self._changed = False
        self._entries = self._load() if enabled else {}

    def key(self, path: str | Path) -> str:
        """A file's path inside the root."""
        return os.path.relpath(path, self.root)

    def get(self, key: str, stamp: Stamp) -> dict[str, np.ndarray] | None:
        """The arrays of an entry; None where there is none, or the file has changed since."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] == stamp else None

    def put(self, key: str, stamp: Stamp, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds an entry. All entries have the same arrays, of one dimension; their lengths may differ."""
        self._entries[key] = (stamp, dict(arrays))
        self._changed = True

    def save(self) -> None:
        """Writes the file if there is anything new."""
        if not (self._enabled and self._changed):
            return
        keys, entries = list(self._entries), list(self._entries.values())
        stored = {'keys': np.array(keys), 'stamps': np.array([stamp for stamp, _ in entries], np.int64)}
        for name in entries[0][1]:
            arrays = [arrays[name] for _, arrays in entries]
            stored[f'values/{name}'] = np.concatenate(arrays)
            stored[f'lengths/{name}'] = np.array([len(array) for array in arrays], np.int64)
        try:
            with atomic_path(self.path, overwrite=True) as temporary:
                np.savez_compressed(temporary, **stored)  # type: ignore[arg-type]  # numpy's stub takes bools alone
            self._changed = False
        except OSError as error:
            _warn(f'statistics cannot be kept in {self.path} ({error}); set MMRS_CACHE to a folder that can be written')

    def _load(self) -> dict[str, tuple[Stamp, dict[str, np.ndarray]]]:
        if not self.path.is_file():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                keys, stamps = stored['keys'].tolist(), [(size, time) for size, time in stored['stamps'].tolist()]
                arrays: list[dict[str, np.ndarray]] = [{} for _ in keys]
                for name in (file.partition('/')[2] for file in stored.files if file.startswith('values/')):
                    values, ends = stored[f'values/{name}'], np.cumsum(stored[f'lengths/{name}'])
                    for own, part in zip(arrays, np.split(values, ends[:-1]), strict=True):
                        own[name] = part
                return {key: (stamp, own) for key, stamp, own in zip(keys, stamps, arrays, strict=True)}
        except Exception as error:  # whatever a file may raise that was cut, filled with zeros or is another one's
            _warn(f'{self.path} cannot be read ({error}); the statistics are computed again')
            return {}


def _warn(message: str) -> None:
    print_log(message, logger='current', level=WARNING)
