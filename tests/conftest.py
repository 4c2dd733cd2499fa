"""Fixtures that several test files share."""

import gc
import json
import logging
import os
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from mmrs.install import install

registering = import_module('mmengine.registry.registry')

# As MMEngine has them before anything of this project changes them.
_MMENGINE = {name: getattr(registering, name) for name in ('get_object_from_string', 'import_module')}
_SCHEMES = CheckpointLoader._schemes.copy()

# MMEngine keeps a log handler on the stream that pytest captured for an earlier test.
logging.raiseExceptions = False

REPOSITORY = Path(__file__).resolve().parents[1]

# What tests start begins as quickly as what they call, see `tests.tiny_runs`.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, (str(REPOSITORY / 'tests' / 'quick_start'), os.environ.get('PYTHONPATH')))
)

#: Folders and files of which all tests are slow: they convert data sets, or are about processes.
SLOW = {'test_preparation', 'test_dataset_converters.py', 'test_launch.py', 'test_kill.py', 'test_scripts.py'}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW.intersection(item.path.relative_to(REPOSITORY).parts):
            item.add_marker(pytest.mark.slow)
    # First, so that no process is left with a long one at the end.
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)


@pytest.fixture(scope='session', autouse=True)
def installed() -> None:
    """Most tests call what lies behind the entry points, which have done this."""
    install()


@pytest.fixture(scope='module', autouse=True)
def frozen() -> None:
    """A data set collects garbage as it is built, and would look through all that has been imported each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def scope() -> None:
    """Names are looked up as in configurations, whatever ran before in this process."""
    init_default_scope('mmrs')


@pytest.fixture
def not_installed(monkeypatch) -> None:
    """MMEngine as it is before an entry point is called."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', _SCHEMES.copy())
    for name, value in _MMENGINE.items():
        monkeypatch.setattr(registering, name, value)
    install.cache_clear()


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder of real imagery: `$MMRS_REAL_DATA`, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get('MMRS_REAL_DATA') or REPOSITORY.parent / 'shared' / 'data')
    if not folder.is_dir():
        pytest.skip(f'no real imagery in {folder}: set MMRS_REAL_DATA to a folder that has it')
    return folder


@pytest.fixture(scope='session')
def golden():
    """Loads a file of numbers that released code computed."""

    def load(name: str) -> dict:
        path = REPOSITORY / 'tests' / 'data' / 'golden' / name
        return json.loads(path.read_text()) if path.suffix == '.json' else torch.load(path, weights_only=True)

    return load


@pytest.fixture
def logged(caplog):
    """What MMEngine's logger is told."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)
