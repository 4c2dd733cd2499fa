import json

import numpy as np
import pytest
import torch

from mmrs.geo.label_maps import open_classes
from mmrs.prediction.maps import EXTRA_LAYERS, map_layers
from mmrs.utils.errors import ConfigError, DataError
from tests.label_maps import write_raster

CLASSES = ('roof', 'tree & shrub', 'straße')
PALETTE = ((255, 0, 0), (0, 128, 7), (1, 2, 3))


def probabilities(classes=3, height=37, width=53, seed=0):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (classes, height, width)).astype(np.float32))
    return logits.softmax(0)


def layer(name, classes=CLASSES, dtype='uint8'):
    layers = map_layers(classes, [(i, i, i) for i in range(len(classes))], EXTRA_LAYERS, dtype)
    return next(one for one in layers if one.name == name)


def reference(name, p):
    """The same in plain float64."""
    p = p.numpy().astype(np.float64)
    if name == 'probabilities':
        return p
    if name == 'confidence':
        return p.max(0, keepdims=True)
    with np.errstate(divide='ignore', invalid='ignore'):
        terms = np.where(p > 0, p * np.log(p), 0)
    return -terms.sum(0, keepdims=True) / np.log(len(p))


def test_labels_come_first_and_only_what_is_asked_for_follows():
    assert [one.name for one in map_layers(CLASSES, PALETTE)] == ['labels']
    layers = map_layers(CLASSES, PALETTE, {'entropy', 'probabilities'}, 'float16')
    assert [(one.name, one.suffix, one.dtype, one.bands) for one in layers] == [
        ('labels', '', 'uint8', ('class',)),
        ('probabilities', '_probabilities', 'float16', CLASSES),
        ('entropy', '_entropy', 'float16', ('entropy',)),
    ]


def test_labels_are_the_most_probable_class_and_the_first_of_several():
    p = probabilities()
    p[:, 0, :4] = torch.tensor([[1 / 3, 0.2, 0.4, 0.0], [1 / 3, 0.4, 0.2, 0.5], [1 / 3, 0.4, 0.4, 0.5]])
    before = p.clone()
    shown = np.ones((37, 53), bool)
    shown[5:9, 3:] = False
    labels = layer('labels').encode(p, shown)
    assert labels.shape == (1, 37, 53)
    assert labels.dtype == np.uint8
    assert labels[0, 0, :4].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(labels[0], np.where(shown, p.numpy().argmax(0), 255))
    assert torch.equal(p, before)


@pytest.mark.parametrize('name', EXTRA_LAYERS)
@pytest.mark.parametrize(
    ('dtype', 'scale', 'error'), [('uint8', 1 / 254, 0.5 / 254 + 1e-6), ('float16', 1, 2**-11 + 1e-6)]
)
def test_values_are_those_of_the_formula(name, dtype, scale, error):
    p = probabilities()
    p[:, 0, 0] = torch.tensor([1.0, 0, 0])
    p[:, 0, 1] = 1 / 3
    before = p.clone()
    shown = np.random.default_rng(1).random((37, 53)) < 0.8
    shown[0, :2] = True
    one = layer(name, dtype=dtype)
    stored = one.encode(p, shown)
    assert stored.dtype == dtype
    assert one.scale == scale
    without = np.isnan(stored) if dtype == 'float16' else stored == 255
    assert (without == ~shown).all()
    expected = reference(name, p)
    assert stored.shape == expected.shape
    assert np.abs(stored * float(one.scale) - expected)[:, shown].max() <= error
    if name == 'entropy' and dtype == 'uint8':
        assert stored[0, 0, :2].tolist() == [0, 254]
    assert torch.equal(p, before)


def test_a_single_class_is_certain():
    p = torch.ones(1, 2, 3)
    shown = np.ones((2, 3), bool)
    assert layer('entropy', ('all',)).encode(p, shown).tolist() == [[[0] * 3] * 2]
    assert layer('confidence', ('all',)).encode(p, shown).tolist() == [[[254] * 3] * 2]


def test_255_classes_fit_and_256_do_not():
    classes = [str(i) for i in range(256)]
    p = torch.zeros(255, 1, 1)
    p[254] = 1
    assert layer('labels', classes[:255]).encode(p, np.ones((1, 1), bool)).item() == 254
    with pytest.raises(ConfigError, match='256 classes; a label map holds 1 to 255'):
        map_layers(classes, [(0, 0, 0)] * 256)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((CLASSES, PALETTE, ['logits']), "'logits'; one of probabilities, confidence, entropy"),
        ((CLASSES, PALETTE, (), 'float32'), "'float32'; one of uint8, float16"),
        (((), ()), '0 classes'),
        ((CLASSES, PALETTE[:2]), '3 classes, but 2 colours'),
    ],
)
def test_what_cannot_be_written(arguments, message):
    with pytest.raises(ConfigError, match=message):
        map_layers(*arguments)


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
@pytest.mark.parametrize(
    ('classes', 'colours', 'pixels', 'message'),
    [
        (json.dumps(CLASSES), PALETTE, {}, None),
        ('["a"]', (), {}, 'bands of uint8 without colour table'),
        ('["a"]', (), dict(shape=(3, 3, 4)), '3 bands of uint8'),
        ('["a"]', (), dict(dtype='float32'), 'bands of float32'),
        (None, PALETTE, {}, 'it has no tag CLASSES'),
        *[(text, PALETTE, {}, 'a JSON list') for text in ('a, b', '[]', '[1]')],
    ],
)
def test_classes_of_a_map(tmp_path, classes, colours, pixels, message):
    tags = {} if classes is None else dict(CLASSES=classes)
    path = write_raster(tmp_path / 'a.tif', np.zeros(**{'shape': (3, 4), 'dtype': 'uint8', **pixels}), tags, colours)
    if message is None:
        assert open_classes(path) == (list(CLASSES), list(PALETTE))
        return
    with pytest.raises(DataError, match=rf'a\.tif.*{message}'):
        open_classes(path)


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.9])
def test_labels_of_two_classes_by_a_threshold(threshold):
    p = probabilities(classes=2)
    p[:, 0, :2] = torch.tensor([[1 - threshold, 0.05], [threshold, 0.95]])
    layers = map_layers(['rest', 'roof'], [(0, 0, 0), (9, 9, 9)], ['confidence'], 'float16', threshold)
    labels, confidence = (one.encode(p, np.ones((37, 53), bool)) for one in layers)
    expected = p[1].numpy() > np.float32(threshold)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(labels[0], expected)
    assert labels[0, 0, :2].tolist() == [0, 1]
    np.testing.assert_allclose(confidence[0], p.numpy().max(0), atol=1e-3)
