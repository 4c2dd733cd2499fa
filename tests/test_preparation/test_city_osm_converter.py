from pathlib import PurePosixPath

import numpy as np
import pytest

from mmrs.datasets.city_osm import CityOSMDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations
from mmrs.geo.rasters import read_image, read_label_map
from mmrs.preparation.converters.city_osm import LABEL_OF_COLOUR, CityConversion, city_archive
from mmrs.preparation.converters.splits import RandomSplits, SplitLists

COLOURS = np.array(list(LABEL_OF_COLOUR), np.uint8)
PARIS = city_archive('paris')


@pytest.fixture
def cities(tmp_path, write, rng):
    """Two cities as unpacked, images of different sizes: their folder, and pixels and ids by image."""
    root, tiles = tmp_path / 'CITY-OSM', {}
    for city, count in (('paris', 5), ('chicago', 2)):
        for i in range(1, count + 1):
            size = (70 + i, 100)
            pixels, ids = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 3, size)
            write(root / city / f'{city}{i}_image.png', pixels)
            write(root / city / f'{city}{i}_labels.png', COLOURS[ids])
            tiles[f'{city}{i}'] = pixels, ids
    return root, tiles


def clip_files(out, kind='img_dir'):
    return sorted(path.relative_to(out / kind).as_posix() for path in (out / kind).rglob('*.png'))


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('paris1_image.png', ('images', 'paris1')),
        ('Paris12_LABELS.PNG', ('labels', 'paris12')),
        ('paris_image.png', ('images', 'paris')),
        ('chicago1_image.png', None),
        ('paris1_image.jpg', None),
        ('._paris1_image.png', None),
    ],
)
def test_file_names(name, expected):
    assert PARIS.classify(PurePosixPath('somewhere') / name) == expected


def test_published_clips_of_one_image(tmp_path, write):
    write(tmp_path / 'in/paris1_image.png', np.zeros((3100, 3083, 3), np.uint8))
    write(tmp_path / 'in/paris1_labels.png', np.zeros((3100, 3083, 3), np.uint8))
    conversion = CityConversion(PARIS, tmp_path / 'in', tmp_path / 'out', splits=RandomSplits(0))
    assert conversion.run(dry_run=True) == dict(train=36)
    names = [sample.image.name for sample in conversion.plan()[0].samples]
    assert (names[1], names[-1]) == ('paris1_512_0_1024_512.png', 'paris1_2560_2560_3072_3072.png')


@pytest.mark.parametrize('zipped', [False, True])
def test_clips(tmp_path, cities, pack, zipped):
    root, tiles = cities
    if zipped:
        for city in ('paris', 'chicago'):
            pack(root / city, root / f'{city}.zip', city)
    out = tmp_path / 'out'
    conversion = CityConversion(PARIS, root, out, clip_size=32, edge='shift', splits=RandomSplits(0.2, seed=4))
    assert conversion.run() == dict(train=4 * 12, val=12)
    assert clip_files(out) == clip_files(out, 'ann_dir')
    for name in clip_files(out):
        tile, x, y, _, _ = PurePosixPath(name).stem.rsplit('_', 4)
        pixels, ids = (array[int(y) : int(y) + 32, int(x) : int(x) + 32] for array in tiles[tile])
        np.testing.assert_array_equal(read_image(out / 'img_dir' / name)[0], pixels)
        labels, _ = read_label_map(out / 'ann_dir' / name)
        np.testing.assert_array_equal(labels, ids)
    in_val = {name.split('/')[1].split('_')[0] for name in clip_files(out) if name.startswith('val')}
    assert len(in_val) == 1


def test_published_lists(tmp_path, cities):
    root, _ = cities
    (tmp_path / 'train.txt').write_text('chicago1_0_0_32_32\nchicago2_32_0_64_32\n')
    (tmp_path / 'val.txt').write_text('chicago1_32_0_64_32\n')
    splits = SplitLists(dict(train=tmp_path / 'train.txt', val=tmp_path / 'val.txt'))
    out = tmp_path / 'out'
    conversion = CityConversion(city_archive('chicago'), root, out, clip_size=32, splits=splits)
    assert conversion.run() == dict(train=2, val=1)
    assert clip_files(out) == [
        'train/chicago1_0_0_32_32.png',
        'train/chicago2_32_0_64_32.png',
        'val/chicago1_32_0_64_32.png',
    ]
    with pytest.raises(ValueError, match=r'train\.txt: 2 of its 2 names are no clips.* named like paris1_0_0_32_32'):
        CityConversion(PARIS, root, out, clip_size=32, splits=splits).run()


def test_transparency_and_soft_colours(tmp_path, cities, write):
    root, tiles = cities
    for i in range(1, 6):
        pixels, ids = tiles[f'paris{i}']
        write(root / f'paris/paris{i}_image.png', np.dstack([pixels, np.full(ids.shape, 255, np.uint8)]))
    image = COLOURS[tiles['paris3'][1]].astype(int)
    image[:10, :10] = np.abs(image[:10, :10] - 3)
    write(root / 'paris/paris3_labels.png', image.astype(np.uint8))
    with pytest.raises(
        ValueError, match=r'paris3_labels\.png has colours that are no class: #.*3 away from #.*--tolera'
    ):
        CityConversion(PARIS, root, tmp_path / 'out', clip_size=64, splits=RandomSplits(0)).run()
    CityConversion(PARIS, root, tmp_path / 'soft', clip_size=64, splits=RandomSplits(0), tolerance=3).run()
    path = 'train/paris3_0_0_64_64.png'
    np.testing.assert_array_equal(read_label_map(tmp_path / 'soft/ann_dir' / path)[0], tiles['paris3'][1][:64, :64])
    np.testing.assert_array_equal(read_image(tmp_path / 'soft/img_dir' / path)[0], tiles['paris3'][0][:64, :64])


def test_data_set_reads_the_result(tmp_path, cities):
    root, tiles = cities
    out = tmp_path / 'out'
    CityConversion(PARIS, root, out, clip_size=64, splits=RandomSplits(0)).run()
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    dataset = CityOSMDataset(data_root=str(out), data_prefix=prefix, pipeline=[])
    assert len(dataset) == 5
    assert dataset.metainfo['classes'] == ('background', 'road', 'building')
    assert [tuple(colour) for colour in dataset.metainfo['palette']] == [tuple(colour) for colour in COLOURS.tolist()]
    labels = LoadRasterAnnotations()(dataset.get_data_info(1))['gt_seg_map']
    np.testing.assert_array_equal(labels, tiles['paris2'][1][:64, :64])


def test_zip_with_a_missing_member(tmp_path, cities, pack):
    root, _ = cities
    (root / 'paris/paris4_labels.png').unlink()
    pack(root / 'paris', root / 'paris.zip', 'paris')
    with pytest.raises(
        FileNotFoundError,
        match=r'lacks 1 of the tiles of CITY-OSM Paris:\n  paris4: no labels file\n(.|\n)*labels: paris\.zip \(paris1_',
    ):
        CityConversion(PARIS, root, tmp_path / 'out', clip_size=32).run()
    with pytest.raises(FileNotFoundError, match=r'holds no file of CITY-OSM Zurich\.'):
        CityConversion(city_archive('zurich'), root, tmp_path / 'out', clip_size=32).run()


@pytest.mark.parametrize('zipped', [False, True])
@pytest.mark.parametrize('clip_size', [32, 64])
@pytest.mark.parametrize('kind', ['image', 'labels'])
def test_truncated_file(tmp_path, write, rng, pack, kind, clip_size, zipped):
    # A clip as large as the image is what GDAL reads in another way.
    ids = rng.integers(0, 3, (64, 64))
    write(tmp_path / 'in/paris1_image.png', rng.integers(0, 256, (64, 64, 3), np.uint8))
    write(tmp_path / 'in/paris1_labels.png', COLOURS[ids])
    path = tmp_path / f'in/paris1_{kind}.png'
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    if zipped:
        pack(tmp_path / 'in', tmp_path / 'in/paris.zip')
    with pytest.raises(OSError, match=rf'paris1_{kind}\.png cannot be read as an image'):
        CityConversion(PARIS, tmp_path / 'in', tmp_path / 'out', clip_size=clip_size, splits=RandomSplits(0)).run()


def test_grey_image(tmp_path, cities, write):
    root, _ = cities
    write(root / 'paris/paris2_image.png', np.zeros((72, 100), np.uint8))
    with pytest.raises(ValueError, match=r'paris2_image\.png has 1 bands; 3 \(red, green, blue\) were expected'):
        CityConversion(PARIS, root, tmp_path / 'out', clip_size=32).run()
