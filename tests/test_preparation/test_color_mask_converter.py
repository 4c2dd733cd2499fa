import json
import shutil
from collections import Counter

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.enums import ColorInterp

from mmrs.datasets import LoadRasterAnnotations, RemoteSensingDataset
from mmrs.geo import masks
from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters import color_masks
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import Split, assign_splits, find_pairs, load_recipe
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.small_files import files_in

CLASSES = [
    dict(name='house', color='#FF0000'),
    dict(name='field', color=['#00FF00', [0, 200, 0]]),
    dict(name='unlabelled', color='#000000', ignore=True),
]
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 0], [0, 200, 0]], np.uint8)
LABELS = np.array([0, 1, 255, 1], np.uint8)
PATTERNS = dict(images='{group}/images/{name}', masks='{group}/masks/{name}')
FLAT = dict(images='images/{name}', masks='masks/{name}')


@pytest.fixture
def recipe(tmp_path):
    def make(**content):
        path = tmp_path / 'recipe.yaml'
        path.write_text(yaml.safe_dump({**PATTERNS, 'classes': CLASSES, **content}))
        return load_recipe(path)

    return make


@pytest.fixture
def data(tmp_path, write, rng):
    """Three groups of four images, one group with palette masks; returns folder and indices into COLOURS by name."""
    root, indices = tmp_path / 'raw', {}
    for group in ('Tile 1', 'Tile 2', 'Tile 3'):
        for i in range(4):
            size = (20 + i, 30)
            indices[f'{group}/{i}'] = own = rng.integers(0, 4, size).astype(np.uint8)
            write(root / group / f'images/{i}.jpg', rng.integers(0, 256, (*size, 3), np.uint8))
            if group == 'Tile 2':
                palette = {k: tuple(map(int, colour)) for k, colour in enumerate(COLOURS)}
                write(root / group / f'masks/{i}.png', own, palette=palette)
            else:
                write(root / group / f'masks/{i}.png', COLOURS[own])
    return root, indices


@pytest.fixture
def convert(tmp_path, recipe):
    """Converts the folder `raw` to another by a recipe with some changes; returns the report."""

    def run(out='out', content=None, overwrite=False, workers=1, dry_run=False, **options):
        conversion = Conversion(recipe(**(content or {})), tmp_path / 'raw', tmp_path / out, **options)
        return conversion.run(workers, dry_run, overwrite)

    return run


def test_clips_keep_what_the_bands_mean(tmp_path, write, convert):
    colours = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    write(tmp_path / 'raw/a/masks/1.png', COLOURS[np.zeros((32, 32), int)])
    for fourth in (ColorInterp.alpha, ColorInterp.undefined):
        path = write(tmp_path / 'raw/a/images/1.tif', np.full((32, 32, 4), 200, np.uint8))
        with rasterio.open(path, 'r+') as raster:
            raster.colorinterp = (*colours, fourth)
        convert(fourth.name, clip_size=16)
        with open_raster(tmp_path / fourth.name / 'img_dir/train/a_1_0_0_16_16.tif') as clip:
            assert clip.colorinterp == (*colours, fourth)


def test_whole_images(tmp_path, data, convert):
    root, indices = data
    out = tmp_path / 'out'
    (root / 'Tile 1/images/2.jpg.aux.xml').write_text('<PAMDataset/>')
    report = convert(content=dict(splits=dict(train=['Tile 1', 'Tile 2'], val='Tile 3')))
    assert (out / 'img_dir/train/Tile_1_2.jpg.aux.xml').read_text() == '<PAMDataset/>'
    assert files_in(out / 'ann_dir/val') == [f'Tile_3_{i}.png' for i in range(4)]
    assert files_in(out / 'img_dir/train') == [f'Tile_{t}_{i}.jpg' for t in (1, 2) for i in range(4)]
    for group, split in (('1', 'train'), ('2', 'train'), ('3', 'val')):
        source = root / f'Tile {group}/images/2.jpg'
        assert (out / f'img_dir/{split}/Tile_{group}_2.jpg').read_bytes() == source.read_bytes()
        labels, _ = read_label_map(out / f'ann_dir/{split}/Tile_{group}_2.png')
        np.testing.assert_array_equal(labels, LABELS[indices[f'Tile {group}/2']])
    assert report == json.loads((out / 'report.json').read_text())
    pixels = np.concatenate([indices[f'Tile 3/{i}'].ravel() for i in range(4)])
    val, count = report['splits']['val'], Counter(LABELS[pixels].tolist())
    assert val['images'] == val['samples'] == 4
    assert val['classes']['house'] == dict(pixels=count[0], share=count[0] / (count[0] + count[1]), images=4)
    assert val['classes']['field']['pixels'] == count[1]
    assert val['ignored_pixels'] == count[255]
    bands = np.concatenate([read_image(p)[0].reshape(-1, 3) for p in sorted((out / 'img_dir/val').iterdir())])
    np.testing.assert_allclose(val['band_mean'], bands.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(val['band_std'], bands.std(axis=0), atol=1e-3)
    assert report['dropped'] == []
    # It is a data set without any new class.
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    dataset = RemoteSensingDataset(
        data_root=str(out), classes_file='classes.yaml', data_prefix=prefix, pipeline=[LoadRasterAnnotations()]
    )
    assert len(dataset) == 8
    assert dataset.metainfo['classes'] == ('house', 'field')
    assert dataset.metainfo['palette'] == [(255, 0, 0), (0, 255, 0)]
    np.testing.assert_array_equal(dataset[5]['gt_seg_map'], LABELS[indices['Tile 2/1']])


@pytest.mark.parametrize(
    ('size', 'edge', 'stride', 'samples', 'box'),
    [
        (16, 'shift', None, 12 * 4, (14, 7, 30, 23)),
        (16, 'drop', 14, 12 * 2, (14, 0, 30, 16)),
        (25, 'shift', None, 12 * 2, (0, 0, 25, 23)),  # no higher than the image
    ],
)
def test_clips(tmp_path, data, convert, size, edge, stride, samples, box):
    root, indices = data
    report, out = convert(clip_size=size, edge=edge, stride=stride), tmp_path / 'out'
    assert report['splits']['train']['samples'] == samples == len(files_in(out / 'img_dir/train'))
    name, part = f'Tile_2_3_{"_".join(map(str, box))}.png', np.s_[box[1] : box[3], box[0] : box[2]]
    labels, _ = read_label_map(out / 'ann_dir/train' / name)
    np.testing.assert_array_equal(labels, LABELS[indices['Tile 2/3']][part])
    image, _ = read_image(out / 'img_dir/train' / name)
    np.testing.assert_array_equal(image, read_image(root / 'Tile 2/images/3.jpg')[0][part])


def test_clips_of_bands_that_png_cannot_hold_are_geotiffs(tmp_path, write, convert, rng):
    image = rng.random((20, 20, 5)).astype(np.float32)
    image[0, 0] = -1
    ids = np.full((20, 20), 9, np.int16)
    ids[:, 10:] = 3
    ids[:10, :10] = -7
    write(tmp_path / 'raw/images/a.tif', image, nodata=-1)
    write(tmp_path / 'raw/masks/a.tif', ids, nodata=-7)
    classes = [dict(name='wet', id=9), dict(name='dry', id=[3, 4])]
    train = convert(content=dict(FLAT, classes=classes), clip_size=10)['splits']['train']
    out = tmp_path / 'out'
    assert files_in(out / 'img_dir/train') == ['a_0_10_10_20.tif', 'a_10_0_20_10.tif', 'a_10_10_20_20.tif']
    assert train['clips_without_label'] == 1  # the fourth holds nodata alone
    assert train['classes']['wet']['pixels'] == 100
    with open_raster(out / 'img_dir/train/a_10_0_20_10.tif') as clip:
        assert (clip.nodata, clip.crs.to_epsg()) == (-1, 32633)
        np.testing.assert_array_equal(clip.read().transpose(1, 2, 0), image[:10, 10:])
    assert (read_label_map(out / 'ann_dir/train/a_0_10_10_20.png')[0] == 0).all()


def test_image_without_any_data_is_left_out(tmp_path, write, convert):
    for name, value in (('a', np.nan), ('b', 1)):
        write(tmp_path / f'raw/images/{name}.tif', np.full((8, 8, 2), value, np.float32))
        write(tmp_path / f'raw/masks/{name}.png', np.zeros((8, 8), np.uint8))
    report = convert(content=dict(FLAT, classes=[dict(name='a', id=0)]))
    assert [(item['file'][-5:], item['reason']) for item in report['dropped']] == [('a.tif', 'no pixel with data')]
    assert report['splits']['train']['band_mean'] == [1, 1]


def test_unlabelled_images(tmp_path, data, convert):
    shutil.rmtree(data[0] / 'Tile 1/masks')
    report = convert(content=dict(masks=None))
    assert len(files_in(tmp_path / 'out/img_dir/train')) == report['splits']['train']['images'] == 12
    assert not (tmp_path / 'out/ann_dir').exists()
    assert 'classes' not in report['splits']['train']


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path, data, write, convert, rng, capsys):
    tile = data[0] / 'Tile 1'
    (tile / 'masks/0.png').unlink()
    write(tile / 'masks/1.png', np.zeros((20, 30, 3), np.uint8))
    (tile / 'images/2.jpg').write_bytes((tile / 'images/2.jpg').read_bytes()[:300])
    write(tile / 'masks/3.png', np.zeros((23, 30, 3), np.uint8))
    write(tile / 'images/4.png', rng.integers(0, 9, (8, 8, 4), np.uint8))
    write(tile / 'masks/4.png', np.full((8, 8, 3), [255, 0, 0], np.uint8))
    write(tile / 'masks/5.png', np.zeros((8, 8, 3), np.uint8))
    reasons = {item['file'].split('Tile 1/')[1]: item['reason'] for item in convert()['dropped']}
    assert reasons.pop('images/2.jpg').startswith(f'{tile}/images/2.jpg cannot be read as an image')
    assert reasons == {
        'images/0.jpg': 'image without a mask',
        'masks/5.png': 'mask without an image',
        'images/1.jpg': '30 x 21 pixels (width x height), its mask 30 x 20',
        'images/3.jpg': 'no labelled pixel in its mask',
        'images/4.png': '4 bands of uint8, where most images have 3 of uint8',
    }
    assert len(files_in(tmp_path / 'out/img_dir/train')) == len(files_in(tmp_path / 'out/ann_dir/train')) == 8
    assert 'Left out 1: no labelled pixel in its mask' in capsys.readouterr().out


def test_unknown_colours_stop_everything_before_the_first_file(tmp_path, data, write, convert):
    root, indices = data
    image = COLOURS[indices['Tile 3/1']]
    image[:7, :3] = (3, 250, 0)
    write(root / 'Tile 3/masks/1.png', image)
    for dry_run in (True, False):
        with pytest.raises(DataError, match=r'1 of 12 .* #03FA00 \(3.33 %, 5 away from #00FF00\)') as caught:
            convert(dry_run=dry_run)
    assert 'Tile 3/masks/1.png (3.33 %)' in str(caught.value)
    assert '#FF0000, #00FF00, #00C800, #000000' in str(caught.value)
    assert not (tmp_path / 'out').exists()
    convert(tolerance=5)
    assert (read_label_map(tmp_path / 'out/ann_dir/train/Tile_3_1.png')[0][:7, :3] == 1).all()


def test_unknown_ids(tmp_path, write, convert, rng):
    write(tmp_path / 'raw/images/a.png', rng.integers(0, 9, (10, 10, 3), np.uint8))
    write(tmp_path / 'raw/masks/a.png', np.repeat(np.arange(10, dtype=np.uint8)[:, None], 10, axis=1))
    with pytest.raises(DataError, match=r'ids that are no class: 9 \(10 %\) .*\n.*\n.* 0, 1, .*, 8\.'):
        convert(content=dict(FLAT, classes=[dict(name='a', id=list(range(9)))]))


def test_a_second_run_with_further_images_is_another_conversion(tmp_path, data, convert, write):
    shares = dict(splits=dict(train=dict(share=0.5), val=dict(share=0.5)))
    whole = dict(splits=dict(train='Tile 1', val='Tile 2'))
    for name, content in (('shares', shares), ('whole', whole)):
        convert(name, content)
    write(data[0] / 'Tile 1/images/01.jpg', np.zeros((20, 30, 3), np.uint8))
    write(data[0] / 'Tile 1/masks/01.png', COLOURS[np.zeros((20, 30), int)])
    # Otherwise an image that is dealt to validation now would still be among those for training.
    with pytest.raises(OutputError, match=r'dealt\.train was '):
        convert('shares', shares)
    convert('whole', whole)
    assert len(files_in(tmp_path / 'whole/img_dir/train')) == 5


def test_split_by_share_is_dealt_within_each_group(data, recipe):
    root, _ = data
    splits = dict(train=dict(groups='Tile [12]', share=0.5), val=dict(groups=['Tile 1', 'Tile 2'], share=0.25))

    def deal(**kwargs):
        content = recipe(splits=splits, **kwargs)
        parts, dropped = assign_splits(find_pairs(root, content)[0], content)
        return {name: [pair.stem for pair in pairs] for name, pairs in parts.items()}, [d.reason for d in dropped]

    parts, dropped = deal()
    assert Counter(stem[:6] for stem in parts['train']) == {'Tile_1': 2, 'Tile_2': 2}
    assert Counter(stem[:6] for stem in parts['val']) == {'Tile_1': 1, 'Tile_2': 1}
    assert not set(parts['train']) & set(parts['val'])
    assert dropped == ['in no split'] * 6
    assert deal() == (parts, dropped)
    assert len({str(deal(seed=seed)[0]) for seed in range(8)}) > 3
    # Other groups may come and go.
    shutil.rmtree(root / 'Tile 3')
    assert deal()[0] == parts


@pytest.mark.parametrize(
    ('splits', 'message'),
    [
        (dict(train='Tile 9'), "group of split train is 'Tile 9'; one of Tile 1, Tile 2, Tile 3"),
        (dict(train='Tile 1', val='Tile *'), "group 'Tile 1' would be in several splits: train, val"),
        (dict(train=dict(share=0.7), val=dict(share=0.4)), 'shares of train, val add up to more than 1'),
        (dict(train=dict(share=0.1)), 'No image is left for the split train'),
        (dict(train=dict(share=1.5)), 'split train: share is 1.5'),
        (dict(train=dict(parts=1)), "split train is 'parts'; one of groups, share"),
        ({'../val': '*'}, "split is '../val'"),
    ],
)
def test_bad_splits(data, convert, splits, message):
    with pytest.raises(ConfigError, match=message):
        convert(content=dict(splits=splits))


def test_overlap_where_it_is_meant(tmp_path, data, convert):
    report = convert(content=dict(splits=dict(train='*', val='Tile 3'), allow_overlap=True))
    assert [report['splits'][name]['images'] for name in ('train', 'val')] == [12, 4]
    assert set(files_in(tmp_path / 'out/img_dir/val')) < set(files_in(tmp_path / 'out/img_dir/train'))


def test_split_arguments():
    for text, name, split in (
        ('train=Tile 1,Tile 2', 'train', Split(('Tile 1', 'Tile 2'))),
        ('val=*:0.25', 'val', Split(('*',), 0.25)),
        ('val=a:b', 'val', Split(('a:b',))),
    ):
        assert Split.parse_argument(text) == (name, split)
    for text in ('train', 'train=', 'train=a:7'):
        with pytest.raises(ConfigError, match=f"--split .*'{text}'"):
            Split.parse_argument(text)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(image='x'), "is 'image'; one of classes, images, masks"),
        (dict(images='images'), "path pattern is 'images'"),
        (dict(images=5), 'path pattern is 5'),
        (dict(masks='masks/{name}'), r"masks is 'masks/\{name\}'; .* '\{group\}/images/\{name\}'"),
        (dict(seed=-1), 'seed is -1'),
        (dict(seed='a'), r"recipe\.yaml: seed is 'a'"),
        (dict(splits=['train']), r"recipe\.yaml: splits is \['train'\]"),
        (dict(encoding='id'), "encoding is 'id'; .*`id` for house, field, unlabelled"),
        (dict(encoding='colour'), "encoding is 'colour'; one of color, id"),
        (dict(classes=[dict(name='a', id=1, color='#000000')]), 'encoding is None; color or id'),
        (dict(classes=[dict(name='a')]), 'encoding is None; a `color` or an `id` for every class'),
    ],
)
def test_bad_recipes(recipe, content, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**content)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_patterns(tmp_path, recipe):
    names = ['a/b/top_1_RGB.tif', 'a/b/top_1_label.tif', 'c/top_2_RGB.TIF', 'c/top_2_label.tif']
    touch(tmp_path, *names, 'c/top_2_RGB.tfw')
    content = recipe(images='**/top_{name}_RGB.tif', masks='*/**/top_{name}_label')
    pairs, dropped = find_pairs(tmp_path, content)
    paths = [str(tmp_path / name) for name in names]
    assert [(p.stem, p.image, p.mask) for p in pairs] == [('1', *paths[:2]), ('2', *paths[2:])]
    assert dropped == []
    touch(tmp_path, 'c/top_1_RGB.tif')
    with pytest.raises(DataError, match=r'a/b/top_1_RGB\.tif and c/top_1_RGB\.tif both fit'):
        find_pairs(tmp_path, content)


def test_pairs_that_cannot_be_found(tmp_path, recipe):
    touch(tmp_path / 'raw', 'a b/images/c.png', 'a/images/b_c.png', 'erdas.img')
    for folder, content, message in (
        ('raw', dict(masks=None), 'would both be named a_b_c'),
        ('nowhere', {}, 'nowhere: no such folder'),
        ('raw', dict(images='{group}/pictures/{name}'), r"'\{group\}/pictures/\{name\}'.* 1 raster \(\.img\)"),
    ):
        with pytest.raises(DataError, match=message):
            find_pairs(tmp_path / folder, recipe(**content))


def test_large_images_are_to_be_cut(data, convert, monkeypatch):
    monkeypatch.setattr(color_masks, '_MAX_WHOLE_PIXELS', 650)
    with pytest.raises(DataError, match=r'2\.jpg has 30 x 22 pixels.*--clip-size'):
        convert()
    convert(clip_size=16)
    with pytest.raises(ConfigError, match=r'stride is 8; .*--clip-size'):
        convert(stride=8)


def test_strips_and_workers_change_nothing(tmp_path, data, convert, monkeypatch):
    expected = convert('a')
    monkeypatch.setattr(masks, '_STRIP_PIXELS', 100)
    assert convert('b', workers=2) == expected
    assert files_in(tmp_path / 'a') == files_in(tmp_path / 'b')
    for name in files_in(tmp_path / 'a'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_continuing_and_not_overwriting(tmp_path, data, convert):
    convert()
    out = tmp_path / 'out'
    (out / 'ann_dir/train/Tile_1_0.png').unlink()
    times = {path: path.stat().st_mtime_ns for path in (out / 'img_dir').rglob('*.jpg')}
    convert()
    assert (out / 'ann_dir/train/Tile_1_0.png').is_file()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(OutputError, match=r'tolerance was 0, is 2'):
        convert(tolerance=2)
    convert(content=dict(splits=dict(val='*')), overwrite=True)
    assert [path.name for path in (out / 'img_dir').iterdir()] == ['val']


def test_dubai(real_data, tmp_path):
    """The real thing: palette masks in some folders, sizes that vary, a stray black in others."""
    if not (real_data / 'dubai').is_dir():
        pytest.skip(f'no dubai in {real_data}')
    colours = dict(building='#3C1098', land='#8429F6', road='#6EC1E4', vegetation='#FEDD3A', water='#E2A929')
    classes = [dict(name=name, color=color) for name, color in colours.items()]
    path = tmp_path / 'dubai.yaml'

    def convert(ignored):
        content = {**PATTERNS, 'classes': [*classes, dict(name='unlabelled', color=ignored, ignore=True)]}
        path.write_text(yaml.safe_dump(content))
        splits = dict(train=Split(('Tile 2',)), val=Split(('Tile 3',)))
        return Conversion(load_recipe(path, splits), real_data / 'dubai', tmp_path / 'out').run(dry_run=True)

    with pytest.raises(DataError, match=r'2 of 18 masks .* #000000 '):
        convert(['#9B9B9B'])
    report = convert(['#9B9B9B', '#000000'])
    assert [report['splits'][name]['images'] for name in ('train', 'val')] == [9, 9]
    assert {item['reason'] for item in report['dropped']} == {'in no split'}
    assert report['splits']['train']['classes']['land']['share'] > 0.5
