from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tools import train


@pytest.fixture(scope='session')
def clips(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp('clips'))


@pytest.fixture
def config(tmp_path, clips) -> Path:
    return write_config(tmp_path / 'tiny.py', clips)


@pytest.fixture(scope='session')
def finished(tmp_path_factory, clips) -> SimpleNamespace:
    """A finished run of two iterations: its config, work dir and last checkpoint. Not to be changed."""
    folder = tmp_path_factory.mktemp('finished')
    file = write_config(folder / 'tiny.py', clips)
    assert train.main([str(file), '--work-dir', str(folder / 'run')]) == 0
    return SimpleNamespace(config=file, work_dir=folder / 'run', checkpoint=folder / 'run' / 'iter_2.pth')


@pytest.fixture(scope='session')
def adapted(tmp_path_factory, clips) -> SimpleNamespace:
    """The same of a tiny ST-DASegNet."""
    folder = tmp_path_factory.mktemp('adapted')
    file = write_adaptation_config(folder / 'tiny.py', clips)
    assert train.main([str(file), '--work-dir', str(folder / 'run')]) == 0
    return SimpleNamespace(config=file, work_dir=folder / 'run', checkpoint=folder / 'run' / 'iter_2.pth')
