"""A run that is killed and resumed equals, bit by bit, one that was not."""

import json
import math
import multiprocessing
import os
import re
import signal
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmrs.apis import train
from mmrs.weights import read_checkpoint
from tests.tiny_runs import (
    quick_start,  # noqa: F401
    started_quickly,
    write_adaptation_config,
    write_clips,
    write_config,
    write_regression_config,
)

ITERATIONS = 6
AUGMENTED = [
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]


class Killer(Hook):
    """Kills its own process at a place in a run."""

    priority = 'VERY_LOW'

    def __init__(self, place, iteration):
        self.place, self.iteration = place, iteration

    def _come_to(self, place, iteration):
        if (place, iteration) == (self.place, self.iteration):
            print('killed', place, iteration, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._come_to('before the step', runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._come_to('after the step', runner.iter)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._come_to('in validation', runner.iter)

    def before_save_checkpoint(self, runner, checkpoint):
        def cut(state, filename, **kwargs):
            Path(filename).write_bytes(b'PK' + bytes(1000))
            self._come_to('in saving', checkpoint['meta']['iter'])

        if (self.place, self.iteration) == ('in saving', checkpoint['meta']['iter']):
            mmengine.runner.runner.save_checkpoint = cut


def configured(file, workers, accumulated):
    config = Config.fromfile(file)
    config.merge_from_dict({
        'train_cfg.max_iters': ITERATIONS, 'train_cfg.val_interval': 3, 'randomness': dict(seed=3, deterministic=True),
        'train_dataloader.num_workers': workers, 'model.backbone.drop_path_rate': 0.3,
        'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': 1,
    })  # fmt: skip
    if 'save_best' not in config.default_hooks.checkpoint:
        config.default_hooks.checkpoint.save_best = 'mIoU'
    config.param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=ITERATIONS, by_epoch=False)]
    parts = [part for part in config.optim_wrapper.values() if 'optimizer' in part] or [config.optim_wrapper]
    for part in parts:
        part.accumulative_counts = accumulated
    dataset = config.train_dataloader.dataset
    if dataset.type == 'PairedDataset':
        dataset.pipeline = [*AUGMENTED[:2]]
    else:
        labels = dict(type='LoadRasterAnnotations')
        dataset.get('source', dataset).pipeline = [dict(type='LoadRasterImage'), labels, *AUGMENTED]
        if 'target' in dataset:
            dataset.target.pipeline = [dict(type='LoadRasterImage'), *AUGMENTED]
    return config


def _run(file, work_dir, arguments, workers, accumulated, place, iteration):
    with started_quickly():
        torch.set_num_threads(1)
        config = configured(file, workers, accumulated)
        config.custom_hooks = [*config.get('custom_hooks', []), dict(type=Killer, place=place, iteration=iteration)]
        train(config, work_dir, resume=True, **arguments)


def run(*args):
    """Train in a process of its own, forked off one that has done the imports; its exit status."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=args)
    process.start()
    process.join()
    return process.exitcode


def losses(work_dir):
    """What was logged at each step, of the last run that came to it."""
    found = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            values = {k: v for k, v in record.items() if not re.search('time|memory', k)}
            found[record['step'], 'loss' in record] = values
    return found


def assert_equal(one, other, where=''):
    """Compare all that a checkpoint holds, but for times and paths."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in ('cfg', 'time', 'experiment_name', 'last_ckpt', 'best_ckpt') and 'time' not in str(key):
                assert_equal(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f'{where}[{i}]')
    elif isinstance(one, (torch.Tensor, np.ndarray)):
        assert np.array_equal(np.asarray(one), np.asarray(other)), where
    elif hasattr(one, '_log_history'):
        assert_equal(one._log_history, other._log_history, where)
    else:
        assert one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other)), where


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    # Larger than a crop, so that there is something to draw.
    return write_clips(tmp_path_factory.mktemp('source'), train=5, size=96)


@pytest.fixture(scope='module')
def write(source, tmp_path_factory):
    """A function that writes the config of a method, and says what else `train` needs."""

    def write(method):
        folder = tmp_path_factory.mktemp(method.split()[0])
        if method == 'source only':
            return write_config(folder / 'tiny.py', source), {}
        if method == 'feature regression':
            target = write_clips(folder / 'target', train=5, size=96, seed=1)
            file = write_regression_config(folder / 'tiny.py', source, target)
            train(Config.fromfile(folder / 'tiny.py'), folder / 'reference')
            return file, dict(reference=folder / 'reference' / 'iter_2.pth')
        file = write_adaptation_config(folder / 'tiny.py', source)
        text = file.read_text()
        assert "teacher='decoder_only'" in text
        file.write_text(text.replace('decoder_only', method.split()[1]))
        return file, {}

    return write


FORKSERVER = pytest.mark.skipif('forkserver' not in multiprocessing.get_all_start_methods(), reason='needs forkserver')


@FORKSERVER
@pytest.mark.slow
@pytest.mark.parametrize(
    ('method', 'workers', 'accumulated', 'kills'),
    [
        ('source only', 2, 1, [('in saving', 2), ('after the step', 2), ('in validation', 6)]),
        ('source only', 0, 3, [('before the step', 2), ('in validation', 3), ('in saving', 6)]),
        ('st_dasegnet decoder_only', 0, 1, [('before the step', 1), ('after the step', 4), ('in saving', 6)]),
        ('st_dasegnet single_target', 2, 4, [('after the step', 1), ('in validation', 3), ('before the step', 5)]),
        ('feature regression', 2, 1, [('in validation', 3), ('in saving', 4), ('after the step', 4)]),
        ('feature regression', 0, 1, [('before the step', 3), ('in validation', 6)]),
    ],
)
def test_killed_and_resumed(write, tmp_path, method, workers, accumulated, kills):
    file, arguments = write(method)
    assert run(file, tmp_path / 'whole', arguments, workers, accumulated, None, None) == 0
    for place, iteration in kills:
        status = run(file, tmp_path / 'killed', arguments, workers, accumulated, place, iteration)
        assert status == -signal.SIGKILL, (place, iteration)
    assert run(file, tmp_path / 'killed', arguments, workers, accumulated, None, None) == 0
    names = sorted(path.name for path in (tmp_path / 'whole').glob('*.pth'))
    assert f'iter_{ITERATIONS}.pth' in names
    assert any(name.startswith('best_') for name in names)
    assert sorted(path.name for path in (tmp_path / 'killed').glob('*.pth')) == names
    for name in names:
        assert_equal(read_checkpoint(tmp_path / 'killed' / name), read_checkpoint(tmp_path / 'whole' / name), name)
    logged = losses(tmp_path / 'whole')
    assert [step for step, training in logged if training] == [1, 2, 3, 4, 5, 6]
    assert [step for step, training in logged if not training] == [3, 6]
    assert losses(tmp_path / 'killed') == logged
