import errno
import json
import multiprocessing
import os
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from mmrs.geo.grids import RasterGrid
from mmrs.geo.label_maps import open_classes
from mmrs.geo.windows import partition
from mmrs.prediction.maps import EXTRA_LAYERS, map_layers
from mmrs.prediction.parts import PartStore
from mmrs.utils.errors import OutputError

CLASSES = ('roof', 'tree & <shrub>', 'straße')
PALETTE = ((255, 0, 0), (0, 128, 7), (1, 2, 3))
UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(0.1, 0, 366676.123456789, 0, -0.1, 5808615.987654321)


def grid_of(height, width, crs=UTM, transform=NORTH_UP):
    return RasterGrid(crs, transform, width, height)


def values_of(layer, height, width, seed=0):
    """Values that a layer may hold, in blobs of 8 x 8 pixels, and some without data."""
    rng = np.random.default_rng(seed)
    shape = len(layer.bands), -(-height // 8), -(-width // 8)
    coarse = rng.random(shape) if layer.dtype == 'float16' else rng.integers(0, 3 if layer.categorical else 255, shape)
    values = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width].astype(layer.dtype)
    values[:, height // 3 : height // 2, width // 4 : width // 2] = layer.nodata
    return values


def write_parts(store, values, windows, origin=(0, 0)):
    x, y = origin
    for x0, y0, x1, y1 in windows:
        store.write((x0 + x, y0 + y, x1 + x, y1 + y), {name: array[:, y0:y1, x0:x1] for name, array in values.items()})


def new_store(folder, extra=(), dtype='uint8', settings=None):
    store = PartStore(folder / '.map.parts', map_layers(CLASSES, PALETTE, extra, dtype))
    store.open(settings or {'window': 512}, resume=True)
    return store


def filled_store(folder, shape, size=(100, 150), extra=(), dtype='uint8', origin=(0, 0)):
    store = new_store(folder, extra, dtype)
    values = {layer.name: values_of(layer, *shape) for layer in store.layers}
    write_parts(store, values, partition(shape, size), origin)
    return store, values


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, **options) as raster:
            return raster.read()


# Finished rasters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['uint8', 'float16'])
def test_the_rasters_hold_what_was_written(tmp_path, dtype):
    shape = 520, 1030
    store, values = filled_store(tmp_path, shape, (130, 206), extra=EXTRA_LAYERS, dtype=dtype)
    tags = {'model': 'a', 'numbers': [1, 2.5, None], 'text': '<&">'}
    made = store.merge(grid_of(*shape), (0, 0), tmp_path / 'map.tif', tags)
    assert [path.name for path in made] == [
        'map.tif', 'map_probabilities.tif', 'map_confidence.tif', 'map_entropy.tif'
    ]  # fmt: skip
    for path, layer in zip(made, store.layers):
        np.testing.assert_array_equal(read(path).astype(layer.dtype), values[layer.name])
        with rasterio.open(path) as raster:
            found = raster.tags()
            assert json.loads(found['CLASSES']) == list(CLASSES)
            assert (found['model'], json.loads(found['numbers']), found['text']) == ('a', [1, 2.5, None], '<&">')
            assert raster.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            assert raster.block_shapes == [(512, 512)] * raster.count
            assert raster.overviews(1) == [2, 4]
            assert raster.compression.name == 'deflate'
            assert raster.descriptions == layer.bands
            np.testing.assert_equal(raster.nodatavals, (layer.nodata,) * raster.count)
            assert raster.scales == (layer.scale,) * raster.count
            stored = 'float32' if layer.dtype == 'float16' else 'uint8'
            assert raster.dtypes == (stored,) * raster.count
            bits = raster.tags(1, ns='IMAGE_STRUCTURE').get('NBITS')
            assert bits == ('16' if layer.dtype == 'float16' else None)
    assert open_classes(made[0]) == (list(CLASSES), list(PALETTE))
    sidecar = Path(f'{made[0]}.aux.xml').read_text(encoding='utf-8')
    assert all(f'<Category>{name}</Category>' in sidecar for name in ('roof', 'tree &amp; &lt;shrub&gt;', 'straße'))
    store.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(path.name for path in made), 'map.tif.aux.xml']
    )


def test_overviews_show_the_most_frequent_class_and_the_mean_without_the_pixels_that_have_no_data(tmp_path):
    store = new_store(tmp_path, ['confidence'])
    labels, confidence = (np.zeros((1, 600, 600), np.uint8) for _ in range(2))
    labels[0, ::2, ::2] = 2  # three of four are 0
    labels[0, :2, :2] = [[255, 255], [255, 1]]
    labels[0, 2:4, :2] = 255
    confidence[0, ::2, ::2] = 100
    confidence[0, :2, :2] = [[255, 20], [40, 255]]
    write_parts(store, {'labels': labels, 'confidence': confidence}, partition((600, 600), (101, 600)))
    made = store.merge(grid_of(600, 600), (0, 0), tmp_path / 'map.tif')
    labels, confidence = (read(path, overview_level=0)[0] for path in made)
    assert labels.shape == (300, 300)
    assert labels[:3, 0].tolist() == [1, 255, 0]
    assert (labels[2:] == 0).all()
    assert confidence[0, 0] == 30
    assert (confidence[1:] == 25).all()


def test_bytes_do_not_depend_on_the_parts_nor_on_the_threads(tmp_path, monkeypatch):
    copy = rasterio.shutil.copy
    shape = 600, 900
    contents = []
    for size, threads in [((600, 900), 1), ((77, 301), 3), ((600, 13), 2)]:
        monkeypatch.setattr(
            rasterio.shutil, 'copy', lambda *paths, n=threads, **options: copy(*paths, **{**options, 'num_threads': n})
        )
        store, _ = filled_store(tmp_path / str(threads), shape, size, ['probabilities'])
        made = store.merge(grid_of(*shape), (0, 0), tmp_path / str(threads) / 'map.tif')
        contents.append([path.read_bytes() for path in made])
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize(
    ('crs', 'transform'),
    [
        (UTM, NORTH_UP),
        (UTM, Affine(0.07, 0.03, 366676.1, 0.03, -0.07, 5808615.9)),
        (UTM, Affine(0.1, 0, 366676.1, 0, 0.1, 5808615.9)),
        (CRS.from_epsg(4326), Affine(1 / 3600, 0, 13.1, 0, -1 / 3600, 52.7)),
        (CRS.from_epsg(4326), Affine(0.01, 0, 179.5, 0, -0.01, 10)),
        (CRS.from_epsg(3857), Affine(0.1 + 0.2, 0, 1e7 / 3, 0, -0.3, 1e6 / 7)),
        (CRS.from_epsg(2193), Affine(1, 0, 1.5e6, 0, -1, 5e6)),  # axes: north, east
        (CRS.from_string('+proj=laea +lat_0=1 +lon_0=2 +x_0=3 +datum=WGS84'), Affine(1, 0, 5, 0, -1, 6)),
        (CRS.from_epsg(7415), Affine(1, 0, 1e5, 0, -1, 4e5)),  # with heights
        (None, Affine(0.1, 0, 366676.1, 0, -0.1, 5808615.9)),
        (None, Affine.identity()),
        (UTM, Affine.identity()),
    ],
)
def test_the_place_is_exact(tmp_path, crs, transform):
    shape = 30, 70
    grid = grid_of(*shape, crs, transform)
    store, values = filled_store(tmp_path, shape)
    (path,) = store.merge(grid, (0, 0), tmp_path / 'map.tif')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            assert raster.crs == crs
            assert raster.transform == transform
            if not transform.b:
                a, _, c, _, e, f = tuple(transform)[:6]
                assert tuple(raster.bounds) == (c, f + e * shape[0], c + a * shape[1], f)
            assert RasterGrid.of(raster) == grid
    np.testing.assert_array_equal(read(path), values['labels'])


@pytest.mark.parametrize('origin', [(0, 0), (1000, 300)])
@pytest.mark.parametrize('shape', [(1, 1), (1, 1300), (1300, 1), (512, 512), (513, 1025)])
def test_odd_sizes_of_a_raster_and_of_a_part_of_it(tmp_path, shape, origin):
    store, values = filled_store(tmp_path, shape, (512, 512), ['probabilities'], origin=origin)
    x, y = origin
    grid = grid_of(2000, 3000).window((x, y, x + shape[1], y + shape[0]))
    made = store.merge(grid, origin, tmp_path / 'map.tif')
    for path, name in zip(made, ('labels', 'probabilities')):
        np.testing.assert_array_equal(read(path), values[name])
        with rasterio.open(path) as raster:
            assert RasterGrid.of(raster) == grid


def test_more_parts_than_files_may_be_open(tmp_path):
    shape = 72, 128
    windows = partition(shape, (4, 4))
    assert len(windows) == 576
    store = new_store(tmp_path)
    values = {'labels': values_of(store.layers[0], *shape)}
    write_parts(store, values, windows)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = len(os.listdir('/proc/self/fd')) + 200 if os.path.isdir('/proc/self/fd') else 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, limits[1]), limits[1]))
    try:
        (path,) = store.merge(grid_of(*shape), (0, 0), tmp_path / 'map.tif')
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    np.testing.assert_array_equal(read(path), values['labels'])


# Parts ---------------------------------------------------------------------------------------------------------------


def test_finished_parts_are_whole_in_all_layers(tmp_path):
    store = new_store(tmp_path, ['confidence'])
    assert store.finished() == set()
    windows = partition((64, 64), (16, 64))
    values = {layer.name: values_of(layer, 64, 64) for layer in store.layers}
    write_parts(store, values, windows)
    assert store.finished() == set(windows)
    cut, lacking, foreign, damaged = (
        store.folder / f'{"_".join(map(str, window))}_{name}.tif'
        for window, name in zip(windows, ['confidence', 'confidence', 'labels', 'labels'])
    )
    for size in range(cut.stat().st_size - 1, 0, -97):
        os.truncate(cut, size)
        assert windows[0] not in store.finished()
    lacking.unlink()
    foreign.write_bytes(b'II*\0')
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert store.finished() == set()
    write_parts(store, values, windows)
    assert store.finished() == set(windows)


def test_resume_keeps_the_parts_and_a_fresh_start_removes_them(tmp_path):
    store, _ = filled_store(tmp_path, (20, 20))
    settings = {'window': 512, 'nodata': float('nan'), 'bands': (1, 2)}
    store.open(settings, resume=False)
    assert store.finished() == set()
    write_parts(store, {'labels': np.zeros((1, 5, 5), np.uint8)}, [(0, 0, 5, 5)])
    again = PartStore(store.folder, store.layers)
    again.open(settings, resume=True)
    assert again.finished() == {(0, 0, 5, 5)}
    changed = {**settings, 'window': '256', 'bands': [1, 3]}
    assert again.differences(changed) == ['bands.1 was 2, is 3', "window was 512, is '256'"]
    other = PartStore(store.folder, map_layers(CLASSES, PALETTE, ['entropy'], 'float16'))
    assert "layers.entropy.0 was None, is 'float16'" in other.differences(settings)
    assert again.finished() == {(0, 0, 5, 5)}
    again.open(changed, resume=True)
    assert again.finished() == set()
    for damage in (lambda path: path.write_text('{'), Path.unlink):  # as after a stop while the folder was removed
        write_parts(store, {'labels': np.zeros((1, 5, 5), np.uint8)}, [(0, 0, 5, 5)])
        damage(store.folder / 'settings.json')
        (reason,) = again.differences(changed)
        assert 'settings.json' in reason
        again.open(changed, resume=True)
        assert again.finished() == set()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    store = PartStore(tmp_path / 'file' / '.map.parts', map_layers(CLASSES, PALETTE))
    with pytest.raises(OutputError, match=r'file/\.map\.parts cannot be .*Not a directory'):
        store.open({}, resume=True)


# What goes wrong -----------------------------------------------------------------------------------------------------


def finals(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != '.map.parts')


def leftovers(store):
    return [path.name for path in store.folder.iterdir() if path.name.startswith(('merged', '.'))]


def test_missing_parts(tmp_path, monkeypatch):
    store, _ = filled_store(tmp_path, (60, 90), (20, 30), origin=(7, 5))
    there = store.finished()
    (store.folder / '37_25_67_45_labels.tif').unlink()
    with pytest.raises(OutputError, match=r'8 parts, but not all pixels: there is none for x 37 to 67, y 25 to 45'):
        store.merge(grid_of(60, 90), (7, 5), tmp_path / 'map.tif')
    monkeypatch.setattr(store, 'finished', lambda: there)  # it vanishes in the meantime
    with pytest.raises(OutputError, match=r'map\.tif cannot be written: .*37_25_67_45_labels\.tif'):
        store.merge(grid_of(60, 90), (7, 5), tmp_path / 'map.tif')
    assert finals(tmp_path) == []


@pytest.mark.parametrize('window', [(10, 10, 40, 40), (80, 0, 100, 20), (-5, 0, 5, 20)])
def test_parts_that_do_not_belong_together(tmp_path, window):
    store, _ = filled_store(tmp_path, (60, 90), (20, 30), origin=(10, 10))
    x0, y0, x1, y1 = window
    store.write((x0 + 10, y0 + 10, x1 + 10, y1 + 10), {'labels': np.zeros((1, y1 - y0, x1 - x0), np.uint8)})
    with pytest.raises(OutputError, match='do not belong together'):
        store.merge(grid_of(60, 90), (10, 10), tmp_path / 'map.tif')


def test_nothing_is_overwritten_unasked(tmp_path):
    store, _ = filled_store(tmp_path, (20, 20), extra=['confidence'])
    other, sidecar = tmp_path / 'map_confidence.tif', tmp_path / 'map_confidence.tif.aux.xml'
    other.write_text('mine')
    sidecar.write_text('statistics of mine')
    with pytest.raises(OutputError, match=r'map_confidence\.tif exists already'):
        store.merge(grid_of(20, 20), (0, 0), tmp_path / 'map.tif')
    assert finals(tmp_path) == [other.name, sidecar.name]
    assert other.read_text() == 'mine'
    store.merge(grid_of(20, 20), (0, 0), tmp_path / 'map.tif', overwrite=True)
    assert finals(tmp_path) == ['map.tif', 'map.tif.aux.xml', 'map_confidence.tif']


def test_a_full_disk_while_a_part_is_written(tmp_path, monkeypatch):
    store = new_store(tmp_path, ['confidence'])
    write_bytes = Path.write_bytes

    def full(path, data):
        if 'confidence' not in path.name:
            return write_bytes(path, data)
        write_bytes(path, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OutputError, match=r'0_0_9_9_confidence\.tif cannot be written: No space left on device'):
        store.write((0, 0, 9, 9), {layer.name: np.zeros((1, 9, 9), np.uint8) for layer in store.layers})
    assert leftovers(store) == []
    assert store.finished() == set()


@pytest.mark.parametrize('share', [0.001, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_a_full_disk_while_the_rasters_are_merged(tmp_path, share):
    shape = 1030, 700
    store = new_store(tmp_path, ['confidence'])
    # Larger than anything else that is written.
    noise = np.random.default_rng(0).integers(0, 254, (1, *shape), np.uint8)
    write_parts(store, {'labels': noise // 100, 'confidence': noise}, partition(shape, (200, 700)))
    made = store.merge(grid_of(*shape), (0, 0), tmp_path / 'map.tif')
    expected = [path.read_bytes() for path in made]
    for path in tmp_path.glob('map*'):
        path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(expected[1])), limits[1]))
    try:
        with pytest.raises(OutputError, match=r'map\w*\.tif cannot be written: .*continue with --resume') as raised:
            store.merge(grid_of(*shape), (0, 0), tmp_path / 'map.tif')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large' in str(raised.value) or 'MiB are free' in str(raised.value)
    assert finals(tmp_path) == []
    assert leftovers(store) == []
    store.merge(grid_of(*shape), (0, 0), tmp_path / 'map.tif')
    assert [path.read_bytes() for path in made] == expected


def test_a_raster_that_gdal_left_incomplete_without_a_word(tmp_path, monkeypatch):
    copy = rasterio.shutil.copy

    def cutting(source, target, **options):
        copy(source, target, **options)
        os.truncate(target, target.stat().st_size - 10)

    store, _ = filled_store(tmp_path, (600, 600))
    monkeypatch.setattr(rasterio.shutil, 'copy', cutting)
    with pytest.raises(OutputError, match=r'map\.tif cannot be written: it is not complete'):
        store.merge(grid_of(600, 600), (0, 0), tmp_path / 'map.tif')
    assert finals(tmp_path) == []


@pytest.mark.parametrize('failing', range(3))
def test_an_unwritable_folder_leaves_nothing_under_a_final_name(tmp_path, monkeypatch, failing):
    store, _ = filled_store(tmp_path, (20, 20), extra=['confidence'])
    replace, calls = os.replace, []

    def refused(source, target):
        if Path(target).parent == tmp_path:
            calls.append(target)
            if len(calls) == failing + 1:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', refused)
    with pytest.raises(OutputError, match=r'map\w*\.tif cannot be written: Permission denied'):
        store.merge(grid_of(20, 20), (0, 0), tmp_path / 'map.tif')
    assert len(calls) == failing + 1
    assert finals(tmp_path) == []
    assert leftovers(store) == []


def test_killed_while_the_rasters_are_merged(tmp_path):
    shape = 520, 1030
    store, _ = filled_store(tmp_path, shape, extra=['confidence'])
    made = [tmp_path / 'map.tif', tmp_path / 'map_confidence.tif']
    start = time.perf_counter()
    store.merge(grid_of(*shape), (0, 0), made[0])
    needed = time.perf_counter() - start
    expected = [path.read_bytes() for path in made]
    (store.folder / 'moving').unlink()
    fork = multiprocessing.get_context('fork')
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        for path in tmp_path.glob('map*'):
            path.unlink()
        process = fork.Process(target=store.merge, args=(grid_of(*shape), (0, 0), made[0]))
        process.start()
        time.sleep(share * needed)
        process.kill()
        process.join()
        for path, content in zip(made, expected):
            assert not path.exists() or path.read_bytes() == content
        if made[0].exists():
            assert made[1].exists()
        store.open({'window': 512}, resume=True)
        store.merge(grid_of(*shape), (0, 0), made[0])
        assert [path.read_bytes() for path in made] == expected
        assert leftovers(store) == []
        (store.folder / 'moving').unlink()


def test_a_stop_between_the_last_steps_is_no_obstacle(tmp_path, monkeypatch):
    store, values = filled_store(tmp_path, (20, 20), extra=['confidence'])
    replace = os.replace

    def stopped(source, target):
        if Path(target).name == 'map.tif':
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', stopped)
        with pytest.raises(KeyboardInterrupt):
            store.merge(grid_of(20, 20), (0, 0), tmp_path / 'map.tif')
    assert finals(tmp_path) == ['map.tif.aux.xml', 'map_confidence.tif']
    store.merge(grid_of(20, 20), (0, 0), tmp_path / 'map.tif')
    np.testing.assert_array_equal(read(tmp_path / 'map.tif'), values['labels'])
