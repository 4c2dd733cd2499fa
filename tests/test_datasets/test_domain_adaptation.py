import itertools
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from mmrs.datasets import DomainAdaptationDataset
from mmrs.datasets.stream import Draw, StreamedDataset
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


# Labelled images of the target ---------------------------------------------------------------------------------------

LABELLED = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), *SOURCE_PIPELINE[3:]]


@pytest.fixture
def few(config, roots):
    """The same with three labelled images of the target."""
    return dict(config, labelled=domain(roots[1], LABELLED, only=['01', '03.png', '04']))


def streamed(config, number=60, seed=3, **others):
    """The samples of a training's stream."""
    dataset = StreamedDataset(dict(config, **others))
    return [dataset[Draw(seed, position, position % len(dataset))][0] for position in range(number)]


def name_of(part):
    return Path(part['data_samples'].img_path).stem


def test_a_handful_of_labelled_images_serves_every_sample(few):
    samples = streamed(few)
    assert [set(sample) for sample in samples] == 60 * [{'source', 'labelled', 'target'}]
    drawn = [name_of(sample['labelled']) for sample in samples]
    assert {name: drawn.count(name) > 10 for name in set(drawn)} == dict.fromkeys(('01', '03', '04'), True)
    assert len(set(itertools.pairwise(drawn))) == 9  # with replacement, one independent of the other
    assert len({name_of(sample['target']) for sample in samples}) == 7  # the labelled ones are unlabelled images, too
    assert all('gt_sem_seg' in sample['labelled']['data_samples'] for sample in samples)
    assert all('gt_sem_seg' not in sample['target']['data_samples'] for sample in samples)


def same(samples, others, name):
    return all(torch.equal(a[name]['inputs'], b[name]['inputs']) for a, b in zip(samples, others))


def test_labelled_images_are_drawn_by_a_generator_of_their_own(few):
    """Whatever else is drawn for a sample; and from the middle of the stream as from its beginning."""
    samples = streamed(few)
    less = dict(few, source=dict(few['source'], pipeline=LABELLED))
    assert same(samples, streamed(less), 'labelled')
    assert not same(samples, streamed(less), 'source')
    alone = streamed(few, reads_target=False)
    assert set(alone[0]) == {'source', 'labelled'}
    assert same(samples, alone, 'labelled')
    assert not same(samples, streamed(few, seed=4), 'labelled')
    dataset = StreamedDataset(few)
    assert same([dataset[Draw(3, 41, 1)][0]], samples[41:], 'labelled')


def test_without_a_source_there_are_as_many_samples_as_target_images(few):
    dataset = DATASETS.build(dict(few, source=None))
    assert len(dataset) == 7
    assert dataset.metainfo['classes'] == CLASSES['classes']
    sample = dataset[5]
    assert set(sample) == {'labelled', 'target'}
    unlabelled = DATASETS.build(dict(few, source=None, labelled=None))  # which a model will refuse
    assert unlabelled.metainfo['classes'] == CLASSES['classes']
    assert set(unlabelled[5]) == {'target'}
    assert name_of(sample['target']) == '05'


def test_classes_of_labelled_images_are_taken_in_the_order_of_the_source(few):
    other = dict(few, labelled=dict(few['labelled'], metainfo=dict(classes=('b', 'c', 'a')), pipeline=LABELLED[:2]))
    other['labelled']['pipeline'] = few['labelled']['pipeline'] = [*LABELLED[:2], dict(type='PackSegInputs')]
    for sample, turned in zip(streamed(few, 5), streamed(other, 5)):
        labels, found = (own['labelled']['data_samples'].gt_sem_seg.data for own in (sample, turned))
        assert torch.equal(found, (labels + 1) % 3)  # id 0 is b there, class 1
    with pytest.raises(ConfigError, match=r'dataset\.labelled has the classes b, d, a'):
        DATASETS.build(dict(few, labelled=dict(few['labelled'], metainfo=dict(classes=('b', 'd', 'a')))))


def test_labelled_images_that_cannot_serve(few, roots, write, rng):
    def build(**changes):
        return DATASETS.build(dict(few, labelled=dict(few['labelled'], **changes)))

    with pytest.raises(DataError, match=r'labelled data set: only names 1 images .*img_dir/train: 77'):
        build(only=['01', '77'])
    with pytest.raises(ConfigError, match=r'no gt_sem_seg.*LoadRasterAnnotations'):
        build(pipeline=PLAIN)[0]
    write(roots[1] / 'ann_dir/train/03.png', np.full((40, 48), 255, np.uint8))
    with pytest.raises(DataError, match=r'1 of 3 .*03\.png'):
        build()
    write(roots[1] / 'ann_dir/train/03.png', np.full((40, 48), 7, np.uint8))
    with pytest.raises(DataError, match=r'03\.png.*7'):
        build()


def test_windows_without_a_labelled_pixel_are_not_drawn(few, roots, write):
    labels = np.full((40, 48), 255, np.uint8)
    labels[:10, 40:] = 2
    write(roots[1] / 'ann_dir/train/03.png', labels)
    pipeline = [*LABELLED[:2], dict(type='PackRasterInputs')]
    few['labelled'].update(type='RasterDataset', only=['03'], windows=dict(size=8, jitter=False), pipeline=pipeline)
    found = [sample['labelled']['data_samples'].gt_sem_seg.data for sample in streamed(few, 30)]
    assert all((label == 2).any() for label in found)
    assert len({label.numpy().tobytes() for label in found}) == 2  # rows 0 to 8, and 8 to 16 of which two are labelled


def test_which_images_a_data_set_has(roots, tmp_path):
    def names(**settings):
        dataset = DATASETS.build(domain(roots[1], PLAIN, **settings))
        return [name_of(dict(data_samples=SimpleNamespace(**dataset.get_data_info(i)))) for i in range(len(dataset))]

    assert names(only=['04.png', '01']) == ['04', '01']
    assert names(leave_out=['00', '01', '02', '06']) == ['03', '04', '05']
    (tmp_path / 'mine').mkdir()
    for name in ('02', '05'):
        shutil.copy(roots[1] / f'ann_dir/train/{name}.png', tmp_path / 'mine')
    assert names(only=str(tmp_path / 'mine')) == ['02', '05']
    assert names(only=['00', '01', '02'], leave_out=str(tmp_path / 'mine')) == ['00', '01']
    drawn = [names(draw=dict(number=number, seed=5)) for number in (1, 3, 7)]
    assert [len(own) for own in drawn] == [1, 3, 7]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    assert len({tuple(names(draw=dict(number=2, seed=seed))) for seed in range(20)}) > 8
    with pytest.raises(DataError, match=r'8 images .* of the 7'):
        names(draw=dict(number=8, seed=0))
    with pytest.raises(ConfigError, match=r'draw\.seed .*randomness\.seed'):
        names(draw=dict(number=2, seed=None))
    with pytest.raises(DataError, match=r'leave_out names 1 images .*: 9'):
        names(leave_out=['9', '01'])
