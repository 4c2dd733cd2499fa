"""Potsdam and Vaihingen, and what the conversions of all data sets of large images have in common."""

import itertools
import json
import zipfile
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest

from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters.isprs import LABEL_OF_COLOUR, POTSDAM, VAIHINGEN, Conversion
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.small_files import files_in

COLOURS = np.array(sorted(LABEL_OF_COLOUR, key=LABEL_OF_COLOUR.__getitem__), np.uint8)
SMALL_POTSDAM = replace(POTSDAM, splits=dict(train=('2_10', '6_7'), val=('7_13',)))
SMALL_VAIHINGEN = replace(VAIHINGEN, splits=dict(train=('1', '11'), val=('2',)))
TOP, ERODED = 'ISPRS_semantic_labeling_Vaihingen/top', 'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE'
FULL = 'ISPRS_ground_truth_COMPLETE'
IMAGE = '3_Ortho_IRRG/top_potsdam_{}_IRRG.tif'
LABELS = '5_Labels_all_noBoundary/top_potsdam_{}_label_noBoundary.tif'

# Width and height of the areas in the published archive.
VAIHINGEN_SIZES = {
    1: (1919, 2569), 2: (2428, 2767), 3: (2006, 3007), 4: (1887, 2557), 5: (1887, 2557), 6: (1887, 2557),
    7: (1887, 2557), 8: (1887, 2557), 10: (1887, 2557), 11: (1893, 2566), 12: (1922, 2575), 13: (2818, 2558),
    14: (1919, 2565), 15: (1919, 2565), 16: (1919, 2565), 17: (2336, 1281), 20: (1866, 2315), 21: (1903, 2546),
    22: (1903, 2546), 23: (1903, 2546), 24: (1903, 2546), 26: (2995, 1783), 27: (1917, 3313), 28: (1917, 2567),
    29: (1917, 2563), 30: (1934, 2563), 31: (1980, 2555), 32: (1980, 2555), 33: (1581, 2555), 34: (1388, 2555),
    35: (2805, 1884), 37: (1996, 1995), 38: (3816, 2550),
}  # fmt: skip


def make_tiles(write, root, names, image, labels):
    """Images and their coloured labels; returns pixels and ids by tile."""
    rng, tiles = np.random.default_rng(0), {}
    for name in names:
        tiles[name] = pixels, ids = rng.integers(0, 256, (70, 90, 3), np.uint8), rng.integers(0, 7, (70, 90))
        write(root / image.format(name), pixels)
        write(root / labels.format(name), COLOURS[ids])
    return tiles


@pytest.fixture
def potsdam(tmp_path, write):
    """A small Potsdam, unpacked: its folder, and pixels and ids by tile."""
    return tmp_path / 'potsdam', make_tiles(write, tmp_path / 'potsdam', ('2_10', '6_7', '7_13'), IMAGE, LABELS)


@pytest.mark.parametrize(
    ('options', 'train', 'val'),
    [({}, 2904, 1694), (dict(edge='shift'), 24 * 144, 14 * 144), (dict(split='standard'), 3456, 2016)],
)
def test_published_clip_counts_of_potsdam(tmp_path, sparse, options, train, val):
    for name in itertools.chain(*POTSDAM.splits.values()):
        sparse(tmp_path / f'in/top_potsdam_{name}_RGB.tif', 6000, 6000)
        sparse(tmp_path / f'in/top_potsdam_{name}_label_noBoundary.tif', 6000, 6000)
    conversion = Conversion(POTSDAM, tmp_path / 'in', tmp_path / 'out', bands='rgb', **options)
    assert conversion.run(dry_run=True) == dict(train=train, val=val)
    assert not (tmp_path / 'out').exists()
    if not options:
        names = list(map(str, conversion.plan()[0].clips))
        assert (names[0], names[10], names[-1]) == ('0_0_512_512', '5120_0_5632_512', '5120_5120_5632_5632')


@pytest.mark.parametrize(
    ('options', 'train', 'val'),
    [({}, 1296, 440), (dict(edge='shift'), 1687, 567), (dict(split='standard'), 344, 398)],
)
def test_published_clip_counts_of_vaihingen(tmp_path, sparse, options, train, val):
    for number, size in VAIHINGEN_SIZES.items():
        sparse(tmp_path / f'in/{TOP}/top_mosaic_09cm_area{number}.tif', *size)
        sparse(tmp_path / f'in/{ERODED}/top_mosaic_09cm_area{number}_noBoundary.tif', *size)
    conversion = Conversion(VAIHINGEN, tmp_path / 'in', tmp_path / 'out', **options)
    assert conversion.run(dry_run=True) == dict(train=train, val=val)
    if 'split' in options:
        # Clips of a tile of 1919 x 2569 px, by the sizes: rows and columns of 512 px, the last ones end at the edge.
        edges = [[(a, a + 512) for a in range(0, side - 512, 512)] + [(side - 512, side)] for side in (1919, 2569)]
        expected = {f'{x[0]}_{y[0]}_{x[1]}_{y[1]}' for x in edges[0] for y in edges[1]}
        assert set(map(str, conversion.plan()[0].clips)) == expected


def test_published_splits():
    potsdam, vaihingen = (list(itertools.chain(*archive.splits.values())) for archive in (POTSDAM, VAIHINGEN))
    assert {split: len(names) for split, names in POTSDAM.splits.items()} == dict(train=24, val=14)
    assert len(set(potsdam)) == len(potsdam)
    assert {split: len(names) for split, names in VAIHINGEN.splits.items()} == dict(train=25, val=8)
    assert sorted(map(int, vaihingen)) == sorted(VAIHINGEN_SIZES)
    standard = VAIHINGEN.standard().splits
    assert {split: len(names) for split, names in standard.items()} == dict(train=16, val=17)
    assert sorted(int(name) for names in standard.values() for name in names) == sorted(VAIHINGEN_SIZES)


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
    assert Conversion(SMALL_POTSDAM, root, out, clip_size=32).run() == dict(train=8, val=4)
    expected = [
        f'{split}/{tile}_{corner}.png'
        for split, tile in (('train', '2_10'), ('train', '6_7'), ('val', '7_13'))
        for corner in ('0_0_32_32', '0_32_32_64', '32_0_64_32', '32_32_64_64')
    ]
    assert files_in(out / 'img_dir') == files_in(out / 'ann_dir') == expected
    for split, name in (('train', '2_10'), ('train', '6_7'), ('val', '7_13')):
        pixels, ids = tiles[name]
        labels, _ = read_label_map(out / f'ann_dir/{split}/{name}_32_0_64_32.png')
        np.testing.assert_array_equal(labels, ids[:32, 32:64])
        assert labels.dtype == np.uint8
        with open_raster(out / f'img_dir/{split}/{name}_32_0_64_32.png') as clip:
            np.testing.assert_array_equal(clip.read(), pixels[:32, 32:64].transpose(2, 0, 1))
            assert (clip.transform.c, clip.transform.f) == pytest.approx((366676 + 32 * 0.05, 5808615))
            assert clip.crs.to_epsg() == 32633


@pytest.mark.parametrize(
    ('kind', 'folder', 'suffix', 'zipped'), [('eroded', ERODED, '_noBoundary', True), ('full', FULL, '', False)]
)
def test_vaihingen_clips(tmp_path, write, pack, kind, folder, suffix, zipped):
    root, out, stem = tmp_path / 'in', tmp_path / 'out', 'top_mosaic_09cm_area{}'
    tiles = make_tiles(write, root, ('1', '11', '2'), f'{TOP}/{stem}.tif', f'{folder}/{stem}{suffix}.tif')
    if zipped:
        # A zip file's name counts as a folder's.
        pack(root / TOP, root / 'ISPRS_semantic_labeling_Vaihingen.zip', 'top')
        pack(root / folder, root / f'{folder}.zip')
    conversion = Conversion(SMALL_VAIHINGEN, root, out, clip_size=32, edge='shift')
    assert conversion.run() == dict(train=40, val=20)
    assert (conversion.labels, conversion.stride) == (kind, 16)
    assert files_in(out / 'ann_dir/val')[:3] == [f'area2_0_{y}_32_{y + 32}.png' for y in (0, 16, 32)]
    for name, split in (('1', 'train'), ('11', 'train'), ('2', 'val')):
        clip = f'{split}/area{name}_58_38_90_70.png'
        np.testing.assert_array_equal(read_image(out / 'img_dir' / clip)[0], tiles[name][0][38:, 58:])
        np.testing.assert_array_equal(read_label_map(out / 'ann_dir' / clip)[0], tiles[name][1][38:, 58:])


def test_eroded_labels_go_before_full_ones_unless_told(tmp_path, potsdam, write):
    root, tiles = potsdam
    for name in tiles:
        write(root / f'5_Labels_all/top_potsdam_{name}_label.tif', COLOURS[np.ones((70, 90), int)])
    for labels, highest in ((None, 6), ('full', 1)):
        Conversion(SMALL_POTSDAM, root, tmp_path / str(labels), clip_size=64, labels=labels).run()
        assert read_label_map(tmp_path / f'{labels}/ann_dir/val/7_13_0_0_64_64.png')[0].max() == highest


def test_unknown_colour(tmp_path, potsdam, write):
    root, tiles = potsdam
    image = COLOURS[tiles['6_7'][1]]
    image[:7, :9] = (252, 255, 0)
    write(root / LABELS.format('6_7'), image)
    message = r'6_7_label_noBoundary\.tif .* #FCFF00 \(1 %, 3 away from #FFFF00\) .* #000000, #FFFFFF, .*--tolerance N'
    with pytest.raises(DataError, match=message):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run(workers=2)
    Conversion(SMALL_POTSDAM, root, tmp_path / 'tolerant', clip_size=32, tolerance=3).run(workers=1)
    labels, _ = read_label_map(tmp_path / 'tolerant/ann_dir/train/6_7_0_0_32_32.png')
    assert (labels[:7, :9] == 5).all()


def test_missing_tiles_are_listed(tmp_path, potsdam):
    root, _ = potsdam
    (root / IMAGE.format('6_7')).unlink()
    (root / LABELS.format('2_10')).unlink()
    with pytest.raises(DataError, match=r'2 .* Potsdam:\n  2_10: no eroded file\n  6_7: no irrg file\n') as caught:
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run()
    assert '3_Ortho_IRRG.zip' in str(caught.value)
    assert '--allow-missing' in str(caught.value)
    conversion = Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32, allow_missing=True)
    assert conversion.run() == dict(train=0, val=4)


def test_nothing_to_convert(tmp_path):
    def refused(source, message, archive=VAIHINGEN):
        with pytest.raises(DataError, match=message):
            Conversion(archive, source, tmp_path / 'out', allow_missing=True).plan()

    refused(tmp_path / 'nowhere', r'nowhere: no such folder.*Vaihingen')
    with zipfile.ZipFile(tmp_path / 'Vaihingen.zip', 'w') as file:
        file.writestr('ISPRS_semantic_labeling_Vaihingen.zip', b'')
    refused(tmp_path, r'lacks 33 of the tiles(.|\n)*Vaihingen\.zip holds further zip files: unpack')
    (tmp_path / '3_Ortho_IRRG.zip').write_bytes(b'PK\x03\x04 and then the connection broke')
    refused(tmp_path, r'3_Ortho_IRRG\.zip is no whole zip file', POTSDAM)


def test_sizes_that_do_not_fit(tmp_path, potsdam, write):
    root, _ = potsdam
    with pytest.raises(DataError, match=r'2_10_IRRG\.tif has 90 x 70 .* 80.*--clip-size'):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=80).run()
    write(root / LABELS.format('6_7'), COLOURS[np.zeros((70, 91), int)])
    with pytest.raises(DataError, match=r'6_7_IRRG\.tif has 90 x 70 pixels .*6_7_label_noBoundary\.tif have 91 x 70'):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', clip_size=32).run()


def test_a_second_run_writes_only_what_is_missing(tmp_path, potsdam):
    root, _ = potsdam
    out = tmp_path / 'out'
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    gone, cut = (out / f'{kind}/train/2_10_0_0_32_32.png' for kind in ('img_dir', 'ann_dir'))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:50])
    untouched = {name: (out / name).stat().st_mtime_ns for name in files_in(out, '.png') if '2_10_0_0_' not in name}
    # In any number of processes.
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run(workers=2)
    assert {name: (out / name).read_bytes() for name in files_in(out)} == before
    assert {name: (out / name).stat().st_mtime_ns for name in untouched} == untouched


def test_nothing_is_overwritten_unasked(tmp_path, potsdam):
    root, _ = potsdam
    out = tmp_path / 'out'
    Conversion(SMALL_POTSDAM, root, out, clip_size=32).run()
    before = files_in(out)
    with pytest.raises(OutputError, match=r'clip_size was 32, is 64.*--overwrite'):
        Conversion(SMALL_POTSDAM, root, out, clip_size=64).run()
    assert files_in(out) == before
    Conversion(SMALL_POTSDAM, root, out, clip_size=64).run(overwrite=True)
    assert files_in(out / 'img_dir/train') == ['2_10_0_0_64_64.png', '6_7_0_0_64_64.png']
    assert json.loads((out / 'conversion.json').read_text())['clip_size'] == 64
    (out / 'conversion.json').unlink()
    with pytest.raises(OutputError, match=r'no conversion\.json'):
        Conversion(SMALL_POTSDAM, root, out, clip_size=64).run(overwrite=True)
    assert len(files_in(out, '.png')) == 6


def test_a_folder_holds_one_split(tmp_path, potsdam):
    """The paper's is what conversions were that do not name any."""
    root, _ = potsdam
    for split in ('paper', 'standard'):
        conversion = Conversion(SMALL_POTSDAM, root, tmp_path / split, clip_size=32, split=split)
        conversion.run()
        settings = json.loads((tmp_path / split / 'conversion.json').read_text())
        assert (settings['stride'], settings['edge']) == (32, 'drop' if split == 'paper' else 'shift')
        assert ('split' in settings) == (split == 'standard')
    with pytest.raises(OutputError, match='split'):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'paper', clip_size=32, split='standard', edge='drop').run()
    with pytest.raises(ConfigError, match=r'split is .*paper, standard'):
        Conversion(SMALL_POTSDAM, root, tmp_path / 'out', split='mmseg')
