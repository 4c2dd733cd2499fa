from pathlib import PurePosixPath

import numpy as np
import pytest

from mmrs.datasets.city_osm import CityOSMDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations
from mmrs.geo.rasters import read_image, read_label_map
from mmrs.preparation.converters.city_osm import LABEL_OF_COLOUR, CityConversion, city_archive
from mmrs.preparation.converters.splits import RandomSplits
from mmrs.utils.errors import DataError
from tests.small_files import files_in

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


@pytest.mark.parametrize('zipped', [False, True])
def test_clips(tmp_path, cities, pack, zipped):
    root, tiles = cities
    if zipped:
        for city in ('paris', 'chicago'):
            pack(root / city, root / f'{city}.zip', city)
    out = tmp_path / 'out'
    conversion = CityConversion(PARIS, root, out, clip_size=32, edge='shift', splits=RandomSplits(0.2, seed=4))
    assert conversion.run() == dict(train=4 * 12, val=12)
    names = files_in(out / 'img_dir')
    assert names == files_in(out / 'ann_dir')
    for name in names:
        tile, x, y, _, _ = PurePosixPath(name).stem.rsplit('_', 4)
        pixels, ids = (array[int(y) : int(y) + 32, int(x) : int(x) + 32] for array in tiles[tile])
        np.testing.assert_array_equal(read_image(out / 'img_dir' / name)[0], pixels)
        labels, _ = read_label_map(out / 'ann_dir' / name)
        np.testing.assert_array_equal(labels, ids)
    assert len({name.split('_')[0] for name in names if name.startswith('val')}) == 1


def test_data_set_reads_the_result(tmp_path, cities):
    root, tiles = cities
    out = tmp_path / 'out'
    CityConversion(PARIS, root, out, clip_size=64, splits=RandomSplits(0)).run()
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    dataset = CityOSMDataset(data_root=str(out), data_prefix=prefix, pipeline=[])
    assert len(dataset) == 5
    assert dataset.metainfo['classes'] == ('background', 'road', 'building')
    np.testing.assert_array_equal(dataset.metainfo['palette'], COLOURS)
    labels = LoadRasterAnnotations()(dataset.get_data_info(1))['gt_seg_map']
    np.testing.assert_array_equal(labels, tiles['paris2'][1][:64, :64])


@pytest.mark.parametrize(
    ('kind', 'clip_size', 'zipped'),
    [('image', 32, True), ('image', 64, False), ('labels', 32, False), ('labels', 64, True)],
)
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


def test_other_numbers_of_bands(tmp_path, cities, write):
    root, tiles = cities
    for i in range(1, 6):
        pixels, ids = tiles[f'paris{i}']
        write(root / f'paris/paris{i}_image.png', np.dstack([pixels, np.full(ids.shape, 255, np.uint8)]))
    CityConversion(PARIS, root, tmp_path / 'out', clip_size=64, splits=RandomSplits(0)).run()
    clip, _ = read_image(tmp_path / 'out/img_dir/train/paris3_0_0_64_64.png')
    np.testing.assert_array_equal(clip, tiles['paris3'][0][:64, :64])  # without the transparency
    write(root / 'paris/paris2_image.png', np.zeros((72, 100), np.uint8))
    with pytest.raises(DataError, match=r'paris2_image\.png has 1 bands; 3 \(red, green, blue\)'):
        CityConversion(PARIS, root, tmp_path / 'out', clip_size=32).run()
