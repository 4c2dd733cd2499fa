"""Killed at random moments and resumed: the map is what it would have been."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from mmrs.prediction.jobs import MapSettings
from mmrs.prediction.maker import MapMaker
from mmrs.prediction.mapping import make_maps
from tests.test_prediction.conftest import ByContext, smooth, write

KILLS = 5


class Slow(ByContext):
    """As slow as a network."""

    def __call__(self, images, valid):
        time.sleep(0.02)
        return super().__call__(images, valid)


def _predict(folder, out):
    settings = MapSettings(window=32, batch_size=3, overlap=0.4, extra=('confidence',))
    make_maps(MapMaker(Slow(), settings, resume=True), [folder / 'in'], out, progress=False)


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _start(*args):
    # A fresh process for each attempt, without the threads that GDAL has started in this one, forked off one that has
    # done the imports.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_predict, args=args)
    process.start()
    return process


def _attempt_lasts(seconds, started, out):
    """Wait for some time from the first part on."""
    while started.is_alive() and not any(out.glob('.*.parts')):
        time.sleep(0.01)
    time.sleep(seconds)


@pytest.mark.skipif('forkserver' not in multiprocessing.get_all_start_methods(), reason='needs forkserver')
def test_kills_leave_nothing_but_the_map(tmp_path):
    (tmp_path / 'in').mkdir()
    for i in range(3):
        write(tmp_path / 'in' / f'{i}.tif', smooth((150 + 60 * i, 100), i))
    _start(tmp_path, tmp_path / 'whole').join()
    whole, out = _contents(tmp_path / 'whole'), tmp_path / 'killed'
    random.seed(0)
    kills = 0
    while True:
        process = _start(tmp_path, out)
        if kills < KILLS:
            _attempt_lasts(random.uniform(0, 0.4), process, out)
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        # What has its final name is complete at any time.
        assert all(whole[name] == content for name, content in (_contents(out) if out.exists() else {}).items())
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills == KILLS
    assert _contents(out) == whole
    assert not [path for path in out.iterdir() if path.is_dir()]
