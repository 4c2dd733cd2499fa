import json
import shutil
from collections import Counter

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.enums import ColorInterp

from mmrs.datasets import LoadRasterAnnotations, LoadRasterImage, RemoteSensingDataset
from mmrs.geo import masks
from mmrs.geo.rasters import open_raster, read_image, read_label_map
from mmrs.preparation.converters import color_masks
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import Split, assign_splits, find_pairs, load_recipe

CLASSES = [
    dict(name='house', color='#FF0000'),
    dict(name='field', color=['#00FF00', [0, 200, 0]]),
    dict(name='unlabelled', color='#000000', ignore=True),
]
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 0], [0, 200, 0]], np.uint8)
LABELS = np.array([0, 1, 255, 1], np.uint8)
PATTERNS = dict(images='{group}/images/{name}', masks='{group}/masks/{name}')


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


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def test_clips_keep_what_the_bands_mean(tmp_path, write, recipe):
    colours = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    write(tmp_path / 'in/a/masks/1.png', COLOURS[np.zeros((32, 32), int)])
    for fourth in (ColorInterp.alpha, ColorInterp.undefined):
        path = write(tmp_path / 'in/a/images/1.tif', np.full((32, 32, 4), 200, np.uint8))
        with rasterio.open(path, 'r+') as raster:
            raster.colorinterp = (*colours, fourth)
        out = tmp_path / fourth.name
        Conversion(recipe(splits=dict(train='a')), tmp_path / 'in', out, clip_size=16).run()
        with open_raster(out / 'img_dir/train/a_1_0_0_16_16.tif') as clip:
            assert clip.colorinterp == (*colours, fourth)


def test_whole_images(tmp_path, data, recipe):
    root, indices = data
    out = tmp_path / 'out'
    splits = dict(train=['Tile 1', 'Tile 2'], val='Tile 3')
    report = Conversion(recipe(splits=splits), root, out).run()
    assert files(out / 'ann_dir/val') == [f'Tile_3_{i}.png' for i in range(4)]
    assert files(out / 'img_dir/train') == [f'Tile_{t}_{i}.jpg' for t in (1, 2) for i in range(4)]
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


def test_the_result_is_a_data_set_without_any_new_class(tmp_path, data, recipe):
    Conversion(recipe(), data[0], tmp_path / 'out').run()
    dataset = RemoteSensingDataset(
        data_root=str(tmp_path / 'out'),
        classes_file='classes.yaml',
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=[LoadRasterImage(), LoadRasterAnnotations()],
    )
    assert len(dataset) == 12
    assert dataset.metainfo['classes'] == ('house', 'field')
    assert dataset.metainfo['palette'] == [(255, 0, 0), (0, 255, 0)]
    assert set(np.unique(dataset[5]['gt_seg_map'])) == {0, 1, 255}


@pytest.mark.parametrize(('edge', 'stride', 'samples'), [('shift', None, 12 * 4), ('drop', 14, 12 * 2)])
def test_clips(tmp_path, data, recipe, edge, stride, samples):
    root, indices = data
    out = tmp_path / 'out'
    report = Conversion(recipe(), root, out, clip_size=16, edge=edge, stride=stride).run()
    assert report['splits']['train']['samples'] == samples == len(files(out / 'img_dir/train'))
    x, y = (14, 0) if edge == 'drop' else (14, 7)
    name = f'Tile_2_3_{x}_{y}_{x + 16}_{y + 16}.png'
    labels, _ = read_label_map(out / 'ann_dir/train' / name)
    np.testing.assert_array_equal(labels, LABELS[indices['Tile 2/3']][y : y + 16, x : x + 16])
    image, _ = read_image(out / 'img_dir/train' / name)
    whole, _ = read_image(root / 'Tile 2/images/3.jpg')
    np.testing.assert_array_equal(image, whole[y : y + 16, x : x + 16])


def test_clips_of_bands_that_png_cannot_hold_are_geotiffs(tmp_path, write, recipe, rng):
    image = rng.random((20, 20, 5)).astype(np.float32)
    image[0, 0] = -1
    ids = np.full((20, 20), 9, np.int16)
    ids[:, 10:] = 3
    ids[:10, :10] = -7
    write(tmp_path / 'raw/images/a.tif', image, nodata=-1)
    write(tmp_path / 'raw/masks/a.tif', ids, nodata=-7)
    classes = [dict(name='wet', id=9), dict(name='dry', id=[3, 4])]
    content = recipe(images='images/{name}', masks='masks/{name}', classes=classes)
    report = Conversion(content, tmp_path / 'raw', tmp_path / 'out', clip_size=10).run()
    assert files(tmp_path / 'out/img_dir/train') == ['a_0_10_10_20.tif', 'a_10_0_20_10.tif', 'a_10_10_20_20.tif']
    # The fourth holds nodata alone.
    assert report['splits']['train']['clips_without_label'] == 1
    assert report['splits']['train']['classes']['wet']['pixels'] == 100
    with open_raster(tmp_path / 'out/img_dir/train/a_10_0_20_10.tif') as clip:
        assert (clip.nodata, clip.crs.to_epsg()) == (-1, 32633)
        np.testing.assert_array_equal(clip.read().transpose(1, 2, 0), image[:10, 10:])
    assert (read_label_map(tmp_path / 'out/ann_dir/train/a_0_10_10_20.png')[0] == 0).all()


def test_image_without_any_data_is_left_out(tmp_path, write, recipe):
    for name, value in (('a', np.nan), ('b', 1)):
        write(tmp_path / f'raw/images/{name}.tif', np.full((8, 8, 2), value, np.float32))
        write(tmp_path / f'raw/masks/{name}.png', np.zeros((8, 8), np.uint8))
    content = recipe(images='images/{name}', masks='masks/{name}', classes=[dict(name='a', id=0)])
    report = Conversion(content, tmp_path / 'raw', tmp_path / 'out').run()
    assert [(item['file'][-5:], item['reason']) for item in report['dropped']] == [('a.tif', 'no pixel with data')]
    assert report['splits']['train']['band_mean'] == [1, 1]


def test_images_smaller_than_a_clip_stay_whole(tmp_path, data, recipe):
    report = Conversion(recipe(), data[0], tmp_path / 'out', clip_size=25).run()
    assert 'Tile_1_0_0_0_25_20.png' in files(tmp_path / 'out/img_dir/train')
    assert report['splits']['train']['samples'] == 12 * 2


def test_unlabelled_images(tmp_path, data, recipe):
    root, _ = data
    shutil.rmtree(root / 'Tile 1/masks')
    report = Conversion(recipe(masks=None), root, tmp_path / 'out').run()
    assert len(files(tmp_path / 'out/img_dir/train')) == report['splits']['train']['images'] == 12
    assert not (tmp_path / 'out/ann_dir').exists()
    assert 'classes' not in report['splits']['train']


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path, data, write, recipe, rng, capsys):
    root, _ = data
    tile = root / 'Tile 1'
    (tile / 'masks/0.png').unlink()
    write(tile / 'masks/1.png', np.zeros((20, 30, 3), np.uint8))
    (tile / 'images/2.jpg').write_bytes((tile / 'images/2.jpg').read_bytes()[:300])
    write(tile / 'masks/3.png', np.zeros((23, 30, 3), np.uint8))
    write(tile / 'images/4.png', rng.integers(0, 9, (8, 8, 4), np.uint8))
    write(tile / 'masks/4.png', np.full((8, 8, 3), [255, 0, 0], np.uint8))
    write(tile / 'masks/5.png', np.zeros((8, 8, 3), np.uint8))
    report = Conversion(recipe(), root, tmp_path / 'out').run()
    reasons = {item['file'].split('Tile 1/')[1]: item['reason'] for item in report['dropped']}
    assert reasons.pop('images/2.jpg').startswith(f'{tile}/images/2.jpg cannot be read as an image')
    assert reasons == {
        'images/0.jpg': 'image without a mask',
        'masks/5.png': 'mask without an image',
        'images/1.jpg': '30 x 21 pixels (width x height), its mask 30 x 20',
        'images/3.jpg': 'no labelled pixel in its mask',
        'images/4.png': '4 bands of uint8, where most images have 3 of uint8',
    }
    assert len(files(tmp_path / 'out/img_dir/train')) == len(files(tmp_path / 'out/ann_dir/train')) == 8
    assert 'Left out 1: no labelled pixel in its mask' in capsys.readouterr().out


def test_unknown_colours_stop_everything_before_the_first_file(tmp_path, data, write, recipe):
    root, indices = data
    image = COLOURS[indices['Tile 3/1']]
    image[:7, :3] = (3, 250, 0)
    write(root / 'Tile 3/masks/1.png', image)
    message = (
        r'1 of 12 masks hold colours that are no class: #03FA00 \(3.33 %, 5 away from #00FF00\) of their pixels\.\n'
        r'Files: .*Tile 3/masks/1\.png \(3.33 %\)\.\nThe classes have #FF0000, #00FF00, #00C800, #000000'
    )
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=message):
            Conversion(recipe(), root, tmp_path / 'out').run(dry_run=dry_run)
    assert not (tmp_path / 'out').exists()
    Conversion(recipe(), root, tmp_path / 'out', tolerance=5).run()
    assert (read_label_map(tmp_path / 'out/ann_dir/train/Tile_3_1.png')[0][:7, :3] == 1).all()


def test_unknown_ids(tmp_path, write, recipe, rng):
    write(tmp_path / 'raw/images/a.png', rng.integers(0, 9, (10, 10, 3), np.uint8))
    write(tmp_path / 'raw/masks/a.png', np.repeat(np.arange(10, dtype=np.uint8)[:, None], 10, axis=1))
    content = recipe(images='images/{name}', masks='masks/{name}', classes=[dict(name='a', id=list(range(9)))])
    with pytest.raises(
        ValueError, match=r'hold ids that are no class: 9 \(10 %\) .*\n.*\nThe classes have 0, 1, .*, 8\.'
    ):
        Conversion(content, tmp_path / 'raw', tmp_path / 'out').run()


def test_a_second_run_with_further_images_is_another_conversion(tmp_path, data, recipe, write):
    root, _ = data
    shares = recipe(splits=dict(train=dict(share=0.5), val=dict(share=0.5)))
    Conversion(shares, root, tmp_path / 'shares').run()
    whole = recipe(splits=dict(train='Tile 1', val='Tile 2'))
    Conversion(whole, root, tmp_path / 'whole').run()
    write(root / 'Tile 1/images/01.jpg', np.zeros((20, 30, 3), np.uint8))
    write(root / 'Tile 1/masks/01.png', COLOURS[np.zeros((20, 30), int)])
    # Otherwise an image that is dealt to validation now would still be among those for training.
    with pytest.raises(FileExistsError, match=r"other settings \(dealt was \{'train': '"):
        Conversion(shares, root, tmp_path / 'shares').run()
    Conversion(whole, root, tmp_path / 'whole').run()
    assert len(files(tmp_path / 'whole/img_dir/train')) == 5


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
        (dict(train='Tile 9'), "Split train names the group 'Tile 9'. Groups found: Tile 1, Tile 2, Tile 3"),
        (dict(train='Tile 1', val='Tile *'), "group 'Tile 1' would be in several splits: train, val"),
        (dict(train=dict(share=0.7), val=dict(share=0.4)), 'the shares of train, val add up to more than 1'),
        (dict(train=dict(share=0.1)), 'No image is left for the split train'),
        (dict(train=dict(share=1.5)), 'split train: share is 1.5; a number above 0'),
        (dict(train=dict(parts=1)), r"split train has unknown keys \['parts'\]"),
        ({'../val': '*'}, "'../val' is no name for a split"),
    ],
)
def test_bad_splits(tmp_path, data, recipe, splits, message):
    with pytest.raises(ValueError, match=message):
        Conversion(recipe(splits=splits), data[0], tmp_path / 'out').run()


def test_overlap_where_it_is_meant(tmp_path, data, recipe):
    content = recipe(splits=dict(train='*', val='Tile 3'), allow_overlap=True)
    report = Conversion(content, data[0], tmp_path / 'out').run()
    assert [report['splits'][name]['images'] for name in ('train', 'val')] == [12, 4]
    assert set(files(tmp_path / 'out/img_dir/val')) < set(files(tmp_path / 'out/img_dir/train'))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('train=Tile 1,Tile 2', ('train', Split(('Tile 1', 'Tile 2')))),
        ('val=*:0.25', ('val', Split(('*',), 0.25))),
        ('val=a:b', ('val', Split(('a:b',)))),
    ],
)
def test_split_argument(text, expected):
    assert Split.parse_argument(text) == expected


@pytest.mark.parametrize('text', ['train', 'train=', 'train=a:7'])
def test_bad_split_argument(text):
    with pytest.raises(ValueError, match=f"--split '{text}'"):
        Split.parse_argument(text)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(image='x'), r"unknown keys \['image'\]; known are allow_overlap, classes"),
        (dict(images='images'), "path pattern 'images' needs parts in braces"),
        (dict(masks='masks/{name}'), 'must have the same parts in braces'),
        (dict(encoding='id'), 'encoding is id, but these classes have no id: house, field, unlabelled'),
        (dict(encoding='colour'), "encoding is 'colour'; color or id"),
        (dict(classes=[dict(name='a', id=1, color='#000000')]), 'Say `encoding: color` or `encoding: id`'),
        (dict(classes=[dict(name='a')]), 'give every class a `color`, or every class an `id`'),
    ],
)
def test_bad_recipes(recipe, content, message):
    with pytest.raises(ValueError, match=message):
        recipe(**content)


def test_patterns(tmp_path):
    root = tmp_path / 'raw'
    names = ['a/b/top_1_RGB.tif', 'a/b/top_1_label.tif', 'c/top_2_RGB.TIF', 'c/top_2_label.tif', 'c/top_2_RGB.tfw']
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    path = tmp_path / 'recipe.yaml'
    patterns = dict(images='**/top_{name}_RGB.tif', masks='*/**/top_{name}_label')
    path.write_text(yaml.safe_dump({**patterns, 'classes': CLASSES}))
    pairs, dropped = find_pairs(root, load_recipe(path))
    assert [(p.stem, p.image[len(str(root)) + 1 :], p.mask[-5:]) for p in pairs] == [
        ('1', names[0], 'l.tif'),
        ('2', names[2], 'l.tif'),
    ]
    assert dropped == []
    (root / 'c/top_1_RGB.tif').touch()
    with pytest.raises(ValueError, match=r'a/b/top_1_RGB\.tif and c/top_1_RGB\.tif both fit'):
        find_pairs(root, load_recipe(path))


def test_names_must_not_fall_together(tmp_path, recipe):
    for name in ('a b/images/c.png', 'a/images/b_c.png'):
        (tmp_path / 'raw' / name).parent.mkdir(parents=True)
        (tmp_path / 'raw' / name).touch()
    with pytest.raises(ValueError, match=r'would both be named a_b_c'):
        find_pairs(tmp_path / 'raw', recipe(masks=None))


def test_no_images(tmp_path, data, recipe):
    with pytest.raises(FileNotFoundError, match=r'nowhere: no such folder'):
        Conversion(recipe(), tmp_path / 'nowhere', tmp_path / 'out').run()
    with pytest.raises(ValueError, match=r"No image in .*raw fits the pattern '\{group\}/pictures/\{name\}'"):
        Conversion(recipe(images='{group}/pictures/{name}'), data[0], tmp_path / 'out').run()
    (data[0] / 'erdas.img').touch()
    with pytest.raises(ValueError, match=r'No image in .*raw .* 1 raster \(\.img\)'):
        Conversion(recipe(images='{group}/pictures/{name}'), data[0], tmp_path / 'out').run()


def test_large_images_are_to_be_cut(tmp_path, data, recipe, monkeypatch):
    monkeypatch.setattr(color_masks, '_MAX_WHOLE_PIXELS', 650)
    with pytest.raises(ValueError, match=r'2\.jpg has 30 x 22 pixels, too many for one sample. Add --clip-size'):
        Conversion(recipe(), data[0], tmp_path / 'out').run()
    Conversion(recipe(), data[0], tmp_path / 'out', clip_size=16).run()


def test_strips_and_workers_change_nothing(tmp_path, data, recipe, monkeypatch):
    expected = Conversion(recipe(), data[0], tmp_path / 'a').run()
    monkeypatch.setattr(masks, '_STRIP_PIXELS', 100)
    assert Conversion(recipe(), data[0], tmp_path / 'b').run(workers=2) == expected
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    for name in files(tmp_path / 'a'):
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def test_continuing_and_not_overwriting(tmp_path, data, recipe):
    root, out = data[0], tmp_path / 'out'
    Conversion(recipe(), root, out).run()
    (out / 'ann_dir/train/Tile_1_0.png').unlink()
    times = {path: path.stat().st_mtime_ns for path in (out / 'img_dir').rglob('*.jpg')}
    Conversion(recipe(), root, out).run()
    assert (out / 'ann_dir/train/Tile_1_0.png').is_file()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(FileExistsError, match=r'other settings .*tolerance was 0, is 2'):
        Conversion(recipe(), root, out, tolerance=2).run()
    Conversion(recipe(splits=dict(val='*')), root, out).run(overwrite=True)
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

    with pytest.raises(ValueError, match=r'2 of 18 masks hold colours that are no class: #000000 '):
        convert(['#9B9B9B'])
    report = convert(['#9B9B9B', '#000000'])
    assert [report['splits'][name]['images'] for name in ('train', 'val')] == [9, 9]
    assert {item['reason'] for item in report['dropped']} == {'in no split'}
    assert report['splits']['train']['classes']['land']['share'] > 0.5
