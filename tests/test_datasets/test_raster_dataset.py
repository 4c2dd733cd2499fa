import pickle

import numpy as np
import pyogrio.raw
import pytest
import shapely
import torch
from mmengine.dataset import worker_init_fn
from mmengine.runner import set_random_seed
from rasterio.transform import Affine
from torch.utils.data import DataLoader

from mmrs.datasets.domain_adaptation import DomainAdaptationDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.utils.errors import ConfigError, DataError, UserError

UTM = 'EPSG:32633'
KIND = dict(label_attribute='kind')
LOAD = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]


def placed(metres=0.5, left=400000.0, top=5800000.0):
    return dict(crs=UTM, transform=Affine(metres, 0, left, 0, -metres, top))


def counted(shape, start=0):
    """Two bands that tell each pixel of a raster from all others."""
    return (np.arange(2 * shape[0] * shape[1]).reshape(*shape, 2) + start).astype(np.uint16)


@pytest.fixture
def root(tmp_path, write):
    """Two rasters of different size with labels on their own grid: the parity of row and column."""
    for name, shape, top in (('a', (50, 70), 5800000.0), ('sub/b', (40, 30), 5700000.0)):
        write(tmp_path / 'images' / f'{name}.tif', counted(shape), **placed(top=top))
        row, column = np.mgrid[: shape[0], : shape[1]]
        write(tmp_path / 'labels' / f'{name}.tif', ((row + column) % 2).astype(np.uint8), **placed(top=top))
    return tmp_path


def make(root, labels='labels', pipeline=LOAD, **kwargs):
    prefix = dict(img_path='images') if labels is None else dict(img_path='images', seg_map_path=labels)
    if labels is None:
        pipeline = [step for step in pipeline if step['type'] != 'LoadRasterAnnotations']
    kwargs.setdefault('data_prefix', prefix)
    kwargs.setdefault('metainfo', dict(classes=('even', 'odd')))
    return RasterDataset(data_root=str(root), pipeline=pipeline, **kwargs)


def pixels(sample):
    return sample['inputs'].numpy()


def test_windows_of_a_test_have_each_pixel_once(root):
    dataset = make(root, windows=dict(size=16, stride=8, jitter=True), test_mode=True)
    seen = {}
    for sample in dataset:
        meta = sample['data_samples'].metainfo
        x0, y0, x1, y1 = meta['window']
        assert pixels(sample).shape == (2, y1 - y0, x1 - x0)
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        row, column = np.mgrid[y0:y1, x0:x1]
        np.testing.assert_array_equal(labels, (row + column) % 2)
        seen.setdefault(meta['img_path'], []).append(pixels(sample).ravel())
    assert len(dataset) == 4 * 5 + 3 * 2
    for values, count in zip(seen.values(), (50 * 70 * 2, 40 * 30 * 2)):
        np.testing.assert_array_equal(np.sort(np.concatenate(values)), np.arange(count))


def test_windows_of_a_training(root):
    dataset = make(root, windows=dict(size=32, stride=16, jitter=False))
    places = [dataset.get_data_info(i)['window'] for i in range(len(dataset))]
    assert places[:4] == [(0, 0, 32, 32), (16, 0, 48, 32), (32, 0, 64, 32), (38, 0, 70, 32)]
    assert places[-2:] == [(0, 0, 30, 32), (0, 8, 30, 40)]  # a raster that is narrower than a window
    assert len(places) == 4 * 3 + 2
    assert [dataset[i]['data_samples'].metainfo['window'] for i in range(len(dataset))] == places


def test_jitter_moves_windows_reproducibly(root):
    dataset = make(root, windows=dict(size=16))

    def places():
        set_random_seed(5)
        return [dataset[i]['data_samples'].metainfo['window'] for i in range(12)]

    cells = [dataset.get_data_info(i)['window'] for i in range(12)]
    assert cells[1] == (16, 0, 32, 16)  # what statistics count stays in place
    assert places() == places() != cells
    assert all(abs(x - u) <= 8 and abs(y - v) <= 8 for (x, y, *_), (u, v, *_) in zip(places(), cells))
    x0, y0, x1, y1 = places()[0]
    set_random_seed(5)
    np.testing.assert_array_equal(pixels(dataset[0]).transpose(1, 2, 0), counted((50, 70))[y0:y1, x0:x1])


def test_info_is_plain_and_stable(root):
    dataset = make(root, windows=dict(size=32))
    info = dataset.get_data_info(5)
    assert info['img_path'].endswith('images/a.tif')
    assert info['seg_map_path'].endswith('labels/a.tif')
    assert (info['window'], info['grid_shape']) == ((38, 18, 70, 50), (50, 70))
    assert pickle.loads(pickle.dumps(info)) == info == make(root, windows=dict(size=32)).get_data_info(5)
    assert len(make(root, windows=dict(size=32), indices=3)) == 3


def test_without_windows_a_sample_is_a_raster(root):
    dataset = make(root)
    assert len(dataset) == 2
    np.testing.assert_array_equal(pixels(dataset[1]).transpose(1, 2, 0), counted((40, 30)))


def test_single_files(root):
    dataset = make(root, data_prefix=dict(img_path='images/a.tif', seg_map_path='labels/a.tif'))
    assert len(dataset) == 1
    assert dataset[0]['data_samples'].gt_sem_seg.data[0, 0, :4].tolist() == [0, 1, 0, 1]


def test_one_label_raster_for_all_images(root, write, rng):
    """Covering both images' places on a coarser grid: an id is the quadrant of the coordinates' kilometres."""
    for name in ('left', 'right'):
        write(root / 'pair' / f'{name}.tif', counted((20, 20)), **placed(left=400000 + 10 * (name == 'right')))
    ids = rng.integers(0, 2, (12, 12)).astype(np.uint8)
    write(root / 'all.tif', ids, **placed(metres=2, left=399998))
    dataset = make(root, data_prefix=dict(img_path='pair', seg_map_path='all.tif'))
    for i, first in enumerate((1, 6)):
        expected = ids[:5, first : first + 5].repeat(4, axis=0).repeat(4, axis=1)
        np.testing.assert_array_equal(dataset[i]['data_samples'].gt_sem_seg.data[0], expected)


def test_common_ground_sampling_distance(tmp_path, write, rng):
    """Rasters of 0.25, 0.5 and 0.502 m at 0.5 m: averaged, as it is, and within the tolerance."""
    fine = rng.integers(0, 60000, (40, 60, 1)).astype(np.float32)
    for name, image, metres in (('a', fine, 0.25), ('b', fine[:20, :30], 0.5), ('c', fine[:20, :30], 0.502)):
        write(tmp_path / 'images' / f'{name}.tif', image, **placed(metres=metres))
        write(tmp_path / 'labels' / f'{name}.tif', np.zeros(image.shape[:2], np.uint8), **placed(metres=metres))
    dataset = make(tmp_path, gsd=0.5, windows=dict(size=10), test_mode=True)
    assert [dataset.get_data_info(i)['grid_shape'] for i in (0, 6, 12)] == [(20, 30)] * 3
    means = fine.reshape(20, 2, 30, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(pixels(dataset[1])[0], means[:10, 10:20], rtol=1e-6)
    np.testing.assert_array_equal(pixels(dataset[7])[0], fine[:10, 10:20, 0])
    np.testing.assert_array_equal(pixels(dataset[13])[0], fine[:10, 10:20, 0])


def test_ground_sampling_distance_of_degrees(tmp_path, write):
    """At 60 degrees, a degree of longitude is about half as long as one of latitude."""
    transform = Affine(1e-4, 0, 10, 0, -1e-4, 60.005)
    write(tmp_path / 'images' / 'a.tif', counted((100, 100)), crs='EPSG:4326', transform=transform)
    info = make(tmp_path, labels=None, gsd=11.1412).get_data_info(0)
    # 111.412 km a degree of latitude there, and 55.800 km of longitude.
    assert info['grid_shape'] == (100, 50)
    assert make(tmp_path, labels=None, gsd=5).get_data_info(0)['grid_shape'] == (223, 112)


def test_windows_in_metres(root):
    dataset = make(root, windows=dict(size=8, stride=4, unit='metre', jitter=False))
    assert [dataset.get_data_info(i)['window'] for i in (0, 1)] == [(0, 0, 16, 16), (8, 0, 24, 16)]
    dataset = make(root, windows=dict(size=8, unit='metre', jitter=False), gsd=1)
    assert dataset.get_data_info(1)['window'] == (8, 0, 16, 8)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(windows=512), r'windows is 512; dict\(size=..., '),
        (dict(windows=dict(side=512)), r"windows is {'side': 512}; dict\(size=..., "),
        (dict(windows={}), r'windows is {}; dict\(size=..., '),
        (dict(gsd='1 m'), "gsd is '1 m'; .* metres per pixel"),
        (dict(gsd=0), 'gsd is 0; .* metres per pixel'),
        (dict(windows=dict(size=1.5)), r'windows: size is 1\.5; a whole number of pixels'),
        (dict(pipeline=[*LOAD[:2], dict(type='PackSegInputs')]), 'ends with PackSegInputs, which loses the place'),
    ],
)
def test_wrong_settings(root, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(root, **settings)


@pytest.mark.parametrize('settings', [dict(gsd=0.5), dict(windows=dict(size=8, unit='metre'))])
def test_metres_without_crs(tmp_path, write, settings):
    write(tmp_path / 'images' / 'a.tif', counted((20, 20)), crs=None)
    with pytest.raises(DataError, match=r'a\.tif: it has no CRS, .*, which gsd and windows in metres need'):
        make(tmp_path, labels=None, **settings)
    assert len(make(tmp_path, labels=None)) == 1


# Pixels without data.


@pytest.fixture
def holed(tmp_path, write):
    """One raster with data in its left third only, and one with none at all."""
    image = np.ones((30, 90, 2), np.float32)
    image[:, 30:] = np.nan
    write(tmp_path / 'images' / 'part.tif', image, **placed())
    write(tmp_path / 'images' / 'none.tif', np.full((30, 30, 2), -9999, np.float32), nodata=-9999, **placed())
    return tmp_path


def test_windows_without_data_are_replaced_in_training(holed, logged):
    dataset = make(holed, labels=None, windows=dict(size=30, jitter=False))
    assert '1 of 2 rasters hold no data and are left out: ' in logged.text
    assert 'none.tif' in logged.text
    assert 'rasters: 1; windows: 3; bands: 2 of float32; pixels: 0.5 to 0.5 m' in logged.text
    assert {dataset[i]['data_samples'].metainfo['window'] for i in range(3)} == {(0, 0, 30, 30)}


def test_windows_without_data_stay_in_a_test(holed, logged):
    dataset = make(holed, labels=None, windows=dict(size=30), test_mode=True)
    assert '1 of 2 rasters hold no data: ' in logged.text
    valid = [sample['data_samples'].get('valid_map') for sample in dataset]
    assert [None if part is None else bool(part.data.any()) for part in valid] == [False, None, False, False]


def test_windows_without_data_may_stay(holed):
    dataset = make(holed, labels=None, windows=dict(size=30, jitter=False), skip_empty=False)
    assert len(dataset) == 4
    assert not dataset[0]['data_samples'].valid_map.data.any()


def test_no_data_at_all(tmp_path, write):
    write(tmp_path / 'images' / 'none.tif', np.full((30, 30, 2), np.nan, np.float32), **placed())
    for test_mode in (False, True):
        with pytest.raises(DataError, match=r'No raster of RasterDataset holds data: .*none\.tif'):
            make(tmp_path, labels=None, test_mode=test_mode)


# Labels as polygons.


def write_polygons(path, values=None, crs=UTM, top=5800000.0):
    """Columns 2 to 9 and rows 4 to 7, then columns 20 to 29 and rows 0 to 9 of a raster of 0.5 m."""
    boxes = [(2, 4, 10, 8), (20, 0, 30, 10)]
    shapes = [shapely.box(400000 + l / 2, top - b / 2, 400000 + r / 2, top - t / 2) for l, t, r, b in boxes]  # noqa: E741
    fields = (
        dict(field_data=[np.array(values)], fields=['kind']) if values is not None else dict(field_data=[], fields=[])
    )
    path.parent.mkdir(exist_ok=True)
    pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes)), crs=crs, geometry_type='Polygon', **fields)
    return path


def burnt(first, second, rest, shape=(50, 70)):
    labels = np.full(shape, rest)
    labels[4:8, 2:10] = first
    labels[0:10, 20:30] = second
    return labels


@pytest.mark.parametrize(
    ('values', 'settings', 'expected'),
    [
        (['even', 'odd'], KIND, (0, 1, 255)),
        ([1, 0], KIND, (1, 0, 255)),
        (['odd', 'odd'], dict(KIND, label_background='even'), (1, 1, 0)),
        (None, dict(label_class='odd'), (1, 1, 255)),
        (['odd', 'even'], dict(KIND, class_map=dict(one='odd')), (0, 255, 255)),
        (['odd', 'even'], dict(KIND, class_map=dict(none=None, one='odd')), (1, 255, 255)),
        (['odd', 'odd'], dict(KIND, class_map=dict(x='odd', y='even'), label_background='even'), (0, 0, 1)),
        ([2, 1], dict(KIND, reduce_zero_label=True), (1, 0, 255)),
        (['1', ' 0'], KIND, (1, 0, 255)),
        (['2.0', '255'], dict(KIND, reduce_zero_label=True), (1, 255, 255)),
        ([True, False], dict(KIND, metainfo=dict(classes=('false', 'true'))), (1, 0, 255)),
    ],
)
def test_polygons(root, values, settings, expected):
    write_polygons(root / 'polygons' / 'a.gpkg', values)
    dataset = make(root, data_prefix=dict(img_path='images/a.tif', seg_map_path='polygons/a.gpkg'), **settings)
    np.testing.assert_array_equal(dataset[0]['data_samples'].gt_sem_seg.data[0], burnt(*expected))


def test_polygons_by_the_names_of_a_class_file(root):
    (root / 'classes.yaml').write_text(
        'classes: [{name: roof, id: 7}, {name: unsure, id: 9, ignore: true}, {name: road, id: [3, 4]}]\n'
    )
    for values, expected in (
        (['road', 'unsure'], (1, 255, 255)),
        ([9, 4], (255, 1, 255)),
        (['4', '7'], (1, 0, 255)),
        (['roof', '9'], (0, 255, 255)),
    ):
        path = write_polygons(root / 'polygons' / f'{values[0]}.geojson', values, crs=UTM)
        dataset = make(
            root,
            data_prefix=dict(img_path='images/a.tif', seg_map_path=str(path)),
            metainfo=None,
            classes_file='classes.yaml',
            label_attribute='kind',
        )
        np.testing.assert_array_equal(dataset[0]['data_samples'].gt_sem_seg.data[0], burnt(*expected))


def test_polygons_in_a_folder_and_by_window_of_a_resampled_raster(root):
    write_polygons(root / 'polygons' / 'a.gpkg', ['even', 'odd'])
    (root / 'images' / 'sub' / 'b.tif').unlink()
    dataset = make(root, labels='polygons', gsd=0.25, windows=dict(size=70), label_attribute='kind', test_mode=True)
    # Every pixel becomes four.
    labels = np.zeros((100, 140), int)
    for sample in dataset:
        x0, y0, x1, y1 = sample['data_samples'].metainfo['window']
        labels[y0:y1, x0:x1] = sample['data_samples'].gt_sem_seg.data[0]
    np.testing.assert_array_equal(labels, burnt(0, 1, 255).repeat(2, axis=0).repeat(2, axis=1))


def test_image_beyond_the_polygons_is_background_or_an_error(root):
    path = write_polygons(root / 'polygons' / 'a.gpkg')
    prefix = dict(img_path='images', seg_map_path=str(path))
    with pytest.raises(
        DataError,
        match=r'polygons of .*a\.gpkg lie outside the image .*b\.tif: they cover x 400001 to 400015, y 5799995 to '
        r'5800000 \(EPSG:32633, 2 polygons\), the image x 400000 to 400015, y 5699980 to 5700000 \(EPSG:32633\)',
    ):
        make(root, data_prefix=prefix, label_class='odd')
    dataset = make(root, data_prefix=prefix, label_class='odd', label_background='even')
    assert [int(dataset[i]['data_samples'].gt_sem_seg.data.sum()) for i in (0, 1)] == [4 * 8 + 10 * 10, 0]
    far = write_polygons(root / 'polygons' / 'far.gpkg', top=5600000.0)
    with pytest.raises(DataError, match='lie outside the image'):
        make(
            root, data_prefix=dict(img_path='images', seg_map_path=str(far)), label_class='odd', label_background='even'
        )


@pytest.mark.parametrize(
    ('values', 'settings', 'message'),
    [
        (['odd', 'lake'], KIND, r"kind is 'lake' \(1 polygons\), which is no class of the data"),
        ([1, 5], KIND, r'kind is 5 \(1 polygons\), .*Expected: even, odd, or their ids'),
        (None, dict(), 'which class is a polygon of\\? Give label_attribute'),
        (None, dict(label_class='lake'), "label_class is 'lake'; one of even, odd"),
        (None, dict(label_class='odd', label_background='sea'), "label_background is 'sea'; one of"),
        (['odd', 'odd'], dict(label_class='odd', label_attribute='kind'), 'exclude each other'),
        (['odd', 'odd'], dict(label_attribute='sort'), "no field 'sort'; it has kind"),
        (['1', '01'], KIND, r"kind is '01' \(1 polygons\).* without leading zeros"),
        (['1', '1.5'], KIND, r"kind is '1\.5' \(1 polygons\)"),
        ([True, False], KIND, r"kind is 'true' \(1 polygons\), 'false' \(1 polygons\)"),
        (['0', '1'], dict(KIND, metainfo=dict(classes=('0', '2', '1'))), "text '1' .* of another"),
    ],
)
def test_polygons_that_are_no_labels(root, values, settings, message):
    path = write_polygons(root / 'polygons' / 'a.gpkg', values)
    with pytest.raises(UserError, match=message):
        make(root, data_prefix=dict(img_path='images/a.tif', seg_map_path=str(path)), **settings)


def test_layer_without_any_polygon(root):
    path = root / 'polygons' / 'empty.gpkg'
    path.parent.mkdir()
    pyogrio.raw.write(path, np.empty(0, object), [], [], crs=UTM, geometry_type='Polygon')
    prefix = dict(img_path='images/a.tif', seg_map_path=str(path))
    with pytest.raises(DataError, match=r'empty\.gpkg lie outside .* \(EPSG:32633, 0 polygons\)'):
        make(root, data_prefix=prefix, label_class='odd')


# Files that do not fit.


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((40, 30, 3), np.uint16), r'a\.tif has 2 bands, but .*b\.tif has 3 \(alpha not counted\)'),
        (np.zeros((40, 30, 2), np.float32), r'a\.tif has values of type uint16, but .*b\.tif of float32'),
    ],
)
def test_rasters_that_differ(root, write, image, message):
    write(root / 'images' / 'sub' / 'b.tif', image, **placed(top=5700000.0))
    with pytest.raises(DataError, match=message):
        make(root)


def test_chosen_bands(root, write):
    write(root / 'images' / 'sub' / 'b.tif', np.zeros((40, 30, 3), np.uint16), **placed(top=5700000.0))
    pipeline = [dict(type='LoadRasterImage', bands=(2, 1)), *LOAD[1:]]
    dataset = make(root, pipeline=pipeline)
    np.testing.assert_array_equal(pixels(dataset[0]).transpose(1, 2, 0), counted((50, 70))[..., ::-1])
    with pytest.raises(DataError, match=r'a\.tif has 2 bands, numbered from 1; bands \[3\] were asked for'):
        make(root, pipeline=[dict(type='LoadRasterImage', bands=(3,)), *LOAD[1:]])


@pytest.mark.parametrize(
    ('profile', 'shape', 'message'),
    [
        (dict(crs=None), (50, 70), r'labels/a\.tif has no CRS, but .*images/a\.tif has EPSG:32633'),
        (placed(top=5900000.0), (50, 70), r'labels/a\.tif lies outside its image .*images/a\.tif: it covers x 400000'),
        (placed(), (50, 70, 3), r'labels/a\.tif has 3 bands, .* but the classes are given by id'),
    ],
)
def test_labels_that_do_not_fit(root, write, profile, shape, message):
    write(root / 'labels' / 'a.tif', np.zeros(shape, np.uint8), **profile)
    with pytest.raises(DataError, match=message):
        make(root, windows=dict(size=16))


@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_cut_file_is_found_at_the_start(root, folder):
    path = root / folder / 'a.tif'
    length = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        OSError,
        match=rf'a\.tif cannot be read as an image: it is cut: it has {length - 100} bytes, but its last block of '
        rf'pixels ends at byte {length}',
    ):
        make(root)


# In use.


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_workers_read_what_one_process_reads(root):
    dataset = make(root, windows=dict(size=16), test_mode=True)
    dataset[0]  # a file that is open when the workers fork
    loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=lambda sample: sample)
    for sample, expected in zip(loader, dataset):
        torch.testing.assert_close(sample['inputs'], expected['inputs'])


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_workers_draw_different_windows(root):
    dataset = make(root, windows=dict(size=16))

    def places():
        loader = DataLoader(
            dataset,
            sampler=[0] * 8,
            batch_size=None,
            num_workers=2,
            collate_fn=lambda sample: sample['data_samples'].metainfo['window'],
            worker_init_fn=lambda worker: worker_init_fn(worker, num_workers=2, rank=0, seed=3),
        )
        return list(loader)

    first = places()
    assert first[::2] != first[1::2]
    assert first == places()


def test_labelled_windows_of_a_target_are_those_that_polygons_meet(root):
    """Of the 35 windows of the image that is one for each polygon."""
    write_polygons(root / 'polygons' / 'fields.gpkg', ['even', 'odd'])
    target = dict(type='RasterDataset', data_root=str(root), metainfo=dict(classes=('even', 'odd')))
    dataset = DomainAdaptationDataset(
        source=None,
        target=dict(target, data_prefix=dict(img_path='images'), pipeline=[LOAD[0], LOAD[2]]),
        labelled=dict(
            target,
            data_prefix=dict(img_path='images', seg_map_path='polygons/fields.gpkg'),
            only=['a'],
            windows=dict(size=10, stride=10, jitter=False),
            pipeline=LOAD,
            **KIND,
        ),
    )
    seen = {}
    expected = burnt(0, 1, 255)
    for _ in range(60):
        labels = dataset[0]['labelled']['data_samples']
        x0, y0, x1, y1 = window = labels.metainfo['window']
        np.testing.assert_array_equal(labels.gt_sem_seg.data[0], expected[y0:y1, x0:x1])
        seen[window] = (expected[y0:y1, x0:x1] != 255).any()
    assert sorted(seen) == [(0, 0, 10, 10), (20, 0, 30, 10)]
    assert all(seen.values())


def test_source_and_target(root):
    np.random.seed(0)  # noqa: NPY002 (the narrow raster has smaller windows; this draws the other one)
    source = make(root, windows=dict(size=16))
    target = make(root, labels=None, windows=dict(size=16), gsd=1)
    pair = DomainAdaptationDataset(source, target)[0]
    assert pair['source']['inputs'].shape == pair['target']['inputs'].shape == (2, 16, 16)
    assert 'gt_sem_seg' not in pair['target']['data_samples']


@pytest.fixture
def floods(real_data, tmp_path):
    folder = real_data / 'sen1floods11'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    classes = tmp_path / 'floods.yaml'
    classes.write_text('classes: [{name: dry, id: 0}, {name: water, id: 1}, {name: unknown, id: -1, ignore: true}]')
    return dict(data_root=str(folder), classes_file=str(classes), pipeline=LOAD)


def test_flood_chips(floods, logged):
    """Transforms that differ by 1e-20, labels of -1, chips partly and wholly NaN."""
    dataset = RasterDataset(
        data_prefix=dict(img_path='S1', seg_map_path='Labels'),
        img_suffix='_S1Hand.tif',
        seg_map_suffix='_LabelHand.tif',
        windows=dict(size=256, jitter=False),
        **floods,
    )
    assert '1 of 12 rasters hold no data and are left out: ' in logged.text
    assert 'Paraguay_34417' in logged.text
    assert len(dataset) == 11 * 4
    samples = {dataset.get_data_info(i)['img_path']: dataset[i] for i in range(0, len(dataset), 4)}
    for path, sample in samples.items():
        assert sample['inputs'].shape == (2, 256, 256)
        assert torch.isfinite(sample['inputs']).all()
        labels = sample['data_samples'].gt_sem_seg.data
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        assert ('Ghana_83483' in path) == bool((labels == 255).all())


def test_flood_chips_at_20_metres(floods):
    dataset = RasterDataset(
        data_prefix=dict(img_path='S1/Spain_6860600_S1Hand.tif', seg_map_path='Labels/Spain_6860600_LabelHand.tif'),
        gsd=20,
        **floods,
    )
    # Pixels of 9e-5 degrees: 9.97 m high everywhere, and 7.8 m wide at 38 degrees north.
    assert dataset[0]['inputs'].shape == (2, 255, 201)
