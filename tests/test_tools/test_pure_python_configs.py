"""Configurations that import their classes do the same as those that name them."""

import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrs.apis import SegInferencer
from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.models.adaptors.st_dasegnet import STDASegNet
from mmrs.utils.config import load_config, name_types
from mmrs.weights import read_checkpoint
from tests.tiny_runs import write_adaptation_config
from tools import check_dataset, test, train
from tools.analysis_tools import band_statistics, browse_dataset

BASE = """\
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import LoggerHook
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.evaluation import IoUMetric
from mmseg.models.backbones import MixVisionTransformer
from mmseg.models.decode_heads import SegformerHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.segmentors import EncoderDecoder
from torch.optim import AdamW

from mmrs.datasets import LoadRasterAnnotations, LoadRasterImage, PackRasterInputs, PotsdamDataset
from mmrs.engine.hooks import NonFiniteHook
from mmrs.models.data_preprocessor import DomainAdaptationDataPreprocessor

default_scope = 'mmrs'
pipeline = [dict(type=LoadRasterImage), dict(type=LoadRasterAnnotations), dict(type=PackRasterInputs)]
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=DomainAdaptationDataPreprocessor, mean='auto', std='auto'),
    backbone=dict(
        type=MixVisionTransformer, embed_dims=4, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1], out_indices=(0, 1, 2, 3), mlp_ratio=2, qkv_bias=True,
        init_cfg=dict(type='Pretrained', checkpoint='https://weights.invalid/mit_b0.pth')),
    decode_head=dict(
        type=SegformerHead, in_channels=[4, 4, 4, 4], in_index=[0, 1, 2, 3], channels=8, num_classes=6,
        norm_cfg=dict(type='BN'), align_corners=False, loss_decode=dict(type=CrossEntropyLoss)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
param_scheduler = [dict(type=PolyLR, eta_min=0.0, power=1.0, begin=0, end=2, by_epoch=False)]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
val_evaluator = dict(type=IoUMetric)
test_evaluator = [dict(type=IoUMetric)]
"""
TOP = """\
from mmengine.config import read_base

with read_base():
    from .base import *

train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(type=PotsdamDataset, data_root='{data}', serialize_data=False, pipeline=pipeline,
                 data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=PotsdamDataset, data_root='{data}', serialize_data=False, pipeline=pipeline,
                 test_mode=True, data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val')))
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(type=LoggerHook, interval=1),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
                     non_finite=dict(type=NonFiniteHook))
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory, clips):
    """The same configuration with classes and with names."""
    folder = tmp_path_factory.mktemp('configs')
    (folder / 'base.py').write_text(BASE)
    (folder / 'imported.py').write_text(TOP.replace('{data}', str(clips)))
    names = [line for line in BASE.splitlines() if not line.startswith('from ')]
    names += [line for line in TOP.splitlines() if not line.startswith(('from ', 'with ', '    from '))]
    text = '\n'.join(names).replace('{data}', str(clips))
    for name in ('MixVisionTransformer', 'SegformerHead', 'CrossEntropyLoss'):
        text = text.replace(f'type={name}', f"type='mmseg.{name}'")
    (folder / 'names.py').write_text(re.sub(r'type=(\w+)', r"type='\1'", text))
    return folder / 'imported.py', folder / 'names.py'


def run(tool, *arguments):
    assert tool.main([str(argument) for argument in arguments]) in (0, None)


@pytest.fixture(scope='module')
def trained(configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    for config in configs:
        run(train, config, '--work-dir', folder / config.stem, '--no-pretrained', '--amp')
    return {config.stem: folder / config.stem for config in configs}


def weights(path):
    return read_checkpoint(path)['state_dict']


def test_training_and_resuming(configs, trained, tmp_path):
    classes, names = (weights(trained[kind] / 'iter_2.pth') for kind in ('imported', 'names'))
    assert all(torch.equal(classes[key], names[key]) for key in names)
    written = Config.fromfile(trained['imported'] / 'imported.py')
    assert written.model.backbone.type.endswith('MixVisionTransformer')
    checkpoint = trained['imported'] / 'iter_1.pth'
    run(train, trained['imported'] / 'imported.py', '--work-dir', tmp_path, '--amp', '--resume', checkpoint)
    resumed = weights(tmp_path / 'iter_2.pth')
    assert all(torch.equal(classes[key], resumed[key]) for key in classes)


def test_testing_and_prediction(configs, trained, clips, tmp_path):
    found = {}
    for config in configs:
        out, file = tmp_path / config.stem, tmp_path / f'{config.stem}.json'
        options = ['--tta', '--out', out, '--metrics', file, '--cfg-options', 'model.test_cfg=dict(mode=whole)']
        run(test, config, trained['names'] / 'iter_2.pth', '--work-dir', tmp_path / 'work', *options)
        found[config.stem] = json.loads(file.read_text())['confusion_matrix']
    assert found['imported'] == found['names']
    image = clips / 'img_dir' / 'val' / 'clip0.png'
    maps = [SegInferencer(config, trained['names'] / 'iter_2.pth', device='cpu').predict(image) for config in configs]
    np.testing.assert_array_equal(maps[0].probabilities, maps[1].probabilities)


def test_tools_that_look_at_data(configs, tmp_path, capsys):
    said = []
    for config in configs:
        run(check_dataset, config, '--workers', '1')
        run(band_statistics, config)
        run(browse_dataset, config, '-o', tmp_path / config.stem, '-n', '1')
        said.append(capsys.readouterr().out.replace(config.stem, ''))
    assert said[0] == said[1]


def test_every_class_gets_its_name(configs):
    cfg = load_config(configs[0])
    assert cfg.model.type == 'EncoderDecoder'
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_dataloader.dataset.pipeline[0].type == 'LoadRasterImage'
    assert cfg.test_evaluator[0].type == 'IoUMetric'
    with DefaultScope.overwrite_default_scope('mmrs'):
        assert json.dumps(cfg.model.to_dict())


def test_classes_of_the_users_own(configs, trained, tmp_path, monkeypatch):
    """They need not be registered."""
    (tmp_path / 'own_parts.py').write_text(
        'from mmrs.datasets import LoadRasterImage, PotsdamDataset\n'
        'from mmseg.models.segmentors import EncoderDecoder\n'
        'class OwnSet(PotsdamDataset):\n    pass\n'
        'class OwnModel(EncoderDecoder):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = configs[0].read_text().replace('with read_base', 'from own_parts import OwnModel, OwnSet\nwith read_base')
    text = text.replace('type=PotsdamDataset', 'type=OwnSet') + 'model.update(dict(type=OwnModel))\n'
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'own.py').write_text(text)
    run(train, tmp_path / 'own.py', '--work-dir', tmp_path / 'run', '--no-pretrained', '--amp')
    own, names = weights(tmp_path / 'run' / 'iter_2.pth'), weights(trained['names'] / 'iter_2.pth')
    assert all(torch.equal(own[key], names[key]) for key in names)
    run(test, tmp_path / 'own.py', tmp_path / 'run' / 'iter_2.pth', '--work-dir', tmp_path / 'work')
    run(check_dataset, tmp_path / 'own.py', '--workers', '1')


def test_an_object_of_mmengine(clips, tmp_path):
    """Built in Python, with classes of an adaptation method among them."""
    cfg = Config.fromfile(write_adaptation_config(tmp_path / 'tiny.py', clips))
    cfg.model.type, cfg.optim_wrapper.constructor = STDASegNet, JointOptimWrapperConstructor
    name_types(cfg)
    assert (cfg.model.type, cfg.optim_wrapper.constructor) == ('STDASegNet', 'JointOptimWrapperConstructor')
