import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
from rasterio.transform import Affine

from mmrs.datasets.gid import GIDDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations
from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters.gid import GID, LABEL_OF_COLOUR, GIDConversion
from mmrs.preparation.converters.splits import RandomSplits
from mmrs.utils.errors import ConfigError, DataError
from tests.small_files import files_in

COLOURS = np.array(sorted(LABEL_OF_COLOUR, key=LABEL_OF_COLOUR.__getitem__), np.uint8)
SIZE = (70, 100)
PLACE = Affine(4, 0, 500000, 0, -4, 3400000)
NAMES = [f'GF2_PMS{1 + i % 2}__L1A000191052{i}-MSS{1 + i % 2}' for i in range(5)]
ROOT = 'Large-scale Classification_5classes'


@pytest.fixture
def gid(tmp_path, write, rng):
    """Makes a small GID-5 in the layout of the download; returns its folder, and pixels and ids by image."""

    def make(dtype='uint8', bands=4, folder='image_NirRGB', names=NAMES, crs=None):
        root, tiles = tmp_path / 'GID', {}
        where = dict(crs=crs, transform=PLACE)
        for name in names:
            top = 256 if dtype == 'uint8' else 1024
            pixels = rng.integers(1, top, (*SIZE, bands)).astype(dtype)
            ids = rng.integers(0, 6, SIZE)
            write(root / ROOT / folder / f'{name}.tif', pixels, **where)
            write(root / ROOT / f'label_5classes/{name}_label.tif', COLOURS[ids], **where)
            tiles[name] = pixels, ids
        return root, tiles

    return make


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        (f'image_RGB/{NAMES[0]}.tif', ('rgb', NAMES[0])),
        (f'image_NirRGB/{NAMES[1]}.TIF', ('nirrgb', NAMES[1])),
        (f'{NAMES[1]}.tif', ('rgb', NAMES[1])),
        (f'label_5classes/{NAMES[1]}_label.tif', ('labels', NAMES[1])),
        (f'annotation_5classes/{NAMES[1]}_5label.png', None),
        (f'image_RGB/._{NAMES[0]}.tif', None),
        (f'image_RGB/{NAMES[0]}.tif.aux.xml', None),
    ],
)
def test_file_names(path, expected):
    assert GID.classify(PurePosixPath(path)) == expected


def test_published_clip_counts(tmp_path, sparse):
    for i in range(150):
        name = f'GF2_PMS1__L1A000{1000000 + i}-MSS1'
        sparse(tmp_path / f'in/{name}.tif', 7200, 6800, 4, 'uint16')
        sparse(tmp_path / f'in/{name}_label.tif', 7200, 6800)
    conversion = GIDConversion(GID, tmp_path / 'in', tmp_path / 'out')
    # By image, yet the numbers of the published random draw over clips.
    assert conversion.run(dry_run=True) == dict(train=4410, val=1890)
    assert not (tmp_path / 'out').exists()
    tile = conversion.plan()[0]
    assert [sample.image.name for sample in tile.samples][:2] == [
        'GF2_PMS1__L1A0001000000-MSS1_0_0_1024_1024.png',
        'GF2_PMS1__L1A0001000000-MSS1_1024_0_2048_1024.png',
    ]
    assert len(tile.samples) == 42
    assert tile.clips[-1] == (6144, 5120, 7168, 6144)


@pytest.mark.parametrize(('bands', 'folder', 'wanted', 'suffix', 'zipped'), [
    (4, 'image_NirRGB', 'rgb', '.png', True),
    (4, 'images', 'rgb', '.png', False),
    (4, 'images', 'nirrgb', '.tif', False),
    (3, 'image_RGB', 'rgb', '.png', True),
])  # fmt: skip
def test_clips(tmp_path, gid, pack, bands, folder, wanted, suffix, zipped):
    root, tiles = gid(bands=bands, folder=folder)
    if zipped:
        pack(root / ROOT / folder, root / 'images.zip', folder)
        pack(root / ROOT / 'label_5classes', root / 'label_5classes.zip', 'label_5classes')
    out = tmp_path / 'out'
    counts = GIDConversion(GID, root, out, bands=wanted, clip_size=32, splits=RandomSplits(0.4)).run()
    assert counts == dict(train=3 * 6, val=2 * 6)
    names = files_in(out / 'img_dir')
    assert sorted(PurePosixPath(name).stem for name in names) == sorted(
        f'{tile}_{x}_{y}_{x + 32}_{y + 32}' for tile in NAMES for y in (0, 32) for x in (0, 32, 64)
    )
    assert len({(name.split('/')[0], name.split('/')[1].rsplit('_', 4)[0]) for name in names}) == 5
    for name in names:
        assert name.endswith(suffix)
        tile, x, y, _, _ = PurePosixPath(name).stem.rsplit('_', 4)
        box = np.s_[int(y) : int(y) + 32, int(x) : int(x) + 32]
        pixels, ids = tiles[tile]
        chosen = pixels[..., 1:] if (bands, wanted) == (4, 'rgb') else pixels
        np.testing.assert_array_equal(read_image(out / 'img_dir' / name)[0], chosen[box])
        labels, _ = read_label_map((out / 'ann_dir' / name).with_suffix('.png'))
        np.testing.assert_array_equal(labels, ids[box])
        assert labels.dtype == np.uint8


def test_folder_of_the_wanted_bands_goes_first(tmp_path, gid, write):
    root, _ = gid(names=NAMES[:2])
    for name in NAMES[:2]:
        write(root / ROOT / f'image_RGB/{name}.tif', np.full((*SIZE, 3), 9, np.uint8))
    GIDConversion(GID, root, tmp_path / 'rgb', clip_size=64, splits=RandomSplits(0)).run()
    assert (read_image(tmp_path / 'rgb/img_dir/train' / f'{NAMES[0]}_0_0_64_64.png')[0] == 9).all()
    GIDConversion(GID, root, tmp_path / 'all', bands='nirrgb', clip_size=64, splits=RandomSplits(0)).run()
    assert read_image(tmp_path / 'all/img_dir/train' / f'{NAMES[0]}_0_0_64_64.tif')[0].shape == (64, 64, 4)


def test_sixteen_bits_are_stretched_by_image(tmp_path, gid, write):
    root, tiles = gid('uint16', names=NAMES[:2])
    pixels, _ = tiles[NAMES[0]]
    pixels[:10, :7] = 0  # a corner without data
    write(root / ROOT / f'image_NirRGB/{NAMES[0]}.tif', pixels, crs=None, transform=PLACE)
    out = tmp_path / 'out'
    GIDConversion(GID, root, out, clip_size=32, splits=RandomSplits(0)).run()
    for name, (pixels, _) in tiles.items():
        rgb = pixels[..., 1:]
        valid = (rgb != 0).any(axis=-1)
        low, high = np.percentile(rgb[valid].astype(np.float64), (2, 98), axis=0, method='inverted_cdf')
        expected = ((rgb - low) / (high - low) * 255).clip(0, 255)
        for x, y in ((0, 0), (64, 32)):
            box = np.s_[y : y + 32, x : x + 32]
            clip, holds_data = read_image(out / f'img_dir/train/{name}_{x}_{y}_{x + 32}_{y + 32}.png')
            assert clip.dtype == np.uint8
            least = 0 if valid[box].all() else 1
            assert np.abs(clip - expected[box].clip(least))[valid[box]].max() <= 0.5001
            if valid[box].all():
                assert holds_data is None
            else:
                np.testing.assert_array_equal(holds_data, valid[box])


def test_sixteen_bits_and_the_place_are_kept_on_request(tmp_path, gid):
    root, tiles = gid('uint16', names=NAMES[:2], crs='EPSG:32650')
    out = tmp_path / 'out'
    GIDConversion(GID, root, out, bands='nirrgb', scaling='none', clip_size=32, splits=RandomSplits(0)).run()
    with open_raster(out / f'img_dir/train/{NAMES[1]}_32_32_64_64.tif') as clip:
        assert clip.dtypes == ('uint16',) * 4
        assert clip.crs.to_epsg() == 32650
        assert (clip.transform.c, clip.transform.f) == (500000 + 4 * 32, 3400000 - 4 * 32)
        np.testing.assert_array_equal(clip.read().transpose(1, 2, 0), tiles[NAMES[1]][0][32:64, 32:64])


def test_data_set_reads_the_result(tmp_path, gid):
    root, tiles = gid(names=NAMES[:1])
    out = tmp_path / 'out'
    GIDConversion(GID, root, out, clip_size=64, splits=RandomSplits(0)).run()
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    dataset = GIDDataset(data_root=str(out), data_prefix=prefix, pipeline=[])
    assert dataset.metainfo['classes'] == ('built_up', 'farmland', 'forest', 'meadow', 'water')
    ids = tiles[NAMES[0]][1][:64, :64]
    labels = LoadRasterAnnotations()(dataset.get_data_info(0))['gt_seg_map']
    np.testing.assert_array_equal(labels, np.where(ids == 0, 255, ids - 1))
    # The colours of the classes are those of the masks.
    np.testing.assert_array_equal(dataset.metainfo['palette'], COLOURS[1:])


# Bad input


def test_mixed_kinds(tmp_path, gid, write):
    root, _ = gid()
    path = root / ROOT / f'image_NirRGB/{NAMES[2]}.tif'
    for bands, dtype in ((3, np.uint8), (4, np.uint16)):
        write(path, np.ones((*SIZE, bands), dtype))
        found = rf'{path.name} has {bands} bands of {dtype.__name__}, but most images have 4 bands of uint8'
        with pytest.raises(DataError, match=found):
            GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('bands', 'dtype', 'message'),
    [
        (3, 'uint8', r'MSS\d\.tif has 3 bands; 4 were expected for --bands nirrgb'),
        (4, 'float32', r'MSS\d\.tif holds float32; uint8 or uint16 was expected'),
    ],
)
def test_unusable_images(tmp_path, gid, bands, dtype, message):
    root, _ = gid(dtype, bands, folder='images')
    with pytest.raises(DataError, match=message):
        GIDConversion(GID, root, tmp_path / 'out', bands='nirrgb', clip_size=32).run()


@pytest.mark.parametrize(('kept', 'workers'), [(0.02, 1), (0.6, 2)])
def test_truncated_image(tmp_path, gid, workers, kept):
    root, _ = gid('uint16')
    path = root / ROOT / f'image_NirRGB/{NAMES[2]}.tif'
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(OSError, match=rf'{path.name} cannot be read as an image'):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run(workers)


def test_damaged_zip(tmp_path, gid, pack):
    root, _ = gid('uint16')
    pack(root / ROOT, root / 'GID.zip', ROOT)
    member = f'{ROOT}/image_NirRGB/{NAMES[2]}.tif'
    with zipfile.ZipFile(root / 'GID.zip') as file:
        begin = file.getinfo(member).header_offset + 30 + len(member)
    content = bytearray((root / 'GID.zip').read_bytes())
    content[begin : begin + 5000] = bytes(5000)
    (root / 'GID.zip').write_bytes(content)
    with pytest.raises(OSError, match=rf'{NAMES[2]}\.tif cannot be read as an image'):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()


def test_labels_of_another_place(tmp_path, gid, write):
    root, tiles = gid(crs='EPSG:32650')
    path, colours = root / ROOT / f'label_5classes/{NAMES[2]}_label.tif', COLOURS[tiles[NAMES[2]][1]]
    write(path, colours, crs=None, transform=PLACE)  # as published: without a CRS nothing is known
    assert GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run() == dict(train=24, val=6)
    write(path, colours, crs='EPSG:32650', transform=Affine(4, 0, 900000, 0, -4, 3400000))
    with pytest.raises(ValueError, match=rf'{NAMES[2]}_label\.tif lies outside .*{NAMES[2]}\.tif: .*900000 to 900400'):
        GIDConversion(GID, root, tmp_path / 'other', clip_size=32).run()


def test_options_that_make_no_sense(tmp_path):
    for name, value, choices in (('bands', 'irrg', 'rgb, nirrgb'), ('scaling', '8bit', 'percentile, none')):
        with pytest.raises(ConfigError, match=f"{name} is '{value}'; one of {choices}"):
            GIDConversion(GID, tmp_path, tmp_path / 'out', **{name: value})
