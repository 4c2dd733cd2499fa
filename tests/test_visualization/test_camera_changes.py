import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError, DataError, OutputError
from mmrs.visualization.camera_changes import CHANGES, draw_camera_changes, show_camera_changes
from mmrs.visualization.panels import compose

GREY, YELLOW = (110, 110, 110), (255, 200, 0)


@pytest.fixture
def image():
    rows, columns = np.mgrid[:128, :128]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)], -1)
    return (128 + 90 * waves).astype(np.uint8)


def draw(image, *changes, strengths=(0.5, 1, 2), **options):
    return draw_camera_changes(image, strengths, changes=changes, size=128, **options)


def panels(drawn, columns):
    """The pictures of the last row, `columns` of 128 x 128 pixels, as `compose` lays them out."""
    blank = np.full((128, 128, 3), (1, 2, 3), np.uint8)
    layout = (
        compose([[('', np.zeros((1, 128, 3), np.uint8))] * columns, [('', blank)] * columns], size=128) == (1, 2, 3)
    ).all(-1)
    assert layout.shape == drawn.shape[:2]
    rows = np.flatnonzero(layout.any(1))
    starts = np.flatnonzero(np.diff(layout[rows[0]].astype(int), prepend=0) == 1)
    assert (len(rows), len(starts)) == (128, columns)
    return [drawn[rows[0] : rows[-1] + 1, start : start + 128] for start in starts]


def has(picture, colour):
    return (picture == colour).all(-1)


def test_each_panel_shows_what_the_transform_makes(image):
    original, *changed = panels(draw(image, 'camera', seed=3), 4)
    assert np.array_equal(original, image)
    with DefaultScope.overwrite_default_scope('mmrs'):
        for strength, picture in zip((0.5, 1, 2), changed):
            camera = TRANSFORMS.build(dict(type='CameraChange', strength=strength, seed=3))
            assert np.array_equal(picture, camera(dict(img=image))['img'])


def test_noise_is_that_of_the_file(image):
    first, same, other = (draw(image, 'noise', path=path) for path in ('a/x.tif', 'b/x.tif', 'a/y.tif'))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_misalignment_is_seen_on_a_grid(image):
    original, *moved = panels(draw(image, 'shift', strengths=(1, 4)), 3)
    straight = has(original, (255, 255, 255))
    # Two lines of 2 px each way.
    assert straight.sum() == 2 * 2 * 2 * 128 - 4 * 4
    assert np.array_equal(original[~straight], image[~straight])
    for shift, picture in zip((4, 16), moved):
        outside = has(picture, GREY)
        # In all a strip of as many px along one side or two, at most; the straight grid lies over it.
        assert 0.6 * shift * 128 < outside.sum() < 1.5 * shift * 128
        near = np.abs(picture.astype(int) - YELLOW).max(-1) < 60
        assert near.sum() > 300
        assert not np.array_equal(near, straight)


def test_pixels_without_data_are_grey_where_they_moved_to(image):
    valid = np.ones((128, 128), bool)
    valid[40:60, 40:60] = False
    plain, holed = (panels(draw(image, 'rotation', strengths=(1,), valid=v), 2)[1] for v in (None, valid))
    assert 250 < has(holed, GREY).sum() - has(plain, GREY).sum() < 450


def test_one_row_for_each_change_or_several_beside_each_other(image):
    one, two, every = draw(image, 'blur'), draw(image, 'blur', 'jpeg'), draw(image, *CHANGES)
    row = two.shape[0] - one.shape[0]
    assert 128 < row < 170
    assert every.shape == (one.shape[0] + (len(CHANGES) - 1) * row, one.shape[1], 3)
    beside = draw(image, 'blur', 'jpeg', per_row=2)
    assert beside.shape[0] == one.shape[0]
    assert 1.9 * one.shape[1] < beside.shape[1] < 2 * one.shape[1]


@pytest.mark.parametrize('bands', [1, 2, 4, 13])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_any_image(bands, dtype, image):
    wide = np.concatenate([image] * 5, axis=-1)[..., :bands].astype(dtype)
    every, one, two = (
        draw_camera_changes(wide, strengths=(0.5, 3, 1, 1, 1), size=16, **options)
        for options in ({}, dict(changes=['blur']), dict(changes=['blur', 'camera']))
    )
    assert every.dtype == np.uint8
    # Without a colour there is no hue to turn and nothing to exchange.
    rows = len(CHANGES) - (2 if bands < 3 else 0)
    assert every.shape[0] == one.shape[0] + (rows - 1) * (two.shape[0] - one.shape[0])


def test_bands_to_show(image):
    four = np.concatenate([image, 255 - image[..., :1]], -1)
    original, first, *_ = panels(draw(four, 'permutation'), 4)
    assert np.array_equal(original, image)
    assert np.array_equal(first, four[..., [3, 0, 1]])  # infrared, red, green
    shown = panels(draw(four, 'permutation', bands=(3, 0, 1)), 4)
    assert np.array_equal(shown[0], four[..., [3, 0, 1]])


def test_no_column_repeats_a_permutation_of_three_bands(image):
    pictures = panels(draw(image, 'permutation', strengths=(1, 2, 3, 4)), 5)
    assert len({picture.tobytes() for picture in pictures}) == 5


def test_files(image, tmp_path):
    wide = np.concatenate([image, image[:, ::-1], image], axis=1)
    Image.fromarray(wide).save(tmp_path / 'a.png')
    show_camera_changes(tmp_path / 'a.png', tmp_path / 'b.png', (100, 0, 228, 128), changes=['blur'], size=128)
    written = np.asarray(Image.open(tmp_path / 'b.png'))
    assert np.array_equal(panels(written, 4)[0], wide[:, 100:228])
    assert np.array_equal(written, draw(wide[:, 100:228], 'blur', path='a.png'))
    show_camera_changes(tmp_path / 'a.png', tmp_path / 'c.jpg', changes=['blur'])  # 256 of 384 columns
    assert Image.open(tmp_path / 'c.jpg').width == draw_camera_changes(wide[:, 64:320], changes=['blur']).shape[1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(out='b.tiffany'), r'b\.tiffany.*\.png or NAME\.jpg'),
        (dict(out='a.png'), 'a.png exists already'),
        (dict(crop=(0, 0, 10, 200)), r'a.png has 128 x 128 pixels .* crop is \[0, 0, 10, 200\]'),
        (dict(crop=(10, 0, 10, 20)), '0 <= x0 < x1 <= 128'),
        (dict(bands=(1, 2, 4)), r'bands is \[1, 2, 4\]; three numbers from 1 to 3'),
        (dict(strengths=(0, 1)), r'strengths is \[0, 1\]; numbers above 0'),
        (dict(strengths=()), r'strengths is \[\]'),
        (dict(changes=['colour']), r"changes is \['colour'\]; some of camera, hue, .* were expected"),
        (dict(per_row=0), 'per_row is 0'),
    ],
)
def test_errors(options, message, image, tmp_path):
    Image.fromarray(image).save(tmp_path / 'a.png')
    out = tmp_path / options.pop('out', 'b.png')
    with pytest.raises((ConfigError, OutputError), match=message):
        show_camera_changes(tmp_path / 'a.png', out, **options)
    with pytest.raises((OSError, DataError), match=r'c\.png: no such file'):
        show_camera_changes(tmp_path / 'c.png', tmp_path / 'b.png')


def test_nothing_left_to_show(image):
    with pytest.raises(ConfigError, match='the image has 1 bands; three or more were expected for hue'):
        draw(image[..., :1], 'hue')
