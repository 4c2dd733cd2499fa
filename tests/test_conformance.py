"""What every adaptation method does, whatever it learns by: each claim once, for all of `tests.conformance.METHODS`."""

import fcntl
import functools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrs.apis import SegInferencer, train
from mmrs.utils import ConfigError
from tests.conformance import (
    ADAPTING,
    DISTINCT,
    METHODS,
    SHARED,
    TOGETHER,
    Trainer,
    changed_checkpoints,
    changes,
    run_config,
    train_on_shared_batches,
    write_data,
)
from tests.exported import assert_export_agrees
from tests.test_engine.test_distributed import environment
from tests.tiny_runs import quick_start, started_quickly  # noqa: F401

needs_fp16 = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='float16 on a CPU needs the scaler of torch 2.3'
)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


adapting = pytest.mark.parametrize('name', ADAPTING)
distinct = pytest.mark.parametrize('name', DISTINCT)


def summed(losses):
    return sum(value for key, value in losses.items() if 'loss' in key)


# Gradients -----------------------------------------------------------------------------------------------------------


def test_each_loss_moves_its_parts_and_no_others(name):
    trainer, reach = Trainer(name), METHODS[name].reach
    losses = trainer.losses(trainer.batch(0))
    assert {key for key in losses if 'loss' in key} == set(reach)
    parameters = {key: p for key, p in trainer.model.named_parameters() if p.requires_grad}
    for loss, parts in reach.items():
        gradients = torch.autograd.grad(losses[loss], list(parameters.values()), retain_graph=True, allow_unused=True)
        moved = [key for key, g in zip(parameters, gradients) if g is not None and g.any()]
        hit = {part for part in parts for key in moved if key.startswith(f'{part}.')}
        assert hit == parts, loss
        assert [key for key in moved if not key.startswith(tuple(f'{part}.' for part in parts))] == [], loss


def test_what_trains_gets_a_gradient_and_what_is_frozen_none(name):
    """Data-parallel training waits for each gradient that there is to be."""
    trainer = Trainer(name)
    summed(trainer.losses(trainer.batch(0))).backward()
    parameters = dict(trainer.model.named_parameters())
    assert [key for key, p in parameters.items() if p.requires_grad != (p.grad is not None)] == []
    assert all(not p.requires_grad for key, p in parameters.items() if key.startswith(('teacher.', 'reference.')))


def test_a_step_changes_what_trains_and_no_reference(name):
    trainer = Trainer(name)
    trainer.step(trainer.batch(0))  # after it a teacher is a copy
    before = trainer.state()['model']
    trainer.step(trainer.batch(1))
    changed = changes(before, trainer.state()['model'])
    assert {key for key, p in trainer.model.named_parameters() if p.requires_grad} <= changed
    assert not {key for key in changed if key.startswith('reference.')}
    assert any(key.startswith('teacher.') for key in before) == bool(trainer.hooks)
    if 'st_dasegnet' in name:
        students = trainer.model.taught().items()
        learning = [(copy, key) for copy, part in students for key, p in part.named_parameters() if p.requires_grad]
        assert {f'teacher.{copy}.{key}' for copy, key in learning} <= changed


# What is looked at ---------------------------------------------------------------------------------------------------


@adapting
def test_target_labels_change_nothing(name):
    plain, labelled = Trainer(name), Trainer(name)
    for seed in range(2):
        found = [t.step(t.batch(seed, target_labels=t is labelled)) for t in (plain, labelled)]
        assert changes(*found) == set()
    assert changes(plain.state(), labelled.state()) == set()


@adapting
def test_source_labels_are_read_where_they_are_learnt_from(name):
    trainer = Trainer(name)
    batch = trainer.batch(0)
    expected = trainer.losses(batch)
    for sample in batch['source']['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data + 1) % 6
    assert bool(changes(expected, trainer.losses(batch))) == METHODS[name].labels


@adapting
def test_labelled_images_of_the_target_are_looked_at_where_they_are_learnt_from(name):
    trainer = Trainer(name)
    batch = trainer.batch(0)
    if 'labelled' not in batch:
        with pytest.raises(ConfigError, match=f'{type(trainer.model).__name__}.*labelled_images'):
            trainer.losses({**batch, 'labelled': batch['source']})
        return
    expected = trainer.losses(batch)
    for sample in batch['labelled']['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data + 1) % 6
    assert {'loss_labelled'} <= changes(expected, trainer.losses(batch))
    del batch['labelled']
    with pytest.raises(ConfigError, match='labelled_images'):
        trainer.losses(batch)


@adapting
def test_a_batch_of_one_domain_is_refused(name):
    trainer = Trainer(name)
    with pytest.raises(ConfigError, match='Dataset'):
        trainer.losses(trainer.batch(0)['source'])


@pytest.mark.parametrize('domain', ['source', 'labelled', 'target'])
def test_pixels_without_data_have_no_part(name, domain):
    trainer = Trainer(name)
    if domain not in trainer.streams:
        pytest.skip(f'sees no {domain}')
    black, white = (trainer.losses(trainer.batch(0, valid=domain, hidden=value)) for value in (0.0, 250.0))
    assert changes(black, white) == set()
    assert changes(black, trainer.losses(trainer.batch(0))) != set()
    if domain == 'target':  # nor are they taken for grey ones; in the source no label is there
        batch = trainer.batch(0, valid=domain, hidden=120.0)
        masked = trainer.losses(batch)
        for sample in batch['target']['data_samples']:
            del sample.valid_map
        assert changes(masked, trainer.losses(batch)) != set()


# Steps ---------------------------------------------------------------------------------------------------------------


def test_a_step_on_numbers_that_are_not_finite_is_skipped(name):
    trainer = Trainer(name)
    for seed in range(2):
        trainer.step(trainer.batch(seed))
    batch = trainer.batch(9)
    image = (batch['source'] if trainer.adapts else batch)['inputs'][0]
    image[1, 5, 7] = math.nan
    trainer.hooks.clear()  # before a step the teacher moves, whatever comes of the step
    before = trainer.state()
    trainer.step(batch)
    assert trainer.optimizer.rejected is not None
    assert changes(before, trainer.state()) == set()
    trainer.step(trainer.batch(2))
    assert trainer.optimizer.rejected is None
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert changes(before, trainer.state()) != set()


def test_training_goes_on_from_what_a_checkpoint_holds_in_the_middle_of_a_step(name):
    """Of a step of two batches the second one is yet to come, when the run is stopped after three."""
    steady, resumed, stop, last = Trainer(name, accumulated=2), Trainer(name, accumulated=2), 3, 4
    steady.optimizer.initialize_count_status(steady.model, 0, last)
    for seed in range(last):
        if seed == stop:
            state = steady.state()
        steady.step(steady.batch(seed))
    with torch.no_grad():
        for parameter in resumed.model.parameters():
            parameter.zero_()
    resumed.model.load_state_dict(state['model'])
    resumed.optimizer.load_state_dict(state['optimizer'])
    resumed.optimizer.initialize_count_status(resumed.model, stop, last)
    resumed.iteration = stop
    for seed in range(stop, last):
        resumed.step(resumed.batch(seed))
    assert changes(steady.state(), resumed.state()) == set()


@pytest.fixture(scope='module')
def single_precision():
    """What is logged of some steps of a method."""

    @functools.cache
    def logged(name):
        trainer = Trainer(name)
        return [trainer.step(trainer.batch(seed)) for seed in range(6)]

    return logged


@distinct
@pytest.mark.parametrize('dtype', ['bfloat16', pytest.param('float16', marks=needs_fp16)])
def test_half_precision_trains_alike(name, dtype, single_precision):
    scale = {'optim_wrapper.loss_scale': 128.0} if dtype == 'float16' else {}
    half = Trainer(name, {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': dtype, **scale})
    logged = single_precision(name), [half.step(half.batch(seed)) for seed in range(6)]
    assert half.optimizer.rejected is None
    assert all(value.isfinite().all() for value in half.model.state_dict().values())
    assert changes(*logged) != set()
    for key in METHODS[name].reach:
        expected, found = (torch.stack([step[key] for step in steps]).mean().item() for steps in logged)
        # Single iterations of a young network differ more than their mean.
        assert found == pytest.approx(expected, rel=0.05, abs=1e-3), key


@distinct
def test_activations_that_are_computed_again_change_no_number(name):
    trainers = [Trainer(name, {'model.backbone.with_cp': with_cp}) for with_cp in (False, True)]
    for seed in range(2):
        assert changes(*(trainer.step(trainer.batch(seed)) for trainer in trainers)) == set()
    assert changes(*(trainer.state() for trainer in trainers)) == set()


# Prediction ----------------------------------------------------------------------------------------------------------


def test_prediction_of_an_image_is_what_is_evaluated(name, tmp_path):
    trainer, checkpoint = Trainer(name), tmp_path / 'weights.pth'
    meta = dict(classes=tuple('abcdef'), palette=[[40 * i] * 3 for i in range(6)])
    torch.save(dict(state_dict=trainer.model.state_dict(), meta=dict(dataset_meta=meta)), checkpoint)
    image = np.random.default_rng(0).integers(0, 255, (72, 104, 3)).astype(np.uint8)
    valid = np.ones((72, 104), bool)
    valid[20:40, 50:] = False
    sample = SegDataSample(metainfo=dict(img_shape=valid.shape, ori_shape=valid.shape))
    sample.valid_map = PixelData(data=torch.from_numpy(valid)[None])
    batch = dict(inputs=[torch.from_numpy(image.transpose(2, 0, 1))], data_samples=[sample])
    with torch.no_grad():
        (evaluated,) = trainer.model.eval().test_step(batch)
    expected = np.where(valid, evaluated.pred_sem_seg.data[0].numpy(), 255)
    found = SegInferencer(trainer.config, checkpoint, device='cpu', window=128).predict(image, valid).labels
    assert len(np.unique(expected)) > 2
    assert (found == expected).mean() > 0.999  # sums in another order


# Whole runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@distinct
def test_a_run_with_a_preflight_equals_one_without(name, data, tmp_path):
    """With every method, and with processes that load data, the killed runs below say it, too."""
    for preflight in (True, False):
        config, arguments = run_config(name, data, tmp_path / 'config', iterations=2)
        train(config, tmp_path / str(preflight), preflight=preflight, **arguments)
    assert changed_checkpoints(tmp_path / 'True', tmp_path / 'False') == {}
    assert changes(*(logged(tmp_path / folder) for folder in ('True', 'False'))) == set()
    logs = [next((tmp_path / folder).glob('*/*.log')).read_text() for folder in ('True', 'False')]
    assert [log.count('preflight: a training batch') for log in logs] == [1, 0]
    assert logs[0].count('scores of the classes') == logs[1].count('scores of the classes')


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in METHODS
        if 'hrda' not in name and name not in (
            'st_dasegnet single_target', 'st_dasegnet mixed masked', 'minent', 'adaptsegnet', 'dacs', 'mic',
            'feature regression with head',
        )
    ],
)  # fmt: skip
# whose networks are others', or have windows
def test_an_onnx_file_predicts_what_the_model_does(name, data, tmp_path):
    config, _ = run_config(name, data, tmp_path / 'config')
    assert_export_agrees(config, {}, tmp_path)


def logged(work_dir):
    """What was logged at each step, of the last run that came to it: losses, and scores of validation."""
    lines = [
        line for file in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in file.read_text().splitlines()
    ]
    return {(record['step'], 'loss' in record): record for record in map(json.loads, lines)}


class Killer(Hook):
    """Kills its own process at a place in a run."""

    priority = 'VERY_LOW'

    def __init__(self, place, iteration):
        self.place, self.iteration = place, iteration

    def _come_to(self, place, iteration):
        if (place, iteration) == (self.place, self.iteration):
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


def _run(name, data, folder, workers, accumulated, preflight, place=None, iteration=None):
    with started_quickly():
        torch.set_num_threads(1)
        config, arguments = run_config(name, data, folder / 'config', workers=workers, accumulated=accumulated)
        config.custom_hooks = [*config.get('custom_hooks', []), dict(type=Killer, place=place, iteration=iteration)]
        train(config, folder, resume=True, preflight=preflight, **arguments)


def run(*args):
    """Train in a process of its own, forked off one that has done the imports; its exit status."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=args)
    process.start()
    process.join()
    return process.exitcode


FORKSERVER = pytest.mark.skipif('forkserver' not in multiprocessing.get_all_start_methods(), reason='needs forkserver')


KILLS = [
    ('source only', 2, 1, [('in saving', 2), ('after the step', 2), ('in validation', 6)]),
    ('st_dasegnet decoder_only', 0, 1, [('before the step', 1), ('in saving', 6)]),
    ('st_dasegnet single_target', 2, 4, [('after the step', 1), ('in validation', 3), ('before the step', 5)]),
    ('feature regression', 2, 1, [('in validation', 3), ('in saving', 4)]),
    ('feature regression with head', 0, 1, [('in validation', 6)]),
]
KILLS += [(name, 0, 1, [('after the step', 3)]) for name in METHODS if name not in [case[0] for case in KILLS]]


@FORKSERVER
@pytest.mark.slow
@pytest.mark.parametrize(('name', 'workers', 'accumulated', 'kills'), KILLS)
def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(data, tmp_path, name, workers, accumulated, kills):
    """And a preflight, which it had each time that it began, left no trace."""
    assert run(name, data, tmp_path / 'whole', workers, accumulated, False) == 0
    for place, iteration in kills:
        status = run(name, data, tmp_path / 'killed', workers, accumulated, True, place, iteration)
        assert status == -signal.SIGKILL, (place, iteration)
    assert run(name, data, tmp_path / 'killed', workers, accumulated, True) == 0
    assert changed_checkpoints(tmp_path / 'whole', tmp_path / 'killed') == {}
    assert list((tmp_path / 'whole').glob('best_*.pth'))
    found = logged(tmp_path / 'whole')
    assert sorted(found) == [(1, True), (2, True), (3, False), (3, True), (4, True), (5, True), (6, False), (6, True)]
    assert changes(logged(tmp_path / 'killed'), found) == set()


# Several processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    """A folder with what two processes have made of `SHARED` and `METHODS` together, once for all workers."""
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent
    folder, finished = base / 'shared', base / 'shared' / 'finished'
    with (base / 'shared.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            write_data(folder)
            command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m']
            command += ['tests.conformance', str(folder)]
            done = subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            finished.touch()
    return folder


several = pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without torch.distributed')


@several
@pytest.mark.slow
@pytest.mark.parametrize('case', SHARED)
def test_two_processes_equal_one_with_the_batch_of_both(case, shared):
    together = torch.load(shared / 'states.pth', weights_only=True)[case]
    start, alone = train_on_shared_batches(case, steps=0), train_on_shared_batches(case)
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert torch.isfinite(value).all()
        torch.testing.assert_close(together[key], value, rtol=0, atol=1e-10, msg=key)
    moved = max(float((alone[key] - start[key]).abs().max()) for key in alone if key.endswith('weight'))
    assert moved > 1e-3


@several
@pytest.mark.slow
@pytest.mark.parametrize('name', TOGETHER)
def test_all_tensors_of_two_processes_are_equal_after_each_step(name, shared):
    """Batch normalisation's running statistics, too, though each process normalises by its own batches."""
    ranks = [torch.load(shared / name / f'rank{rank}.pth', weights_only=True) for rank in (0, 1)]
    assert ranks[0]['images'] != ranks[1]['images']
    assert len(ranks[0]['digests']) == 3
    for step, (first, second) in enumerate(zip(*(rank['digests'] for rank in ranks))):
        assert [key for key in first if first[key] != second[key]] == [], f'after step {step}'
    # Equal tensors that no step has moved would prove nothing.
    moved = changes(ranks[0]['digests'][0], ranks[0]['digests'][-1])
    assert all(any(key.startswith(part) for key in moved) for parts in METHODS[name].reach.values() for part in parts)
    assert any('running_var' in key for key in moved)
