import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrs.datasets.samplers import RareClassSampler, RareClassSampling
from mmrs.datasets.transforms.rare_class_crop import RareClassCrop
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError
from tests.small_files import build_dataset


def load_golden():
    return torch.load(Path(__file__).resolve().parents[1] / 'data' / 'golden' / 'uda_rcs.pt', weights_only=True)


COUNTS = np.array([[90, 10, 0], [60, 0, 40], [100, 0, 0], [70, 25, 5]])


def test_probabilities_are_those_of_the_paper():
    sampling = RareClassSampling(COUNTS, 'abc', temperature=0.1, min_pixels=10)
    share = np.array([320, 35, 45]) / 400
    expected = np.exp((1 - share) / 0.1) / np.exp((1 - share) / 0.1).sum()
    np.testing.assert_allclose(sampling.class_probability, expected, rtol=1e-12)
    # a in all four images, b in the first and the last, c (10 pixels or more) in the second.
    a, b, c = expected
    np.testing.assert_allclose(
        sampling.weights, [[a / 4, b / 2, 0], [a / 4, 0, c], [a / 4, 0, 0], [a / 4, b / 2, 0]], rtol=1e-12
    )


@pytest.mark.parametrize('classes', load_golden())
def test_probabilities_are_the_releases(classes):
    recorded = load_golden()[classes]
    counts = np.array([[recorded['counts'][i] for i in range(len(recorded['counts']))]])
    for temperature, case in recorded['T'].items():
        if temperature == 'inf':
            continue
        found = RareClassSampling(counts, list(map(str, recorded['counts'])), float(temperature), min_pixels=1)
        np.testing.assert_allclose(found.class_probability[case['classes']], case['probs'], atol=2e-6)
    default = '0.01' if len(counts[0]) >= 10 else '0.1'  # of few classes, 0.01 would draw the rarest alone
    found = RareClassSampling(counts, list(map(str, recorded['counts'])), min_pixels=1).class_probability
    np.testing.assert_allclose(found[recorded['T'][default]['classes']], recorded['T'][default]['probs'], atol=2e-6)


def test_a_class_that_no_image_has_enough_of_is_not_drawn():
    sampling = RareClassSampling(COUNTS, 'abc', temperature=0.001, min_pixels=26)
    np.testing.assert_allclose(sampling.class_probability, [0, 0, 1], atol=1e-30)
    np.testing.assert_allclose(sampling.weights.sum(axis=1), [0, 1, 0, 0], atol=1e-30)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [(dict(min_pixels=101), 'no image has 101 pixels of a class; the most is 100'), (dict(temperature=0), 'above 0')],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        RareClassSampling(COUNTS, 'abc', **settings)


@pytest.fixture
def dataset(tmp_path, write, monkeypatch):
    """Two images of one name in two folders: class c is in the second one alone, in one corner."""
    monkeypatch.setenv('MMRS_CACHE', str(tmp_path / 'cache'))
    for folder, rare in (('north', False), ('south', True)):
        labels = np.zeros((40, 40), np.uint8)
        labels[:, 30:] = 1
        if rare:
            labels[:8, :8] = 2
        write(tmp_path / f'data/img_dir/train/{folder}/tile.png', np.zeros((40, 40, 3), np.uint8))
        write(tmp_path / f'data/ann_dir/train/{folder}/tile.png', labels)
    return build_dataset(tmp_path / 'data', rare_class_sampling=dict(temperature=0.01, min_pixels=20))


def test_sampler_draws_by_the_statistics(dataset):
    drawn = list(itertools.islice(RareClassSampler(dataset, seed=1), 2000))
    assert set(drawn) <= {0, 1}
    assert np.mean(drawn) > 0.99  # at this temperature the rarest class alone


def test_sampler_is_seeded_and_works_on_a_pair(dataset):
    pair = DATASETS.build(
        dict(type='DomainAdaptationDataset', source=dataset, target=build_dataset(dataset.data_root, labels=False))
    )
    take = [list(itertools.islice(RareClassSampler(d, seed=seed), 50)) for d, seed in ((dataset, 3), (pair, 3))]
    assert take[0] == take[1]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, 'has no rare_class_sampling'),
        (dict(rare_class_sampling={}, data_prefix=dict(img_path='img_dir/train')), 'has no labels'),
        (dict(rare_class_sampling=dict(temp=0.1)), 'has temp; temperature and min_pixels'),
    ],
)
def test_sampler_needs_the_setting_and_labels(dataset, settings, message):
    with pytest.raises(ConfigError, match=message):
        RareClassSampler(build_dataset(dataset.data_root, **settings), seed=0)


def test_sampler_does_not_look_into_wrappers(dataset):
    for wrapper in (
        dict(type='RepeatDataset', times=2, dataset=dataset),
        dict(type='ConcatDataset', datasets=[dataset]),
    ):
        with pytest.raises(ConfigError, match=f'cannot draw from a {wrapper["type"]}; a data set with rare_class'):
            RareClassSampler(DATASETS.build(wrapper), seed=0)


def test_crop_finds_the_rare_class(dataset):
    RareClassSampler(dataset, seed=0)
    crop = RareClassCrop(crop_size=(12, 12), min_pixels=16, tries=200)
    np.random.seed(0)  # noqa: NPY002 (the generator of mmseg's transforms)
    with_rare = [(crop(dataset[1])['gt_seg_map'] == 2).sum() >= 16 for _ in range(20)]
    assert np.mean(with_rare) > 0.9
    plain = build_dataset(dataset.data_root)
    without = [(crop(plain[1])['gt_seg_map'] == 2).sum() >= 16 for _ in range(20)]
    assert np.mean(without) < 0.5
