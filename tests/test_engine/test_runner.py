from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mmrs.engine import AdaptationRunner
from mmrs.engine.runner import check_num_classes
from mmrs.registry import MODELS, RUNNERS
from mmrs.utils import ConfigError
from mmrs.utils.config import load_config
from tests.tiny_runs import write_adaptation_config, write_clips


def head(num_classes):
    config = dict(type='mmseg.FCNHead', in_channels=2, channels=2, num_convs=0, concat_input=False)
    return MODELS.build(dict(config, num_classes=num_classes, norm_cfg=None))


class TwoHeads(BaseModule):
    def __init__(self, source, target):
        super().__init__()
        self.decode_head = nn.ModuleDict(dict(source=head(source), target=head(target)))


def dataset(classes):
    return SimpleNamespace(metainfo=dict(classes=classes))


def test_every_head_is_checked():
    three = dataset(('road', 'house', 'tree'))
    check_num_classes(TwoHeads(3, 3), three, 'val_dataloader.dataset')
    with pytest.raises(
        ConfigError, match=r'model\.decode_head\.target\.num_classes is 4.*val_dataloader.*3 classes: road'
    ):
        check_num_classes(TwoHeads(3, 4), three, 'val_dataloader.dataset')
    wrapped = nn.Module()
    wrapped.module = TwoHeads(2, 3)  # as a data-parallel or test-time augmentation wrapper has it
    with pytest.raises(ConfigError, match=r'model\.decode_head\.source\.num_classes is 2'):
        check_num_classes(wrapped, three, 'x')


def test_data_sets_without_class_names_are_not_checked():
    for unknown in (SimpleNamespace(), dataset(None), SimpleNamespace(metainfo=None)):
        check_num_classes(TwoHeads(3, 4), unknown, 'x')


@pytest.mark.parametrize('key', ['decode_head', 'data_preprocessor'])
def test_another_ignored_label_than_the_data_sets(key):
    model, data = TwoHeads(3, 3), dataset(('road', 'house', 'tree'))
    if key == 'decode_head':
        model.decode_head['target'].ignore_index = 0
        name = 'decode_head.target.ignore_index'
    else:
        model.data_preprocessor = SimpleNamespace(pad_values=dict(seg_pad_val=0))
        name = 'data_preprocessor.seg_pad_val'
    with pytest.raises(ConfigError, match=rf'model\.{name} is 0, .* 255 in the data set at train_dataloader'):
        check_num_classes(model, data, 'train_dataloader.dataset')
    data.ignore_index = 0  # mmseg's data sets may have another one
    if key == 'decode_head':
        model.decode_head['source'].ignore_index = 0
        check_num_classes(model, data, 'x')


def test_registered():
    assert RUNNERS.get('AdaptationRunner') is AdaptationRunner


def test_weights_that_a_resumed_run_overwrites_are_not_initialised(tmp_path):
    started = []

    class Model(BaseModule):
        def init_weights(self):
            started.append(True)

    def initialise(**settings):
        started.clear()
        runner = AdaptationRunner(Model(), str(tmp_path), default_scope='mmrs', **settings)
        runner._init_model_weights()
        return bool(started)

    assert initialise()
    assert initialise(load_from='weights.pth')
    assert initialise(resume=True)  # nothing to resume from yet
    assert not initialise(resume=True, load_from='iter_3.pth')
    torch.save({}, tmp_path / 'iter_3.pth')
    assert not initialise(resume=True)


def test_a_save_that_is_cut_short_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    runner = AdaptationRunner(
        nn.Linear(1, 1),
        str(tmp_path),
        train_dataloader=DataLoader(TensorDataset(torch.zeros(1)), sampler=[0]),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_scope='mmrs',
    )
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.save_checkpoint(str(tmp_path), 'a.pth', by_epoch=False)
    whole = (tmp_path / 'a.pth').read_bytes()

    def killed(checkpoint, filename, **kwargs):
        Path(filename).write_bytes(whole[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr('mmengine.runner.runner.save_checkpoint', killed)
    with pytest.raises(KeyboardInterrupt):
        runner.save_checkpoint(str(tmp_path), 'a.pth', by_epoch=False)
    assert (tmp_path / 'a.pth').read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and 'a' in path.stem] == ['a.pth']


def test_a_teacher_that_nothing_moves_is_refused(tmp_path):
    clips = write_clips(tmp_path / 'clips', train=2, val=1)
    config = load_config(write_adaptation_config(tmp_path / 'tiny.py', clips))
    config.custom_hooks, config.work_dir = [], str(tmp_path / 'run')
    with pytest.raises(ConfigError, match='no TeacherEMAHook'):
        AdaptationRunner.from_cfg(config)
