import itertools
import json
import zipfile
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters.isprs import LABEL_OF_COLOUR, POTSDAM, VAIHINGEN, Conversion

COLOURS = np.array([colour for colour, _ in sorted(LABEL_OF_COLOUR.items(), key=lambda item: item[1])], np.uint8)
SMALL_POTSDAM = replace(POTSDAM, splits=dict(train=('2_10', '6_7'), val=('7_13',)))
SMALL_VAIHINGEN = replace(VAIHINGEN, splits=dict(train=('1', '11'), val=('2',)))
TOP, ERODED = 'ISPRS_semantic_labeling_Vaihingen/top', 'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE'

# Width and height of the areas in the published archive.
VAIHINGEN_SIZES = {
    1: (1919, 2569), 2: (2428, 2767), 3: (2006, 3007), 4: (1887, 2557), 5: (1887, 2557), 6: (1887, 2557),
    7: (1887, 2557), 8: (1887, 2557), 10: (1887, 2557), 11: (1893, 2566), 12: (1922, 2575), 13: (2818, 2558),
    14: (1919, 2565), 15: (1919, 2565), 16: (1919, 2565), 17: (2336, 1281), 20: (1866, 2315), 21: (1903, 2546),
    22: (1903, 2546), 23: (1903, 2546), 24: (1903, 2546), 26: (2995, 1783), 27: (1917, 3313), 28: (1917, 2567),
    29: (1917, 2563), 30: (1934, 2563), 31: (1980, 2555), 32: (1980, 2555), 33: (1581, 2555), 34: (1388, 2555),
    35: (2805, 1884), 37: (1996, 1995), 38: (3816, 2550),
}  # fmt: skip


def tile(write, root, image, labels, size=(70, 90), ids=None, seed=0):
    """An image and its coloured labels; returns the pixels and the ids."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    ids = rng.integers(0, 7, size) if ids is None else ids
    write(root / image, pixels)
    write(root / labels, COLOURS[ids])
    return pixels, ids


@pytest.fixture
def potsdam(tmp_path, write):
    """A small Potsdam, unpacked: pixels and ids by tile."""
    return tmp_path / 'potsdam', {
        name: tile(
            write,
            tmp_path / 'potsdam',
            f'3_Ortho_IRRG/top_potsdam_{name}_IRRG.tif',
            f'5_Labels_all_noBoundary/top_potsdam_{name}_label_noBoundary.tif',
            seed=seed,
        )
        for seed, name in enumerate(('2_10', '6_7', '7_13'))
    }


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob('*.png'))


def sparse(path, width, height):
    """A raster of a true size that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(
        driver='GTiff', count=3, dtype='uint8', sparse_ok=True, tiled=True, transform=Affine(2, 0, 0, 0, -2, 0)
    )
    with rasterio.open(path, 'w', width=width, height=height, **profile) as raster:
        raster.write(np.ones((3, 1, 1), np.uint8), window=Window(0, 0, 1, 1))  # one without any has lost its pixels


@pytest.mark.parametrize(('edge', 'train', 'val'), [('drop', 2904, 1694), ('shift', 24 * 144, 14 * 144)])
def test_published_clip_counts_of_potsdam(tmp_path, edge, train, val):
    for name in itertools.chain(*POTSDAM.splits.values()):
        sparse(tmp_path / f'in/top_potsdam_{name}_RGB.tif', 6000, 6000)
        sparse(tmp_path / f'in/top_potsdam_{name}_label_noBoundary.tif', 6000, 6000)
    conversion = Conversion(POTSDAM, tmp_path / 'in', tmp_path / 'out', bands='rgb', edge=edge)
    assert conversion.run(dry_run=True) == dict(train=train, val=val)
    assert not (tmp_path / 'out').exists()
    if edge == 'drop':
        names = list(map(str, conversion.plan()[0].clips))
        assert (names[0], names[10], names[-1]) == ('0_0_512_512', '5120_0_5632_512', '5120_5120_5632_5632')


@pytest.mark.parametrize(('edge', 'train', 'val'), [('drop', 1296, 440), ('shift', 1687, 567)])
def test_published_clip_counts_of_vaihingen(tmp_path, edge, train, val):
    for number, size in VAIHINGEN_SIZES.items():
        sparse(tmp_path / f'in/{TOP}/top_mosaic_09cm_area{number}.tif', *size)
        sparse(tmp_path / f'in/{ERODED}/top_mosaic_09cm_area{number}_noBoundary.tif', *size)
    counts = Conversion(VAIHINGEN, tmp_path / 'in', tmp_path / 'out', edge=edge).run(dry_run=True)
    assert counts == dict(train=train, val=val)


def test_published_splits():
    assert {split: len(names) for split, names in POTSDAM.splits.items()} == dict(train=24, val=14)
    assert {split: len(names) for split, names in VAIHINGEN.splits.items()} == dict(train=25, val=8)
    for archive in (POTSDAM, VAIHINGEN):
        names = list(itertools.chain(*archive.splits.values()))
        assert len(set(names)) == len(names)
    assert set(map(int, itertools.chain(*VAIHINGEN.splits.values()))) == set(VAIHINGEN_SIZES)


@pytest.mark.parametrize(
    ('archive', 'path', 'expected'),
    [
        (POTSDAM, 'top_potsdam_2_10_RGB.tif', ('rgb', '2_10')),
        (POTSDAM, 'x/top_potsdam_02_10_IRRG.TIF', ('irrg', '2_10')),
        (POTSDAM, 'top_potsdam_7_7_label.tif', ('full', '7_7')),
        (POTSDAM, 'top_potsdam_7_7_label_noBoundary.tif', ('eroded', '7_7')),
        (POTSDAM, 'top_potsdam_7_7_RGBIR.tif', None),
        (POTSDAM, 'top_potsdam_7_7_RGB.tfw', None),
        (POTSDAM, '._top_potsdam_7_7_RGB.tif', None),
        (VAIHINGEN, 'top/top_mosaic_09cm_area1.tif', ('irrg', '1')),
        (VAIHINGEN, 'gts_for_participants/top_mosaic_09cm_area1.tif', ('full', '1')),
        (VAIHINGEN, f'{ERODED}/top_mosaic_09cm_area38_noBoundary.tif', ('eroded', '38')),
        (VAIHINGEN, 'dsm/dsm_09cm_matching_area1.tif', None),
        (VAIHINGEN, 'top/top_mosaic_09cm_area1.tif.aux.xml', None),
    ],
)
def test_file_names(archive, path, expected):
    assert archive.classify(PurePosixPath(path)) == expected


@pytest.mark.parametrize('zipped', [False, True])
def test_potsdam_clips(tmp_path, potsdam, pack, zipped):
    root, tiles = potsdam
    if zipped:
        pack(root / '3_Ortho_IRRG', root / '3_Ortho_IRRG.zip', '3_Ortho_IRRG')
        pack(root / '5_Labels_all_noBoundary', root / '5_Labels_all_noBoundary.zip')
    out = tmp_path / 'out'
    counts = Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    assert counts == dict(train=8, val=4)
    corners = ['0_0_32_32', '0_32_32_64', '32_0_64_32', '32_32_64_64']
    expected = [f'{tile}_{corner}.png' for tile in ('2_10', '6_7') for corner in corners]
    assert files(out / 'img_dir/train') == files(out / 'ann_dir/train') == expected
    assert files(out / 'img_dir/val') == files(out / 'ann_dir/val') == [f'7_13_{corner}.png' for corner in corners]
    for split, name in (('train', '2_10'), ('train', '6_7'), ('val', '7_13')):
        pixels, ids = tiles[name]
        image, _ = read_image(out / f'img_dir/{split}/{name}_32_0_64_32.png')
        labels, _ = read_label_map(out / f'ann_dir/{split}/{name}_32_0_64_32.png')
        np.testing.assert_array_equal(image, pixels[:32, 32:64])
        np.testing.assert_array_equal(labels, ids[:32, 32:64])
        assert labels.dtype == np.uint8
    with open_raster(out / 'img_dir/val/7_13_32_0_64_32.png') as clip:
        assert (clip.transform.c, clip.transform.f) == pytest.approx((366676 + 32 * 0.05, 5808615))
        assert clip.crs.to_epsg() == 32633


@pytest.mark.parametrize('zipped', [False, True])
@pytest.mark.parametrize('kind', ['eroded', 'full'])
def test_vaihingen_clips(tmp_path, write, pack, kind, zipped):
    root, out = tmp_path / 'in', tmp_path / 'out'
    folder, suffix = (ERODED, '_noBoundary') if kind == 'eroded' else ('ISPRS_ground_truth_COMPLETE', '')
    tiles = {
        name: tile(
            write,
            root,
            f'{TOP}/top_mosaic_09cm_area{name}.tif',
            f'{folder}/top_mosaic_09cm_area{name}{suffix}.tif',
            seed=int(name),
        )
        for name in ('1', '11', '2')
    }
    if zipped:
        pack(root / TOP, root / 'ISPRS_semantic_labeling_Vaihingen.zip', 'top')
        pack(root / folder, root / f'{folder}.zip')
    conversion = Conversion(SMALL_VAIHINGEN, root, out, clip_size=32, edge='shift')
    assert conversion.run() == dict(train=40, val=20)
    assert conversion.labels == kind
    assert conversion.stride == 16
    assert files(out / 'ann_dir/val')[:3] == ['area2_0_0_32_32.png', 'area2_0_16_32_48.png', 'area2_0_32_32_64.png']
    for name, split in (('1', 'train'), ('11', 'train'), ('2', 'val')):
        clip = f'{split}/area{name}_58_38_90_70.png'
        np.testing.assert_array_equal(read_image(out / 'img_dir' / clip)[0], tiles[name][0][38:, 58:])
        np.testing.assert_array_equal(read_label_map(out / 'ann_dir' / clip)[0], tiles[name][1][38:, 58:])


def test_eroded_labels_go_before_full_ones_unless_told(tmp_path, potsdam, write):
    root, tiles = potsdam
    for name in tiles:
        write(root / f'5_Labels_all/top_potsdam_{name}_label.tif', COLOURS[np.ones((70, 90), int)])
    Conversion(SMALL_POTSDAM, root, tmp_path / 'a', clip_size=64).run()
    assert read_label_map(tmp_path / 'a/ann_dir/val/7_13_0_0_64_64.png')[0].max() == 6
    Conversion(SMALL_POTSDAM, root, tmp_path / 'b', clip_size=64, labels='full').run()
    assert (read_label_map(tmp_path / 'b/ann_dir/val/7_13_0_0_64_64.png')[0] == 1).all()


def test_workers_write_the_same(tmp_path, potsdam):
    root, _ = potsdam
    Conversion(SMALL_POTSDAM, root, tmp_path / 'a', clip_size=32).run(workers=1)
    Conversion(SMALL_POTSDAM, root, tmp_path / 'b', clip_size=32).run(workers=2)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    for name in files(tmp_path / 'a'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


@pytest.mark.parametrize('workers', [1, 2])
def test_unknown_colour(tmp_path, potsdam, write, workers):
    root, tiles = potsdam
    path = root / '5_Labels_all_noBoundary/top_potsdam_6_7_label_noBoundary.tif'
    image = COLOURS[tiles['6_7'][1]]
    image[:7, :9] = (252, 255, 0)
    write(path, image)
    with pytest.raises(
        ValueError,
        match=r'top_potsdam_6_7_label_noBoundary\.tif has colours that are no class: #FCFF00 '
        r'\(1 %, 3 away from #FFFF00\) of the pixels\. Expected: #000000, #FFFFFF, .*--tolerance N',
    ):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run(workers)
    Conversion(SMALL_POTSDAM, root, tmp_path / 'tolerant', clip_size=32, tolerance=3).run(workers)
    labels, _ = read_label_map(tmp_path / 'tolerant/ann_dir/train/6_7_0_0_32_32.png')
    assert (labels[:7, :9] == 5).all()


def test_missing_tiles_are_listed(tmp_path, potsdam):
    root, _ = potsdam
    (root / '3_Ortho_IRRG/top_potsdam_6_7_IRRG.tif').unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run()
    message = str(caught.value)
    assert 'lacks 1 of the tiles of Potsdam:\n  6_7: no irrg file' in message
    assert '3_Ortho_IRRG.zip' in message
    assert '--allow-missing' in message
    conversion = Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32, allow_missing=True)
    assert conversion.run() == dict(train=4, val=4)


def test_nothing_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere: no such folder; the files of Vaihingen were expected'):
        Conversion(VAIHINGEN, tmp_path / 'nowhere', tmp_path / 'out').plan()
    with zipfile.ZipFile(tmp_path / 'Vaihingen.zip', 'w') as file:
        file.writestr('ISPRS_semantic_labeling_Vaihingen.zip', b'')
    with pytest.raises(
        FileNotFoundError, match=r'lacks 33 of the tiles(.|\n)*Vaihingen\.zip holds further zip files: unpack'
    ):
        Conversion(VAIHINGEN, tmp_path, tmp_path / 'out', allow_missing=True).run()


def test_broken_zip(tmp_path):
    (tmp_path / '3_Ortho_IRRG.zip').write_bytes(b'PK\x03\x04 and then the connection broke')
    with pytest.raises(OSError, match=r'3_Ortho_IRRG\.zip is no whole zip file.*Download it again'):
        Conversion(POTSDAM, tmp_path, tmp_path / 'out').plan()


def test_image_and_labels_differ_in_size(tmp_path, potsdam, write):
    root, _ = potsdam
    write(root / '5_Labels_all_noBoundary/top_potsdam_6_7_label_noBoundary.tif', COLOURS[np.zeros((70, 91), int)])
    with pytest.raises(ValueError, match=r'6_7_IRRG\.tif has 90 x 70 pixels .*6_7_label_noBoundary\.tif have 91 x 70'):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run()


def test_tile_smaller_than_a_clip(tmp_path, potsdam):
    with pytest.raises(
        ValueError, match=r'2_10_IRRG\.tif has 90 x 70 pixels, less than a clip of 80.*smaller --clip-size'
    ):
        Conversion(SMALL_POTSDAM, potsdam[0], tmp_path / 'out', clip_size=80).run()


def test_a_second_run_writes_only_what_is_missing(tmp_path, potsdam):
    root, _ = potsdam
    out = tmp_path / 'out'
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    before = {name: (out / name).read_bytes() for name in files(out)}
    gone, cut = (out / f'{kind}/train/2_10_0_0_32_32.png' for kind in ('img_dir', 'ann_dir'))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:50])
    untouched = {name: (out / name).stat().st_mtime_ns for name in files(out) if '2_10_0_0_' not in name}
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    assert {name: (out / name).stat().st_mtime_ns for name in untouched} == untouched


def test_nothing_is_overwritten_unasked(tmp_path, potsdam):
    root, _ = potsdam
    out = tmp_path / 'out'
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    before = files(out)
    with pytest.raises(
        FileExistsError, match=r'holds a conversion with other settings .*clip_size was 32, is 64.*--overwrite'
    ):
        Conversion(SMALL_POTSDAM, root, out, clip_size=64).run()
    assert files(out) == before
    Conversion(SMALL_POTSDAM, root, out, clip_size=64).run(overwrite=True)
    assert files(out / 'img_dir/train') == ['2_10_0_0_64_64.png', '6_7_0_0_64_64.png']
    assert json.loads((out / 'conversion.json').read_text())['clip_size'] == 64
    (out / 'conversion.json').unlink()
    with pytest.raises(FileExistsError, match=r'that no converter of mmrs made'):
        Conversion(SMALL_POTSDAM, root, out, clip_size=64).run(overwrite=True)
    assert len(files(out)) == 6
