import re
from pathlib import PurePosixPath

import numpy as np
import pytest
from rasterio.transform import Affine

from mmrs.datasets.landcovernet import LandCoverNetDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations
from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters.archives import Member
from mmrs.preparation.converters.landcovernet import LandCoverNetConversion, classify, read_dates
from mmrs.preparation.converters.splits import FixedSplits, SplitLists
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.small_files import files_in

BANDS = ('B02', 'B03', 'B04', 'B08')
DATES = ('20180105', '20180214', '20181231')
CHIPS = ('35JNN_00', '35JNN_17', '35JQG_00', '35LMC_29')
SPLITS = FixedSplits(dict(train=('35JNN', '35JQG'), val=('35LMC',)))
SIZE = 24

# Where the files of a chip are: labels, table of dates, and a band.
LAYOUTS = {
    'chips': (
        '{tile}/{number}/S2/{chip}_2018_LC_10m.tif',
        '{tile}/{number}/S2/{chip}_labeling_dates.csv',
        '{tile}/{number}/S2/{chip}_{date}/{chip}_{date}_{band}_10m.tif',
    ),
    'archives': (
        'ref_landcovernet_v1_labels/ref_landcovernet_v1_labels_{chip}/labels.tif',
        'ref_landcovernet_v1_labels/ref_landcovernet_v1_labels_{chip}/source_dates.csv',
        'ref_landcovernet_v1_source/ref_landcovernet_v1_source_{chip}_{date}/{band}.tif',
    ),
    'continents': (
        'ref_landcovernet_af_v1_labels/ref_landcovernet_af_v1_labels_{chip}/labels.tif',
        'ref_landcovernet_af_v1_labels/ref_landcovernet_af_v1_labels_{chip}/source_dates.csv',
        'ref_landcovernet_af_v1_source_sentinel_2/ref_landcovernet_af_v1_source_sentinel_2_{chip}_{date}/{band}.tif',
    ),
    'single files': (
        'ref_landcovernet_v1_labels_{chip}/labels/{chip}_2018_LC_10m.tif',
        'ref_landcovernet_v1_labels_{chip}/labels/{chip}_labeling_dates.csv',
        'ref_landcovernet_v1_labels_{chip}/source/{chip}_{date}_{band}_10m.tif',
    ),
}


@pytest.fixture
def landcovernet(tmp_path, write, rng):
    """Makes four chips of three tiles with three dates, of which the table of dates names the last two.

    Returns the folder, the path of any file, and bands `(4, H, W)` by image and ids and scores `(2, H, W)` by chip.
    """

    def make(layout='chips', chips=CHIPS):
        root, images, labels = tmp_path / 'LandCoverNet', {}, {}
        patterns = dict(zip(('labels', 'dates', 'band'), LAYOUTS[layout]))

        def path(kind, chip, date='', band=''):
            tile, number = chip.split('_')
            return root / patterns[kind].format(tile=tile, number=number, chip=chip, date=date, band=band)

        for i, chip in enumerate(chips):
            where = dict(crs='EPSG:32735', transform=Affine(10, 0, 600000 + 10 * SIZE * i, 0, -10, 7000000))
            labels[chip] = np.stack([rng.integers(0, 8, (SIZE, SIZE)), rng.integers(0, 101, (SIZE, SIZE))])
            write(path('labels', chip), labels[chip].transpose(1, 2, 0).astype(np.uint8), **where)
            rows = [f',{chip[:5]}', *(f'{j},{date}' for j, date in enumerate(DATES[1:]))]
            path('dates', chip).write_text('\n'.join(rows) + '\n')
            for date in DATES:
                scale = np.array([400, 500, 900, 2500])[:, None, None] * (1 + i)
                images[f'{chip}_{date}'] = bands = (rng.gamma(3, 0.4, (4, SIZE, SIZE)) * scale + 1).astype(np.uint16)
                for band, pixels in zip(BANDS, bands):
                    write(path('band', chip, date, band), pixels, **where)
        return root, path, images, labels

    return make


def convert(root, out, **options):
    return LandCoverNetConversion(root, out, **{'splits': SPLITS, **options}).run()


def stretched(image, low, high):
    """Red, green and blue `(H, W, 3)` of all bands, between two values, to 0 to 255."""
    return ((image[2::-1].transpose(1, 2, 0).astype(np.float64) - low) / (np.subtract(high, low)) * 255).clip(0, 255)


EXPECTED = [
    f'{split}/{chip}_{date}_RGB.png'
    for split, chips in (('train', CHIPS[:3]), ('val', CHIPS[3:]))
    for chip in chips
    for date in DATES[1:]
]


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('35JNN/00/S2/35JNN_00_2018_LC_10m.tif', ('labels', '35JNN_00')),
        ('35JNN/00/35JNN_00_labeling_dates.csv', ('dates', '35JNN_00')),
        ('35JNN_00_20180105/35JNN_00_20180105_B8A_10m.tif', ('B8A', '35JNN_00_20180105')),
        ('35JNN/00/S2/35JNN_00_2018_LC_10m.TIF', ('labels', '35JNN_00')),
        ('35JNN/00/35JNN_00_labeling_dates.CSV', ('dates', '35JNN_00')),
        ('ref_landcovernet_v1_source_35JNN_00_20180105/B04.TIFF', ('B04', '35JNN_00_20180105')),
        ('35JNN/00/S2/35JNN_00_20180105/35JNN_00_20180105_SCL_10m.tif', None),
        ('35JNN/00/L8/35JNN_00_20180105/35JNN_00_20180105_B04_10m.tif', None),
        ('ref_landcovernet_af_v1_source_landsat_8_35JNN_00_20180105/B04.tif', None),
        ('ref_landcovernet_v1_source_35JNN_00_20180105/CLD.tif', None),
        ('elsewhere/labels.tif', None),
        ('elsewhere/source_dates.csv', None),
    ],
)
def test_file_names(path, expected):
    assert classify(PurePosixPath('/data') / path) == expected


@pytest.mark.parametrize(('layout', 'zipped'), zip(LAYOUTS, (False, True, False, True)))
def test_images_of_the_labelling_dates(tmp_path, landcovernet, pack, layout, zipped):
    root, _, images, labels = landcovernet(layout)
    if zipped:
        pack(root, root / 'LandCoverNet.zip')
    out = tmp_path / 'out'
    assert convert(root, out) == dict(train=6, val=2)
    assert files_in(out / 'img_dir') == files_in(out / 'ann_dir') == EXPECTED
    for name in EXPECTED:
        stem = PurePosixPath(name).stem.removesuffix('_RGB')
        pixels, valid = read_image(out / 'img_dir' / name)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels - stretched(images[stem], 0, 3000)).max() <= 0.5001
        assert valid is None
        ids, _ = read_label_map(out / 'ann_dir' / name)
        np.testing.assert_array_equal(ids, labels[stem[:8]][0])
    with open_raster(out / 'img_dir' / EXPECTED[-1]) as raster:
        assert raster.crs.to_epsg() == 32735
        assert (raster.transform.c, raster.transform.f) == (600000 + 30 * SIZE, 7000000)


@pytest.mark.parametrize(('scaling', 'shares'), [('percentile', (2, 98)), ('image', (0, 100))])
def test_bounds_of_the_tile_or_the_image(tmp_path, landcovernet, scaling, shares):
    root, _, images, _ = landcovernet()
    convert(root, tmp_path / 'out', scaling=scaling)
    for name in EXPECTED:
        stem = PurePosixPath(name).stem.removesuffix('_RGB')
        # Of a tile: both chips and the chosen dates, not the first one.
        tile = [other for other in images if other[:5] == stem[:5] and not other.endswith(DATES[0])]
        own = tile if scaling == 'percentile' else [stem]
        values = np.concatenate([images[other][2::-1].reshape(3, -1) for other in own], axis=1).astype(np.float64)
        low, high = np.percentile(values, shares, axis=1, method='inverted_cdf')
        pixels, _ = read_image(tmp_path / 'out/img_dir' / name)
        assert np.abs(pixels - stretched(images[stem], low, high)).max() <= 0.5001


def test_second_runs(tmp_path, landcovernet):
    root, _, _, _ = landcovernet(chips=CHIPS[1:])
    for scaling in ('percentile', 'reflectance'):
        out = tmp_path / scaling
        assert convert(root, out, scaling=scaling) == dict(train=4, val=2)
        before = {name: (out / 'img_dir' / name).read_bytes() for name in files_in(out / 'img_dir')}
        (out / 'img_dir' / EXPECTED[2]).unlink()
        (out / 'ann_dir' / EXPECTED[-1]).unlink()
        LandCoverNetConversion(root, out, scaling=scaling, splits=SPLITS).run(workers=2)
        assert {name: (out / 'img_dir' / name).read_bytes() for name in files_in(out / 'img_dir')} == before
        assert files_in(out / 'ann_dir') == EXPECTED[2:]
    with pytest.raises(OutputError, match=r'bounds\.1 was None, is 3000'):
        convert(root, tmp_path / 'percentile')
    landcovernet()
    # The first chips of the tile are stretched without those that have come.
    with pytest.raises(OutputError, match=r'samples\.train was 4, is 6'):
        convert(root, tmp_path / 'percentile', scaling='percentile')
    assert convert(root, tmp_path / 'reflectance') == dict(train=6, val=2)
    assert files_in(tmp_path / 'reflectance/img_dir') == EXPECTED


def test_sixteen_bits_and_four_bands(tmp_path, landcovernet):
    root, _, images, _ = landcovernet()
    out = tmp_path / 'out'
    convert(root, out, scaling='none', bands=('B04', 'B03', 'B02', 'B08'))
    names = [name.replace('_RGB.png', '.tif') for name in EXPECTED]
    assert files_in(out / 'img_dir') == names
    for name in names:
        with open_raster(out / 'img_dir' / name) as raster:
            assert raster.dtypes == ('uint16',) * 4
            assert raster.nodata == 0
            assert raster.crs.to_epsg() == 32735
            np.testing.assert_array_equal(raster.read(), images[PurePosixPath(name).stem][[2, 1, 0, 3]])
    convert(root, tmp_path / 'eight', bands=('B04', 'B03', 'B02', 'B08'), bounds=(200, 1200))
    pixels, _ = read_image(tmp_path / 'eight/img_dir' / names[0])
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 4), np.uint8)
    assert np.abs(pixels[..., :3] - stretched(images['35JNN_00_20180214'], 200, 1200)).max() <= 0.5001


@pytest.mark.parametrize('scaling', ['reflectance', 'percentile', 'image', 'none'])
def test_pixels_without_data_are_ignored_and_declared(tmp_path, landcovernet, write, scaling):
    root, path, images, labels = landcovernet()
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[3:9, :7] = True
    for band, pixels in zip(BANDS, images['35JNN_00_20180214']):
        write(path('band', '35JNN_00', '20180214', band), np.where(hidden, 0, pixels).astype(np.uint16), crs=None)
    dark = np.zeros((SIZE, SIZE), np.uint16)
    for band in BANDS:
        write(path('band', '35LMC_29', '20180214', band), dark, crs=None)  # all of an image
    write(path('band', '35JNN_17', '20180214', 'B03'), dark, crs=None)  # one band alone
    out = tmp_path / 'out'
    convert(root, out, scaling=scaling)
    suffix = 'tif' if scaling == 'none' else 'png'
    pixels, valid = read_image(out / f'img_dir/train/35JNN_00_20180214_RGB.{suffix}')
    np.testing.assert_array_equal(valid, ~hidden)
    ids, _ = read_label_map(out / 'ann_dir/train/35JNN_00_20180214_RGB.png')
    np.testing.assert_array_equal(ids, np.where(hidden, 0, labels['35JNN_00'][0]))
    # The same chip at another date is whole, and so is the other chip.
    for name in ('35JNN_00_20181231', '35JNN_17_20180214'):
        assert read_image(out / f'img_dir/train/{name}_RGB.{suffix}')[1] is None
        ids, _ = read_label_map(out / f'ann_dir/train/{name}_RGB.png')
        np.testing.assert_array_equal(ids, labels[name[:8]][0])
    if scaling == 'image':
        shown = images['35JNN_00_20180214'][2][~hidden].astype(np.float64)
        expected = ((shown - shown.min()) / (shown.max() - shown.min()) * 255).clip(1)
        assert np.abs(pixels[..., 0][~hidden] - expected).max() <= 0.5001
        assert not read_image(out / 'img_dir/val/35LMC_29_20180214_RGB.png')[1].any()
        assert not read_label_map(out / 'ann_dir/val/35LMC_29_20180214_RGB.png')[0].any()


def test_low_consensus_is_ignored(tmp_path, landcovernet):
    root, _, _, labels = landcovernet()
    convert(root, tmp_path / 'out', min_consensus=60)
    ids, scores = labels['35JQG_00']
    read, _ = read_label_map(tmp_path / 'out/ann_dir/train/35JQG_00_20180214_RGB.png')
    np.testing.assert_array_equal(read, np.where(scores < 60, 0, ids))
    assert (scores < 60).any()


def test_two_dates_are_pairs(tmp_path, landcovernet):
    root, _, images, labels = landcovernet()
    # 20180105 is not in the tables of dates; 20180214 is 40 days from there.
    for wanted, found in (('20180105', '20180214'), ('20181220', '20181231')):
        out = tmp_path / wanted
        assert convert(root, out, date=wanted) == dict(train=3, val=1)
        splits = ('train', 'train', 'train', 'val')
        assert files_in(out / 'img_dir') == [f'{split}/{chip}_RGB.png' for split, chip in zip(splits, CHIPS)]
        for split, chip in zip(splits, CHIPS):
            pixels, _ = read_image(out / f'img_dir/{split}/{chip}_RGB.png')
            assert np.abs(pixels - stretched(images[f'{chip}_{found}'], 0, 3000)).max() <= 0.5001
            np.testing.assert_array_equal(read_label_map(out / f'ann_dir/{split}/{chip}_RGB.png')[0], labels[chip][0])
    with pytest.raises(OutputError, match=r"\(date was '20180105', is '20180201'\)"):
        convert(root, tmp_path / '20180105', date='20180201')


def test_no_image_near_the_date(tmp_path, landcovernet):
    root, path, _, _ = landcovernet()
    path('dates', '35JNN_17').write_text('0,20180214\n')
    with pytest.raises(DataError, match=r'35JNN_17: no image within 30 days of 20181220; nearest: 20180214'):
        convert(root, tmp_path / 'out', date='20181220', max_days=30)
    assert convert(root, tmp_path / 'out', date='20181220', max_days=30, allow_missing=True) == dict(train=2, val=1)
    conversion = LandCoverNetConversion(root, tmp_path / 'out', date='20180215')
    # As near in both directions: the earlier one.
    assert conversion._choose('35JNN_17', ['20180220', '20180210']) == [('20180210', '35JNN_17')]


def test_published_lists(tmp_path, landcovernet):
    # Images of other chips may be missing: the lists say what is needed.
    root, path, _, _ = landcovernet()
    path('band', '35JNN_17', '20181231', 'B04').unlink()
    (tmp_path / 'train.txt').write_text('35JNN_00_20180214_RGB\n35LMC_29_20180214\n')
    (tmp_path / 'val.txt').write_text('35JNN_00_20181231_RGB.png\n')
    splits = SplitLists(dict(train=tmp_path / 'train.txt', val=tmp_path / 'val.txt'))
    assert convert(root, tmp_path / 'out', splits=splits) == dict(train=2, val=1)
    assert files_in(tmp_path / 'out/img_dir') == [
        'train/35JNN_00_20180214_RGB.png',
        'train/35LMC_29_20180214_RGB.png',
        'val/35JNN_00_20181231_RGB.png',
    ]


def test_data_set_reads_the_result(tmp_path, landcovernet):
    root, _, _, labels = landcovernet()
    convert(root, tmp_path / 'out')
    prefix = dict(img_path='img_dir/val', seg_map_path='ann_dir/val')
    dataset = LandCoverNetDataset(data_root=str(tmp_path / 'out'), data_prefix=prefix, pipeline=[])
    assert len(dataset) == 2
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 7
    ids = labels['35LMC_29'][0]
    found = LoadRasterAnnotations()(dataset.get_data_info(0))['gt_seg_map']
    np.testing.assert_array_equal(found, np.where(ids == 0, 255, ids - 1))


# Bad input


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (',35JNN\n0,20180105\n1,2018-02-14\n', r"line 3: '1,2018-02-14' was found, a number and a date.*'0,20180105'"),
        (',35JNN\n0,20181345\n', r"line 2: '0,20181345' was found"),
        ('id;date\n0;20180105\n', r"line 1: 'id;date' was found"),
        ('0,20180105\n,20180214\n', r"line 2: ',20180214' was found"),
        (',35JNN\n', r'lists no date; lines such as'),
        ('', r'lists no date'),
        ('{"dates": "' + 'x' * 200_000 + '"}', r'is no table: field larger than'),
    ],
)
def test_table_of_another_format(tmp_path, text, message):
    path = tmp_path / '35JNN_17_labeling_dates.csv'
    path.write_text(text)
    with pytest.raises(DataError, match=rf'35JNN_17_labeling_dates\.csv.* {message}'):
        read_dates(Member(PurePosixPath(path.name), path))


@pytest.mark.parametrize(
    'text',
    [
        '\ufeff,35JNN_17\r\n0,20180214\r\n1,20181231\r\n\r\n',
        '\n"","a, b"\n"0","20180214"\n 1 , 20181231 \n0,20180214\n  \n',
    ],
)
def test_tables_as_other_programs_write_them(tmp_path, text):
    path = tmp_path / 'dates.csv'
    path.write_bytes(text.encode())
    assert read_dates(Member(PurePosixPath(path), path)) == ['20180214', '20181231']
    path.write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(DataError, match=r'dates\.csv cannot be read as text'):
        read_dates(Member(PurePosixPath(path), path))


def test_missing_files_are_listed(tmp_path, landcovernet, pack):
    root, path, _, _ = landcovernet()
    path('band', '35JNN_00', '20180214', 'B04').unlink()
    path('labels', '35JNN_17').unlink()
    path('dates', '35LMC_29').unlink()
    pack(root, root / 'chips.zip')
    with pytest.raises(DataError, match=r'lacks files of LandCoverNet \(4\):(.|\n)*--allow-missing') as caught:
        convert(root, tmp_path / 'out')
    for line in ('35JNN_00: no B04 of 20180214', '35JNN_17: no labels', '35LMC_29: no dates', '35LMC: no chip'):
        assert f'\n  {line}' in str(caught.value)
    assert convert(root, tmp_path / 'out', allow_missing=True) == dict(train=3, val=0)


def test_nothing_there(tmp_path):
    (tmp_path / 'in').mkdir()
    with pytest.raises(DataError, match=r'\(5\):(.|\n)*35JNN: no chip(.|\n)*tar files are not read'):
        LandCoverNetConversion(tmp_path / 'in', tmp_path / 'out').run()


def test_truncated_band(tmp_path, landcovernet):
    root, path, _, _ = landcovernet()
    file = path('band', '35JNN_17', '20181231', 'B03')
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(OSError, match=r'35JNN_17_20181231_B03_10m\.tif cannot be read as an image'):
        convert(root, tmp_path / 'out')


@pytest.mark.parametrize(
    ('shape', 'dtype', 'message'),
    [
        ((SIZE, SIZE, 3), np.uint16, 'has 3 bands of uint16; 1 band of uint16'),
        ((SIZE, SIZE), np.uint8, 'has 1 bands of uint8; 1 band of uint16'),
        ((SIZE, 9), np.uint16, r'has 9 x 24 pixels .*_B04_10m\.tif has 24 x 24'),
    ],
)
def test_unusable_band(tmp_path, landcovernet, write, shape, dtype, message):
    root, path, _, _ = landcovernet()
    write(path('band', '35JNN_17', '20181231', 'B03'), np.ones(shape, dtype))
    for scaling in ('reflectance', 'percentile'):  # where they are measured first
        with pytest.raises(DataError, match=rf'35JNN_17_20181231_B03_10m\.tif {message}'):
            convert(root, tmp_path / scaling, scaling=scaling)


@pytest.mark.parametrize(
    ('change', 'profile', 'message'),
    [
        (np.s_[..., 0], dict(crs=None), r' has 1 band; a second one with consensus scores .*--min-consensus'),
        (np.s_[:20], dict(crs=None), r' have 24 x 20'),
        (np.s_[:], dict(crs='EPSG:32735', transform=Affine(10, 0, 700000, 0, -10, 7000000)), ' lies outside'),
    ],
)
def test_unusable_labels(tmp_path, landcovernet, write, change, profile, message):
    root, path, _, labels = landcovernet()
    ids = labels['35JQG_00'].transpose(1, 2, 0).astype(np.uint8)
    write(path('labels', '35JQG_00'), ids[change], **profile)
    with pytest.raises(ValueError, match=rf'35JQG_00_2018_LC_10m\.tif{message}'):
        convert(root, tmp_path / 'out', min_consensus=50)


def test_other_ids(tmp_path, landcovernet, write):
    root, path, _, labels = landcovernet()
    ids = labels['35JQG_00'].transpose(1, 2, 0).astype(np.uint8)
    ids[:6, :6, 0] = 9
    write(path('labels', '35JQG_00'), ids, crs=None)
    with pytest.raises(DataError, match=r'35JQG_00_2018_LC_10m\.tif holds 9 on 6\.25 % of the pixels; ids 0 .* to 7'):
        convert(root, tmp_path / 'out')
    write(path('labels', '35JQG_00'), ids, nodata=9, crs=None)
    convert(root, tmp_path / 'out')
    read, _ = read_label_map(tmp_path / 'out/ann_dir/train/35JQG_00_20180214_RGB.png')
    np.testing.assert_array_equal(read, np.where(ids[..., 0] == 9, 0, ids[..., 0]))


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('scaling', 'minmax', 'reflectance, percentile, image, none'),
        ('bounds', (3000, 0), 'LOW < HIGH'),
        ('min_consensus', 101, '100'),
        ('date', '2018-01-15', 'YYYYMMDD'),
        ('date', '20181315', 'YYYYMMDD'),
        ('max_days', -1, '0'),
    ],
)
def test_options_that_make_no_sense(tmp_path, name, value, expected):
    with pytest.raises(ConfigError, match=re.escape(f'{name} is {value!r};') + f'.*{expected}'):
        LandCoverNetConversion(tmp_path, tmp_path / 'out', **{name: value})
