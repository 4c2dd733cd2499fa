"""Whole runs: samples that cannot be read, checkpoints that are damaged, files of strangers."""

import shutil

import pytest
import torch
from PIL import Image

from mmrs.weights import read_checkpoint
from tests.conformance import changes
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tools import train


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path / 'clips', train=10, val=4)


@pytest.fixture
def config(tmp_path, clips):
    return write_config(tmp_path / 'tiny.py', clips)


def run(config, work_dir, *options, flags=()):
    options = ['--cfg-options', *options] if options else []
    return train.main([str(config), '--work-dir', str(work_dir), *flags, *options])


def log_of(work_dir):
    return '\n'.join(file.read_text() for file in sorted(work_dir.glob('*/*.log')))


def changed_weights(folder, name):
    """Where those of a resumed run differ from those of a whole one."""
    return changes(*(read_checkpoint(folder / run / name)['state_dict'] for run in ('whole', 'run')))


def cut(path, length=200):
    path.write_bytes(path.read_bytes()[:length])
    return path


LONGER = ['train_cfg.max_iters=20', 'train_cfg.val_interval=20', 'default_hooks.checkpoint.interval=10']


@pytest.mark.parametrize('workers', [0, 2])
def test_a_corrupt_image_is_reported_once_and_replaced(config, clips, tmp_path, workers):
    broken = cut(clips / 'img_dir' / 'train' / 'clip3.png')
    options = [*LONGER, f'train_dataloader.num_workers={workers}', 'train_cfg.max_unreadable=0.3']
    options.append(f'train_dataloader.persistent_workers={workers > 0}')
    assert run(config, tmp_path / 'run', *options) == 0
    log = log_of(tmp_path / 'run')
    assert log.count('a sample cannot be read; another is drawn in its place') == 1
    assert str(broken) in log
    hub = read_checkpoint(tmp_path / 'run' / 'iter_20.pth')['message_hub']
    # 40 samples of ten images: each was drawn about four times.
    assert 2 <= sum(hub['runtime_info']['unreadable'].values()) <= 8


def test_a_corrupt_target_image_is_replaced(tmp_path, clips):
    broken = cut(clips / 'img_dir' / 'val' / 'clip1.png')
    config = write_adaptation_config(tmp_path / 'tiny.py', clips)
    options = ['train_cfg.max_iters=4', 'train_cfg.max_unreadable=0.9', 'val_dataloader=None', 'val_cfg=None']
    assert run(config, tmp_path / 'run', *options, 'val_evaluator=None') == 0
    assert log_of(tmp_path / 'run').count(str(broken)) == 1


@pytest.mark.parametrize('workers', [0, 2])
def test_too_many_stop_the_run(config, clips, tmp_path, capsys, workers):
    broken = [cut(clips / 'img_dir' / 'train' / f'clip{i}.png') for i in range(4)]
    options = [*LONGER, f'train_dataloader.num_workers={workers}', 'train_cfg.max_unreadable=0.1']
    assert run(config, tmp_path / 'run', *options) == 2
    message = capsys.readouterr().err
    # Of the ten samples of an epoch, or of those drawn so far, if there are more.
    assert 'of 10 samples could not be read, more than train_cfg.max_unreadable=0.1 allows' in message
    assert any(str(path) in message for path in broken)
    assert 'Traceback' not in message


def test_by_default_a_small_data_set_must_be_whole(config, clips, tmp_path, capsys):
    broken = cut(clips / 'img_dir' / 'train' / 'clip3.png')
    assert run(config, tmp_path / 'run', *LONGER) == 2
    assert str(broken) in capsys.readouterr().err


@pytest.mark.parametrize('share', ['-0.1', '1.5'])
def test_a_share_that_is_none(config, tmp_path, capsys, share):
    assert run(config, tmp_path / 'run', f'train_cfg.max_unreadable={share}') == 2
    assert f'train_cfg.max_unreadable is {share}; a number of at least 0' in capsys.readouterr().err


def test_labels_that_are_no_class_are_not_replaced(config, clips, tmp_path, capsys):
    path = clips / 'ann_dir' / 'train' / 'clip3.png'
    Image.fromarray(torch.full((64, 64), 77, dtype=torch.uint8).numpy()).save(path)
    assert run(config, tmp_path / 'run', *LONGER, 'train_cfg.max_unreadable=0.9') == 2
    assert 'label id 77' in capsys.readouterr().err


def test_a_damaged_checkpoint_is_passed_over(config, tmp_path, capsys):
    assert run(config, tmp_path / 'whole', 'train_cfg.max_iters=4', 'randomness.deterministic=True') == 0
    shutil.copytree(tmp_path / 'whole', tmp_path / 'run')
    cut(tmp_path / 'run' / 'iter_4.pth', 3000)
    (tmp_path / 'run' / 'last_checkpoint').write_text('')
    options = ['train_cfg.max_iters=4', 'randomness.deterministic=True']
    assert run(config, tmp_path / 'run', *options, flags=['--resume']) == 0
    assert 'iter_4.pth is damaged' in ''.join(capsys.readouterr())
    assert 'resumed epoch: 0, iter: 3' in log_of(tmp_path / 'run')
    assert changed_weights(tmp_path, 'iter_4.pth') == set()


def test_a_damaged_checkpoint_that_was_named(config, tmp_path, capsys):
    assert run(config, tmp_path / 'whole') == 0
    path = tmp_path / 'whole' / 'iter_2.pth'
    weight = read_checkpoint(path)['state_dict']['decode_head.fusion_conv.conv.weight'].numpy().tobytes()
    content = path.read_bytes()
    assert weight in content
    path.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    assert run(config, tmp_path / 'run', 'train_cfg.max_iters=3', flags=['--resume', str(path)]) == 2
    assert f'checkpoint {path} is damaged' in capsys.readouterr().err


def test_a_folder_to_resume_from(config, tmp_path, capsys):
    assert run(config, tmp_path / 'whole') == 0
    options = ['train_cfg.max_iters=3']
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(tmp_path / 'whole')]) == 0
    assert 'resumed epoch: 0, iter: 2' in log_of(tmp_path / 'run')
    (tmp_path / 'empty').mkdir()
    capsys.readouterr()
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(tmp_path / 'empty')]) == 2
    assert 'empty: that folder has no checkpoint' in capsys.readouterr().err


@pytest.mark.parametrize('key', ['max_iters', 'val_interval'])
def test_numbers_of_iterations(config, tmp_path, capsys, key):
    assert run(config, tmp_path / 'run', f'train_cfg.{key}=0') == 2
    assert f'train_cfg.{key} is 0; a number of at least 1 was expected' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('param_schedulers', 5, 'its optimizers or schedules are not those'),
        ('random_states', 5, 'meta.random_states of the checkpoint are of no use'),
        ('random_states', dict(host=(1, (2, 3), b''), device=None), 'meta.random_states of the checkpoint are of no'),
    ],
)
def test_a_checkpoint_of_odd_parts(config, tmp_path, capsys, key, value, expected):
    assert run(config, tmp_path / 'run') == 0
    state = read_checkpoint(tmp_path / 'run' / 'iter_2.pth')
    (state['meta'] if key in state['meta'] else state)[key] = value
    torch.save(state, tmp_path / 'odd.pth')
    assert run(config, tmp_path / 'new', 'train_cfg.max_iters=4', flags=['--resume', str(tmp_path / 'odd.pth')]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert 'Traceback' not in message


def test_processes_that_see_other_checkpoints(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('mmrs.engine.runner.all_gather_object', lambda start: [start, 'the beginning'])
    assert run(config, tmp_path / 'run') == 0
    assert run(config, tmp_path / 'run', 'train_cfg.max_iters=3', flags=['--resume']) == 2
    assert 'would go on from different checkpoints, iter_2.pth, the beginning' in capsys.readouterr().err


def test_the_best_checkpoint_of_another_folder_stays(config, tmp_path):
    options = ['default_hooks.checkpoint.save_best=mIoU']
    assert run(config, tmp_path / 'whole', *options) == 0
    (best,) = (tmp_path / 'whole').glob('best_*.pth')
    state = read_checkpoint(tmp_path / 'whole' / 'iter_2.pth')
    assert state['message_hub']['runtime_info']['best_ckpt'] == str(best)
    state['message_hub']['runtime_info']['best_score'] = -1.0  # so that the next one is better
    torch.save(state, tmp_path / 'whole' / 'iter_2.pth')
    options += ['train_cfg.max_iters=4']
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(tmp_path / 'whole')]) == 0
    assert best.is_file()
    assert [path.name for path in (tmp_path / 'run').glob('best_*.pth')] == ['best_mIoU_iter_4.pth']


def test_a_run_written_over_leaves_no_checkpoint_that_could_be_resumed(config, tmp_path):
    assert run(config, tmp_path / 'run', 'train_cfg.max_iters=4') == 0
    assert run(config, tmp_path / 'run', flags=['--overwrite']) == 0
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']


def test_a_configuration_in_a_checkpoint_is_not_run(config, tmp_path):
    assert run(config, tmp_path / 'whole') == 0
    state = read_checkpoint(tmp_path / 'whole' / 'iter_2.pth')
    state['meta']['config'] = f'open({str(tmp_path / "stolen")!r}, "w").close()'
    torch.save(state, tmp_path / 'foreign.pth')
    options = ['train_cfg.max_iters=3']
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(tmp_path / 'foreign.pth')]) == 0
    assert not (tmp_path / 'stolen').exists()


def test_without_a_seed_a_resumed_run_takes_that_of_the_first(config, tmp_path):
    """The order of the images, which a new seed would change."""
    options = ['randomness.seed=None', 'randomness.deterministic=True', 'train_cfg.max_iters=6']
    assert run(config, tmp_path / 'whole', *options, 'default_hooks.checkpoint.max_keep_ckpts=9') == 0
    path = tmp_path / 'whole' / 'iter_3.pth'
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(path)]) == 0
    assert changed_weights(tmp_path, 'iter_6.pth') == set()


def test_epochs(config, tmp_path):
    """The loop over epochs, too, is resumed exactly."""
    file = config.with_name('epochs.py')
    file.write_text("""
_base_ = './tiny.py'
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
train_dataloader = dict(sampler=dict(type='DefaultSampler'))
param_scheduler = None
log_processor = dict(by_epoch=True)
default_hooks = dict(checkpoint=dict(by_epoch=True, max_keep_ckpts=9), logger=dict(log_metric_by_epoch=True))
randomness = dict(deterministic=True)
""")
    assert run(file, tmp_path / 'whole') == 0
    assert run(file, tmp_path / 'run', flags=['--resume', str(tmp_path / 'whole' / 'epoch_1.pth')]) == 0
    assert changed_weights(tmp_path, 'epoch_3.pth') == set()
    assert read_checkpoint(tmp_path / 'run' / 'epoch_3.pth')['meta']['iter'] == 15


def test_another_batch_size_goes_on_with_the_same_stream(config, tmp_path, monkeypatch):
    seen = []

    def recorded(self, runner, batch_idx, data_batch=None):
        seen.append([sample.img_path for sample in data_batch['data_samples']])

    monkeypatch.setattr('mmengine.hooks.IterTimerHook.before_train_iter', recorded, raising=False)
    monkeypatch.setattr('mmengine.hooks.IterTimerHook.after_train_iter', lambda *args, **kwargs: None, raising=False)
    options = ['train_cfg.max_iters=9', 'default_hooks.checkpoint.interval=3', 'default_hooks.logger.interval=100']
    assert run(config, tmp_path / 'whole', *options, 'default_hooks.checkpoint.max_keep_ckpts=9') == 0
    stream = [path for batch in seen for path in batch]
    assert len(stream) == 18
    seen.clear()
    path = tmp_path / 'whole' / 'iter_3.pth'
    options = [*options, 'train_dataloader.batch_size=4', 'train_cfg.max_iters=6']
    assert run(config, tmp_path / 'run', *options, flags=['--resume', str(path)]) == 0
    assert [path for batch in seen for path in batch] == stream[6:]
