import pickle
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from mmrs.datasets import DomainAdaptationDataset
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError

CLASSES = dict(classes=('a', 'b', 'c'))
SOURCE_PIPELINE = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomCrop', crop_size=(16, 16), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
TARGET_PIPELINE = [
    dict(type='LoadRasterImage'),
    dict(type='Resize', scale=(16, 16), keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
PLAIN = [dict(type='LoadRasterImage'), dict(type='PackSegInputs')]


def domain(root, pipeline, labels=True, **kwargs):
    prefix = dict(img_path='img_dir/train', **(dict(seg_map_path='ann_dir/train') if labels else {}))
    return dict(
        type='RemoteSensingDataset',
        data_root=str(root),
        data_prefix=prefix,
        pipeline=pipeline,
        metainfo=CLASSES,
        **kwargs,
    )


@pytest.fixture
def roots(make_dataset):
    # Dark and bright, so that a picture tells its domain.
    return make_dataset('source', n=4), make_dataset('target', n=7, brightness=150)


@pytest.fixture
def config(roots):
    source, target = roots
    return dict(
        type='DomainAdaptationDataset',
        source=domain(source, SOURCE_PIPELINE),
        target=domain(target, TARGET_PIPELINE, labels=False),
    )


def targets_of(batches):
    """Names of the target images, in order."""
    return [sample.img_path[-6:-4] for batch in batches for sample in batch['target']['data_samples']]


def loader_config(config, workers, sampler='InfiniteSampler', batch_size=2):
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=False,
        sampler=dict(type=sampler, shuffle=True),
        dataset=config,
    )


def test_sample(config):
    dataset = DATASETS.build(config)
    assert isinstance(dataset, DomainAdaptationDataset)
    assert len(dataset) == 4
    assert dataset.metainfo['classes'] == CLASSES['classes']
    sample = dataset[2]
    source, target = sample['source'], sample['target']
    assert source['inputs'].shape == target['inputs'].shape == (3, 16, 16)
    assert source['inputs'].dtype == target['inputs'].dtype == torch.uint8
    assert source['data_samples'].img_path.endswith('source/img_dir/train/02.png')
    assert 'target/img_dir' in target['data_samples'].img_path
    assert 'gt_sem_seg' in source['data_samples']
    assert 'gt_sem_seg' not in target['data_samples']
    assert 'seg_map_path' not in target['data_samples'].metainfo


def test_target_is_drawn_from_all_images_alike(config):
    config['source']['pipeline'] = config['target']['pipeline'] = PLAIN
    np.random.seed(0)  # noqa: NPY002 (the generator that the stream of samples seeds)
    dataset = DATASETS.build(config)
    drawn = targets_of([pseudo_collate([dataset[i % 4] for i in range(700)])])
    counts = np.bincount(np.array(drawn, int), minlength=7)
    assert counts.sum() == 700
    assert counts.min() > 60
    # Not one and the same partner for each source image.
    assert len(set(drawn[::4])) == 7


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_loaders_and_collation(config, workers, sampler):
    loader = Runner.build_dataloader(loader_config(config, workers, sampler), seed=3)
    iterator = iter(loader)
    for _ in range(2):
        batch = next(iterator)
        assert set(batch) == {'source', 'target'}
        for part in batch.values():
            assert [tuple(x.shape) for x in part['inputs']] == [(3, 16, 16)] * 2
            assert all(isinstance(x, SegDataSample) for x in part['data_samples'])
        assert batch['source']['inputs'][0].float().mean() < batch['target']['inputs'][0].float().mean()


def run(config, workers=0):
    """All that two epochs of training would see, as bytes."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (mmseg's transforms use the global generator)
    loader = Runner.build_dataloader(loader_config(config, workers, 'DefaultSampler'), seed=0)
    batches = [batch for _ in range(2) for batch in loader]
    return pickle.dumps(
        [
            (
                [x.numpy().tobytes() for part in ('source', 'target') for x in batch[part]['inputs']],
                [x.gt_sem_seg.data.numpy().tobytes() for x in batch['source']['data_samples']],
                [sorted(map(str, x.metainfo.items())) for x in batch['target']['data_samples']],
            )
            for batch in batches
        ]
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_target_labels_change_nothing(config, roots, workers, rng):
    labels = roots[1] / 'ann_dir'
    # Even where the configuration names them.
    config['target']['data_prefix'] = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    seen = run(config, workers)
    for path in labels.rglob('*.png'):
        path.write_bytes(rng.bytes(100))
    assert run(config, workers) == seen
    shutil.rmtree(labels)
    assert run(config, workers) == seen
    # The comparison can fail: the source's labels do count.
    for path in (roots[0] / 'ann_dir').rglob('*.png'):
        shutil.copy(roots[0] / 'ann_dir/train/00.png', path) if path.name != '00.png' else None
    assert run(config, workers) != seen


def test_label_path_is_dropped_through_wrappers(config):
    config['target'] = dict(
        type='ConcatDataset',
        datasets=[dict(config['target'], data_prefix=dict(img_path='img_dir/train', seg_map_path='x'), lazy_init=True)],
    )
    assert 'seg_map_path' not in DATASETS.build(config)[0]['target']['data_samples'].metainfo


def test_target_data_set_with_labels_is_refused(config, roots):
    target = DATASETS.build(domain(roots[1], PLAIN))
    with pytest.raises(
        ConfigError, match=r'target data set RemoteSensingDataset lists label maps, but adaptation must not'
    ):
        DomainAdaptationDataset(source=config['source'], target=target)


def test_target_pipeline_with_labels_is_refused(config):
    with pytest.raises(ConfigError, match=r'has no label path .*Remove LoadRasterAnnotations'):
        DATASETS.build({**config, 'target': dict(config['target'], pipeline=SOURCE_PIPELINE)})[0]

    def invent_labels(results):
        return {**results, 'gt_seg_map': np.zeros(results['img'].shape[:2], np.uint8)}

    config['target']['pipeline'] = [TARGET_PIPELINE[0], invent_labels, TARGET_PIPELINE[-1]]
    with pytest.raises(ConfigError, match=r'yields gt_sem_seg, but adaptation must not see target labels'):
        DATASETS.build(config)[0]


def test_target_without_images(config, roots):
    for path in (roots[1] / 'img_dir/train').iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r'The target data set: No images for RemoteSensingDataset in .*target/img_dir/train'
    ):
        DATASETS.build(config)
    shutil.rmtree(roots[1])
    with pytest.raises(DataError, match=r'The target data set: The folder of the images .* is missing'):
        DATASETS.build(config)


def test_lazy_data_sets_are_checked_when_they_are_read(config, roots):
    shutil.rmtree(roots[1])
    lazy = dict(config, source=dict(config['source'], lazy_init=True), target=dict(config['target'], lazy_init=True))
    dataset = DATASETS.build(lazy)
    with pytest.raises(DataError, match=r'The target data set: The folder of the images'):
        dataset.full_init()


def test_classes_must_agree(config):
    config['target']['metainfo'] = dict(classes=('a', 'd', 'b'))
    with pytest.raises(ConfigError, match=r'classes: a, b, c and a, d, b \(c only in the first, d only'):
        DATASETS.build(config)
    # No label of a target is read, so that the order of its classes means nothing.
    config['target']['metainfo'] = dict(classes=('a', 'c', 'b'))
    assert DATASETS.build(config).metainfo['classes'] == ('a', 'b', 'c')
    del config['target']['metainfo']
    assert len(DATASETS.build(config)) == 4
