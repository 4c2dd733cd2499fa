"""The tasks in configs/_base_/tasks, on generated files and on one crop of each real data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner import Runner

from mmrs.datasets import RemoteSensingDataset
from mmrs.geo.rasters import read_label_map
from mmrs.registry import DATASETS, METRICS
from mmrs.utils.config import load_config

# Fewer images than the data set was published with.
pytestmark = pytest.mark.filterwarnings('ignore:.* images, but .* of LoveDA has')

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
# Folder of the training images of the source and of the target, and of the images for evaluation.
RURAL, URBAN = 'loveda/Train/Rural/images_png', 'loveda/Train/Urban/images_png'
TASKS = {
    'potsdam2vaihingen': ('potsdam_irrg/img_dir/train', 'vaihingen/img_dir/train', 'vaihingen/img_dir/val'),
    'vaihingen2potsdam': ('vaihingen/img_dir/train', 'potsdam_irrg/img_dir/train', 'potsdam_irrg/img_dir/val'),
    'potsdam-rgb2vaihingen': ('potsdam_rgb/img_dir/train', 'vaihingen/img_dir/train', 'vaihingen/img_dir/val'),
    'vaihingen2potsdam-rgb': ('vaihingen/img_dir/train', 'potsdam_rgb/img_dir/train', 'potsdam_rgb/img_dir/val'),
    'loveda-rural2urban': (RURAL, URBAN, 'loveda/Val/Urban/images_png'),
    'loveda-urban2rural': (URBAN, RURAL, 'loveda/Val/Rural/images_png'),
    'landcovernet2loveda': ('landcovernet/img_dir/train', RURAL, 'loveda/Val/Rural/images_png'),
    'loveda2landcovernet': (RURAL, 'landcovernet/img_dir/train', 'landcovernet/img_dir/val'),
    'gid2loveda': ('gid/img_dir/train', RURAL, 'loveda/Val/Rural/images_png'),
    'loveda2gid': (RURAL, 'gid/img_dir/train', 'gid/img_dir/val'),
    'paris2chicago': ('city_osm_paris/img_dir/train', 'city_osm_chicago/img_dir/train', 'city_osm_chicago/img_dir/val'),
    'chicago2paris': ('city_osm_chicago/img_dir/train', 'city_osm_paris/img_dir/train', 'city_osm_paris/img_dir/val'),
}
# Label ids that each data set's files hold.
IDS = dict(
    potsdam_irrg=7, potsdam_rgb=7, vaihingen=7, loveda=8, landcovernet=8, gid=6, city_osm_paris=3, city_osm_chicago=3
)


@pytest.fixture
def data(make_dataset, write, rng, tmp_path, monkeypatch):
    for name, ids in IDS.items():
        if name != 'loveda':
            make_dataset(f'data/{name}', n=2, size=(64, 80), classes=ids, splits=('train', 'val'))
    for scene in ('Train/Rural', 'Train/Urban', 'Val/Rural', 'Val/Urban', 'Test/Rural', 'Test/Urban'):
        for number in (1, 2):
            folder = tmp_path / 'data/loveda' / scene
            write(folder / f'images_png/{number}.png', rng.integers(0, 255, (64, 80, 3), np.uint8))
            if not scene.startswith('Test'):
                write(folder / f'masks_png/{number}.png', rng.integers(0, 8, (64, 80)).astype(np.uint8))
    monkeypatch.chdir(tmp_path)


def load(task, method='st_dasegnet'):
    config = load_config(CONFIGS / method / 'method.py', task=task, network='segformer_r18')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        config[loader].update(num_workers=0, persistent_workers=False)
    return config


def check_evaluation(config, images):
    assert config.val_dataloader == config.test_dataloader
    batch = next(iter(Runner.build_dataloader(config.val_dataloader)))
    assert batch['data_samples'][0].gt_sem_seg.data.shape == (1, 64, 80)
    assert f'data/{images}' in batch['data_samples'][0].img_path
    METRICS.build(config.val_evaluator)


@pytest.mark.parametrize('task', TASKS)
def test_adaptation(data, task):
    source, target, evaluation = TASKS[task]
    config = load(task)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    for part, images in (('source', source), ('target', target)):
        sample = dataset[0][part]
        assert f'data/{images}' in sample['data_samples'].img_path
    crop = 416 if {'gid', 'landcovernet'} & {part.split('/')[0] for part in (source, target)} else 384
    # Smaller than the crop where the random ratio is: the data preprocessor pads it.
    assert max(dataset[0]['source']['inputs'].shape) <= crop
    assert dataset[0]['target']['inputs'].shape == (3, crop, crop)
    classes = len(dataset.metainfo['classes'])
    assert set(dataset[0]['source']['data_samples'].gt_sem_seg.data.unique().tolist()) <= {*range(classes), 255}
    assert not any(dataset[i]['target']['data_samples'].get('flip') for i in range(2))
    check_evaluation(config, evaluation)
    assert DATASETS.build(config.val_dataloader.dataset).metainfo['classes'] == dataset.metainfo['classes']


@pytest.mark.parametrize('task', TASKS)
def test_source_only(data, task):
    config = load(task, 'source_only')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert isinstance(dataset, RemoteSensingDataset)
    assert f'data/{TASKS[task][0]}' in dataset[0]['data_samples'].img_path
    check_evaluation(config, TASKS[task][2])


@pytest.mark.parametrize(
    ('task', 'classes', 'source_map', 'evaluation_map'),
    [
        # By label id of the files; 255 is ignored.
        (
            'landcovernet2loveda',
            ('water', 'bare_ground', 'woody', 'non_woody'),
            [255, 0, 1, 1, 255, 2, 3, 3],
            [255, 255, 1, 1, 0, 1, 2, 3],
        ),
        (
            'gid2loveda',
            ('built_up', 'farmland', 'forest_meadow', 'water'),
            [255, 0, 1, 2, 2, 3],
            [255, 255, 0, 255, 3, 255, 2, 1],
        ),
        ('paris2chicago', ('background', 'road', 'building'), [0, 1, 2], [0, 1, 2]),
        ('loveda-rural2urban', None, [255, 0, 1, 2, 3, 4, 5, 6], [255, 0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_classes_are_matched(data, task, classes, source_map, evaluation_map):
    config = load(task)
    loading = [dict(type='LoadRasterAnnotations')]
    for dataset, expected in (
        (config.train_dataloader.dataset.source, source_map),
        (config.val_dataloader.dataset, evaluation_map),
    ):
        dataset = DATASETS.build({**dataset, 'pipeline': loading})
        assert classes is None or dataset.metainfo['classes'] == classes
        sample = dataset[0]
        ids, _ = read_label_map(sample['seg_map_path'])
        np.testing.assert_array_equal(sample['gt_seg_map'], np.array(expected)[ids])


def test_submission_images_have_no_labels(data):
    config = load('loveda-rural2urban')
    dataset = DATASETS.build(config.submission_dataloader.dataset)
    sample = dataset[0]
    assert 'data/loveda/Test/Urban/images_png' in sample['data_samples'].img_path
    assert 'gt_sem_seg' not in sample['data_samples']


@pytest.mark.parametrize(
    ('task', 'name'),
    [
        ('vaihingen2potsdam', 'potsdam_irrg'),
        ('vaihingen2potsdam-rgb', 'potsdam_rgb'),
        ('potsdam2vaihingen', 'vaihingen'),
    ],
)
def test_supervised(data, task, name):
    config = load(task, 'target_supervised')
    assert f'data/{name}/img_dir/train' in DATASETS.build(config.train_dataloader.dataset)[0]['data_samples'].img_path
    check_evaluation(config, f'{name}/img_dir/val')


def test_paper_pipelines():
    config = Config.fromfile(CONFIGS / '_base_/datasets/pipelines.py')
    source = {step.pop('type'): step for step in config.source_pipeline}
    assert list(source) == [
        'LoadRasterImage', 'LoadRasterAnnotations', 'RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion',
        'PackRasterInputs',
    ]  # fmt: skip
    assert source['RandomResize'] == dict(scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
    assert source['RandomCrop'] == dict(crop_size=(384, 384), cat_max_ratio=0.75)
    assert source['RandomFlip'] == dict(prob=0.5)
    assert [step.type for step in config.target_pipeline] == [
        'LoadRasterImage', 'Resize', 'PhotoMetricDistortion', 'PackRasterInputs',
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
    config = Config.fromfile(CONFIGS / '_base_/datasets/pipelines.py')
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
