"""Statistics against plain formulas on whole arrays, and against counts that are known by construction."""

import os
import warnings
from functools import partial

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.geo.rasters import read_image
from mmrs.geo.statistics import (
    band_statistics,
    chosen_bands,
    class_statistics,
    measure,
    read_windows,
)
from mmrs.geo.statistics_bands import BandStatistics, wasserstein_shift
from mmrs.geo.statistics_cache import StatisticsCache, cache_folder, file_stamp
from mmrs.utils.errors import DataError, UnreadableError
from tests.small_files import build_dataset


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMRS_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def small_windows(monkeypatch):
    """Windows far smaller than the rasters of these tests, so that parts are merged."""
    monkeypatch.setattr('mmrs.geo.statistics._WINDOW_HEIGHT', 7)
    monkeypatch.setattr('mmrs.geo.statistics._WINDOW_WIDTH', 11)


def reference(images):
    """Mean, population deviation, minimum and maximum of each band of (H, W, C) arrays, in extended precision."""
    pixels = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images]).astype(np.longdouble)
    return pixels.mean(0), pixels.std(0), pixels.min(0), pixels.max(0)


def assert_agrees(statistics, images, rtol=1e-13):
    for found, expected in zip(
        (statistics.mean, statistics.std, statistics.minimum, statistics.maximum), reference(images)
    ):
        np.testing.assert_allclose(found, expected.astype(float), rtol=rtol)


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64'])
def test_every_type_agrees_with_the_whole_array(tmp_path, write, rng, small_windows, dtype):
    scale = {'uint8': 255, 'int8': 127, 'uint16': 65535, 'int16': 32767}.get(dtype, 1e6)
    images = [rng.uniform(0 if dtype[0] == 'u' else -scale, scale, (29, 40, 3)).astype(dtype) for _ in range(3)]
    paths = [write(tmp_path / f'{i}.tif', image) for i, image in enumerate(images)]
    statistics = band_statistics(paths, cache=False, progress=False)
    assert_agrees(statistics, images)
    assert statistics.count.tolist() == [3 * 29 * 40] * 3
    assert statistics.dtypes == (dtype,)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    for share in (0.001, 0.02, 0.5, 0.98, 1):
        expected = np.quantile(pixels, share, axis=0, method='inverted_cdf').astype(float)
        np.testing.assert_allclose(statistics.quantile(share), expected, rtol=0 if statistics.is_exact else 1 / 128)


def test_a_small_spread_on_a_large_mean(tmp_path, write, small_windows):
    # A sum of squares would be off by some 1e-4: doubles near (1e6)^2 are 1.2e-4 apart.
    image = 1e6 + np.tile([-1.0, 1.0], 50 * 40).reshape(50, 80, 1)
    statistics = measure(write(tmp_path / 'a.tif', image))
    assert statistics.mean[0] == pytest.approx(1e6, rel=1e-15)
    assert statistics.std[0] == pytest.approx(1, abs=1e-10)
    assert (statistics.minimum[0], statistics.maximum[0]) == (999999, 1000001)
    assert 999999 <= statistics.quantile(0.5)[0] <= 1000001


def test_whole_number_sums_do_not_overflow():
    # As many pixels as 200 rasters of 20 000 x 20 000; their squares add up to 3.4e20, int64 ends at 9.2e18.
    half = 40 * 10**9
    counted = BandStatistics(('uint16',), np.zeros((5, 1)), (np.float32([0, 65535]),), (np.array([half, half]),))
    merged = BandStatistics.merge([counted, counted])
    assert merged.count[0] == 4 * half
    assert (merged.mean[0], merged.std[0]) == (32767.5, 32767.5)


def test_pixels_without_data_are_left_out(tmp_path, write, rng, small_windows):
    image = rng.normal(size=(30, 25, 2)).astype(np.float32)
    holes = rng.random((30, 25)) < 0.3
    holes[:7, :11] = True  # a window without any
    image[holes, 0] = np.nan
    image[5:9, 20:, 1] = -9999
    path = write(tmp_path / 'a.tif', image, nodata=-9999)
    valid = ~holes & (image[..., 1] != -9999)
    statistics = measure(path)
    assert statistics.count.tolist() == [valid.sum()] * 2
    assert_agrees(statistics, [image[valid][None]])


def test_a_raster_without_data_changes_nothing(tmp_path, write, rng):
    full, empty = rng.normal(size=(8, 9, 1)).astype(np.float32), np.full((8, 9, 1), np.nan, np.float32)
    paths = [write(tmp_path / f'{i}.tif', image) for i, image in enumerate((empty, full, empty))]
    alone = measure(paths[0])
    assert alone.count.tolist() == [0]
    assert np.isnan([*alone.mean, *alone.std, *alone.quantile(0.5)]).all()
    assert_agrees(band_statistics(paths, cache=False, progress=False), [full])


def _masked(path, image, write):
    write(path, image)
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter('ignore')
        with rasterio.open(path, 'r+') as raster:
            mask = np.full(raster.shape, 255, np.uint8)
            mask[3:9] = 0
            raster.write_mask(mask)


@pytest.mark.parametrize('bands', [None, (1,), (3, 1)])
@pytest.mark.parametrize('kind', ['nodata uint8', 'nodata int16', 'mask', 'alpha', 'palette', 'NaN'])
def test_validity_is_that_of_training(tmp_path, write, rng, small_windows, kind, bands):
    path = tmp_path / 'a.tif'
    image = rng.integers(0, 3, (16, 23, 3)).astype({'nodata int16': np.int16, 'NaN': np.float32}.get(kind, np.uint8))
    if kind.startswith('nodata'):
        write(path, image, nodata=0)
    elif kind == 'mask':
        _masked(path, image, write)
    elif kind == 'alpha':
        alpha = rng.integers(0, 2, (16, 23, 1), np.uint8) * 255
        write(path, np.concatenate([image, alpha], -1), photometric='RGB', alpha='YES')
    elif kind == 'palette':
        write(path, image[..., 0], palette={0: (1, 2, 3, 255), 1: (9, 8, 7, 255), 2: (50, 60, 70, 255)})
    else:
        image[rng.random((16, 23, 3)) < 0.2] = np.nan
        write(path, image)
    expected, valid = read_image(path, bands)
    valid = np.ones((16, 23), bool) if valid is None else valid
    assert kind == 'palette' or not valid.all()
    assert_agrees(measure(path, bands), [expected[valid][None]])
    with rasterio.open(path) as raster:
        parts = [part for _, part in read_windows(raster, chosen_bands(raster, bands))]
    assert sum(7 * 11 if part is None else part.sum() for part in parts[:2]) == valid[:7, :22].sum()


def test_bands_are_chosen_and_ordered(tmp_path, write, rng):
    image = rng.integers(0, 256, (10, 12, 4), np.uint8)
    path = write(tmp_path / 'a.tif', image)
    assert_agrees(band_statistics([path], (4, 2), cache=False, progress=False), [image[..., [3, 1]]])
    with pytest.raises(DataError, match=r'a\.tif has 4 bands, numbered from 1; bands \[5\]'):
        band_statistics([path], (5,), cache=False, progress=False)


def test_mixed_types_are_merged(tmp_path, write, rng):
    images = [rng.integers(0, 256, (9, 9, 1)).astype(dtype) for dtype in ('uint8', 'uint16', 'float32')]
    paths = [write(tmp_path / f'{i}.tif', image) for i, image in enumerate(images)]
    assert_agrees(band_statistics(paths[:2], cache=False, progress=False), images[:2])
    both = band_statistics(paths, cache=False, progress=False)
    assert_agrees(both, images)
    assert not both.is_exact
    assert sum(both.counts[0]) == 3 * 81


def test_mixed_band_counts_name_both_files(tmp_path, write):
    three, four = (write(tmp_path / f'{n}.tif', np.zeros((4, 4, n), np.uint16)) for n in (3, 4))
    for _ in range(2):  # from the files, and from the cache
        with pytest.raises(DataError, match=r'4\.tif has 4 bands, but .*3\.tif has 3'):
            band_statistics([three, four], progress=False)


def test_histogram_holds_every_pixel(tmp_path, write, rng):
    whole, fine = rng.integers(0, 256, (40, 50, 1), np.uint8), rng.normal(5, 1, (40, 50, 1)).astype(np.float32)
    edges = np.arange(257) - 0.5
    statistics = measure(write(tmp_path / 'a.tif', whole))
    assert statistics.histogram(0, edges).tolist() == np.bincount(whole.ravel(), minlength=256).tolist()
    statistics = measure(write(tmp_path / 'b.tif', fine))
    edges = np.linspace(fine.min(), fine.max(), 21)
    found, expected = statistics.histogram(0, edges), np.histogram(fine, edges)[0]
    assert found.sum() == pytest.approx(2000)
    # Where an edge divides one of the bins, its pixels are divided too.
    np.testing.assert_allclose(found, expected, atol=25)
    assert statistics.histogram(0, np.array([-10.0, 0, 20, 30])).tolist() == pytest.approx([0, 2000, 0])


def test_shift_is_in_standard_deviations(tmp_path, write, rng):
    image = rng.integers(0, 100, (60, 70, 1)).astype(np.uint8)
    paths = [write(tmp_path / f'{i}.tif', image + np.uint8(i)) for i in (0, 50)]
    first, second = (measure(path) for path in paths)
    assert wasserstein_shift(first, first) == [0]
    # Moving every value by d moves the distribution by d.
    assert wasserstein_shift(first, second) == pytest.approx(50 / image.std(), rel=1e-12)
    constant = [measure(write(tmp_path / f'c{i}.tif', np.full((4, 4, 1), i, np.uint8))) for i in (3, 4)]
    assert wasserstein_shift(*constant) == [np.inf]


def test_real_images_agree_with_the_whole_array(real_data):
    paths = sorted((real_data / 'sen1floods11' / 'S1').glob('*.tif'))[:4]
    images = [(image, valid) for image, valid in map(read_image, paths)]
    pixels = [(image.reshape(-1, 2) if valid is None else image[valid])[None] for image, valid in images]
    assert_agrees(band_statistics(paths, cache=False, progress=False), pixels, rtol=1e-12)


# The cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read."""
    names = []

    def record(path, *args):
        names.append(os.path.basename(path))
        return measure(path, *args)

    monkeypatch.setattr('mmrs.geo.statistics.measure', record)
    return names


def test_only_changed_files_are_read_again(tmp_path, write, rng, reads):
    images = [rng.integers(0, 256, (6, 7, 3), np.uint8) for _ in range(3)]
    paths = [write(tmp_path / 'data' / f'{i}.tif', image) for i, image in enumerate(images)]
    first = band_statistics(paths, progress=False)
    assert sorted(reads) == ['0.tif', '1.tif', '2.tif']
    reads.clear()
    again = band_statistics(paths, progress=False)
    assert not reads
    np.testing.assert_array_equal(first.moments, again.moments)
    np.testing.assert_array_equal(first.counts[2], again.counts[2])

    images[1] = images[1] // 2
    os.remove(paths[1])
    write(paths[1], images[1])
    assert_agrees(band_statistics(paths, progress=False), images)
    assert reads == ['1.tif']
    reads.clear()
    band_statistics(paths, (1,), progress=False)  # another setting
    band_statistics(paths, cache=False, progress=False)
    assert len(reads) == 6


def test_equal_names_in_two_roots_do_not_meet(tmp_path, write, rng):
    stamp = 10**18
    statistics = []
    for root in ('a', 'b'):
        image = np.full((5, 5, 1), ord(root), np.uint8)
        path = write(tmp_path / root / 'img_dir' / 'train' / '0.tif', image)
        os.utime(path, ns=(stamp, stamp))  # equal sizes and times too
        statistics.append(band_statistics(_labelled(tmp_path / root, labels=False), progress=False))
    assert [s.mean[0] for s in statistics] == [ord('a'), ord('b')]
    assert len(list((cache_folder() / 'statistics').glob('*.npz'))) == 2


@pytest.mark.parametrize('damage', [lambda data: b'', lambda data: data[:-40], lambda data: b'\0' * len(data)])
def test_a_broken_cache_is_computed_again(tmp_path, write, rng, reads, caplog, damage):
    image = rng.integers(0, 256, (6, 7, 3), np.uint8)
    path = write(tmp_path / 'data' / 'a.tif', image)
    band_statistics([path], progress=False)
    (file,) = (cache_folder() / 'statistics').glob('*.npz')
    file.write_bytes(damage(file.read_bytes()))
    reads.clear()
    with pytest.MonkeyPatch.context() as patch:
        messages = []
        patch.setattr('mmrs.geo.statistics_cache.print_log', lambda text, **_: messages.append(text))
        assert_agrees(band_statistics([path], progress=False), [image])
    assert reads == ['a.tif']
    assert str(file) in messages[0]
    band_statistics([path], progress=False)
    assert reads == ['a.tif']  # mended


def test_what_was_read_before_an_error_is_kept(tmp_path, write, rng, reads):
    paths = [write(tmp_path / f'{i}.tif', rng.integers(0, 256, (6, 7, 1), np.uint8)) for i in range(2)]
    bad = tmp_path / '2.tif'
    bad.write_bytes(b'no image')
    with pytest.raises(UnreadableError, match=r'2\.tif'):
        band_statistics([*paths, bad], workers=0, progress=False)
    reads.clear()
    band_statistics(paths, workers=0, progress=False)
    assert not reads


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, write, rng, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('MMRS_CACHE', str(tmp_path / 'file' / 'below'))
    image = rng.integers(0, 256, (6, 7, 1), np.uint8)
    assert_agrees(band_statistics([write(tmp_path / 'a.tif', image)], progress=False), [image])


def test_writers_at_once_leave_a_whole_file(tmp_path, write):
    path = write(tmp_path / 'a.tif', np.zeros((4, 4, 1), np.uint8))
    caches = [StatisticsCache('test', tmp_path, {}) for _ in range(2)]
    for i, cache in enumerate(caches):
        cache.put(f'{i}', file_stamp(path), dict(numbers=np.arange(i + 1)))
    for cache in caches:
        cache.save()
    last = StatisticsCache('test', tmp_path, {})
    assert last.get('0', file_stamp(path)) is None
    assert last.get('1', file_stamp(path))['numbers'].tolist() == [0, 1]
    assert os.listdir(last.path.parent) == [last.path.name]


# Classes -------------------------------------------------------------------------------------------------------------


_labelled = partial(build_dataset, pipeline=[])


@pytest.fixture
def labels(tmp_path, write):
    """Ids 0 to 3 and 255, in known numbers; returns the root."""
    for name, counts in {'x': {0: 5, 1: 7, 2: 11, 255: 1}, 'y': {1: 3, 2: 21}}.items():
        ids = np.repeat(list(counts), list(counts.values())).astype(np.uint8).reshape(4, 6)
        write(tmp_path / 'data' / 'ann_dir' / 'train' / f'{name}.png', ids)
        write(tmp_path / 'data' / 'img_dir' / 'train' / f'{name}.png', np.zeros((4, 6, 3), np.uint8))
    return tmp_path / 'data'


@pytest.mark.parametrize('workers', [0, 2])
def test_class_counts(labels, workers):
    counts = class_statistics(_labelled(labels), workers, progress=False)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[5, 7, 11], [0, 3, 21]]


def test_class_counts_follow_the_settings(labels):
    two = dict(classes=('a', 'b'))
    class_statistics(_labelled(labels), progress=False)
    counts = class_statistics(_labelled(labels, reduce_zero_label=True, metainfo=two), progress=False)
    assert counts.tolist() == [[7, 11], [3, 21]]
    merged = class_statistics(_labelled(labels, class_map=dict(ac=['a', 'c'])), progress=False)
    assert merged.tolist() == [[16], [21]]
    assert class_statistics(_labelled(labels), progress=False).tolist() == [[5, 7, 11], [0, 3, 21]]


def test_class_counts_are_cached_by_label_file(labels, write, monkeypatch):
    from mmrs.geo import statistics

    loaded = []
    count = statistics.count_classes
    monkeypatch.setattr(
        statistics, 'count_classes', lambda t, info, k: loaded.append(info['seg_map_path'][-5:]) or count(t, info, k)
    )
    class_statistics(_labelled(labels), progress=False)
    class_statistics(_labelled(labels, indices=[1]), progress=False)
    assert loaded == ['x.png', 'y.png']
    write(labels / 'ann_dir' / 'train' / 'y.png', np.full((4, 6), 2, np.uint8))
    assert class_statistics(_labelled(labels), progress=False).tolist() == [[5, 7, 11], [0, 0, 24]]
    assert loaded == ['x.png', 'y.png', 'y.png']


def test_class_counts_need_labels_and_classes(labels):
    bare = _labelled(labels, labels=False)
    with pytest.raises(DataError, match=r'x\.png has no label map to count'):
        class_statistics(bare, progress=False)
    with pytest.raises(DataError, match='no classes'):
        class_statistics(_labelled(labels, metainfo=None), progress=False)
    with pytest.raises(DataError, match='label id 2 on 45'):
        class_statistics(_labelled(labels, metainfo=dict(classes=('a', 'b'))), progress=False)


def test_class_counts_of_windows(labels):
    dataset = _labelled(labels, type='RasterDataset', windows=dict(size=3, stride=3, jitter=True))
    counts = class_statistics(dataset, progress=False)
    assert len(counts) == len(dataset) == 8  # rows 0 to 2 and 1 to 3, columns 0 to 2 and 3 to 5, of two rasters
    ids = np.repeat([0, 1, 2, 255], [5, 7, 11, 1]).reshape(4, 6)
    for i in range(4):
        x0, y0, x1, y1 = dataset.get_data_info(i)['window']
        assert counts[i].tolist() == [(ids[y0:y1, x0:x1] == k).sum() for k in range(3)]
    np.testing.assert_array_equal(class_statistics(dataset, progress=False), counts)


def test_class_counts_follow_all_that_vector_labels_depend_on(tmp_path, write):
    image, labels = tmp_path / 'images' / 'a.tif', tmp_path / 'labels.shp'

    def place(west):
        transform = rasterio.Affine(1, 0, west, 0, -1, 5800000)
        write(image, np.full((8, 8, 1), 9, np.uint8), crs='EPSG:32633', transform=transform)

    def draw(kind):
        box = np.array([shapely.box(500000, 5799996, 500008, 5800000).wkb], object)
        fields = [np.array([kind], object)]
        pyogrio.raw.write(labels, box, fields, ['kind'], geometry_type='Polygon', crs='EPSG:32633')

    def count():
        dataset = RasterDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels.shp'),
            metainfo=dict(classes=('road', 'lake')),
            label_attribute='kind',
            pipeline=[],
        )
        return class_statistics(dataset, progress=False).tolist()

    place(500000)
    draw('road')
    assert count() == [[32, 0]]
    state = os.stat(labels)
    draw('lake')
    os.utime(labels, ns=(state.st_atime_ns, state.st_mtime_ns))  # an edited attribute changes the .dbf alone
    assert count() == [[0, 32]]
    place(500004)
    assert count() == [[0, 16]]
