"""Each trap in a data set that is otherwise clean, and nothing found in the clean one."""

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from rasterio.crs import CRS
from rasterio.transform import Affine

from mmrs.apis.check_dataset import check_dataset
from mmrs.apis.checked_sets import config_sets
from mmrs.checks.findings import check_sets
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.geo.grids import RasterGrid
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError

CLASSES = """\
classes:
  - {name: field, id: 0, color: '#FF0000'}
  - {name: road, id: 1, color: '#00FF00'}
  - {name: water, id: 2, color: '#0000FF'}
  - {name: unknown, id: 9, ignore: true}
"""
PLACE = dict(crs='EPSG:32633', transform=Affine(0.5, 0, 366676, 0, -0.5, 5808615))


@pytest.fixture
def root(tmp_path, write, rng):
    """Four GeoTIFFs for training and two for validation, with labels of 30, 20, 10 pixels and 4 ignored."""
    folder = tmp_path / 'city'
    for split, number in (('train', 4), ('val', 2)):
        for i in range(number):
            labels = rng.permutation(np.repeat([0, 1, 2, 9, 255], [30, 20, 10, 3, 1])).astype(np.uint8).reshape(8, 8)
            write(folder / 'img_dir' / split / f'{i}.tif', rng.integers(1, 256, (8, 8, 3), np.uint8), **PLACE)
            write(folder / 'ann_dir' / split / f'{i}.tif', labels, **PLACE)
    (folder / 'classes.yaml').write_text(CLASSES)
    return folder


def check(*paths, **kwargs):
    return check_dataset(paths, workers=kwargs.pop('workers', 0), **kwargs)


def kinds(report):
    return sorted(finding.kind for finding in report.findings)


def only(report, *ignoring):
    (finding,) = (finding for finding in report.findings if finding.kind not in ignoring)
    return finding


@pytest.mark.parametrize('workers', [0, 2])
def test_nothing_is_found_in_a_clean_data_set(root, workers):
    report = check(root, workers=workers)
    assert report.findings == []
    assert [own['images'] for own in report.summaries] == [4, 2]
    assert report.summaries[0] | dict(name='', domain='') == dict(
        name='', domain='', images=4, labels=4, width='8', height='8', bands='3', dtype='uint8', crs='EPSG:32633',
        pixel_metres='0.5', valid_share=1.0, labelled_pixels=240,
    )  # fmt: skip
    assert [group.pixels.tolist() for group in report.groups] == [[120, 80, 40], [60, 40, 20]]
    assert report.shifts()['val']['classes'] == 0


def _image(folder, write, image, name='0.tif', **profile):
    (folder / 'img_dir' / 'train' / name).unlink(missing_ok=True)
    write(folder / 'img_dir' / 'train' / name, image, **{**PLACE, **profile})


def _label(folder, write, labels, **profile):
    write(folder / 'ann_dir' / 'train' / '0.tif', labels, **{**PLACE, **profile})


def _scaled(path, scale, offset):
    with rasterio.open(path, 'r+') as raster:
        raster.scales, raster.offsets = (scale,) * raster.count, (offset,) * raster.count


def _without_crs(folder, write):
    """As a survey delivers images: the CRS in a file of its own."""
    _image(folder, write, SOME, crs=None)
    _label(folder, write, IDS, crs=None)
    (folder / 'img_dir' / 'train' / '0.prj').write_text(CRS.from_epsg(32633).to_wkt())


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SOME = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
IDS = np.repeat([0, 1, 2, 9], 16).astype(np.uint8).reshape(8, 8)

TRAPS = {
    'missing_label': (lambda f, w: (f / 'ann_dir/train/0.tif').unlink(), '', 'ann_dir/train/0.*'),
    'label_without_image': (lambda f, w: (f / 'img_dir/train/0.tif').unlink(), '', ''),
    'same_name': (lambda f, w: w(f / 'img_dir/train/0.png', SOME), '', ''),
    'unreadable_image': (lambda f, w: _cut(f / 'img_dir/train/0.tif'), 'cannot be read', ''),
    'unreadable_label': (lambda f, w: _cut(f / 'ann_dir/train/0.tif'), 'cannot be read', ''),
    'size_mismatch': (lambda f, w: _label(f, w, IDS[:, :7]), 'label map 7 x 8 pixels', '8 x 8'),
    'other_place': (lambda f, w: _label(f, w, IDS, crs='EPSG:32632'), 'label map in EPSG:32632', 'EPSG:32633'),
    'shifted_grid': (
        lambda f, w: _label(f, w, IDS, transform=Affine(0.5, 0, 366676.1, 0, -0.5, 5808615)), '0.2 pixels', '0.001',
    ),
    'crs_missing': (
        lambda f, w: _label(f, w, IDS, crs=None, transform=Affine.identity()), '0.tif has no georeference', '',
    ),
    'label_bands': (lambda f, w: _label(f, w, SOME[..., :2]), '2 bands', '1 band'),
    'unknown_id': (lambda f, w: _label(f, w, np.where(IDS == 1, 7, IDS)), '7 (25 %)', '0, 1, 2, 9, 255'),
    'band_mismatch': (lambda f, w: _image(f, w, SOME[..., :2]), '2 bands', '3 bands, as 3 of 4'),
    'dtype_mismatch': (lambda f, w: _image(f, w, SOME.astype(np.uint16)), 'uint16', 'uint8, as 3 of 4'),
    'empty_image': (lambda f, w: _image(f, w, 0 * SOME, nodata=0), '', ''),
    'constant_image': (lambda f, w: _image(f, w, 0 * SOME + 5), '5, 5, 5', ''),
    'ignored_label': (lambda f, w: _label(f, w, 0 * IDS + 255), '', ''),
    'nodata_is_class': (lambda f, w: _label(f, w, IDS, nodata=2), 'nodata 2 on 16 pixels is water', ''),
    'scales_differ': (
        lambda f, w: _scaled(f / 'img_dir' / 'train' / '0.tif', 1e-4, -0.1),
        'scale 0.0001, offset -0.1 in 1 images; neither in 5 images',
        '',
    ),
    'crs_beside': (lambda f, w: _without_crs(f, w), '--crs EPSG:32633', ''),
    'alpha_of_many_values': (
        lambda f, w: _image(f, w, np.dstack([SOME, IDS * 25]), photometric='RGB', alpha='YES'), '75 %', '',
    ),
}  # fmt: skip


@pytest.mark.parametrize('kind', TRAPS)
def test_one_trap_is_found_and_no_other(root, write, kind):
    change, found, expected = TRAPS[kind]
    change(root, write)
    finding = only(check(root))
    assert finding.kind == kind
    assert finding.where.startswith('train')
    assert any('0.' in path.rsplit('/', 1)[-1] for path in finding.files)
    assert found in finding.found
    assert expected in finding.expected


def test_the_same_scale_everywhere_is_no_warning(root):
    for path in (root / 'img_dir').rglob('*.*'):
        _scaled(path, 0.01, 0)
    finding = only(check(root))
    assert (finding.kind, finding.severity) == ('scale_not_applied', 'info')
    assert finding.found == 'scale 0.01, offset 0 in 6 images'


def test_no_image_with_data(root, write):
    for i in range(4):
        (root / 'img_dir' / 'train' / f'{i}.tif').unlink(missing_ok=True)
        (root / 'img_dir' / 'train' / f'{i}.png').unlink(missing_ok=True)
        write(root / 'img_dir' / 'train' / f'{i}.tif', np.full((8, 8, 3), np.nan, np.float32), **PLACE)
    finding = only(check(root), 'other_units')
    assert (finding.kind, finding.severity, finding.where) == ('no_data', 'error', 'train')
    assert finding.found == '4 of 4 images are without'


def test_a_class_without_a_pixel(root, write):
    for i in range(4):
        write(root / 'ann_dir' / 'train' / f'{i}.tif', IDS % 2, **PLACE)
    finding = only(check(root))
    assert (finding.kind, finding.where, finding.found) == ('class_never_seen', 'train', 'water')


def test_missing_folders(root):
    (root / 'ann_dir' / 'val').rename(root / 'elsewhere')
    report = check(root)  # a split without labels is an unlabelled one
    assert report.findings == []
    assert report.groups[1].labels_of == ''
    with pytest.raises(DataError, match='nowhere: no such folder'):
        check(root / 'nowhere')
    (root / 'empty').mkdir()
    with pytest.raises(DataError, match='empty holds no images'):
        check(root / 'empty')


def test_rasters_of_other_formats(root, write, tmp_path):
    for name in ('img_dir/train/other.img', 'ann_dir/val/other.img'):
        (root / name).touch()
    findings = check(root).findings
    assert {finding.kind for finding in findings} == {'other_formats'}
    assert [(f.where, f.found, f.files) for f in findings] == [
        ('train', '1 raster (.img)', (str(root / 'img_dir/train'),)),
        ('val', '1 raster (.img)', (str(root / 'ann_dir/val'),)),
    ]
    assert check(root, image_suffix='.tif', label_suffix='.tif').findings == []
    (tmp_path / 'erdas').mkdir()
    (tmp_path / 'erdas' / 'other.img').touch()
    with pytest.raises(DataError, match=r'erdas holds no images .*1 raster \(\.img\)'):
        check(tmp_path / 'erdas')


def test_rounded_transforms_are_no_finding(root, write):
    transform = Affine(0.5, 0, 366676 + 1e-10, 0, -0.5, 5808615)
    write(root / 'ann_dir' / 'train' / '0.tif', IDS, **{**PLACE, 'transform': transform})
    assert check(root).findings == []


def test_offsets_between_grids():
    def grid(*transform):
        return RasterGrid(None, Affine(*transform), 100, 50)

    one = grid(2, 0, 10, 0, -2, 20)
    assert one.offset(one) == 0
    assert one.offset(grid(2, 0, 13, 0, -2, 20)) == pytest.approx(1.5)
    # One per cent larger pixels: the far corner is one pixel away along the longer side.
    assert one.offset(grid(2.02, 0, 10, 0, -2.02, 20)) == pytest.approx(1)
    # A quarter turn about the origin takes (100, 50) to (-50, 100).
    assert grid(1, 0, 0, 0, 1, 0).offset(grid(0, -1, 0, 1, 0, 0)) == pytest.approx(150)


# Colour masks --------------------------------------------------------------------------------------------------------

COLOURS = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 0, 255)}


@pytest.fixture
def masks(tmp_path, write, rng):
    """Three images with colour masks, one of them a palette image: 32, 24 and 8 pixels of the classes."""
    table = tmp_path / 'colours.yaml'
    table.write_text(
        CLASSES.replace('id: 0, ', '')
        .replace('id: 1, ', '')
        .replace('id: 2, ', '')
        .replace('id: 9', "color: '#FFFFFF'")
    )
    for i in range(3):
        ids = rng.permutation(np.repeat([0, 1, 2], [32, 24, 8])).reshape(8, 8).astype(np.uint8)
        write(tmp_path / 'images' / f'{i}_image.png', rng.integers(0, 256, (8, 8, 3), np.uint8))
        path = tmp_path / 'masks' / f'{i}_mask.png'
        if i == 2:
            write(path, ids, palette={k: (*colour, 255) for k, colour in COLOURS.items()})
        else:
            write(path, np.array(list(COLOURS.values()), np.uint8)[ids])
    names = dict(image_suffix='_image.png', label_suffix='_mask.png')
    return dict(labels=tmp_path / 'masks', classes=table, **names), tmp_path / 'images'


def test_colour_masks(masks, write):
    options, folder = masks
    report = check(folder, **options)
    assert report.findings == []
    assert report.groups[0].pixels.tolist() == [96, 72, 24]

    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:] = COLOURS[1]
    mask[0, :4] = (1, 254, 3)
    write(options['labels'] / '0_mask.png', mask)
    finding = only(check(folder, **options))
    assert finding.kind == 'unknown_colour'
    assert finding.found == '#01FE03 (6.25 %)'
    assert finding.expected == '#0000FF, #00FF00, #FF0000, #FFFFFF'


def test_masks_without_a_table_are_listed(masks):
    options, folder = masks
    finding = only(check(folder, **{**options, 'classes': None}))
    assert (finding.kind, finding.severity) == ('unknown_classes', 'info')
    assert finding.found == '0, 1, 2, #0000FF, #00FF00, #FF0000'


# Duplicates ----------------------------------------------------------------------------------------------------------


def test_the_same_pixels_in_training_and_evaluation(root, write):
    image = np.dstack([SOME, SOME[..., 0]]).astype(np.uint16)
    for name in ('train/0.tif', 'train/1.tif', 'val/0.tif'):
        # Another compression: the files differ.
        profile = dict(compress='deflate', tiled=True, blockxsize=16, blockysize=16) if 'val' in name else {}
        write(root / 'img_dir' / name, image, **{**PLACE, **profile})
    report = check(root)
    found = {finding.kind: finding for finding in report.findings if finding.kind.endswith(('evaluation', 'image'))}
    assert sorted(found) == ['duplicate_image', 'train_in_evaluation']
    assert [path[-11:] for path in found['duplicate_image'].files] == ['train/0.tif', 'train/1.tif']
    assert found['train_in_evaluation'].where == 'train and val'
    assert report.number('error') >= 1


def test_images_without_content_are_no_duplicates(root, write):
    for name in ('train/0.tif', 'val/0.tif'):
        write(root / 'img_dir' / name, 0 * SOME, **PLACE)
    assert kinds(check(root)) == ['constant_image'] * 2


def test_the_same_image_in_two_domains(root, write, tmp_path):
    write(tmp_path / 'other' / 'a.tif', SOME, **PLACE)
    write(root / 'img_dir' / 'train' / '0.tif', SOME, **PLACE)
    finding = only(check(root, tmp_path / 'other'))
    assert (finding.kind, finding.where) == ('source_in_target', 'city train and other images')


# Domains -------------------------------------------------------------------------------------------------------------


def test_shifts_between_domains(tmp_path, write, rng):
    base = rng.integers(0, 100, (40, 40, 2), np.uint8)
    for domain, image, shares in (('a', base, (0.5, 0.5, 0)), ('b', base + np.uint8([50, 0]), (0.5, 0.2, 0.3))):
        write(tmp_path / domain / 'img_dir' / 'train' / '0.png.tif', image)
        ids = np.repeat([0, 1, 2], [int(1600 * share) for share in shares]).astype(np.uint8).reshape(40, 40)
        write(tmp_path / domain / 'ann_dir' / 'train' / '0.png.tif', ids)
        (tmp_path / domain / 'classes.yaml').write_text(CLASSES)
    report = check(tmp_path / 'a', tmp_path / 'b')
    assert kinds(report) == ['class_never_seen']
    shift = report.shifts()['b']
    assert shift['classes'] == pytest.approx(0.3)
    np.testing.assert_allclose(shift['bands'], [50 / base[..., 0].std(), 0], rtol=1e-12)


@pytest.mark.parametrize('image', [SOME.astype(np.uint16) * 40, SOME.astype(np.float32) / 255, SOME.astype(np.uint16)])
def test_other_units(root, write, tmp_path, image):
    write(tmp_path / 'other' / 'a.tif', image, **PLACE)
    finding = only(check(root, tmp_path / 'other'))
    assert (finding.kind, finding.where) == ('other_units', 'city and other')
    assert str(image.dtype) in finding.found
    assert 'uint8' in finding.expected


def test_a_sample_is_the_same_with_the_same_seed(root):
    reports = [check(root, sample=1, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert all(kinds(report) == ['sampled', 'sampled'] for report in reports)
    assert reports[0].findings[0].found == '1 of 4 images, seed 0'
    pixels = [report.groups[0].statistics.mean.tolist() for report in reports]
    assert pixels[0] == pixels[1]
    assert len({tuple(p) for p in pixels}) > 1


# Configurations ------------------------------------------------------------------------------------------------------

LOAD = [dict(type='LoadRasterImage', bands=(1, 2, 3)), dict(type='LoadRasterAnnotations')]


def _config(source, target, mean=(128.0,) * 3, **changes):
    own = dict(type='RemoteSensingDataset', classes_file='classes.yaml', pipeline=LOAD)
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    evaluation = dict(img_path='img_dir/val', seg_map_path='ann_dir/val')
    val = dict(dataset=dict(**own, data_root=str(target), data_prefix=evaluation, test_mode=True))
    source = {**own, 'data_root': str(source), 'data_prefix': prefix, **changes}
    target = dict(own, data_root=str(target), data_prefix=prefix, pipeline=LOAD[:1])
    return Config(
        dict(
            model=dict(data_preprocessor=dict(mean=list(mean), std=[74.0] * len(mean))),
            train_dataloader=dict(dataset=dict(type='DomainAdaptationDataset', source=source, target=target)),
            val_dataloader=val,
            test_dataloader=val,
        )
    )


@pytest.fixture
def other(root, write, rng):
    """A second folder like the first."""
    folder = root.parent / 'village'
    for split in ('train', 'val'):
        for i in range(2):
            write(folder / 'img_dir' / split / f'{i}.tif', rng.integers(1, 256, (8, 8, 3), np.uint8), **PLACE)
            write(folder / 'ann_dir' / split / f'{i}.tif', IDS, **PLACE)
    (folder / 'classes.yaml').write_text(CLASSES)
    return folder


def check_config(config, tmp_path, **kwargs):
    file = tmp_path / 'config.py'
    config.dump(file)
    return check(file, **kwargs)


def test_a_configuration(root, other, tmp_path):
    report = check_config(_config(root, other), tmp_path)
    assert report.findings == []
    assert [(own['name'], own['domain'], own['labels']) for own in report.summaries] == [
        ('train source', 'source', 4), ('train target', 'target', 0), ('val, test', 'target', 2),
    ]  # fmt: skip
    # The target's labels in training are not looked at, its shares are those of the evaluation.
    assert [group.labels_of for group in report.groups] == ['train source', 'val, test']
    assert report.groups[1].pixels.tolist() == [32, 32, 32]


def test_what_stops_a_data_set_is_found_with_the_rest(root, other, tmp_path, write):
    (root / 'ann_dir' / 'train' / '0.tif').unlink()
    _cut(root / 'img_dir' / 'train' / '1.tif')
    (other / 'img_dir' / 'val' / '0.tif').unlink()
    write(root / 'img_dir' / 'train' / '2.png', SOME)
    found = kinds(check_config(_config(root, other), tmp_path))
    assert found == ['label_without_image', 'missing_label', 'same_name', 'unreadable_image']


def test_a_target_that_is_evaluated_is_a_warning_only(root, other, tmp_path):
    config = _config(root, other)
    config.val_dataloader.dataset.data_prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    config.test_dataloader = config.val_dataloader
    report = check_config(config, tmp_path)
    assert kinds(report) == ['target_in_evaluation'] * 2
    config = _config(root, root)
    config.train_dataloader.dataset = config.train_dataloader.dataset.source
    config.val_dataloader.dataset.data_prefix = config.train_dataloader.dataset.data_prefix
    assert kinds(check_config(config, tmp_path)) == ['train_in_evaluation'] * 4


def test_lists_of_images(root, other, tmp_path):
    (root / 'list.txt').write_text('0\n3.tif\n7\n')
    report = check_config(_config(root, other, ann_file='list.txt'), tmp_path)
    assert report.summaries[0]['images'] == 2
    finding = only(report)
    assert finding.kind == 'missing_image'
    assert finding.files[0].endswith('img_dir/train/7')


def test_class_maps_and_different_classes(root, other, tmp_path):
    merge = dict(class_map=dict(dry=['field', 'road'], water='water'))
    report = check_config(_config(root, other, **merge), tmp_path)
    assert kinds(report) == ['classes_differ', 'classes_differ']
    assert report.findings[0].found == 'field, road, water'
    assert report.findings[0].expected == 'dry, water'
    assert report.groups[0].pixels.tolist() == [200, 40]
    assert not report.classes


def test_the_same_classes_in_another_order(root, other, write, tmp_path):
    for i in range(2):
        labels = np.repeat([0, 1, 2, 9], [32, 20, 8, 4]).astype(np.uint8).reshape(8, 8)
        write(other / 'ann_dir' / 'val' / f'{i}.tif', labels, **PLACE)
    config = _config(root, other)
    head, *rows = CLASSES.splitlines()
    (other / 'turned.yaml').write_text('\n'.join([head, *reversed(rows)]))
    config.val_dataloader.dataset.classes_file = 'turned.yaml'
    config.test_dataloader = config.val_dataloader
    report = check_config(config, tmp_path)
    assert kinds(report) == []
    assert report.classes == ('field', 'road', 'water')
    assert report.groups[-1].pixels.tolist() == [64, 40, 16]


def test_a_data_set_that_cannot_be_built(root, other, tmp_path):
    report = check_config(_config(root, other, class_map=dict(dry='desert')), tmp_path)
    finding = only(report)
    assert (finding.kind, finding.where) == ('unusable_data_set', 'train source')
    assert 'names desert' in finding.found
    config = _config(root, other)
    config.train_dataloader.dataset.source.data_root = str(tmp_path / 'nowhere')
    config.train_dataloader.dataset.source.pop('classes_file')
    config.train_dataloader.dataset.source.data_prefix = dict(img_path='images', seg_map_path='labels')
    assert kinds(check_config(config, tmp_path)) == ['missing_folder', 'missing_folder']


@pytest.mark.parametrize(
    ('mean', 'kind'), [((128.0,) * 4, 'preprocessor_bands'), ((0.4, 0.4, 0.4), None), ((2000.0,) * 3, 'normalisation')]
)
def test_normalisation_is_that_of_the_images(root, other, tmp_path, mean, kind):
    found = kinds(check_config(_config(root, other, mean), tmp_path))
    assert found == ([] if kind is None else [kind] * 2)


def test_windows_of_rasters(root, other, tmp_path, write):
    config = _config(root, other)
    part = config.train_dataloader.dataset.source
    part.update(type='RasterDataset', windows=dict(size=4, stride=4))
    report = check_config(config, tmp_path)
    assert report.findings == []
    assert report.summaries[0]['images'] == 4
    assert report.groups[0].pixels.tolist() == [120, 80, 40]
    write(root / 'ann_dir' / 'train' / '0.tif', np.where(IDS == 1, 7, IDS), **PLACE)
    finding = only(check_config(config, tmp_path))
    assert finding.kind == 'label_problem'
    assert 'label id 7' in finding.found


def test_rasters_that_cannot_be_built_are_looked_at_all_the_same(root, other, tmp_path, write):
    config = _config(root, other)
    config.train_dataloader.dataset.source.update(type='RasterDataset', windows=dict(size=4))
    (root / 'ann_dir' / 'train' / '0.tif').unlink()
    _cut(root / 'img_dir' / 'train' / '1.tif')
    write(root / 'img_dir' / 'train' / '2.tif', np.zeros((8, 8, 3), np.float32), **PLACE)
    report = check_config(config, tmp_path)
    assert kinds(report) == [
        'constant_image',
        'dtype_mismatch',
        'missing_label',
        'unreadable_image',
        'unusable_data_set',
    ]
    config.train_dataloader.dataset.source.data_prefix.seg_map_path = 'labels.gpkg'
    (root / 'labels.gpkg').write_bytes(b'no layers')
    assert 'missing_folder' not in kinds(check_config(config, tmp_path))


def test_a_folder_with_fewer_images_than_were_published(root, other, tmp_path):
    (root / 'Train').mkdir()
    (root / 'Train' / 'Rural').symlink_to(root)
    config = _config(root, other)
    part = config.train_dataloader.dataset.source
    part.pop('classes_file')
    part.update(type='LoveDADataset', img_suffix='.tif', seg_map_suffix='.tif')
    part.data_prefix.img_path = 'Train/Rural/images_png'
    (root / 'images_png').symlink_to(root / 'img_dir' / 'train')
    (finding,) = (finding for finding in check_config(config, tmp_path).findings if finding.kind == 'incomplete')
    assert (finding.found, finding.expected) == ('4 images', '1366')


def test_both_sides_of_oblong_pixels(tmp_path, write):
    write(tmp_path / 'a.tif', SOME, crs='EPSG:32633', transform=Affine(0.5, 0, 366676, 0, -2, 5808615))
    assert check(tmp_path).summaries[0]['pixel_metres'] == '0.5–2'


def test_every_set_of_the_real_flood_chips(real_data, tmp_path):
    table = tmp_path / 'classes.yaml'
    table.write_text('classes: [{name: dry, id: 0}, {name: water, id: 1}, {name: nodata, id: -1, ignore: true}]')
    report = check(
        real_data / 'sen1floods11' / 'S1',
        labels=real_data / 'sen1floods11' / 'Labels',
        classes=table,
        image_suffix='_S1Hand.tif',
        label_suffix='_LabelHand.tif',
    )
    found = {finding.kind: finding.files[0].rsplit('/', 1)[-1] for finding in report.findings}
    assert found == {
        'empty_image': 'Paraguay_34417_S1Hand.tif',
        'ignored_label': 'Ghana_83483_LabelHand.tif',
    }


def test_an_empty_configuration_is_refused():
    with pytest.raises(ConfigError, match='no train_dataloader, val_dataloader or test_dataloader'):
        check_sets(config_sets(Config(dict(model=dict()))))


def test_published_data_sets_are_listed_with_what_is_missing(root, other, tmp_path):
    (root / 'ann_dir' / 'train' / '0.tif').unlink()
    config = _config(root, other)
    part = config.train_dataloader.dataset.source
    part.pop('classes_file')
    part.update(type='LoveDADataset', img_suffix='.tif', seg_map_suffix='.tif')
    report = check_config(config, tmp_path)
    assert 'missing_label' in kinds(report)
    assert 'unusable_data_set' not in kinds(report)
    # LoveDA's ids are 1 to 7, 0 is ignored: 9 is none.
    assert {finding.found for finding in report.findings if finding.kind == 'unknown_id'} == {'9 (4.69 %)'}


def test_a_data_set_of_ones_own_is_asked_for_its_pairs(root, other, tmp_path):
    class Odd(RemoteSensingDataset):
        def load_data_list(self):
            folder = self.data_prefix['img_path']
            return [dict(img_path=f'{folder}/0.tif', seg_map_path=f'{folder}/../../ann_dir/train/1.tif')]

    DATASETS.register_module(module=Odd, force=True)
    try:
        report = check_config(_config(root, other, type='Odd'), tmp_path)
    finally:
        DATASETS.module_dict.pop('Odd')
    assert report.findings == []
    assert [own['images'] for own in report.summaries] == [1, 2, 2]
