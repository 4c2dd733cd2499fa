"""Files that stay open from one sample to the next."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rasterio.env import set_gdal_config

T = TypeVar('T')

# GDAL keeps decoded blocks in memory, by default 5 % of the machine's for each process: several GB with a few workers.
# Windows at random places hardly ever find a block again, so that little is enough.
CACHE_BYTES = 64 * 2**20

# A raster that is read from end to end finds the blocks under the next windows again, where it is stored by rows.
SCAN_CACHE_BYTES = 128 * 2**20


class HandlePool(threading.local):
    """Keeps what is slow to open, and closes what was used least recently.

    Each thread and each process has its own: handles of GDAL are not for several threads at once, and a handle that a
    forked process inherits shares its place in the file with the parent's.

    Args:
        limit: How many handles stay open.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._handles: OrderedDict[Hashable, Any] = OrderedDict()
        self._process = os.getpid()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The handle of that key, made if there is none. It closes when nothing refers to it any more."""
        if self._process != os.getpid():
            self._handles.clear()
            self._process = os.getpid()
        if key in self._handles:
            self._handles.move_to_end(key)
        else:
            self._handles[key] = make()
            if len(self._handles) > self._limit:
                self._handles.popitem(last=False)
        return self._handles[key]

    def __len__(self) -> int:
        return len(self._handles)


@cache
def bound_block_cache() -> None:
    """Bounds GDAL's block cache in this process, unless the environment does (`GDAL_CACHEMAX`)."""
    if 'GDAL_CACHEMAX' not in os.environ:
        set_gdal_config('GDAL_CACHEMAX', CACHE_BYTES)


@contextmanager
def scanning() -> Iterator[None]:
    """More of GDAL's block cache, for reading rasters from end to end."""
    bound_block_cache()
    # GDAL's cache is the process's. A `rasterio.Env` would have to end in the order of its thread, and an environment
    # around a generator does not.
    bounded_here = 'GDAL_CACHEMAX' not in os.environ
    if bounded_here:
        set_gdal_config('GDAL_CACHEMAX', SCAN_CACHE_BYTES)
    try:
        yield
    finally:
        if bounded_here:
            set_gdal_config('GDAL_CACHEMAX', CACHE_BYTES)


def file_state(path: str | Path) -> tuple[int, ...]:
    """Numbers that change when a file is replaced, so that no handle outlives its file; none for GDAL's own paths."""
    try:
        state = os.stat(path)
    except OSError:
        return ()
    return state.st_ino, state.st_size, state.st_mtime_ns


#: The handles of this thread and process. More rasters than this in one data set cost an opening now and then.
handles = HandlePool(limit=64)
