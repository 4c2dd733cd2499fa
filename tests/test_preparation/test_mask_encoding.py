from collections import Counter

import numpy as np
import pytest

from mmrs.geo import masks
from mmrs.geo.masks import UNKNOWN
from mmrs.geo.rasters import open_raster
from mmrs.preparation.converters.encoding import MaskEncoder
from mmrs.utils.errors import ConfigError, DataError

COLOURS = {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 2, (9, 9, 9): 255}


def encode(path, encoder):
    with open_raster(path) as mask:
        return encoder.encode(mask)


@pytest.fixture
def labels(rng):
    return rng.choice([0, 1, 2, 255], (12, 10)).astype(np.uint8)


def paint(labels):
    image = np.zeros((*labels.shape, 3), np.uint8)
    for colour, label in COLOURS.items():
        image[labels == label] = colour
    return image


@pytest.mark.parametrize('alpha', [False, True])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_colours(tmp_path, write, labels, suffix, alpha):
    image = paint(labels)
    if alpha:
        image = np.dstack([image, np.full(labels.shape, 128, np.uint8)])
    np.testing.assert_array_equal(encode(write(tmp_path / f'm{suffix}', image), MaskEncoder(COLOURS)), labels)


def test_palette_png_counts_by_its_colours_or_by_its_indices(tmp_path, write, labels):
    indices = np.minimum(labels, 3)
    palette = {3: (9, 9, 9), 1: (0, 255, 0), 0: (255, 0, 0), 2: (0, 0, 255)}
    path = write(tmp_path / 'm.png', indices, palette=palette)
    np.testing.assert_array_equal(encode(path, MaskEncoder(COLOURS)), labels)
    np.testing.assert_array_equal(
        encode(path, MaskEncoder({0: 7, 1: 5, 2: 6, 3: 255})), np.array([7, 5, 6, 255])[indices]
    )


def test_grey_mask_counts_as_colour(tmp_path, write):
    path = write(tmp_path / 'm.png', np.array([[0, 9], [9, 0]], np.uint8))
    np.testing.assert_array_equal(encode(path, MaskEncoder({(0, 0, 0): 0, (9, 9, 9): 1})), [[0, 1], [1, 0]])


def test_tolerance_takes_the_nearest_class(tmp_path, write):
    image = np.array([[[250, 5, 0], [130, 125, 0], [125, 130, 0], [0, 0, 254], [120, 120, 120]]], np.uint8)
    path = write(tmp_path / 'm.png', image)
    np.testing.assert_array_equal(encode(path, MaskEncoder(COLOURS, 5)), [[0, UNKNOWN, UNKNOWN, 2, UNKNOWN]])
    np.testing.assert_array_equal(encode(path, MaskEncoder(COLOURS, 125)), [[0, 255, 255, 2, 255]])
    primary = {colour: label for colour, label in COLOURS.items() if label != 255}
    np.testing.assert_array_equal(encode(path, MaskEncoder(primary, 125)), [[0, 0, 1, 2, UNKNOWN]])
    np.testing.assert_array_equal(encode(path, MaskEncoder(COLOURS)), [[UNKNOWN] * 5])
    for label_of, tolerance in ((COLOURS, -1), ({0: 0}, 1)):
        with pytest.raises(ConfigError, match=f'tolerance .*{tolerance}'):
            MaskEncoder(label_of, tolerance)


@pytest.mark.parametrize('dtype', [np.int16, np.uint16, np.float32])
def test_ids_with_nodata(tmp_path, write, dtype):
    values = np.array([[3, 500, 40, 41, 999]]).astype(dtype)
    path = write(tmp_path / 'm.tif', values, nodata=999)
    expected = [[0, 1, 255, UNKNOWN, 255]]
    np.testing.assert_array_equal(encode(path, MaskEncoder({3: 0, 500: 1, 40: 255})), expected)


def test_nan_is_ignored_and_fractions_are_an_error(tmp_path, write):
    encoder = MaskEncoder({1: 0})
    np.testing.assert_array_equal(
        encode(write(tmp_path / 'm.tif', np.array([[1, np.nan]], np.float32)), encoder), [[0, 255]]
    )
    with pytest.raises(DataError, match=r'm\.tif holds fractions'):
        encode(write(tmp_path / 'm.tif', np.array([[1, 0.5]], np.float32)), encoder)


def test_masks_of_the_wrong_kind(tmp_path, write, labels):
    with pytest.raises(DataError, match=r'c\.png has 3 bands, .* but the classes are given by id'):
        encode(write(tmp_path / 'c.png', paint(labels)), MaskEncoder({0: 0}))
    with pytest.raises(DataError, match=r'm\.png has 16 bits, but values from 1 to 255'):
        encode(write(tmp_path / 'm.png', labels.astype(np.uint16)), MaskEncoder(COLOURS))


def test_survey_counts_in_strips(tmp_path, write, labels, monkeypatch):
    monkeypatch.setattr(masks, '_STRIP_PIXELS', 35)
    image = paint(labels)
    image[0, :3] = (254, 3, 0)
    image[11, 9] = (1, 2, 3)
    encoder = MaskEncoder(COLOURS)
    with open_raster(write(tmp_path / 'm.png', image)) as mask:
        counts, unknown, hidden = encoder.survey(mask)
        np.testing.assert_array_equal(counts, np.bincount(encode(tmp_path / 'm.png', encoder).ravel(), minlength=256))
    assert not hidden
    assert unknown == Counter({0xFE0300: 3, 0x010203: 1})
    text = encoder.describe_unknown(unknown, 120)
    assert text == '#FE0300 (2.5 %, 3 away from #FF0000), #010203 (0.833 %, 8 away from #090909)'
    assert encoder.describe_unknown(unknown, 120, shown=1).endswith('and 1 more')
    assert MaskEncoder({1: 0}).describe_unknown(Counter({7: 60}), 120) == '7 (50 %)'
