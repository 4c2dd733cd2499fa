import json
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from mmrs.datasets.gid import GIDDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations
from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters.gid import GID, LABEL_OF_COLOUR, GIDConversion
from mmrs.preparation.converters.splits import RandomSplits, SplitLists

COLOURS = np.array([colour for colour, _ in sorted(LABEL_OF_COLOUR.items(), key=lambda item: item[1])], np.uint8)
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


def clip_files(out, kind='img_dir'):
    return sorted(
        path.relative_to(out / kind).as_posix() for path in (out / kind).rglob('GF2*') if 'aux' not in path.name
    )


def sparse(path, count, dtype):
    """A raster of the true size that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = dict(
        driver='GTiff', count=count, dtype=dtype, sparse_ok=True, tiled=True, blockxsize=1024, blockysize=1024
    )
    with rasterio.open(path, 'w', width=7200, height=6800, transform=Affine(2, 0, 0, 0, -2, 0), **profile) as raster:
        raster.write(np.ones((count, 1, 1), dtype), window=Window(0, 0, 1, 1))  # one without any has lost its pixels


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


def test_published_clip_counts(tmp_path):
    for i in range(150):
        name = f'GF2_PMS1__L1A000{1000000 + i}-MSS1'
        sparse(tmp_path / f'in/{name}.tif', 4, 'uint16')
        sparse(tmp_path / f'in/{name}_label.tif', 3, 'uint8')
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


@pytest.mark.parametrize('zipped', [False, True])
@pytest.mark.parametrize(('bands', 'folder', 'wanted', 'suffix'), [
    (4, 'image_NirRGB', 'rgb', '.png'),
    (4, 'images', 'rgb', '.png'),
    (4, 'images', 'nirrgb', '.tif'),
    (3, 'image_RGB', 'rgb', '.png'),
])  # fmt: skip
def test_clips(tmp_path, gid, pack, bands, folder, wanted, suffix, zipped):
    root, tiles = gid(bands=bands, folder=folder)
    if zipped:
        pack(root / ROOT / folder, root / 'images.zip', folder)
        pack(root / ROOT / 'label_5classes', root / 'label_5classes.zip', 'label_5classes')
    out = tmp_path / 'out'
    counts = GIDConversion(GID, root, out, bands=wanted, clip_size=32, splits=RandomSplits(0.4)).run()
    assert counts == dict(train=3 * 6, val=2 * 6)
    names = clip_files(out)
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


def test_published_lists(tmp_path, gid):
    root, _ = gid()
    (tmp_path / 'train.txt').write_text(f'{NAMES[0]}_32_0_64_32\n{NAMES[3]}_0_0_32_32\n')
    (tmp_path / 'val.txt').write_text(f'{NAMES[0]}_0_0_32_32.tif\n')
    splits = SplitLists(dict(train=tmp_path / 'train.txt', val=tmp_path / 'val.txt'))
    out = tmp_path / 'out'
    assert GIDConversion(GID, root, out, clip_size=32, splits=splits).run() == dict(train=2, val=1)
    expected = [f'train/{NAMES[0]}_32_0_64_32.png', f'train/{NAMES[3]}_0_0_32_32.png', f'val/{NAMES[0]}_0_0_32_32.png']
    assert clip_files(out) == clip_files(out, 'ann_dir') == expected
    # Another list is another conversion.
    (tmp_path / 'val.txt').write_text(f'{NAMES[1]}_0_0_32_32\n')
    splits = SplitLists(dict(train=tmp_path / 'train.txt', val=tmp_path / 'val.txt'))
    with pytest.raises(FileExistsError, match=r'other settings \(splits was '):
        GIDConversion(GID, root, out, clip_size=32, splits=splits).run()
    with pytest.raises(ValueError, match=r'train\.txt: 2 of its 2 names are no clips.* named like .*_0_0_64_64'):
        GIDConversion(GID, root, out, clip_size=64, splits=splits).run()


def test_a_second_run_writes_only_what_is_missing(tmp_path, gid):
    root, _ = gid('uint16')
    out = tmp_path / 'out'
    GIDConversion(GID, root, out, clip_size=32).run()
    before = {name: (out / 'img_dir' / name).read_bytes() for name in clip_files(out)}
    (out / 'img_dir' / clip_files(out)[0]).unlink()
    untouched = {name: (out / 'img_dir' / name).stat().st_mtime_ns for name in clip_files(out)}
    GIDConversion(GID, root, out, clip_size=32).run(workers=2)
    assert {name: (out / 'img_dir' / name).read_bytes() for name in clip_files(out)} == before
    assert {name: (out / 'img_dir' / name).stat().st_mtime_ns for name in untouched} == untouched
    with pytest.raises(FileExistsError, match=r"splits was \{'val_share': 0\.3, 'seed': 0\}, is .*'seed': 1"):
        GIDConversion(GID, root, out, clip_size=32, splits=RandomSplits(seed=1)).run()
    assert json.loads((out / 'conversion.json').read_text())['scaling'] == 'percentile'


def test_a_second_run_with_further_images_is_another_conversion(tmp_path, gid):
    # Otherwise images that are dealt to validation now would still be among those for training.
    root, _ = gid(names=NAMES[:4])
    out = tmp_path / 'out'
    convert = GIDConversion(GID, root, out, clip_size=32).run
    assert convert() == dict(train=18, val=6)
    before = clip_files(out)
    gid()
    with pytest.raises(
        FileExistsError, match=r"other settings \(samples was \{'train': 18, .*is \{'train': 24, .*--overwrite"
    ):
        convert()
    assert clip_files(out) == before
    assert convert(overwrite=True) == dict(train=24, val=6)
    sides = [{PurePosixPath(name).name for name in clip_files(out) if name.startswith(side)} for side in ('tr', 'val')]
    assert [len(names) for names in sides] == [24, 6]
    assert not set.intersection(*sides)


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
    merged = GIDDataset(
        data_root=str(out),
        data_prefix=prefix,
        pipeline=[],
        class_map=dict(building='built_up', water='water', forest=['forest', 'meadow'], agriculture='farmland'),
    )
    labels = LoadRasterAnnotations()(merged.get_data_info(0))['gt_seg_map']
    np.testing.assert_array_equal(labels, np.array([255, 0, 3, 2, 2, 1])[ids])
    # The colours of the classes are those of the masks.
    assert [tuple(colour) for colour in dataset.metainfo['palette']] == [
        tuple(colour) for colour in COLOURS[1:].tolist()
    ]


# Bad input


def test_mixed_band_counts(tmp_path, gid, write):
    root, _ = gid()
    path = write(root / ROOT / f'image_NirRGB/{NAMES[2]}.tif', np.ones((*SIZE, 3), np.uint8))
    with pytest.raises(
        ValueError,
        match=rf'{path.name} has 3 bands of uint8, but most images have 4 bands of uint8\..*restore the file',
    ):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()
    write(path, np.ones((*SIZE, 4), np.uint16))
    with pytest.raises(ValueError, match=rf'{path.name} has 4 bands of uint16, but most images have 4 bands of uint8'):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('bands', 'dtype', 'message'),
    [
        (
            3,
            'uint8',
            r'MSS\d\.tif has 3 bands; 4 were expected for --bands nirrgb\. Images of 4 bands are in image_NirRGB',
        ),
        (4, 'float32', r'MSS\d\.tif holds float32; uint8 or uint16 was expected'),
    ],
)
def test_unusable_images(tmp_path, gid, bands, dtype, message):
    root, _ = gid(dtype, bands, folder='images')
    with pytest.raises(ValueError, match=message):
        GIDConversion(GID, root, tmp_path / 'out', bands='nirrgb', clip_size=32).run()


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize('kept', [0.02, 0.6])
def test_truncated_image(tmp_path, gid, workers, kept):
    root, _ = gid('uint16')
    path = root / ROOT / f'image_NirRGB/{NAMES[2]}.tif'
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(OSError, match=rf'{path.name} cannot be read as an image: .*Restore the file from its source'):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run(workers)


def test_zip_with_a_missing_member(tmp_path, gid, pack):
    root, _ = gid()
    (root / ROOT / f'label_5classes/{NAMES[1]}_label.tif').unlink()
    (root / ROOT / f'image_NirRGB/{NAMES[3]}.tif').unlink()
    pack(root / ROOT, root / 'GID.zip', ROOT)
    with pytest.raises(FileNotFoundError) as caught:
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()
    message = str(caught.value)
    assert f'lacks 2 of the tiles of GID-5:\n  {NAMES[1]}: no labels file\n  {NAMES[3]}: no nirrgb file\n' in message
    assert 'labels: label_5classes (' in message
    assert '--allow-missing' in message
    conversion = GIDConversion(GID, root, tmp_path / 'out', clip_size=32, allow_missing=True)
    assert conversion.run() == dict(train=12, val=6)


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
    (root / 'GID.zip').write_bytes(content[:-100])
    with pytest.raises(OSError, match=r'GID\.zip is no whole zip file.*Download it again'):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()


@pytest.mark.parametrize('zipped', [False, True])
def test_labels_in_the_colours_of_fifteen_classes(tmp_path, gid, pack, write, zipped):
    root, _ = gid()
    image = np.full((*SIZE, 3), (0, 255, 0), np.uint8)
    image[:7, :10] = (200, 0, 0)
    write(root / ROOT / f'label_5classes/{NAMES[2]}_label.tif', image, crs=None, transform=PLACE)
    if zipped:
        pack(root / ROOT, root / 'GID.zip', ROOT)
    with pytest.raises(
        ValueError,
        match=rf'{NAMES[2]}_label\.tif has colours that are no class: #C80000 \(1 %, 55 away from #FF0000\)',
    ):
        GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run()


def test_labels_of_another_place(tmp_path, gid, write):
    root, tiles = gid(crs='EPSG:32650')
    path, colours = root / ROOT / f'label_5classes/{NAMES[2]}_label.tif', COLOURS[tiles[NAMES[2]][1]]
    write(path, colours, crs=None, transform=PLACE)  # as published: without a CRS nothing is known
    assert GIDConversion(GID, root, tmp_path / 'out', clip_size=32).run() == dict(train=24, val=6)
    write(path, colours, crs='EPSG:32650', transform=Affine(4, 0, 900000, 0, -4, 3400000))
    with pytest.raises(
        ValueError,
        match=rf'{NAMES[2]}_label\.tif lies outside its image .*{NAMES[2]}\.tif: it covers x 900000 to 900400',
    ):
        GIDConversion(GID, root, tmp_path / 'other', clip_size=32).run()


def test_nothing_there(tmp_path):
    (tmp_path / 'in').mkdir()
    with pytest.raises(FileNotFoundError, match=r'in holds no file of GID-5\.(.|\n)*label_5classes \('):
        GIDConversion(GID, tmp_path / 'in', tmp_path / 'out').run()
    for option in (dict(bands='irrg'), dict(scaling='8bit')):
        with pytest.raises(ValueError, match='one of rgb, nirrgb and one of percentile, none were expected'):
            GIDConversion(GID, tmp_path / 'in', tmp_path / 'out', **option)
