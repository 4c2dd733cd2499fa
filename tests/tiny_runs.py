"""Tiny data sets and configurations, so that whole runs through the tools take seconds.

Import `quick_start` where such runs are made: it then holds for all tests of that file or folder.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


@contextmanager
def started_quickly() -> Iterator[None]:
    """Leave out what takes longer than a tiny training: formatting configurations and describing the machine."""
    with pytest.MonkeyPatch.context() as patch:
        # MMEngine imports it where it is used, or, upstream, once for all.
        for place in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
            patch.setattr(f'{place}.FormatCode', lambda text, **kwargs: (text, True), raising=False)
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        yield


@pytest.fixture(scope='session', autouse=True)
def quick_start() -> Iterator[None]:
    """All tests of a file or folder start their runs quickly."""
    with started_quickly():
        yield


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def write_clips(root: Path, train: int = 4, val: int = 2, size: int = 64, seed: int = 0) -> Path:
    """Clips in the standard layout: blocks of the six classes (ids 1 to 6), a border of id 0, a colour for each."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 255, (7, 3))
    for split, number in (('train', train), ('val', val)):
        for kind in ('img_dir', 'ann_dir'):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            block = size // 8
            labels = np.kron(rng.integers(1, 7, (8, 8)), np.ones((block, block), int)).astype(np.uint8)
            labels[:2] = 0
            image = (colours[labels] + rng.normal(0, 12, (size, size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / 'img_dir' / split / f'clip{i}.png')
            Image.fromarray(labels).save(root / 'ann_dir' / split / f'clip{i}.png')
    return root


CONFIG = """\
_base_ = '{runtime}'
crop = (64, 64)
train_pipeline = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackSegInputs')]
test_pipeline = train_pipeline
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
    backbone=dict(
        type='mmseg.MixVisionTransformer', embed_dims=4, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1], out_indices=(0, 1, 2, 3), mlp_ratio=2, qkv_bias=True,
        init_cfg={init_cfg}),
    decode_head=dict(
        type='mmseg.SegformerHead', in_channels=[4, 4, 4, 4], in_index=[0, 1, 2, 3], channels=8, num_classes=6,
        norm_cfg=dict(type='BN'), align_corners=False, loss_decode=dict(type='mmseg.CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='PotsdamDataset', data_root='{data}', serialize_data=False, pipeline=train_pipeline,
                 data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train')))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='PotsdamDataset', data_root='{data}', serialize_data=False, pipeline=test_pipeline,
                 test_mode=True, data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val')))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=1.0, begin=0, end=2, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
"""


def write_config(path: Path, data: Path, init_cfg: str = 'None', extra: str = '') -> Path:
    """A tiny SegFormer on clips of :func:`write_clips`, two iterations long."""
    runtime = REPOSITORY / 'configs' / '_base_' / 'default_runtime.py'
    path.write_text(CONFIG.format(runtime=runtime, data=data, init_cfg=init_cfg) + extra)
    return path


ADAPTATION = """
model = dict(
    type='STDASegNet',
    neck=dict(type='DomainDisentangledNeck', in_channels=[4, 4, 4, 4], variant='dsk', reduction=2, min_channels=2),
    discriminator=dict(type='PatchDiscriminator', in_channels=4, num_conv=1, base_channels=4),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(teacher='decoder_only', weight=0.25, threshold=0.975, rare_threshold=0.8),
    backbone=dict(strides=[2, 1, 2, 1]),
    decode_head=dict(loss_decode=dict(type='PixelMeanCrossEntropyLoss', _delete_=True)))
target_pipeline = [dict(type='LoadRasterImage'), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(
    _delete_=True, type='DomainAdaptationDataset', source=dict(
        type='PotsdamDataset', data_root='{data}', serialize_data=False, pipeline=[
            dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackSegInputs')],
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train')),
    target=dict(type='VaihingenDataset', data_root='{data}', serialize_data=False,
                pipeline=target_pipeline, data_prefix=dict(img_path='img_dir/val'))))
optim_wrapper = dict(
    _delete_=True, constructor='JointOptimWrapperConstructor',
    segmentor=dict(optimizer=dict(type='AdamW', lr=1e-3)),
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-3)))
custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
"""


def write_adaptation_config(path: Path, data: Path) -> Path:
    """The same SegFormer as a tiny ST-DASegNet, from the training clips to the validation clips."""
    base = write_config(path, data)
    file = base.with_name(f'adapted_{base.name}')
    file.write_text(f"_base_ = './{base.name}'\n" + ADAPTATION.replace('{data}', str(data)))
    return file


REGRESSION = """
_base_ = './{base}'
reference_config = '{{{{ fileDirname }}}}/{base}'
load = [dict(type='LoadRasterImage')]
model = dict(type='FeatureRegression', features=dict(stage2=1.0, decode_head=1.0))
part = dict(type='PotsdamDataset', serialize_data=False, pipeline=load)
train_dataloader = dict(dataset=dict(
    _delete_=True, type='PairedDataset', pipeline=[dict(type='RandomFlip', prob=0.5)],
    source=dict(data_root='{source}', data_prefix=dict(img_path='img_dir/train'), **part),
    target=dict(data_root='{target}', data_prefix=dict(img_path='img_dir/train'), **part)))
val_dataloader = dict(dataset=dict(
    _delete_=True, type='PairedDataset',
    source=dict(data_root='{source}', data_prefix=dict(img_path='img_dir/val'), test_mode=True, **part),
    target=dict(data_root='{target}', data_prefix=dict(img_path='img_dir/val'), test_mode=True, **part)))
test_dataloader = dict(dataset=dict(data_root='{target}'))
val_evaluator = dict(_delete_=True, type='RegressionLoss')
default_hooks = dict(checkpoint=dict(save_best='regression/loss', rule='less'))
"""


def write_regression_config(path: Path, source: Path, target: Path) -> Path:
    """The same SegFormer, trained on the source's clips as the reference of a feature regression to the target's."""
    base = write_config(path, source)
    file = base.with_name(f'regression_{base.name}')
    file.write_text(REGRESSION.format(base=base.name, source=source, target=target))
    return file
