import os
import threading

import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config

from mmrs.geo.handles import CACHE_BYTES, SCAN_CACHE_BYTES, HandlePool, handles, scanning
from mmrs.geo.rasters import read_image, shared_raster


def test_least_recently_used_handle_goes_first():
    pool = HandlePool(limit=2)
    made = []
    for key in 'abacab':
        assert pool.get(key, lambda key=key: made.append(key) or key) == key
    assert made == ['a', 'b', 'c', 'b']
    assert len(pool) == 2


def test_each_thread_has_its_own(tmp_path, write):
    path = write(tmp_path / 'a.tif', np.zeros((4, 5, 1), np.uint8))
    found = []

    def look() -> None:
        for _ in range(2):
            with shared_raster(path) as raster:
                found.append(raster)

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found[0] is found[1]
    assert found[2] is found[3]
    assert found[0] is not found[2]


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_forked_process_opens_files_anew(tmp_path, write, rng):
    """As the workers of a data loader do; a child exits with the number of handles that it took over."""
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    path = write(tmp_path / 'a.tif', image)
    read_image(path, None, (0, 0, 64, 64))
    with shared_raster(path) as opened:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with shared_raster(path) as raster:
                    right = (read_image(path, None, (3, 3, 9, 9))[0] == image[3:9, 3:9]).all()
                    status = 0 if raster is not opened and len(handles) == 1 and right else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not opened.closed
    np.testing.assert_array_equal(read_image(path, None, (0, 0, 64, 64))[0], image)


def test_number_of_open_files_and_cached_blocks_are_bounded(tmp_path, write):
    for i in range(70):
        read_image(write(tmp_path / f'{i}.tif', np.zeros((4, 5, 1), np.uint8)), None, (0, 0, 2, 2))
    assert len(handles) == 64
    if 'GDAL_CACHEMAX' not in os.environ:
        assert get_gdal_config('GDAL_CACHEMAX') == CACHE_BYTES
    descriptors = [os.readlink(entry.path) for entry in os.scandir('/proc/self/fd') if os.path.islink(entry.path)]
    assert sum(name.startswith(str(tmp_path)) for name in descriptors) <= 64


@pytest.mark.skipif('GDAL_CACHEMAX' in os.environ, reason='the environment bounds the cache')
def test_the_cache_shrinks_after_a_scan_however_it_ends():
    def scan():
        with scanning():
            yield get_gdal_config('GDAL_CACHEMAX')

    with rasterio.Env():
        unfinished = scan()
        assert next(unfinished) == SCAN_CACHE_BYTES
    unfinished.close()  # after the surrounding Env
    with rasterio.Env():
        assert get_gdal_config('GDAL_CACHEMAX') == CACHE_BYTES
