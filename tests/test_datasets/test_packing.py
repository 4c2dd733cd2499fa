import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.runner import set_random_seed

from mmrs.datasets.transforms import PackRasterInputs
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError


@pytest.fixture
def sample(tmp_path, write, rng):
    """Value, label and validity of each pixel are one: 0 without data, else a label of 1 or 2."""
    labels = rng.integers(0, 3, (30, 40)).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    image = np.stack([labels * 100.0] * 2, -1).astype(np.float32)
    image[labels == 0] = np.nan
    paths = write(tmp_path / 'i.tif', image), write(tmp_path / 'l.png', labels)
    return dict(img_path=str(paths[0]), seg_map_path=str(paths[1]), seg_fields=[], classes=('none', 'a', 'b'))


def run(sample, *steps):
    steps = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), *steps, dict(type='PackRasterInputs')]
    return Compose([TRANSFORMS.build(step) for step in steps])({**sample, 'seg_fields': []})


CROP = dict(type='RandomCrop', crop_size=(40, 48), cat_max_ratio=0.75)
FLIP = dict(type='RandomFlip', prob=1.0, direction='diagonal')


@pytest.mark.parametrize(
    'steps',
    [
        [],
        [FLIP],
        [CROP],
        [dict(type='RandomResize', scale=(80, 60), ratio_range=(0.5, 2.0), keep_ratio=True), CROP, FLIP],
        [dict(type='Resize', scale=(51, 47), keep_ratio=False)],
        [dict(type='RandomRotate', prob=1.0, degree=30, seg_pad_val=255)],
        [CROP, dict(type='Pad', size=(64, 64))],
        [dict(type='RandomCutOut', prob=1.0, n_holes=2, cutout_shape=(9, 9), fill_in=(0, 0), seg_fill_in=255)],
    ],
    ids=lambda steps: '-'.join(step['type'] for step in steps) or 'plain',
)
def test_map_of_valid_pixels_moves_with_the_image(sample, steps):
    set_random_seed(0)
    packed = run(sample, *steps)
    labels = packed['data_samples'].gt_sem_seg.data
    valid = packed['data_samples'].valid_map.data
    assert valid.dtype == torch.bool
    assert valid.shape == labels.shape == (1, *packed['inputs'].shape[1:])
    # Ignored are those without data and those that a transform filled; labels and map are moved in the same way.
    torch.testing.assert_close(valid, labels != 255)
    assert 0.3 < valid.float().mean() < 0.9


def test_image_keeps_its_labels(sample):
    """The chain of a training pipeline leaves values, labels and map together."""
    set_random_seed(1)
    packed = run(sample, CROP, FLIP)
    labels = packed['data_samples'].gt_sem_seg.data[0]
    valid = packed['data_samples'].valid_map.data[0]
    assert (packed['inputs'][:, valid] == 100 * labels[valid]).all()


def test_labels_behind_resize_and_flip_are_those_of_the_file(sample):
    """As in a test pipeline: pixels without data are ignored where the file has them."""
    steps = [
        dict(type='LoadRasterImage'),
        dict(type='Resize', scale=(40, 30)),
        FLIP,
        dict(type='LoadRasterAnnotations'),
    ]
    packed = Compose([TRANSFORMS.build(step) for step in (*steps, dict(type='PackRasterInputs'))])(sample)
    direct = run(sample)
    torch.testing.assert_close(packed['data_samples'].gt_sem_seg.data, direct['data_samples'].gt_sem_seg.data)
    assert packed['data_samples'].valid_map.shape == (30, 40)


def test_image_with_all_its_pixels_has_no_map(tmp_path, write):
    path = write(tmp_path / 'i.png', np.zeros((8, 9, 3), np.uint8))
    packed = PackRasterInputs()(TRANSFORMS.build(dict(type='LoadRasterImage'))(dict(img_path=str(path))))
    assert 'valid_map' not in packed['data_samples']
    assert packed['inputs'].shape == (3, 8, 9)


def test_place_of_a_window_is_kept():
    results = dict(img=np.zeros((4, 5, 2)), img_path='a.tif', window=(1, 2, 6, 6), grid_shape=(10, 12))
    meta = PackRasterInputs()(results)['data_samples'].metainfo
    assert (meta['img_path'], meta['window'], meta['grid_shape']) == ('a.tif', (1, 2, 6, 6), (10, 12))


def test_transform_that_leaves_the_map_alone(sample):
    with pytest.raises(ConfigError, match=r'has 20 x 10 pixels .*valid_map\) has 80 x 60: a transform of the pipeline'):
        run(sample, dict(type='CenterCrop', crop_size=(20, 10)))
