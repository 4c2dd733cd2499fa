"""The fragments in configs/_base_/datasets, on generated files and on one crop of each real data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner

from mmrs.datasets import RemoteSensingDataset
from mmrs.registry import DATASETS, METRICS

FRAGMENTS = Path(__file__).resolve().parents[2] / 'configs/_base_/datasets'
TASKS = {
    'potsdam2vaihingen': ('potsdam_irrg', 'vaihingen'),
    'vaihingen2potsdam': ('vaihingen', 'potsdam_irrg'),
    'potsdam-rgb2vaihingen': ('potsdam_rgb', 'vaihingen'),
    'vaihingen2potsdam-rgb': ('vaihingen', 'potsdam_rgb'),
}


@pytest.fixture
def data(make_dataset, tmp_path, monkeypatch):
    for name in ('potsdam_irrg', 'potsdam_rgb', 'vaihingen'):
        make_dataset(f'data/{name}', n=2, size=(64, 80), classes=7, splits=('train', 'val'))
    monkeypatch.chdir(tmp_path)


def load(name):
    config = Config.fromfile(FRAGMENTS / f'{name}.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        config[loader].update(num_workers=0, persistent_workers=False)
    return config


def check_evaluation(config, target):
    assert config.val_dataloader == config.test_dataloader
    assert config.val_dataloader.dataset.data_root == f'data/{target}'
    batch = next(iter(Runner.build_dataloader(config.val_dataloader)))
    assert batch['inputs'][0].shape == (3, 64, 80)
    assert batch['data_samples'][0].gt_sem_seg.data.shape == (1, 64, 80)
    assert 'img_dir/val' in batch['data_samples'][0].img_path
    METRICS.build(config.val_evaluator)


@pytest.mark.parametrize('task', TASKS)
def test_adaptation(data, task):
    source, target = TASKS[task]
    config = load(task)
    batch = next(iter(Runner.build_dataloader(config.train_dataloader)))
    for part, name in (('source', source), ('target', target)):
        assert all(f'data/{name}/img_dir/train' in sample.img_path for sample in batch[part]['data_samples'])
    # Smaller than the crop where the random ratio is: the data preprocessor pads it.
    assert max(batch['source']['inputs'][0].shape) <= 384
    assert [tuple(x.shape) for x in batch['target']['inputs']] == [(3, 384, 384)] * 2
    assert set(batch['source']['data_samples'][0].gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 3, 4, 5, 255}
    assert not any(sample.get('flip') for sample in batch['target']['data_samples'])
    check_evaluation(config, target)


@pytest.mark.parametrize('task', TASKS)
def test_source_only(data, task):
    source, target = TASKS[task]
    config = load(f'source_only_{task}')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert isinstance(dataset, RemoteSensingDataset)
    assert f'data/{source}/img_dir/train' in dataset[0]['data_samples'].img_path
    check_evaluation(config, target)


@pytest.mark.parametrize('name', ['potsdam_irrg', 'potsdam_rgb', 'vaihingen'])
def test_supervised(data, name):
    config = load(f'supervised_{name}')
    assert f'data/{name}/img_dir/train' in DATASETS.build(config.train_dataloader.dataset)[0]['data_samples'].img_path
    check_evaluation(config, name)


def test_paper_pipelines():
    config = Config.fromfile(FRAGMENTS / 'pipelines.py')
    source = {step.pop('type'): step for step in config.source_pipeline}
    assert list(source) == [
        'LoadRasterImage', 'LoadRasterAnnotations', 'RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion',
        'PackSegInputs',
    ]  # fmt: skip
    assert source['RandomResize'] == dict(scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
    assert source['RandomCrop'] == dict(crop_size=(384, 384), cat_max_ratio=0.75)
    assert source['RandomFlip'] == dict(prob=0.5)
    assert [step.type for step in config.target_pipeline] == [
        'LoadRasterImage', 'Resize', 'PhotoMetricDistortion', 'PackSegInputs',
    ]  # fmt: skip
    assert config.target_pipeline[1].scale == (384, 384)


def test_cropped_and_flipped_target(data):
    config = load('potsdam2vaihingen')
    config.train_dataloader.dataset.target.pipeline = config.target_crop_pipeline
    torch.manual_seed(0)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    samples = [dataset[0]['target'] for _ in range(8)]
    assert {sample['data_samples'].flip for sample in samples} == {False, True}
    assert all(sample['inputs'].shape[1] <= 384 for sample in samples)


@pytest.mark.parametrize(
    ('source', 'target'),
    [
        (('isprs/potsdam', 'img_dir', 'ann_dir'), ('isprs/vaihingen', 'img_dir')),
        (('isprs/vaihingen', 'img_dir', 'ann_dir'), ('isprs/potsdam', 'img_dir')),
        (('loveda/rural', 'img', 'msk'), ('loveda/urban', 'img')),
    ],
)
def test_real_crops(real_data, tmp_path, source, target):
    if not (real_data / source[0]).is_dir():
        pytest.skip(f'no {source[0]} in {real_data}')
    config = Config.fromfile(FRAGMENTS / 'pipelines.py')
    names = ('background', 'building', 'road', 'water', 'barren', 'forest', 'agriculture')
    is_loveda = source[0].startswith('loveda')
    kind = dict(
        type='RemoteSensingDataset' if is_loveda else 'PotsdamDataset',
        **(dict(reduce_zero_label=True, metainfo=dict(classes=names)) if is_loveda else {}),
    )
    dataset = DATASETS.build(
        dict(
            type='DomainAdaptationDataset',
            source=dict(
                **kind,
                data_root=str(real_data / source[0]),
                data_prefix=dict(img_path=source[1], seg_map_path=source[2]),
                pipeline=config.source_pipeline,
            ),
            target=dict(
                **kind,
                data_root=str(real_data / target[0]),
                data_prefix=dict(img_path=target[1]),
                pipeline=config.target_pipeline,
            ),
        )
    )
    sample = dataset[len(dataset) - 1]
    labels = sample['source']['data_samples'].gt_sem_seg.data.unique().tolist()
    assert labels
    assert set(labels) <= {*range(len(dataset.metainfo['classes'])), 255}
    assert sample['target']['inputs'].shape == (3, 384, 384)
    assert np.ptp(sample['target']['inputs'].numpy()) > 50
