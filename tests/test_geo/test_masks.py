"""A mask means the same to everything that reads it, whatever the file is like that holds it."""

import json
import warnings

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from mmrs.apis.check_dataset import check_dataset
from mmrs.apis.checked_sets import config_sets
from mmrs.apis.raster_scores import evaluate_raster
from mmrs.checks.findings import check_sets
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.datasets.transforms import LoadRasterAnnotations, LoadRasterImage
from mmrs.evaluation.raster_pair import RasterPair
from mmrs.geo.masks import MaskColours, look_up, pack, unpack
from mmrs.geo.rasters import open_raster
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import load_recipe
from mmrs.utils.errors import DataError

SHAPE = 14, 19
NAMES = 'white', 'black', 'grey'
#: Training index and shade of the four things in a mask: white, black, grey, and what is ignored.
INDEX = np.array([0, 1, 2, 255], np.uint8)
SHADE = np.array([255, 0, 85, 170], np.uint8)
PLACE = dict(crs='EPSG:32633', transform=Affine(0.5, 0, 400000, 0, -0.5, 5800000))


def write(path, bands, palette=None, kinds=None, driver='GTiff', **profile):
    bands = bands if bands.ndim == 3 else bands[None]
    shape = dict(count=len(bands), height=bands.shape[1], width=bands.shape[2], dtype=bands.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'w', driver='PNG' if path.suffix == '.png' else driver, **shape, **profile) as raster:
            raster.write(bands)
            if palette is not None:
                raster.write_colormap(1, palette)
            if kinds is not None:
                raster.colorinterp = kinds
    return path


def grey(bits, suffix, white_is_zero=False):
    """A band of grey; the last of what is returned are the values, to be given as ids."""

    def make(folder, what):
        top = 2**bits - 1
        values = (SHADE.astype(int) * top // 255)[what].astype(np.uint16 if bits > 8 else np.uint8)
        options = dict(nbits=bits) if bits not in (8, 16) else {}
        if white_is_zero:
            values, options = top - values, dict(options, photometric='MINISWHITE')
        return write(folder / f'a{suffix}', values, **options), values

    return make


def pillow(bits):
    def make(folder, what):
        folder.mkdir(parents=True, exist_ok=True)
        if bits == 16:
            image = Image.fromarray(SHADE[what].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(SHADE[what]).convert({1: '1', 8: 'L'}[bits])
        image.save(folder / 'a.png')
        return folder / 'a.png', np.asarray(image).astype(int)

    return make


def palette(bits, suffix):
    """Colours under indices in another order."""

    def make(folder, what):
        folder.mkdir(parents=True, exist_ok=True)
        order = np.array([1, 0, 3, 2], np.uint8)
        indices, path = order[what], folder / f'a{suffix}'
        colours = {int(index): (int(shade),) * 3 for index, shade in zip(order, SHADE)}
        if suffix == '.png':
            image = Image.fromarray(indices, 'P')
            image.putpalette([value for index in sorted(colours) for value in colours[index]])
            image.save(path, bits=bits)
        else:
            write(path, indices, palette=colours, nbits=bits, photometric='palette')
        return path, indices

    return make


def transparent(suffix):
    """Grey and an alpha band that shows everything."""

    def make(folder, what):
        bands = np.stack([SHADE[what], np.full(SHAPE, 255, np.uint8)])
        return write(folder / f'a{suffix}', bands, **(dict(alpha='yes') if suffix == '.tif' else {})), bands[0]

    return make


def colour(dtype, suffix, alpha=False, **options):
    def make(folder, what):
        top = 2 ** options.get('nbits', 8 * np.dtype(dtype).itemsize) - 1
        bands = np.stack([(SHADE.astype(int) * top // 255)[what].astype(dtype)] * 3)
        if alpha:
            bands = np.concatenate([bands, np.full((1, *SHAPE), top, dtype)])
        kinds = dict(photometric='rgb', alpha='yes' if alpha else 'no') if suffix == '.tif' else {}
        return write(folder / f'a{suffix}', bands, **kinds, **options), None

    return make


FILES = {
    **{f'grey{bits}{suffix}': grey(bits, suffix) for bits in (1, 2, 4, 8, 16) for suffix in ('.png', '.tif')},
    'grey12.tif': grey(12, '.tif'),
    **{f'white_is_zero{bits}': grey(bits, '.tif', white_is_zero=True) for bits in (1, 2, 4, 8, 16)},
    **{f'pillow{bits}': pillow(bits) for bits in (1, 8, 16)},
    **{f'palette{bits}.png': palette(bits, '.png') for bits in (2, 4, 8)},
    **{f'palette{bits}.tif': palette(bits, '.tif') for bits in (2, 4, 8)},
    **{f'grey_alpha{suffix}': transparent(suffix) for suffix in ('.png', '.tif')},
    **{f'rgb{suffix}': colour(np.uint8, suffix) for suffix in ('.png', '.tif')},
    **{f'rgb_alpha{suffix}': colour(np.uint8, suffix, alpha=True) for suffix in ('.png', '.tif')},
    **{f'rgb16{suffix}': colour(np.uint16, suffix) for suffix in ('.png', '.tif')},
    'rgb4.tif': colour(np.uint8, '.tif', nbits=4),
    'rgb_planes.tif': colour(np.uint8, '.tif', interleave='band'),
}


class Scene:
    """A mask, an image to it, the table of its classes, and what the mask says by hand: `(H, W)` training indices."""

    def __init__(self, folder, name, by, rng):
        self.folder = folder
        what = rng.integers(0, 2 if name.endswith('1') or name.startswith('grey1.') else 4, SHAPE)
        self.expected = INDEX[what]
        self.mask, values = FILES[name](folder / 'masks', what)
        if by == 'id' and values is None:
            pytest.skip('three bands are a colour')
        write(folder / 'images/a.png', rng.integers(0, 256, (3, *SHAPE), np.uint8))
        lines = ['classes:']
        for place, (text, shade) in enumerate(zip((*NAMES, 'other'), SHADE)):
            key = f"color: '#{3 * f'{shade:02X}'}'"
            if by == 'id':
                found = np.unique(values[what == place]).tolist()
                assert len(found) < 2
                key = f'id: {found[0] if found else 1000 + place}'
            lines.append(f'  - {{name: {text}, {key}{", ignore: true" if place == 3 else ""}}}')
        self.classes = folder / 'classes.yaml'
        self.classes.write_text('\n'.join(lines) + '\n')
        assert what.min() == 0

    @property
    def options(self):
        return dict(
            data_root=str(self.folder),
            classes_file='classes.yaml',
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            pipeline=[LoadRasterImage(), LoadRasterAnnotations()],
        )


def by_converter(scene):
    Conversion(load_recipe(scene.classes), scene.folder, scene.folder / 'out').run()
    return np.asarray(Image.open(scene.folder / 'out/ann_dir/train/a.png'))


def by_clips(scene):
    Conversion(load_recipe(scene.classes), scene.folder, scene.folder / 'clips', clip_size=8, edge='shift').run()
    read = np.full(SHAPE, 255, np.uint8)  # clips without any label are left out
    for path in (scene.folder / 'clips/ann_dir/train').glob('*.png'):
        x0, y0, x1, y1 = map(int, path.stem.split('_')[1:])
        read[y0:y1, x0:x1] = np.asarray(Image.open(path))
    return read


def by_data_set(scene):
    return RemoteSensingDataset(**scene.options)[0]['gt_seg_map']


def by_windows(scene):
    read = np.full(SHAPE, 7, np.uint8)
    for sample in RasterDataset(windows=dict(size=8), test_mode=True, **scene.options):
        x0, y0, x1, y1 = sample['window']
        read[y0:y1, x0:x1] = sample['gt_seg_map']
    return read


def by_evaluation(scene):
    prediction = write(scene.folder / 'map.tif', np.zeros(SHAPE, np.uint8))
    with rasterio.open(prediction, 'r+') as raster:
        raster.update_tags(CLASSES=json.dumps(NAMES))
        raster.write_colormap(1, dict.fromkeys(range(3), (1, 2, 3)))
    pair = RasterPair(prediction, scene.mask, load_recipe(scene.classes).classes)
    return np.concatenate([pair.labelled((0, top, SHAPE[1], top + 7)) for top in (0, 7)])


def by_own_prediction(scene):
    """A prediction that does not name its classes is read by the table, too."""
    with rasterio.open(scene.mask) as raster:
        if raster.count > 1:
            pytest.skip('a map of classes has one band')
    pair = RasterPair(scene.mask, scene.mask, load_recipe(scene.classes).classes)
    return pair.predicted((0, 0, SHAPE[1], SHAPE[0]))


READERS = by_converter, by_clips, by_data_set, by_windows, by_evaluation, by_own_prediction


@pytest.mark.parametrize('by', ['color', 'id'])
@pytest.mark.parametrize('name', FILES)
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_every_reader_sees_the_same_classes(tmp_path, rng, name, by):
    scene = Scene(tmp_path, name, by, rng)
    if by == 'color' and '16' not in name and '12' not in name and name not in ('rgb4.tif',):
        # What it is by hand is also what another library shows. (Of 16 bits, it shows the upper 8.)
        np.testing.assert_array_equal(
            np.asarray(Image.open(scene.mask).convert('RGB'))[..., 0], SHADE[np.searchsorted(INDEX, scene.expected)]
        )
    for reader in READERS:
        try:
            read = reader(scene)
        except pytest.skip.Exception:
            continue
        np.testing.assert_array_equal(read, scene.expected, err_msg=reader.__name__)
    counts = np.bincount(scene.expected.ravel(), minlength=256)[:3].tolist()
    missing = [] if all(counts) else ['class_never_seen']
    report = check_dataset([scene.folder / 'images'], labels=scene.folder / 'masks', classes=scene.classes, workers=0)
    reports = [report]
    for kind in ('RemoteSensingDataset', 'RasterDataset'):
        config = Config(dict(test_dataloader=dict(dataset=dict(scene.options, type=kind, pipeline=[]))))
        reports.append(check_sets(config_sets(config), progress=False))
    for report in reports:
        assert [finding.kind for finding in report.findings] == missing, report.findings
        assert report.groups[0].pixels.tolist() == counts


# What hides pixels ---------------------------------------------------------------------------------------------------

BLACK_AND_WHITE = "classes:\n  - {name: black, color: '#000000'}\n  - {name: white, color: '#FFFFFF'}\n"
TWO_IDS = 'classes:\n  - {name: black, id: 0}\n  - {name: white, id: 255}\n'


def _hidden(folder, kind):
    """Rows 0 to 3 black and hidden, 4 to 8 black and shown (where that can be), the others white; number hidden."""
    white = np.zeros(SHAPE, np.uint8)
    white[9:] = 255
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[:4] = 0
    path = folder / 'masks/a.tif'
    if kind == 'grey':
        return write(path, white, nodata=0), 9
    if kind == 'rgb':  # nodata in one band alone is no nodata
        return write(path, np.stack([white, white, white]), photometric='rgb', nodata=0), 9
    return write(
        path,
        np.stack([*[white] * (3 if kind == 'rgba' else 1), alpha]),
        alpha='yes',
        **(dict(photometric='rgb') if kind == 'rgba' else {}),
    ), 4


@pytest.mark.parametrize(
    ('kind', 'table', 'told'),
    [
        ('grey', TWO_IDS, 'nodata 0 on 171 pixels is black'),
        ('grey', BLACK_AND_WHITE, 'nodata #000000 on 171 pixels is black'),
        ('rgb', BLACK_AND_WHITE, 'nodata #000000 on 171 pixels is black'),
        ('rgba', BLACK_AND_WHITE, 'nodata #000000 on 76 pixels is black'),
        ('grey_alpha', TWO_IDS, ''),  # ids are 0 where nothing is, whatever 0 stands for
    ],
)
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_hidden_pixels_are_ignored_and_those_of_a_class_are_told(tmp_path, capsys, logged, kind, table, told):
    mask, rows = _hidden(tmp_path, kind)
    write(tmp_path / 'images/a.png', np.arange(SHAPE[0] * SHAPE[1] * 3).reshape(3, *SHAPE).astype(np.uint8))
    scene = Scene.__new__(Scene)
    scene.folder, scene.mask, scene.classes = tmp_path, mask, tmp_path / 'classes.yaml'
    scene.classes.write_text(table)
    expected = np.full(SHAPE, 255, np.uint8)
    expected[9:] = 1
    expected[rows:9] = 0
    for reader in (by_converter, by_clips, by_data_set, by_windows):
        np.testing.assert_array_equal(reader(scene), expected, err_msg=reader.__name__)
    assert json.loads((tmp_path / 'out/report.json').read_text())['hidden_classes'] == [f'{mask}: {told}'][: bool(told)]
    assert bool(told) is ('warning: Nodata value that is a class (1). ' in capsys.readouterr().out)

    report = check_dataset([tmp_path / 'images'], labels=tmp_path / 'masks', classes=scene.classes, workers=0)
    assert [f.found for f in report.findings if f.kind == 'nodata_is_class'] == [told][: bool(told)]
    if kind in ('rgba', 'grey_alpha'):  # by transparency, which the others do not look through for this
        return
    config = Config(dict(test_dataloader=dict(dataset=dict(scene.options, type='RasterDataset', pipeline=[]))))
    report = check_sets(config_sets(config), progress=False)
    assert [f.found for f in report.findings if f.kind == 'nodata_is_class'] == [told]
    assert f'{mask}: {told.replace("on 171 pixels ", "")}' in logged.text

    prediction = write(tmp_path / 'map.tif', np.ones(SHAPE, np.uint8))
    with rasterio.open(prediction, 'r+') as raster:
        raster.update_tags(CLASSES='["black", "white"]')
        raster.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6)})
    report = evaluate_raster(prediction, mask, classes=scene.classes)
    assert report.full.labelled.tolist() == [0, 95]
    assert report.hidden_classes == report.as_dict()['hidden_classes'] == [f'{mask}: {told}']


def test_a_nodata_value_without_a_pixel_is_not_told(tmp_path):
    label = write(tmp_path / 'l.tif', np.ones(SHAPE, np.uint8), nodata=0, **PLACE)
    prediction = write(tmp_path / 'p.tif', np.ones(SHAPE, np.uint8), **PLACE)
    (tmp_path / 'c.yaml').write_text('classes: [{name: a, id: 0}, {name: b, id: 1}]')
    assert evaluate_raster(prediction, label, classes=tmp_path / 'c.yaml').hidden_classes == []


# What is no mask, and other pixels than the image's ------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    result = Scene.__new__(Scene)
    result.folder, result.mask, result.classes = tmp_path, tmp_path / 'masks/a.tif', tmp_path / 'classes.yaml'
    result.classes.write_text(BLACK_AND_WHITE)
    write(tmp_path / 'images/a.tif', np.zeros((3, *SHAPE), np.uint8), **PLACE)
    return result


@pytest.mark.parametrize(
    ('bands', 'profile', 'message'),
    [
        (np.full(SHAPE, 255, np.uint16), {}, r'a\.tif has 16 bits, but values from 1 to 255'),
        (np.full((3, *SHAPE), 200, np.uint16), {}, r'a\.tif has 16 bits, but values from 1 to 255'),
        (np.full(SHAPE, 255, np.int16), {}, r'a\.tif holds int16; a mask in colours'),
        (np.full((3, *SHAPE), 255, np.float32), {}, r'a\.tif holds float32; a mask in colours'),
        (np.full((4, *SHAPE), 65535, np.uint16), dict(photometric='CMYK'), r'a\.tif holds CMYK; a mask in colours'),
        (np.full((2, *SHAPE), 255, np.uint8), dict(alpha='no'), r'a\.tif has 2 bands; a mask has one'),
        (np.full(SHAPE, 1, np.uint8), {}, r'#010101 .*is no class|colours that are no class: #010101'),
        (np.full((3, *SHAPE), 254, np.uint8), {}, r'#FEFEFE .*is no class|colours that are no class: #FEFEFE'),
    ],
)
def test_what_is_no_mask_is_an_error_to_every_reader(scene, bands, profile, message):
    write(scene.mask, bands, **PLACE, **profile)
    for reader in (by_converter, by_data_set, by_windows, by_evaluation_of_two):
        with pytest.raises(ValueError, match=message):
            reader(scene)


def by_evaluation_of_two(scene):
    prediction = write(scene.folder / 'map.tif', np.zeros(SHAPE, np.uint8), **PLACE)
    with rasterio.open(prediction, 'r+') as raster:
        raster.update_tags(CLASSES='["black", "white"]')
        raster.write_colormap(1, {0: (1, 2, 3), 1: (4, 5, 6)})
    return evaluate_raster(prediction, scene.mask, classes=scene.classes)


@pytest.mark.parametrize('options', [{}, dict(photometric='MINISWHITE'), dict(nbits=1), dict(nbits=4)])
def test_grey_colours_on_a_finer_grid(scene, rng, options):
    """Each pixel of the image has nine of the mask, of which at least five are of one class."""
    expected = rng.integers(0, 2, SHAPE)
    fine = expected.repeat(3, 0).repeat(3, 1)
    fine[rng.integers(0, 3, SHAPE[0]) + 3 * np.arange(SHAPE[0])] ^= 1  # one row of each three
    top = 2 ** options.get('nbits', 8) - 1
    values = top - fine * top if 'photometric' in options else fine * top
    place = dict(PLACE, transform=Affine(0.5 / 3, 0, 400000, 0, -0.5 / 3, 5800000))
    write(scene.mask, values.astype(np.uint8), **place, **options)
    np.testing.assert_array_equal(by_windows(scene), expected)
    pixels = by_evaluation_of_two(scene).full.labelled
    np.testing.assert_array_equal(pixels, np.bincount(expected.ravel()))


def test_three_bands_of_other_pixels_are_refused_before_anything_is_read(scene):
    bands = np.zeros((3, 3 * SHAPE[0], 3 * SHAPE[1]), np.uint8)
    write(scene.mask, bands, **dict(PLACE, transform=Affine(0.5 / 3, 0, 400000, 0, -0.5 / 3, 5800000)))
    for make in (lambda: RasterDataset(**scene.options), lambda: by_evaluation_of_two(scene)):
        with pytest.raises(DataError, match=r'a\.tif is a mask in colours of three bands, and on another grid'):
            make()
    write(scene.mask, bands[:, : SHAPE[0], : SHAPE[1]], **PLACE)
    assert len(RasterDataset(**scene.options)) == 1
    with pytest.raises(DataError, match=r'a\.tif is a mask in colours of three bands, .* resampled by gsd'):
        RasterDataset(gsd=1.0, **scene.options)


def test_class_map_of_colours(scene):
    is_white = np.broadcast_to(np.arange(SHAPE[1]) >= 5, SHAPE)
    write(scene.mask, np.where(is_white, 255, 0).astype(np.uint8), **PLACE)
    for kind in (RasterDataset, RemoteSensingDataset):
        labels = kind(class_map=dict(bright='white'), **scene.options)[0]['gt_seg_map']
        np.testing.assert_array_equal(labels, np.where(is_white, 0, 255))


def test_bands_are_taken_by_their_colours(tmp_path):
    bands = np.repeat(np.arange(3, dtype=np.uint8), 4).reshape(3, 2, 2)
    path = write(tmp_path / 'a.tif', bands, kinds=(ColorInterp.blue, ColorInterp.green, ColorInterp.red))
    with open_raster(path, quiet=True) as mask:
        assert MaskColours(mask).bands == [3, 2, 1]


# Parts ---------------------------------------------------------------------------------------------------------------


def test_colours_are_packed_as_they_are_written():
    colours = np.array([[0, 0, 0], [255, 255, 255], [60, 16, 152]], np.uint8)
    assert pack(colours).tolist() == [0, 0xFFFFFF, 0x3C1098]
    np.testing.assert_array_equal(unpack(pack(colours)), colours)


@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'uint16', 'int32', 'uint32', 'float32', 'float64'])
def test_look_up(dtype):
    """Against a dictionary, value by value; keys that no pixel can have do no harm."""
    table = {0: 3, 7: 0, 200: 255, -1: 1, 70000: 2, 2.5: 5, -3.4028234663852886e38: 6, np.nan: 7}
    values = [0, 7, 200, 9, 255, *([-1] if dtype[0] in 'if' else []), *([70000] if '32' in dtype else [])]
    values += [2.5, -3.4028234663852886e38, np.nan, np.inf] if dtype[0] == 'f' else []
    expected = [255 if value != value else table.get(value, 254) for value in values]
    found = look_up(np.array([values], dtype), table)
    assert found.dtype == np.uint8
    assert found.tolist() == [expected]
    assert look_up(np.array([1, 2], dtype), {}).tolist() == [254, 254]
