import mmcv
import numpy as np
import pytest
from mmseg.datasets.transforms import PhotoMetricDistortion

from mmrs.datasets import LoadRasterAnnotations, LoadRasterImage
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError, DataError, UnreadableError


def load(image, labels, **results):
    results = dict(img_path=str(image), seg_map_path=str(labels), seg_fields=[], **results)
    return LoadRasterAnnotations()(LoadRasterImage()(results))


@pytest.fixture
def image(tmp_path, write, rng):
    return write(tmp_path / 'image.png', rng.integers(0, 256, (20, 30, 3), np.uint8))


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.float32])
def test_ids_become_training_indices(tmp_path, write, image, dtype):
    ids = np.resize(np.array([0, 1, 2, 255]), (20, 30)).astype(dtype)
    labels = write(tmp_path / 'labels.tif', ids)
    plain = load(image, labels, classes=('a', 'b', 'c'))
    np.testing.assert_array_equal(plain['gt_seg_map'], ids)
    assert plain['gt_seg_map'].dtype == np.uint8
    assert plain['seg_fields'] == ['gt_seg_map']
    reduced = load(image, labels, classes=('a', 'b'), reduce_zero_label=True)
    np.testing.assert_array_equal(np.unique(reduced['gt_seg_map']), [0, 1, 255])
    assert (reduced['gt_seg_map'][ids == 0] == 255).all()
    assert (reduced['gt_seg_map'][ids == 2] == 1).all()


def test_label_map_and_negative_ids(tmp_path, write, image):
    ids = np.resize(np.array([-1, 0, 1]), (20, 30)).astype(np.int16)
    labels = write(tmp_path / 'labels.tif', ids)
    loaded = load(image, labels, label_map={-1: 255, 0: 1, 1: 0}, classes=('wet', 'dry'))
    np.testing.assert_array_equal(loaded['gt_seg_map'], np.array([255, 1, 0], np.uint8)[ids + 1])


def test_pixels_without_data_are_ignored(tmp_path, write):
    pixels = np.ones((4, 5, 2), np.float32)
    pixels[0, 0] = np.nan
    ids = np.zeros((4, 5), np.float32)
    ids[1, 1], ids[2, 2] = -99, np.nan
    loaded = load(write(tmp_path / 'i.tif', pixels), write(tmp_path / 'l.tif', ids, nodata=-99), classes=('a',))
    assert [tuple(p) for p in np.argwhere(loaded['gt_seg_map'] == 255)] == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ('ids', 'kwargs', 'message'),
    [
        ([0, 1, 1, 3], {}, r'label id 3 on 25 % of the pixels is no class .* Expected: 0 to 2 \(3 classes\), or 255'),
        (
            [0, 1, 4, 9],
            {'reduce_zero_label': True},
            r'label id 4, 9 on 50 % .* Expected: 1 to 3 \(3 classes\), or 0, 255',
        ),
        ([5, 8, 9, 9], {'label_map': {5: 0, 7: 1, 8: 2}}, r'label id 9 on 50 % .* Expected: 5, 7 to 8 \(3 classes\)'),
        ([254] * 4, {'classes': None}, r'label id 254 on 100 %'),
    ],
)
def test_ids_that_are_no_class(tmp_path, write, image, ids, kwargs, message):
    labels = write(tmp_path / 'labels.png', np.resize(np.array(ids, np.uint8), (20, 30)))
    with pytest.raises(DataError, match=rf'labels\.png: {message}'):
        load(image, labels, **{'classes': ('a', 'b', 'c'), **kwargs})


def test_size_mismatch(tmp_path, write, image):
    labels = write(tmp_path / 'labels.png', np.zeros((21, 30), np.uint8))
    with pytest.raises(
        DataError, match=r'image\.png has 30 x 20 pixels \(width x height\), .*labels\.png has 30 x 21\. They must be'
    ):
        load(image, labels)


def test_window_of_image_and_labels(tmp_path, write, rng):
    pixels = rng.random((30, 40, 2)).astype(np.float32)
    pixels[12, 20] = np.nan
    ids = rng.integers(0, 3, (30, 40)).astype(np.uint8)
    loaded = load(
        write(tmp_path / 'i.tif', pixels),
        write(tmp_path / 'l.tif', ids),
        classes=('a', 'b', 'c'),
        window=(10, 5, 30, 20),
        grid_shape=(30, 40),
    )
    expected = ids[5:20, 10:30].copy()
    expected[7, 10] = 255
    np.testing.assert_array_equal(loaded['gt_seg_map'], expected)
    np.testing.assert_array_equal(loaded['img'][0, 0], pixels[5, 10])
    assert loaded['ori_shape'] == (15, 20)
    assert loaded['seg_fields'] == ['valid_map', 'gt_seg_map']
    assert np.argwhere(loaded['valid_map'] != 1).tolist() == [[7, 10]]


def test_annotations_load_without_their_image(tmp_path, write, rng):
    """For statistics of the labels alone, of a window of a resampled raster too."""
    ids = np.kron(rng.integers(0, 3, (15, 20)), np.ones((2, 2))).astype(np.uint8)
    image = write(tmp_path / 'i.tif', np.zeros((30, 40, 2), np.float32))
    labels = write(tmp_path / 'l.tif', ids)
    info = dict(img_path=str(image), seg_map_path=str(labels), classes=('a', 'b', 'c'))
    np.testing.assert_array_equal(LoadRasterAnnotations()(dict(info))['gt_seg_map'], ids)
    part = LoadRasterAnnotations()(dict(info, window=(5, 2, 20, 15), grid_shape=(15, 20)))['gt_seg_map']
    np.testing.assert_array_equal(part, ids[4::2, 10::2])


def test_unknown_id_in_a_window_names_the_file(tmp_path, write):
    ids = np.zeros((30, 40), np.uint8)
    ids[20, 30] = 9
    image, labels = write(tmp_path / 'i.tif', np.zeros((30, 40, 2), np.uint8)), write(tmp_path / 'l.tif', ids)
    where = dict(classes=('a', 'b'), grid_shape=(30, 40))
    assert not load(image, labels, window=(0, 0, 20, 30), **where)['gt_seg_map'].any()
    with pytest.raises(DataError, match=r'l\.tif: label id 9 on 0\.25 % of the pixels is no class'):
        load(image, labels, window=(20, 10, 40, 30), **where)


def test_image_without_data(tmp_path, write):
    path = write(tmp_path / 'i.tif', np.full((3, 3, 1), np.nan, np.float32))
    assert LoadRasterImage()(dict(img_path=str(path), skip_empty=True)) is None
    assert not LoadRasterImage()(dict(img_path=str(path)))['valid_map'].any()


def test_labels_may_be_loaded_behind_a_resize(tmp_path, write, image):
    labels = write(tmp_path / 'labels.png', np.zeros((20, 30), np.uint8))
    resize = TRANSFORMS.build(dict(type='Resize', scale=(15, 10)))
    results = resize(LoadRasterImage()(dict(img_path=str(image), seg_map_path=str(labels))))
    assert LoadRasterAnnotations()(results)['gt_seg_map'].shape == (20, 30)


def test_no_label_path(image):
    with pytest.raises(ConfigError, match=r'image\.png has no label path .*Remove LoadRasterAnnotations'):
        LoadRasterAnnotations()(dict(img_path=str(image)))


def test_unreadable_label_map(tmp_path, write, image):
    labels = write(tmp_path / 'labels.png', np.zeros((20, 30), np.uint8))
    labels.write_bytes(labels.read_bytes()[:40])
    with pytest.raises(UnreadableError, match=r'labels\.png cannot be read'):
        load(image, labels)


def test_photometric_distortion_does_not_care_about_the_order_of_bands(rng):
    """The claim in configs/_base_/datasets/pipelines.py: reversing the bands equals reversing the hue shift."""
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    distort = PhotoMetricDistortion()

    def change(pixels, shift, factor):
        hsv = mmcv.bgr2hsv(pixels)
        hsv[..., 0] = (hsv[..., 0].astype(int) + shift) % 180
        hsv[..., 1] = distort.convert(hsv[..., 1], alpha=factor)
        return mmcv.hsv2bgr(hsv)

    straight = change(image, 15, 0.8)
    reverse = change(image[..., ::-1].copy(), -15, 0.8)[..., ::-1]
    # Hue has steps of 2 degrees in 8 bits, which rounds the two differently by a few levels.
    assert np.abs(straight.astype(int) - reverse).max() <= 10
    assert np.abs(straight.astype(int) - image).max() > 50


@pytest.mark.parametrize('bands', [3, (), 'RGB'])
def test_wrong_bands(bands):
    with pytest.raises(
        ConfigError, match=r'LoadRasterImage: bands is .*; a list of numbers, counted from 1, was expected'
    ):
        LoadRasterImage(bands)
