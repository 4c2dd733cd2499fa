import os
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmrs.datasets import PairedDataset, paired
from mmrs.models import DomainAdaptationDataPreprocessor
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError

LOAD = [dict(type='LoadRasterImage')]
CROP = dict(type='RandomCrop', crop_size=(24, 32))
FLIP = dict(type='RandomFlip', prob=0.5)
SHAPE = (40, 50)


def domain(root, folder, kind='RemoteSensingDataset', pipeline=LOAD, **kwargs):
    prefix = dict(img_path=folder)
    return dict(type=kind, data_root=str(root), data_prefix=prefix, pipeline=pipeline, serialize_data=False, **kwargs)


def config(root, pipeline=(), source=None, target=None, **kwargs):
    return dict(
        type='PairedDataset',
        source=domain(root, 'a', **(source or {})),
        target=domain(root, 'b', **(target or {})),
        pipeline=list(pipeline),
        **kwargs,
    )


def coordinates(shape=SHAPE, first=0):
    """An image whose bands are row, column and a number."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    return np.stack((row, column, np.full(shape, first)), axis=-1).astype(np.uint8)


def pictures(sample):
    return [sample[name]['inputs'].numpy().transpose(1, 2, 0) for name in ('source', 'target')]


def valid_of(sample, name):
    part = sample[name]
    shape = part['inputs'].shape[1:]
    found = part['data_samples'].get('valid_map')
    return np.ones(shape, bool) if found is None else found.data[0].numpy()


def key(sample):
    return sample['source']['data_samples'].metainfo.get('image_key')


def seed(number):
    np.random.seed(number)  # noqa: NPY002 (mmseg's transforms use the global generator)
    torch.manual_seed(number)


@pytest.fixture
def root(tmp_path, write):
    for i in range(4):
        write(tmp_path / 'a' / f'{i}.png', coordinates(first=i))
        write(tmp_path / 'b' / f'{i}.tif', coordinates(first=i + 100))
    return tmp_path


def test_sample(root):
    dataset = DATASETS.build(config(root, [CROP, FLIP]))
    assert isinstance(dataset, PairedDataset)
    assert len(dataset) == 4
    sample = dataset[2]
    for name, file, number in (('source', 'a/2.png', 2), ('target', 'b/2.tif', 102)):
        part = sample[name]
        assert part['data_samples'].img_path == str(root / file)
        assert 'valid_map' not in part['data_samples']
        assert part['inputs'].shape == (3, 24, 32)
        assert part['inputs'].dtype == torch.uint8
        assert (part['inputs'][2] == number).all()


GEOMETRY = [
    dict(type='RandomResize', scale=SHAPE[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
    CROP,
    FLIP,
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='RandomRotate', prob=0.7, degree=40),
    dict(type='RandomRotFlip'),
    dict(type='RandomApply', transforms=[dict(type='RandomFlip', prob=0.5)], prob=0.5),
]


def test_one_place_in_both_images(root):
    """Both images are the coordinates of their pixels, so that they may differ nowhere."""
    dataset = DATASETS.build(config(root, [*GEOMETRY, dict(type='Pad', size=(80, 80))]))
    seed(0)
    seen = []
    for i in range(60):
        source, target = pictures(dataset[i % 4])
        np.testing.assert_array_equal(source[..., :2], target[..., :2])
        seen.append(source[..., :2].tobytes())
    assert len(set(seen)) == 60


def test_colours_of_both_change_alike(root, write):
    for i in range(4):
        write(root / 'b' / f'{i}.tif', coordinates(first=i))
    dataset = DATASETS.build(config(root, [dict(type='PhotoMetricDistortion'), CROP]))
    seed(0)
    samples = [pictures(dataset[0]) for _ in range(10)]
    for source, target in samples:
        np.testing.assert_array_equal(source, target)
    assert len({source[..., 2].mean() for source, _ in samples}) > 5


def test_other_bands_and_types(root, write):
    for i in range(4):
        bands = np.concatenate([coordinates(first=i)] * 2, axis=-1).astype(np.float32) / 2
        write(root / 'b' / f'{i}.tif', bands)
    dataset = DATASETS.build(config(root, GEOMETRY[:3]))
    seed(1)
    for i in range(20):
        sample = dataset[i % 4]
        source, target = pictures(sample)
        assert source.dtype == np.uint8
        assert (target.dtype, target.shape[2]) == (np.float32, 6)
        # OpenCV resizes uint8 with weights of 11 bits, and rounds.
        assert np.abs(source[..., :2] - 2 * target[..., 3:5]).max() < 1


def test_a_domains_own_changes_stay_in_it(root):
    changed = [*LOAD, dict(type='AdjustGamma', gamma=2.0)]
    dataset = DATASETS.build(config(root, [CROP], target=dict(pipeline=changed)))
    source, target = pictures(dataset[1])
    table = (255 * (np.arange(256) / 255) ** 0.5).astype(np.uint8)
    np.testing.assert_array_equal(target[..., :2], table[source[..., :2]])


def test_valid_maps_move_with_their_images(root, write):
    holes = dict(a=np.zeros(SHAPE, bool), b=np.zeros(SHAPE, bool))
    holes['a'][5:12, 30:44] = holes['b'][20:38, 3:17] = True
    for name, hole in holes.items():
        image = np.where(hole[..., None], 255, coordinates())
        # As float, whose nodata may be in any band, and nowhere else is 255.
        write(root / name / '0.tif', image.astype(np.float32), nodata=255)
    (root / 'a' / '0.png').unlink()
    dataset = DATASETS.build(config(root, [CROP, FLIP]))
    seed(0)
    both = 0
    for _ in range(30):
        sample = dataset[0]
        maps = {name: valid_of(sample, part) for name, part in (('a', 'source'), ('b', 'target'))}
        for part, own, other in (('source', 'a', 'b'), ('target', 'b', 'a')):
            row, column, _ = sample[part]['inputs'].numpy()[:, maps[own]].astype(int)
            assert not holes[own][row, column].any()
            # What a pixel shows says where it is: there the other image has data, or none.
            np.testing.assert_array_equal(maps[other][maps[own]], ~holes[other][row, column])
        both += not maps['a'].all() and not maps['b'].all()
    assert both > 5


def test_padded_and_turned_pixels_do_not_count(root):
    dataset = DATASETS.build(config(root, [CROP, dict(type='Pad', size=(40, 30))]))
    sample = dataset[0]
    expected = np.zeros((30, 40), bool)
    expected[:24, :32] = True
    for name in ('source', 'target'):
        np.testing.assert_array_equal(valid_of(sample, name), expected)
    dataset = DATASETS.build(config(root, [dict(type='RandomRotate', prob=1.0, degree=(45, 45.1), pad_val=77)]))
    sample = dataset[0]
    for image, name in zip(pictures(sample), ('source', 'target')):
        filled = image[..., 0] == 77  # OpenCV fills one band only
        assert 0.1 < filled.mean() < 0.5
        assert not valid_of(sample, name)[filled].any()
        assert valid_of(sample, name).mean() > 0.4


@pytest.mark.parametrize(
    'behind',
    [
        dict(type='RandomFlip', prob=1.0),
        dict(type='RandomFlip', prob=1.0, direction='vertical'),
        dict(type='Resize', scale=(40, 30), keep_ratio=False),
        dict(type='RandomRotate', prob=1.0, degree=(20, 20.1)),
        dict(type='RandomCrop', crop_size=(50, 70)),
    ],
    ids=lambda config: f'{config["type"]} {config.get("direction", "")}',
)
def test_padding_before_other_transforms(root, behind):
    dataset = DATASETS.build(config(root, [dict(type='Pad', size=(80, 60)), behind]))
    seed(0)
    sample = dataset[3]
    for name, number in (('source', 3), ('target', 103)):
        # Padded with 0, and interpolated beside it.
        band, valid = sample[name]['inputs'][2].numpy(), valid_of(sample, name)
        assert 0.2 < valid.mean() < 0.8
        assert (band[~valid] < number).mean() > 0.98
        assert (band[valid] == number).mean() > 0.9
        assert not (band[valid] == 0).any()


def run(settings, workers=0):
    """All that two epochs would see."""
    seed(0)
    loader = Runner.build_dataloader(
        dict(
            batch_size=2,
            num_workers=workers,
            persistent_workers=False,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=settings,
        ),
        seed=0,
    )
    return [
        (x.numpy().tobytes(), str(sorted(sample.metainfo.items(), key=str)))
        for _ in range(2)
        for batch in loader
        for part in batch.values()
        for x, sample in zip(part['inputs'], part['data_samples'])
    ]


@pytest.mark.parametrize('workers', [0, 2])
def test_no_label_is_read(root, write, rng, workers):
    settings = config(root, [CROP, FLIP])
    for name in ('source', 'target'):
        settings[name]['data_prefix']['seg_map_path'] = 'labels'
    for i in range(4):
        write(root / 'labels' / f'{i}.png', rng.integers(0, 3, SHAPE).astype(np.uint8))
    seen = run(settings, workers)
    assert len({image for image, _ in seen}) >= 8
    for path in (root / 'labels').iterdir():
        path.write_bytes(rng.bytes(100))
    assert run(settings, workers) == seen
    shutil.rmtree(root / 'labels')
    assert run(settings, workers) == seen
    write(root / 'a' / '0.png', coordinates(first=9))  # the comparison can fail
    assert run(settings, workers) != seen


def test_data_set_with_labels_is_refused(root):
    settings = config(root)
    labelled = DATASETS.build(
        {**settings['target'], 'data_prefix': dict(img_path='b', seg_map_path='a')},
    )
    with pytest.raises(ConfigError, match=r'target data set RemoteSensingDataset lists label maps'):
        PairedDataset(settings['source'], labelled)


def test_names_below_folders(root, write):
    for name, suffix in (('a', '_RGB.tif'), ('b', '_IRRG.tif')):
        shutil.rmtree(root / name)
        for i in range(3):
            write(root / name / 'north' / f'{i}{suffix}', coordinates(first=i))
    settings = config(root, source=dict(img_suffix='_RGB.tif'), target=dict(img_suffix='_IRRG.tif'))
    dataset = DATASETS.build(settings)
    assert len(dataset) == 3
    assert dataset[1]['target']['data_samples'].img_path.endswith('b/north/1_IRRG.tif')
    (root / 'b' / 'north').rename(root / 'b' / 'south')
    with pytest.raises(DataError, match=r'3 of 3 source images in .*/a have no counterpart .*north/0, north/1'):
        DATASETS.build(settings)


def test_images_without_counterpart(root, caplog):
    (root / 'b' / '1.tif').unlink()
    with pytest.raises(
        DataError, match=r'1 of 4 source images in .*/a have no counterpart of the same name in .*/b: 1\. Add'
    ):
        DATASETS.build(config(root))
    (root / 'a' / '2.png').unlink()
    dataset = DATASETS.build(config(root, allow_unpaired=True))
    assert dataset.unpaired == dict(source=['1'], target=['2'])
    assert [dataset[i]['target']['data_samples'].img_path[-5] for i in range(len(dataset))] == ['0', '3']
    (root / 'b' / '1.tif').write_bytes((root / 'b' / '0.tif').read_bytes())
    with pytest.raises(DataError, match=r'1 of 4 target images in .*/b have no counterpart .*/a: 2\. Add'):
        DATASETS.build(config(root))
    for path in (root / 'b').iterdir():
        path.rename(path.with_name(f'x{path.name}'))
    with pytest.raises(DataError, match=r'3 of 3 source images .* paired by place: GeographicPairedDataset'):
        DATASETS.build(config(root, allow_unpaired=True))


def test_lists_choose_pairs(root):
    (root / 'list.txt').write_text('3\n1\n')
    listed = dict(ann_file='list.txt')
    dataset = DATASETS.build(config(root, source=listed, target=listed))
    assert [dataset[i]['target']['inputs'][2, 0, 0].item() for i in range(len(dataset))] == [103, 101]


def test_sizes_differ(root, write):
    write(root / 'b' / '1.tif', coordinates((40, 51)))
    dataset = DATASETS.build(config(root))
    with pytest.raises(DataError, match=r'/a/1\.png has 50 x 40 pixels .* /.*b/1\.tif has 51 x 40\. .*Geographic'):
        dataset[1]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(source=dict(pipeline=[])), 'pipeline of the source has to begin with LoadRasterImage'),
        (dict(target=dict(pipeline=[*LOAD, dict(type='LoadRasterAnnotations')])), 'target has LoadRasterAnnotations'),
        (
            dict(target=dict(pipeline=[*LOAD, dict(type='PackRasterInputs')])),
            'target has PackRasterInputs, but',
        ),
        (dict(pipeline=[dict(type='PackSegInputs')]), 'pipeline of the pairs has PackSegInputs, but packing is done'),
        (dict(pipeline=LOAD), 'pipeline of the pairs has LoadRasterImage, which belongs at the beginning'),
        (dict(target=dict(kind='RasterDataset')), 'target a RasterDataset; a RasterDataset goes with'),
        (dict(source=dict(pipeline=[*LOAD, FLIP])), 'pipeline of the source has RandomFlip, which would take the two'),
        (
            dict(target=dict(pipeline=[*LOAD, dict(type='RandomApply', transforms=[CROP])])),
            'pipeline of the target has RandomCrop, .* Put it into the common pipeline',
        ),
        (
            dict(pipeline=[dict(type='RandomApply', transforms=[dict(type='LoadRasterAnnotations')])]),
            'pipeline of the pairs has LoadRasterAnnotations, but pairs have no labels',
        ),
        (
            dict(pipeline=[dict(type='RandomChoice', transforms=[[FLIP], [dict(type='PackRasterInputs')]])]),
            'pipeline of the pairs has PackRasterInputs, but packing is done',
        ),
        (dict(pipeline=[dict(type='RandomMosaic', prob=1.0)]), 'RandomMosaic, which mixes several samples'),
        (dict(pipeline=[dict(type='Misalignment', shift=2)]), 'Misalignment with a seed, which moves each image by'),
    ],
)
def test_configurations_that_cannot_work(root, changes, message):
    with pytest.raises(ConfigError, match=message):
        DATASETS.build(config(root, **changes))


def test_transforms_that_look_at_labels_are_refused(root):
    dataset = DATASETS.build(config(root, [{**CROP, 'cat_max_ratio': 0.75}]))
    with pytest.raises(ConfigError, match=r'RandomCrop\(.* looks at labels, .* without cat_max_ratio'):
        dataset[0]


def test_both_images_are_moved_alike(root):
    dataset = DATASETS.build(config(root, [dict(type='Misalignment', shift=3, elastic=1, seed=None)]))
    seed(0)
    source, target = pictures(dataset[0])
    np.testing.assert_array_equal(source[..., :2], target[..., :2])
    assert (source[..., :2] != coordinates()[..., :2]).any()


def test_classes_need_to_agree_where_both_have_some(root):
    some, others = (dict(metainfo=dict(classes=names)) for names in (('x', 'y'), ('z', 'x')))
    with pytest.raises(ConfigError, match=r'differ in their classes: x, y and z, x \(y only in the first, z only in'):
        DATASETS.build(config(root, source=some, target=others))
    assert DATASETS.build(config(root, source=some)).metainfo['classes'] == ('x', 'y')


class DrawsByBrightness:
    """Draws more numbers for a bright image."""

    def __call__(self, results):
        np.random.rand(int(results['img'][0, 0, 2]))  # noqa: NPY002
        return results


def test_draws_that_depend_on_the_image_are_refused(root):
    dataset = DATASETS.build(config(root, [DrawsByBrightness()]))
    with pytest.raises(ConfigError, match='draws other numbers for the target than for the source'):
        dataset[3]


def test_key_stands_for_the_pixels(root):
    dataset = DATASETS.build(config(root, [FLIP, dict(type='RandomFlip', prob=0.5, direction='vertical')]))
    seed(0)
    pixels = {}
    for i in range(80):
        sample = dataset[i % 4]
        assert pixels.setdefault(key(sample), sample['source']['inputs'].numpy().tobytes()) == (
            sample['source']['inputs'].numpy().tobytes()
        )
    # 4 images, and none, one or both of the flips.
    assert len(pixels) == len(set(pixels.values())) == 16
    assert 'image_key' not in sample['target']['data_samples'].metainfo


def test_key_changes_with_file_and_transforms(root):
    def own(*pipeline, **source):
        return key(DATASETS.build(config(root, pipeline, source=source))[0])

    resize = [dict(type='Resize', scale=(size, size)) for size in (20, 30)]
    keys = [own(), own(resize[0]), own(resize[1]), own(pipeline=[*LOAD, dict(type='AdjustGamma', gamma=2.0)])]
    keys += [own(pipeline=[dict(type='LoadRasterImage', bands=(1, 2))])]
    assert len(set(keys)) == 5
    assert own() == keys[0]
    state = (root / 'a' / '0.png').stat()
    os.utime(root / 'a' / '0.png', ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    assert own() not in keys


@pytest.mark.parametrize(
    ('common', 'own'),
    [
        ([CROP], LOAD),
        ([dict(type='RandomResize', scale=(50, 40), ratio_range=(1, 2))], LOAD),
        ([], [*LOAD, dict(type='PhotoMetricDistortion')]),
        ([DrawsByBrightness()], LOAD),
    ],
)
def test_no_key_where_pixels_are_drawn(root, common, own):
    for i in range(4):
        shutil.copy(root / 'a' / f'{i}.png', root / 'b')
        (root / 'b' / f'{i}.tif').unlink()
    assert key(DATASETS.build(config(root, common, source=dict(pipeline=own)))[3]) is None


def rasters(root, **kwargs):
    for i in range(4):
        (root / 'a' / f'{i}.png').unlink(missing_ok=True)
        shutil.copy(root / 'b' / f'{i}.tif', root / 'a')
    return config(root, [], *({'kind': 'RasterDataset', **kwargs},) * 2)


def test_windows_of_rasters(root):
    dataset = DATASETS.build(rasters(root, windows=dict(size=16)))
    assert len(dataset) == 4 * 12
    seed(0)
    places = set()
    for i in [5] * 30 + list(range(48)):
        sample = dataset[i]
        source, target = pictures(sample)
        np.testing.assert_array_equal(source, target)
        window = sample['source']['data_samples'].window
        assert sample['target']['data_samples'].window == window
        assert tuple(source[0, 0, :2]) == (window[1], window[0])
        places.add(window if i == 5 else None)
    assert len(places) > 10
    evaluation = rasters(root, windows=dict(size=16), test_mode=True, metainfo=dict(classes=('x',)))
    dataset = DATASETS.build(evaluation)
    shown = [tuple(xy) for i in range(len(dataset)) for xy in pictures(dataset[i])[1].reshape(-1, 3).tolist()]
    assert len(shown) == len(set(shown)) == 4 * SHAPE[0] * SHAPE[1]
    assert key(dataset[0]) not in (None, key(dataset[1]))


def test_rasters_of_other_size(root, write):
    settings = rasters(root, windows=dict(size=16))
    write(root / 'b' / '2.tif', coordinates((40, 48)))
    dataset = DATASETS.build(settings)
    with pytest.raises(DataError, match=r'a/2\.tif has 50 x 40 .* b/2\.tif has 48 x 40'.replace(' b', ' .*b')):
        dataset[2 * 12]


def test_pairs_without_data_in_common_are_passed_over(root, write, monkeypatch):
    image = coordinates().astype(np.float32)
    for name, half in (('a', np.s_[:, :25]), ('b', np.s_[:, 25:])):
        holed = image.copy()
        holed[half] = np.nan
        write(root / name / '0.tif', holed)
    (root / 'a' / '0.png').unlink()
    dataset = DATASETS.build(config(root))
    seed(0)
    assert {dataset[0]['target']['inputs'][2, 0, 0].item() for _ in range(20)} == {101, 102, 103}
    for i in range(1, 4):
        (root / 'a' / f'{i}.png').unlink()
        (root / 'b' / f'{i}.tif').unlink()
    dataset = DATASETS.build(config(root))
    monkeypatch.setattr(paired, '_TRIES', 9)
    with pytest.raises(DataError, match='9 pairs in a row have no pixel with data in both images'):
        dataset[0]
    whole = dict(test_mode=True, metainfo=dict(classes=('x',)))
    sample = DATASETS.build(config(root, source=whole, target=whole))[0]
    assert not (valid_of(sample, 'source') & valid_of(sample, 'target')).any()


def test_wrappers_and_batches(root):
    settings = config(root, [CROP])
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=[settings, settings]))
    assert len(dataset) == 8
    batch = pseudo_collate([dataset[1], dataset[6]])
    prepared = DomainAdaptationDataPreprocessor([0.0] * 3, [1.0] * 3)(batch, training=True)
    assert prepared['inputs']['source'].shape == (2, 3, 24, 32)
    assert prepared['inputs']['target'][:, 2, 0, 0].tolist() == [101, 102]


def test_lazy_data_sets(root):
    lazy = dict(lazy_init=True)
    dataset = DATASETS.build(config(root, source=lazy, target=lazy))
    assert len(dataset) == 4
