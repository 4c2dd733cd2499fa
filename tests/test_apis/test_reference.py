"""Training in two steps: a reference on the source, then the transfer to the target."""

import gc
import json
import shutil
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

from mmrs.apis import reference as module
from mmrs.apis import train
from mmrs.engine.runner import AdaptationRunner
from mmrs.utils.config import load_config
from mmrs.utils.errors import CheckpointError, ConfigError, OutputError
from mmrs.weights import read_checkpoint
from tests.test_engine.test_distributed import launch
from tests.tiny_runs import quick_start, write_clips, write_config, write_regression_config  # noqa: F401
from tools import train as train_tool


@pytest.fixture(scope='session')
def paired(tmp_path_factory) -> SimpleNamespace:
    """Two sets of clips of the same names, of which only the source has labels for training."""
    folder = tmp_path_factory.mktemp('paired')
    source, target = (write_clips(folder / name, size=32, seed=seed) for seed, name in enumerate(('source', 'target')))
    shutil.rmtree(target / 'ann_dir' / 'train')
    return SimpleNamespace(source=source, target=target)


@pytest.fixture
def config(tmp_path, paired):
    return write_regression_config(tmp_path / 'tiny.py', paired.source, paired.target)


@pytest.fixture(scope='session')
def finished(tmp_path_factory, paired) -> SimpleNamespace:
    """Both steps in one command. Not to be changed."""
    folder = tmp_path_factory.mktemp('two_steps')
    file = write_regression_config(folder / 'tiny.py', paired.source, paired.target)
    assert train_tool.main([str(file), '--work-dir', str(folder / 'run')]) == 0
    return SimpleNamespace(config=file, work_dir=folder / 'run', reference=folder / 'run' / 'reference' / 'iter_2.pth')


def weights(file) -> dict:
    return read_checkpoint(file)['state_dict']


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Work dirs of the trainings that were started, in their order."""
    started = []
    original = AdaptationRunner.train

    def recorded(self):
        started.append(self.work_dir)
        return original(self)

    monkeypatch.setattr(AdaptationRunner, 'train', recorded)
    return started


def test_one_command_trains_reference_and_transfer(finished):
    reference, student = weights(finished.reference), weights(finished.work_dir / 'iter_2.pth')
    frozen = {key.removeprefix('reference.'): value for key, value in student.items() if key.startswith('reference.')}
    assert frozen
    assert all(torch.equal(value, reference[key]) for key, value in frozen.items())
    assert not all(torch.equal(student[key], reference[key]) for key in reference if key.startswith('backbone'))
    (scalars,) = finished.work_dir.glob('2*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert any('regression/loss' in line for line in lines)
    assert list(finished.work_dir.glob('best_regression_loss_iter_*.pth'))
    record = json.loads((finished.reference.parent / module.RECORD).read_text())
    assert record['processes'] == 1
    assert record['train_dataloader']['dataset']['type'] == 'PotsdamDataset'


def test_a_given_reference_leads_to_the_same_student(finished, config, tmp_path, runs):
    """So nothing of the first step but its checkpoint acts on the second."""
    arguments = ['--work-dir', str(tmp_path / 'run'), '--reference', str(finished.reference)]
    assert train_tool.main([str(config), *arguments]) == 0
    assert runs == [str(tmp_path / 'run')]
    assert equal(weights(tmp_path / 'run' / 'iter_2.pth'), weights(finished.work_dir / 'iter_2.pth'))
    assert not (tmp_path / 'run' / 'reference').exists()
    # The same by the configuration, which would resume if there were something to resume.
    options = {'model.reference': str(finished.reference), 'train_cfg.max_iters': 1, 'resume': True}
    train(config, tmp_path / 'other', cfg_options=options)
    assert runs[1:] == [str(tmp_path / 'other')]


def test_the_seed_goes_to_both_steps_and_options_to_theirs(config, tmp_path):
    train(
        config,
        tmp_path / 'run',
        cfg_options={'randomness.seed': 7, 'train_cfg.max_iters': 1},
        reference_options={'train_cfg.max_iters': 3, 'randomness.diff_rank_seed': True},
    )
    assert read_checkpoint(tmp_path / 'run' / 'reference' / 'iter_3.pth')['meta']['seed'] == 7
    assert read_checkpoint(tmp_path / 'run' / 'iter_1.pth')['meta']['seed'] == 7
    record = json.loads((tmp_path / 'run' / 'reference' / module.RECORD).read_text())
    assert record['randomness'] == dict(seed=7, diff_rank_seed=True)


def test_a_finished_reference_is_used_again(finished, tmp_path, runs, monkeypatch):
    said = []
    monkeypatch.setattr(sys.modules['mmrs.apis.training'], 'print_log', lambda message, **_: said.append(message))
    shutil.copytree(finished.reference.parent, tmp_path / 'run' / 'reference')
    train(finished.config, tmp_path / 'run')
    assert runs == [str(tmp_path / 'run')]
    assert said[0] == f'step 1 of 2: the reference is there already, {tmp_path}/run/reference/iter_2.pth'
    assert equal(weights(tmp_path / 'run' / 'iter_2.pth'), weights(finished.work_dir / 'iter_2.pth'))
    # So it is where the transfer is made anew.
    train(finished.config, tmp_path / 'run', overwrite=True)
    assert runs == [str(tmp_path / 'run')] * 2


def test_a_reference_of_other_settings_is_neither_used_nor_overwritten(finished, tmp_path, runs):
    work_dir = tmp_path / 'run'
    shutil.copytree(finished.reference.parent, work_dir / 'reference')
    options = {'randomness.seed': 1}
    with pytest.raises(OutputError, match=r'other settings \(randomness.seed was 0, is 1\)\. Use one of its .*--overw'):
        train(finished.config, work_dir, cfg_options=options)
    with pytest.raises(OutputError, match=r'train_cfg.max_iters was 2, is 3'):
        train(finished.config, work_dir, reference_options={'train_cfg.max_iters': 3})
    assert runs == []
    before = weights(work_dir / 'reference' / 'iter_2.pth')
    train(finished.config, work_dir, cfg_options=options, overwrite=True)
    assert runs == [str(work_dir / 'reference'), str(work_dir)]
    assert not equal(weights(work_dir / 'reference' / 'iter_2.pth'), before)
    forget(work_dir)
    (work_dir / 'reference' / module.RECORD).write_text('{"processes": ')
    with pytest.raises(OutputError, match=r'settings\.json, which would tell, cannot be read'):
        train(finished.config, work_dir, cfg_options=options)
    (work_dir / 'reference' / module.RECORD).unlink()
    with pytest.raises(OutputError, match=r'there is no settings\.json'):
        train(finished.config, work_dir, cfg_options=options)


def forget(work_dir):
    """Remove the checkpoints of the transfer, but not those of the reference."""
    for path in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint']:
        path.unlink()


class Killed(BaseException):
    """What ends a training from outside."""


def stop_after(monkeypatch, folder, iteration):
    """Let the training in a folder end in the middle of the iteration after one."""
    original = AdaptationRunner.call_hook

    def call_hook(self, name, **kwargs):
        if name == 'before_train_iter' and self.work_dir == str(folder) and kwargs['batch_idx'] == iteration:
            raise Killed
        original(self, name, **kwargs)

    monkeypatch.setattr(AdaptationRunner, 'call_hook', call_hook)


@pytest.mark.parametrize('resume', [None, 'auto'])
def test_an_interrupted_reference_goes_on(finished, tmp_path, monkeypatch, runs, resume):
    work_dir = tmp_path / 'run'
    with monkeypatch.context() as patch:
        stop_after(patch, work_dir / 'reference', 1)
        with pytest.raises(Killed):
            train(finished.config, work_dir)
    assert not (work_dir / 'reference' / 'iter_2.pth').exists()
    runner = train(finished.config, work_dir, resume=resume)
    assert runs == [str(work_dir / 'reference')] * 2 + [str(work_dir)]
    assert runner.cfg.model.reference == str(work_dir / 'reference' / 'iter_2.pth')
    log = '\n'.join(file.read_text() for file in (work_dir / 'reference').glob('*/*.log'))
    assert 'resumed epoch: 0, iter: 1' in log
    # The settings of an interrupted one count, too.
    (work_dir / 'reference' / 'iter_2.pth').unlink()
    forget(work_dir)
    with pytest.raises(OutputError, match=r'randomness\.seed was 0, is 1'):
        train(finished.config, work_dir, cfg_options={'randomness.seed': 1})


def test_what_others_left_does_not_pass_for_finished(finished, tmp_path, monkeypatch):
    """An interrupted `--overwrite` leaves no checkpoint of the earlier settings behind."""
    work_dir = tmp_path / 'run'
    shutil.copytree(finished.reference.parent, work_dir / 'reference')
    with monkeypatch.context() as patch:
        stop_after(patch, work_dir / 'reference', 0)
        with pytest.raises(Killed):
            train(finished.config, work_dir, cfg_options={'randomness.seed': 1}, overwrite=True)
    assert not list((work_dir / 'reference').glob('*.pth'))
    train(finished.config, work_dir, cfg_options={'randomness.seed': 1})
    assert not equal(weights(work_dir / 'reference' / 'iter_2.pth'), weights(finished.reference))


def test_a_resumed_transfer_needs_no_reference(finished, tmp_path, runs):
    work_dir = tmp_path / 'run'
    shutil.copytree(finished.work_dir, work_dir)
    shutil.rmtree(work_dir / 'reference')
    (work_dir / 'iter_2.pth').unlink()
    # A job script that always passes both.
    arguments = ['--work-dir', str(work_dir), '--resume', '--reference', str(tmp_path / 'moved.pth')]
    assert train_tool.main([str(finished.config), *arguments]) == 0
    assert runs == [str(work_dir)]
    assert equal(weights(work_dir / 'iter_2.pth'), weights(finished.work_dir / 'iter_2.pth'))


def test_nothing_is_trained_for_a_folder_that_holds_a_transfer(finished, config, tmp_path, runs):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_2.pth').write_bytes(b'')
    with pytest.raises(OutputError, match='holds a training run already'):
        train(config, tmp_path / 'run')
    assert runs == []


def test_the_first_runner_is_gone_when_the_second_begins(config, tmp_path, monkeypatch):
    """Its worker processes and its memory on a GPU would otherwise last until the end."""
    runners, alive = [], []
    original = AdaptationRunner.train

    def recorded(self):
        alive.extend(runner() is not None for runner in runners)
        runners.append(weakref.ref(self))
        return original(self)

    monkeypatch.setattr(AdaptationRunner, 'train', recorded)
    train(config, tmp_path / 'run', cfg_options={'train_cfg.max_iters': 1})
    gc.collect()
    assert alive == [False]


def test_pretrained_weights_are_for_the_reference_alone(finished, config, tmp_path):
    pretrained = {
        'model.backbone.init_cfg.type': 'Pretrained',
        'model.backbone.init_cfg.checkpoint': 'https://weights.invalid/w.pth',
    }
    train(config, tmp_path / 'given', cfg_options=pretrained, reference=finished.reference)
    train(config, tmp_path / 'none', cfg_options=pretrained, reference_options=pretrained, pretrained=False)
    with pytest.raises(CheckpointError, match=r'weights.invalid/w.pth cannot be downloaded'):
        train(config, tmp_path / 'run', cfg_options=pretrained, reference_options=pretrained)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without torch.distributed')
def test_two_processes_without_a_gpu(finished, config, tmp_path):
    """Both runners use one process group, and the first of the processes removes what was there."""
    shutil.copytree(finished.work_dir, tmp_path / 'run')
    changed = ['--reference-options', 'train_cfg.max_iters=1', '--overwrite']
    done = launch('dist_train.sh', config, 2, '--work-dir', tmp_path / 'run', *changed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / 'run' / 'reference' / module.RECORD).read_text())['processes'] == 2
    assert not equal(weights(tmp_path / 'run' / 'iter_2.pth'), weights(finished.work_dir / 'iter_2.pth'))
    assert [path.name for path in (tmp_path / 'run' / 'reference').glob('*.pth')] == ['iter_1.pth']


# Bad input


def test_a_configuration_without_use_for_a_reference(finished, paired, tmp_path):
    plain = write_config(tmp_path / 'plain.py', paired.source)
    for options in (dict(reference=finished.reference), dict(reference_options={'train_cfg.max_iters': 1})):
        with pytest.raises(ConfigError, match=r'plain\.py: its model, EncoderDecoder, starts from no reference'):
            train(plain, tmp_path / 'run', **options)


@pytest.mark.parametrize(
    ('reference', 'message', 'started'),
    [
        ('missing.pth', r'missing\.pth does not exist', 0),
        ('text.pth', r'text\.pth is no readable PyTorch checkpoint|is refused', 0),
        # An empty text, as of a variable that is not set in a script, shall not start hours of training.
        ('', r"is '', a folder", 0),
        ('folder', r"is 'folder', a folder; a", 0),
        ('students.pth', r'has no weight backbone\.\*; it has segmentor\.backbones', 0),
        ('other.pth', r'other\.pth does not fit', 1),
    ],
)
def test_what_is_no_reference(config, tmp_path, monkeypatch, runs, reference, message, started):
    """All but the last is found before the data sets are read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'text.pth').write_bytes(b'no checkpoint')
    for name, weight in (('students', 'segmentor.backbones.0.weight'), ('other', 'backbone.conv.weight')):
        torch.save(dict(state_dict={weight: torch.zeros(3)}), f'{name}.pth')
    with pytest.raises(CheckpointError, match=message):
        train(config, tmp_path / 'run', reference=reference)
    assert len(runs) == started


def test_reference_and_options_exclude_each_other(finished, config, tmp_path):
    with pytest.raises(ConfigError, match=r'leave them out, or --reference'):
        train(config, tmp_path / 'run', reference=finished.reference, reference_options={'train_cfg.max_iters': 1})


@pytest.mark.parametrize(
    ('options', 'reference_options', 'message'),
    [
        ({'reference_config': None}, None, r'FeatureRegression starts from a trained network\. Pass its checkpoint'),
        ({'reference_config': 'nowhere.py'}, None, r'reference_config of .*: config nowhere\.py does not exist'),
        ({}, {'train_cgf.max_iters': 1}, r'--reference-options train_cgf\.max_iters: there is no train_cgf'),
        ({}, {'train_cfg.max_iters': None}, r'tiny\.py has no train_cfg\.max_iters'),
    ],
)
def test_unusable_reference_configurations(config, tmp_path, options, reference_options, message, runs):
    with pytest.raises(ConfigError, match=message):
        train(load_config(config, options), tmp_path / 'run', reference_options=reference_options)
    assert runs == []


def test_a_mistake_in_the_transfer_is_found_before_the_reference_is_trained(config, tmp_path, runs):
    with pytest.raises(ConfigError, match=r"val_evaluator\.type is 'RegresionLoss'.* did you mean RegressionLoss"):
        train(config, tmp_path / 'run', cfg_options={'val_evaluator.type': 'RegresionLoss'})
    assert runs == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.decode_head.channels': 4}, r'different networks: decode_head\.\S+ is \(.*\) in the first and \('),
        ({'model.backbone.num_layers': [1, 1, 1, 2]}, r'layers\.3\.1\S* is \(.*\) in the first and not there in'),
        ({'model.features': dict(stage9=1.0)}, r'there is no stage9'),
        ({'train_dataloader.dataset.target.data_root': 'nowhere'}, r'is missing: nowhere/img_dir/train'),
        ({'val_dataloader.dataset.source.data_prefix.img_path': 'img_dir/train'}, r'2 of 4 source images'),
    ],
)
def test_nor_is_it_trained_for_a_transfer_that_cannot_work(config, tmp_path, runs, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        train(config, tmp_path / 'run', cfg_options=options)
    assert runs == []


def test_a_reference_with_other_statistics_is_pointed_out(config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module, 'print_log', lambda message, **_: said.append(message))
    options = {'train_cfg.max_iters': 1, 'model.data_preprocessor.source_mean': [120.0, 121.0, 120.0]}
    train(config, tmp_path / 'run', cfg_options=options)
    (message,) = said
    assert 'mean=[120.0, 120.0, 120.0], but in the transfer it sees the source with [120.0, 121.0, 120.0]' in message
    # Those of the target are its own.
    options = {'train_cfg.max_iters': 1, 'model.data_preprocessor.mean': [1.0] * 3}
    options['model.data_preprocessor.source_mean'] = [120.0] * 3
    train(config, tmp_path / 'other', cfg_options=options)
    assert len(said) == 1


def test_overwriting_removes_the_best_checkpoint_of_before(config, finished, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    for name in ('last_checkpoint', 'best_regression_loss_iter_900.pth'):
        (folder / name).write_text('')
    train(config, folder, reference=finished.reference, overwrite=True)
    assert [path.name for path in folder.glob('best_*')] == ['best_regression_loss_iter_2.pth']


def test_features_are_kept_from_run_to_run(config, finished, tmp_path):
    """With pairs that are only flipped."""
    cache, times, results = tmp_path / 'cache', [], []
    for name in ('first', 'second'):
        train(config, tmp_path / name, reference=finished.reference, cfg_options={'model.feature_cache': str(cache)})
        times.append({path: path.stat().st_mtime_ns for path in cache.rglob('*.pt')})
        results.append(weights(tmp_path / name / 'iter_2.pth'))
    assert times[0]
    assert times[0] == times[1]
    assert equal(*results)
    plain = weights(finished.work_dir / 'iter_2.pth')  # other batches of the reference, which round otherwise
    for key, value in results[0].items():
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-3)
