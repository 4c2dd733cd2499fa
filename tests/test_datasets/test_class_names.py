from functools import partial
from itertools import permutations

import numpy as np
import pyogrio.raw
import pytest
import shapely
from mmseg.datasets import BaseSegDataset
from rasterio.transform import Affine

from mmrs.datasets.class_names import class_names, difference, match_classes
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError
from tests.small_files import LOADING, build_dataset

PREFIX = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
#: Ids of the classes in the files, and what stands for the ignored one.
IDS = dict(a=4, b=9, c=2)
SETS = {
    'classes_file': (IDS, dict(classes_file='classes.yaml')),
    'metainfo': (
        dict(a=0, b=1, c=2),
        dict(metainfo=dict(classes=('a', 'b', 'c'), palette=[[1] * 3, [2] * 3, [3] * 3])),
    ),
    'reduce_zero_label': (dict(a=1, b=2, c=3), dict(metainfo=dict(classes=list('abc')), reduce_zero_label=True)),
    'class_map': (IDS, dict(classes_file='classes.yaml', class_map=dict(c='c', b='b', a='a'))),
    'windows': (IDS, dict(classes_file='classes.yaml', type='RasterDataset')),
}


@pytest.fixture
def labels(tmp_path, write, rng):
    """A function that writes an image and its labels, ids by name, and returns the names by pixel."""

    def make(ids):
        names = rng.choice(list(ids), (20, 30))
        write(tmp_path / 'img_dir/train/x.tif', rng.integers(0, 255, (20, 30, 3), np.uint8))
        write(tmp_path / 'ann_dir/train/x.tif', np.vectorize(ids.get)(names).astype(np.uint8))
        (tmp_path / 'classes.yaml').write_text(
            'classes:\n'
            + ''.join(f"  - {{name: {n}, id: {i}, color: '#00000{i}'}}\n" for n, i in IDS.items())
            + '  - {name: none, id: 0, ignore: true}\n'
        )
        return names

    return make


build = partial(build_dataset, metainfo=None)


@pytest.mark.parametrize('order', list(permutations('abc')))
@pytest.mark.parametrize('kind', list(SETS))
def test_labels_names_and_palette_follow_the_order(tmp_path, labels, kind, order):
    ids, settings = SETS[kind]
    names = labels(ids)
    dataset = build(tmp_path, **settings)
    before = dict(zip(dataset.metainfo['classes'], dataset.metainfo['palette']))
    match_classes(dataset, order, 'here', 'there')
    assert class_names(dataset) == order
    assert dict(zip(dataset.metainfo['classes'], dataset.metainfo['palette'])) == before
    found = dataset[0]['gt_seg_map']
    np.testing.assert_array_equal(np.array(order)[found], names)


@pytest.mark.parametrize('order', [('even', 'odd'), ('odd', 'even')])
@pytest.mark.parametrize('class_map', [None, dict(odd='odd', even='even')])
@pytest.mark.parametrize('values', [['even', 'odd'], [0, 1]])
def test_polygons_follow_the_order(tmp_path, write, order, class_map, values):
    transform = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
    write(tmp_path / 'img.tif', np.zeros((10, 20, 3), np.uint8), crs='EPSG:32633', transform=transform)
    boxes = [shapely.box(400000 + 5 * i, 5799995, 400005 + 5 * i, 5800000) for i in range(2)]
    pyogrio.raw.write(
        tmp_path / 'x.gpkg',
        shapely.to_wkb(np.array(boxes)),
        [np.array(values)],
        ['kind'],
        geometry_type='Polygon',
        crs='EPSG:32633',
    )
    dataset = build(
        tmp_path,
        type='RasterDataset',
        data_prefix=dict(img_path='img.tif', seg_map_path='x.gpkg'),
        metainfo=dict(classes=('even', 'odd')),
        label_attribute='kind',
        class_map=class_map,
    )
    match_classes(dataset, order, 'here', 'there')
    expected = np.repeat([['even'] * 10 + ['odd'] * 10], 10, 0)
    np.testing.assert_array_equal(np.array(order)[dataset[0]['gt_seg_map']], expected)


def test_through_wrappers(tmp_path, labels):
    names = labels(IDS)
    config = dict(classes_file='classes.yaml', data_root=str(tmp_path), data_prefix=PREFIX, pipeline=LOADING)
    part = dict(type='RemoteSensingDataset', **config)
    both = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[part, part]))
    dataset = DATASETS.build(both)
    assert match_classes(dataset, ('c', 'a', 'b'), 'here', 'there')
    assert class_names(dataset) == class_names(dataset.dataset) == ('c', 'a', 'b')
    for i in range(len(dataset)):
        np.testing.assert_array_equal(np.array(['c', 'a', 'b'])[dataset[i]['gt_seg_map']], names)
    assert not match_classes(dataset, ('c', 'a', 'b'), 'here', 'there')


def test_several_data_sets_take_the_order_of_the_first(tmp_path, labels):
    names = labels(IDS)
    config = dict(type='RemoteSensingDataset', data_root=str(tmp_path), data_prefix=PREFIX, pipeline=LOADING)
    first = dict(config, classes_file='classes.yaml', class_map=dict(b='b', c='c', a='a'))
    second = dict(config, classes_file='classes.yaml')
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=[first, second]))
    for i in range(2):
        np.testing.assert_array_equal(np.array(['b', 'c', 'a'])[dataset[i]['gt_seg_map']], names)
    second['class_map'] = dict(b='b', c='c', d='a')
    with pytest.raises(ConfigError, match=r'data set 1 .*b, c, d, but data set 0 has b, c, a \(d only .* a only'):
        DATASETS.build(dict(type='ConcatDataset', datasets=[first, second]))


def test_a_class_is_absent_where_no_data_set_has_it(tmp_path, labels):
    labels(IDS)
    config = dict(type='RemoteSensingDataset', data_root=str(tmp_path), data_prefix=PREFIX, pipeline=LOADING)
    first = dict(config, classes_file='classes.yaml', class_map=dict(b='b', c=None, a=None))
    second = dict(config, classes_file='classes.yaml', class_map=dict(a=None, b=None, c='c'))
    for parts, absent in (([first, second], ('a',)), ([second, first], ('a',)), ([first, first], ('c', 'a'))):
        dataset = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
        assert dataset.metainfo['no_counterpart'] == absent
        match_classes(dataset, ('a', 'b', 'c') if parts[0] is first else ('c', 'b', 'a'), 'here', 'there')
        assert set(dataset.metainfo['no_counterpart']) == set(absent)


def test_rare_classes_are_counted_anew(tmp_path, labels):
    names = labels(IDS)
    dataset = build(tmp_path, classes_file='classes.yaml', rare_class_sampling=dict(min_pixels=1))
    before = dataset.rare_classes.class_probability
    match_classes(dataset, ('c', 'a', 'b'), 'here', 'there')
    np.testing.assert_allclose(dataset.rare_classes.class_probability, before[[2, 0, 1]])
    rarest = min('abc', key=lambda name: (names == name).sum())
    assert ('c', 'a', 'b')[dataset.rare_classes.class_probability.argmax()] == rarest


def test_other_names_are_refused(tmp_path, labels):
    labels(IDS)
    dataset = build(tmp_path, classes_file='classes.yaml')
    for names in (('a', 'b'), ('a', 'b', 'c', 'd'), ('a', 'b', 'C'), ('a', 'b', 'b')):
        with pytest.raises(ConfigError, match=r'here has the classes a, b, c, but there has a, b') as error:
            match_classes(dataset, names, 'here', 'there')
        assert 'class_map' in str(error.value)
        assert '\n' not in str(error.value)
    for unknown in (None, ()):
        assert not match_classes(dataset, unknown, 'here', 'there')
    assert not match_classes(object(), ('a',), 'here', 'there')


@pytest.mark.parametrize(
    ('first', 'second', 'hint'),
    [
        (['Building'], ['building'], "'Building' and 'building' are spelt differently"),
        (['low_vegetation'], ['Low vegetation'], "'low_vegetation' and 'Low vegetation' are spelt differently"),
        (['buildings', 'x'], ['building', 'x'], "is 'buildings' meant to be 'building'"),
        (['a', 'b'], ['b', 'c', 'd'], 'a only in the first, c, d only in the second'),
        (['a', 'b'], ['a'], 'b only in the first, none only in the second'),
    ],
)
def test_differences(first, second, hint):
    assert hint in difference(first, second)


def test_a_data_set_of_another_package_says_how(tmp_path, labels):
    labels(dict(a=0, b=1, c=2))
    dataset = BaseSegDataset(
        data_root=str(tmp_path), data_prefix=PREFIX, img_suffix='.tif', seg_map_suffix='.tif',
        metainfo=dict(classes=('a', 'b', 'c')),
    )  # fmt: skip
    assert not match_classes(dataset, ('a', 'b', 'c'), 'here', 'there')
    with pytest.raises(ConfigError, match=r'BaseSegDataset cannot change its order; set its metainfo'):
        match_classes(dataset, ('c', 'b', 'a'), 'here', 'there')
