import shutil
from functools import partial

import numpy as np
import pytest

from mmrs.geo.rasters import read_label_map
from mmrs.utils.errors import ConfigError, DataError
from tests.small_files import LOADING, build_dataset

PREFIX = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
META = dict(classes=('a', 'b', 'c'))


build = partial(build_dataset, metainfo=None)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
def test_standard_layout_of_any_format(make_dataset, suffix):
    dataset = build(make_dataset(suffix=suffix), metainfo=dict(classes=('a', 'b', 'c')))
    assert len(dataset) == 3
    sample = dataset[1]
    assert sample['img_path'].endswith(f'img_dir/train/01{suffix}')
    assert sample['seg_map_path'].endswith('ann_dir/train/01.png')
    assert sample['img'].shape == (40, 48, 3)
    assert set(np.unique(sample['gt_seg_map'])) == {0, 1, 2}


def test_subfolders_and_mixed_suffixes(make_dataset, write, rng):
    root = make_dataset()
    write(root / 'img_dir/train/north/00.tif', rng.integers(0, 9, (4, 4, 3), np.uint8))
    write(root / 'ann_dir/train/north/00.tif', np.zeros((4, 4), np.uint8))
    names = [build(root).get_data_info(i)['img_path'].split('train/')[1] for i in range(4)]
    assert names == ['00.png', '01.png', '02.png', 'north/00.tif']


def test_classes_file_names_the_classes_and_maps_their_ids(make_dataset):
    root = make_dataset(classes=3, first_id=5)
    (root / 'classes.yaml').write_text(
        "classes:\n  - {name: b, id: 7, color: '#0000FF'}\n  - {name: none, id: 5, ignore: true}\n"
        "  - {name: a, id: 6, color: '#FF0000'}\n"
    )
    dataset = build(root, classes_file='classes.yaml')
    assert dataset.metainfo['classes'] == ('b', 'a')
    assert dataset.metainfo['palette'] == [(0, 0, 255), (255, 0, 0)]
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {0, 1, 255}
    outside = build(root, classes_file=str(root / 'classes.yaml'))
    assert outside.metainfo == dataset.metainfo


def test_no_label_path_means_no_labels(make_dataset):
    root = make_dataset()
    shutil.rmtree(root / 'ann_dir')
    dataset = build(root, labels=False)
    assert len(dataset) == 3
    assert 'seg_map_path' not in dataset[0]


def test_ann_file_selects_in_its_order(make_dataset):
    root = make_dataset()
    (root / 'subset.txt').write_text('02\n\n00.png\n')
    dataset = build(root, ann_file='subset.txt')
    assert [dataset.get_data_info(i)['img_path'][-6:] for i in range(2)] == ['02.png', '00.png']
    (root / 'subset.txt').write_text('02\n99\n')
    with pytest.raises(DataError, match=r'subset\.txt lists 1 images that are not in .*train: 99'):
        build(root, ann_file='subset.txt')
    with pytest.raises(DataError, match=r'none\.txt: no such file'):
        build(root, ann_file='none.txt')


def test_missing_masks_are_named(make_dataset):
    root = make_dataset(n=8)
    for i in range(7):
        (root / f'ann_dir/train/0{i}.png').unlink()
    with pytest.raises(
        DataError,
        match=r'7 of 8 images in .*img_dir/train have no label map in .*ann_dir/train: '
        r'00\.png, 01\.png, 02\.png, 03\.png, 04\.png, \.\.\.',
    ):
        build(root)


def test_empty_split(make_dataset):
    root = make_dataset()
    for path in (root / 'img_dir/train').iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r'No images for RemoteSensingDataset in .*img_dir/train: files with suffix .png'
    ):
        build(root)


def test_rasters_of_other_formats_are_named(make_dataset, logged):
    root = make_dataset(n=2)
    for folder in ('img_dir/train', 'ann_dir/train'):
        (root / folder / 'other.img').touch()
    build(root)
    warnings = [record.getMessage() for record in logged.records if record.levelname == 'WARNING']
    assert [
        f'{folder}: 1 raster (.img) left out' in text
        for folder, text in zip(('img_dir/train', 'ann_dir/train'), warnings)
    ] == [True, True]
    assert ['img_suffix' in text for text in warnings] == [True, False]
    logged.clear()
    build(root, img_suffix='.png', seg_map_suffix='.png')
    assert not logged.records
    for folder, advice in (('ann_dir', 'seg_map_suffix'), ('img_dir', 'img_suffix')):
        for path in (root / folder / 'train').glob('*.png'):
            path.unlink()
        with pytest.raises(DataError, match=rf'There are 1 raster \(\.img\).*{advice}'):
            build(root)


@pytest.mark.parametrize(('folder', 'what'), [('img_dir', 'images'), ('ann_dir', 'label maps')])
def test_missing_folder(make_dataset, folder, what):
    root = make_dataset()
    shutil.rmtree(root / folder)
    with pytest.raises(DataError, match=f'The folder of the {what} for .* is missing: .*{folder}/train'):
        build(root)


@pytest.mark.parametrize('kind', ['PotsdamDataset', 'VaihingenDataset'])
def test_isprs_label_ids(make_dataset, kind):
    root = make_dataset(classes=7)
    dataset = build(root, type=kind)
    assert dataset.metainfo['classes'] == ('impervious_surface', 'building', 'low_vegetation', 'tree', 'car', 'clutter')
    assert dataset.metainfo['palette'][4] == [255, 255, 0]
    sample = dataset[0]
    ids, _ = read_label_map(sample['seg_map_path'])
    np.testing.assert_array_equal(sample['gt_seg_map'], np.where(ids == 0, 255, ids - 1))


def test_mmsegs_own_loading_transforms_work_too(make_dataset):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    sample = build(make_dataset(), pipeline=pipeline)[0]
    assert sample['inputs'].shape == (3, 40, 48)
    assert sample['data_samples'].gt_sem_seg.data.shape == (1, 40, 48)


def test_subset_of_classes_by_metainfo(make_dataset):
    root = make_dataset(classes=7)
    dataset = build(root, type='VaihingenDataset', metainfo=dict(classes=('tree', 'building')))
    assert dataset.metainfo['palette'] == [[0, 255, 0], [0, 0, 255]]
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {0, 1, 255}


# Class maps ---------------------------------------------------------------------------------------------------------


def test_class_map_groups_and_ignores_classes(make_dataset, logged):
    """ISPRS ids 1 to 6; the new indices follow the order of the map."""
    root = make_dataset(classes=7)
    class_map = dict(plants=['tree', 'low_vegetation'], built='building')
    for same in (class_map, list(class_map.items())):
        dataset = build(root, type='PotsdamDataset', class_map=same)
        assert dataset.metainfo['classes'] == ('plants', 'built')
    assert dataset.metainfo['palette'] == [[0, 255, 0], [0, 0, 255]]
    sample = dataset[0]
    ids, _ = read_label_map(sample['seg_map_path'])
    expected = np.full(ids.shape, 255)
    expected[(ids == 3) | (ids == 4)] = 0
    expected[ids == 2] = 1
    np.testing.assert_array_equal(sample['gt_seg_map'], expected)


def test_class_map_of_a_classes_file(make_dataset):
    root = make_dataset(classes=4, first_id=5)
    (root / 'classes.yaml').write_text(
        'classes:\n  - {name: b, id: 7}\n  - {name: none, id: 5, ignore: true}\n  - {name: a, id: 6}\n'
        '  - {name: c, id: 8}\n'
    )
    dataset = build(root, classes_file='classes.yaml', class_map=dict(c='c', ab=['a', 'b']))
    ids, _ = read_label_map(dataset[0]['seg_map_path'])
    expected = np.select([ids == 8, (ids == 6) | (ids == 7)], [0, 1], 255)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], expected)


def test_class_map_without_a_counterpart(make_dataset, monkeypatch):
    """The class keeps its index and a colour of its own; no pixel has it, and what was called car is ignored."""
    said = []
    monkeypatch.setattr('mmrs.datasets.base.print_log', lambda message, **_: said.append(message))
    class_map = dict(tree='tree', car=None, built='building', ship=None)
    dataset = build(make_dataset(classes=7), type='PotsdamDataset', class_map=class_map)
    assert dataset.metainfo['classes'] == ('tree', 'car', 'built', 'ship')
    assert dataset.metainfo['no_counterpart'] == ('car', 'ship')
    assert dataset.metainfo['palette'][0] == [0, 255, 0]
    assert len({tuple(colour) for colour in dataset.metainfo['palette']}) == 4
    assert 'tree <- tree; car <- no counterpart; built <- building; ship' in said[0]
    assert 'ignored <- impervious_surface, low_vegetation, car, clutter' in said[0]
    sample = dataset[0]
    ids, _ = read_label_map(sample['seg_map_path'])
    np.testing.assert_array_equal(sample['gt_seg_map'], np.select([ids == 4, ids == 2], [0, 2], 255))


def test_another_ignored_label_is_refused(make_dataset):
    with pytest.raises(ConfigError, match='ignore_index is 0; 255'):
        build(make_dataset(classes=7), type='PotsdamDataset', ignore_index=0)


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [
        (dict(green='forest'), 'names forest, which the data set does not have. Its classes are impervious_surface'),
        (dict(a='tree', b=['car', 'tree']), 'names tree twice'),
        (dict(a='tree', b=[]), r"b is \[\]; the name of one of the data set's classes"),
        (dict(a=3), "a is 3; the name of one of the data set's classes"),
        (dict(a=[3, 4]), r'a is \[3, 4\]; the name'),
        (dict(a=None, b=None), 'class_map has no counterpart for any of a, b'),
        ({}, r'class_map is \{\}; dict\(new_class='),
        (['tree', 'car'], r"class_map is \['tree', 'car'\]; dict\(new_class="),
    ],
)
def test_wrong_class_maps(make_dataset, class_map, message):
    with pytest.raises(ConfigError, match=message):
        build(make_dataset(classes=7), type='PotsdamDataset', class_map=class_map)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(('value', 'nodata'), [(np.nan, None), (-9999, -9999)])
def test_images_that_hold_no_data_at_all(tmp_path, write, rng, value, nodata, test_mode):
    """One among several is passed over; all of them are an error, before anything is trained on labels that are all
    ignored."""
    settings = dict(labels=False, test_mode=test_mode, metainfo=META)
    empty = np.full((8, 6, 2), value, np.float32)
    for name in 'ab':
        write(tmp_path / f'img_dir/train/{name}.tif', empty, nodata=nodata)
    with pytest.raises(DataError, match=r'None of the 2 images .*a\.tif, .*b\.tif'):
        build(tmp_path, **settings)
    write(tmp_path / 'img_dir/train/b.tif', rng.random((8, 6, 2), np.float32), nodata=nodata)
    dataset = build(tmp_path, **settings)
    assert not dataset[0]['valid_map'].any()
    assert np.isfinite(dataset[0]['img']).all()
    assert 'valid_map' not in dataset[1]


def test_data_counts_in_the_bands_that_are_read(tmp_path, write, rng):
    image = rng.random((8, 6, 3), np.float32)
    image[..., 2] = np.nan
    write(tmp_path / 'img_dir/train/a.tif', image)
    prefix = dict(img_path='img_dir/train')
    for kind in ('RemoteSensingDataset', 'RasterDataset'):
        chosen = build(tmp_path, type=kind, data_prefix=prefix, pipeline=[dict(type='LoadRasterImage', bands=(1, 2))])
        np.testing.assert_array_equal(chosen[0]['img'], image[..., :2])
        with pytest.raises(DataError, match=r'holds? data'):
            build(tmp_path, type=kind, data_prefix=prefix, pipeline=LOADING[:1])
