import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from mmengine.config import Config
from PIL import Image

from mmrs.apis import SegInferencer, init_model
from mmrs.apis.class_prior import PriorOptions, read_shares
from mmrs.utils.errors import ConfigError, DataError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools import test as test_tool

CLASSES = ('water', 'land', 'cloud')
SOURCE, TABLE = [0.5, 0.3, 0.2], [0.1, 0.6, 0.3]
CE = dict(type='CrossEntropyLoss')


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('shares.yaml', 'land: 0.6\nwater: 0.1\ncloud: 0.3\n'),
        ('percent.yml', 'land: 60\nwater: 10\ncloud: 30\n'),
        ('shares.json', '{"land": 6e-1, "cloud": 3e-1, "water": 1e-1}'),
        ('areas.csv', 'map,class,pixels,m2\na,water,9,0.5\na,land,9,3\nb,cloud,9,1.5\nb,water,9,0\n'),
        ('pixels.csv', 'class,pixels,m2\nwater,10,\nland,60,\ncloud,30,\n'),
        ('percent.csv', 'class,percent\nwater,10\nland,60\ncloud,30\n'),
    ],
)
def test_tables(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_shares(tmp_path / name, CLASSES) == pytest.approx(TABLE)


@pytest.mark.parametrize(
    ('name', 'text', 'found'),
    [
        ('a.yaml', 'water: 0.1\nland: 0.6\ncloud: 0.2\nsnow: 0.1', r'snow .*water, land, cloud'),
        ('a.yaml', 'water: 0.4\nland: 0.6', 'cloud'),
        ('a.yaml', 'water: -0.1\nland: 0.8\ncloud: 0.3', r'water is -0\.1'),
        ('a.yaml', 'water: .nan\nland: 0.6\ncloud: 0.3', 'water is nan'),
        ('a.yaml', 'water: a lot\nland: 0.6\ncloud: 0.3', "water is 'a lot'"),
        ('a.yaml', 'water: yes\nland: 0.6\ncloud: 0.3', 'water is True'),
        ('a.yaml', 'water: 0\nland: 0.7\ncloud: 0.3', 'water is 0;'),
        ('a.yaml', 'water: 0.1\nland: 0.6\ncloud: 0.32', r'sum .* is 1\.02'),
        ('a.yaml', '- 0.1\n- 0.9', r'is \[0\.1, 0\.9\]'),
        ('a.json', '{"water": 0.1', 'JSON'),
        ('a.csv', 'class,m2\nwater,1\nland,x\ncloud,2', r"line 3: m2 of land is 'x'"),
        ('a.csv', 'class,m2\nwater,1\nland,2\ncloud,0', 'cloud is 0'),
        ('a.csv', 'name,hectares\nwater,1', 'name, hectares'),
        ('a.csv', 'class,percent\nwater,50\nland,50\ncloud,1\nwater,50', 'line 5: class'),
    ],
)
def test_bad_tables_are_named(tmp_path, name, text, found):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf'{name}.*{found}|{found}.*{name}'):
        read_shares(tmp_path / name, CLASSES)


def test_options_that_make_no_sense(tmp_path):
    for arguments, found in (
        ((None, 0.5), 'prior_strength is 0.5'),
        ((None, None, 'a.yaml'), 'source_shares'),
        (('uniform', 1.5), 'prior_strength is 1.5'),
        (('unifrom',), "class_prior is 'unifrom'"),
    ):
        with pytest.raises(ConfigError, match=found):
            PriorOptions(*arguments)
    with pytest.raises(DataError, match=r'none\.yaml'):
        PriorOptions('uniform', 1, tmp_path / 'none.yaml')


# What a model has learned --------------------------------------------------------------------------------------------


def neutral(tau, loss=CE, shares=SOURCE):
    return dict(type='PriorNeutralLoss', tau=tau, shares=shares, loss=loss)


WEIGHTED = dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 2.0, 4.0])
P, W, E = np.array(SOURCE), np.array([1.0, 2.0, 4.0]), np.ones(3)


@pytest.mark.parametrize(
    ('head', 'learned'),
    [
        (dict(loss_decode=CE), P),
        (dict(loss_decode=neutral(0.0)), P),
        (dict(loss_decode=neutral(0.5)), P**0.5),
        (dict(loss_decode=neutral(1.0)), E),
        (dict(loss_decode=[neutral(1.0), dict(type='DiceLoss')]), E),
        (dict(loss_decode=neutral(0.5, [CE, dict(type='LovaszLoss')])), P**0.5),
        (dict(loss_decode=neutral(0.5, WEIGHTED)), P**0.5 * W),
        (dict(loss_decode=[{**WEIGHTED, 'loss_weight': 0.5}, {**CE, 'loss_weight': 3.0}]), P * (0.5 * W + 3)),
        ([dict(loss_decode=neutral(1.0)), dict(loss_decode=neutral(0.5))], P**0.5),  # a cascade
        (dict(loss_decode=neutral(1.0), target=dict(loss_decode=dict(tau=0.0))), P**0.5),  # mean of two students
    ],
)
def test_the_prior_that_was_learned_follows_from_the_loss(tmp_path, head, learned):
    (tmp_path / 'source.yaml').write_text(yaml.safe_dump(dict(zip(CLASSES, SOURCE))))
    (tmp_path / 'table.yaml').write_text(yaml.safe_dump(dict(zip(CLASSES, TABLE))))
    config = Config(dict(model=dict(decode_head=head)))
    learned = learned / learned.sum()
    for wanted, shares in (('uniform', E / 3), ('source', P), (tmp_path / 'table.yaml', np.array(TABLE))):
        prior = PriorOptions(wanted, 0.7, tmp_path / 'source.yaml').resolve(config, CLASSES)
        assert prior.trained == pytest.approx(learned)
        assert prior.offsets == pytest.approx(0.7 * np.log(shares / learned))
        assert prior.record()['prior'] == Path(wanted).name


def test_shares_that_cannot_be_had(tmp_path):
    other = [neutral(1.0), neutral(0.5, WEIGHTED)]
    with pytest.raises(ConfigError, match='PriorNeutralLoss'):
        PriorOptions('uniform').resolve(Config(dict(model=dict(decode_head=dict(loss_decode=other)))), CLASSES)
    with pytest.raises(ConfigError, match=r'source-shares TABLE\.yaml'):
        PriorOptions('uniform').resolve(Config(dict(model=dict(decode_head=dict(loss_decode=CE)))), CLASSES)
    zero = dict(loss_decode={**WEIGHTED, 'class_weight': [0.0, 1.0, 1.0]})
    (tmp_path / 'source.yaml').write_text(yaml.safe_dump(dict(zip(CLASSES, SOURCE))))
    with pytest.raises(ConfigError, match='class_weight'):
        PriorOptions('uniform', 1, tmp_path / 'source.yaml').resolve(
            Config(dict(model=dict(decode_head=zero))), CLASSES
        )


# From end to end -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Configuration, checkpoint and clips of a network that tells the classes apart at random."""
    folder = tmp_path_factory.mktemp('run')
    clips = write_clips(folder / 'clips')
    config = write_config(folder / 'tiny.py', clips)
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=0.5)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), folder / 'x.pth')
    return config, folder / 'x.pth', clips


def image_and_offsets(run, wanted, strength):
    """An image, and `strength` times the logarithm of the shares over those of the clips' labels, by hand."""
    clips = run[2]
    labels = [np.asarray(Image.open(path)) for path in (clips / 'ann_dir' / 'train').iterdir()]
    counts = np.bincount(np.concatenate([own.ravel() for own in labels]), minlength=7)[1:]
    image = np.asarray(Image.open(clips / 'img_dir' / 'val' / 'clip0.png'))
    return image, strength * np.log(wanted / (counts / counts.sum()))


def moved(probabilities, offsets):
    bayes = probabilities.astype(float) * np.exp(offsets)[:, None, None]
    return bayes / bayes.sum(0)


def test_predictions_scores_and_records_have_the_prior(run, tmp_path):
    config, checkpoint, _ = run
    table = np.array([0.02, 0.5, 0.08, 0.1, 0.25, 0.05])
    names = SegInferencer(config, checkpoint, device='cpu').classes
    (tmp_path / 'table.yaml').write_text(yaml.safe_dump(dict(zip(names, (100 * table).tolist()))))
    image, offsets = image_and_offsets(run, table, 1.0)
    plain = SegInferencer(config, checkpoint, device='cpu').predict(image)
    options = dict(class_prior=tmp_path / 'table.yaml', prior_strength=1.0)
    own = SegInferencer(config, checkpoint, device='cpu', **options).predict(image)
    expected = moved(plain.probabilities, offsets)
    np.testing.assert_allclose(own.probabilities, expected, atol=1e-5)
    assert (plain.labels != own.labels).mean() > 0.02
    assert (own.labels == expected.argmax(0)).mean() > 0.999

    # The hook replaces the weights by their moving average, the same here, just before they predict.
    averaged = tmp_path / 'averaged.py'
    averaged.write_text(f"_base_ = '{config}'\ncustom_hooks = [dict(type='mmengine.EMAHook')]\n")
    arguments = [str(averaged), str(checkpoint), '--work-dir', str(tmp_path), '--metrics', str(tmp_path / 'm.json')]
    prior = ['--class-prior', str(tmp_path / 'table.yaml'), '--prior-strength', '1']
    assert test_tool.main([*arguments, '--out', str(tmp_path / 'out'), *prior]) == 0
    assert np.array_equal(own.labels + 1, np.asarray(Image.open(tmp_path / 'out' / 'clip0.png')))
    written = json.loads((tmp_path / 'm.json').read_text())['class_prior']
    assert (written['prior'], written['strength']) == ('table.yaml', 1.0)
    assert list(written['offsets'].values()) == pytest.approx(offsets, rel=1e-5)
    assert list(written['wanted']) == list(names)


def test_source_puts_back_what_prior_neutral_training_left_out(run):
    config, checkpoint, _ = run
    image, offsets = image_and_offsets(run, np.ones(6), -1.0)  # the logarithm of the source's shares
    plain = SegInferencer(config, checkpoint, device='cpu').predict(image)
    neutral = dict(cfg_options=dict(class_prior=dict(tau=1.0)), class_prior='source', prior_strength=1.0)
    own = SegInferencer(config, checkpoint, device='cpu', **neutral).predict(image)
    np.testing.assert_allclose(own.probabilities, moved(plain.probabilities, offsets), atol=1e-5)


def test_maps_say_their_prior_and_are_not_resumed_with_another(run, tmp_path):
    config, checkpoint, clips = run
    scene = clips / 'img_dir' / 'val' / 'clip0.png'
    SegInferencer(config, checkpoint, device='cpu').predict_rasters([scene], tmp_path, progress=False)
    half = SegInferencer(config, checkpoint, device='cpu', class_prior='uniform')
    report = half.predict_rasters([scene], tmp_path, resume=True, progress=False)
    assert 'class_prior' in report.failed[str(scene)]
    half.predict_rasters([scene], tmp_path, resume=True, overwrite=True, progress=False)
    assert not half.predict_rasters([scene], tmp_path, resume=True, progress=False).failed
    whole = SegInferencer(config, checkpoint, device='cpu', class_prior='uniform', prior_strength=1.0)
    report = whole.predict_rasters([scene], tmp_path, resume=True, progress=False)
    assert 'class_prior.strength was 0.5, is 1.0' in report.failed[str(scene)]
    with rasterio.open(tmp_path / 'clip0.tif') as raster:
        record = json.loads(raster.tags()['MMRS_SETTINGS'])['class_prior']
    assert (record['prior'], record['strength']) == ('uniform', 0.5)
    assert list(record['offsets'].values()) == pytest.approx(image_and_offsets(run, 1 / 6, 0.5)[1], rel=1e-5)


def test_exported_models_take_one_prior_and_no_second_one(run, tmp_path):
    pytest.importorskip('onnx', reason='pip install onnx')
    pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
    from mmrs.apis import export_onnx

    config, checkpoint, clips = run
    config = write_config(tmp_path / 'exported.py', clips)
    config.write_text(config.read_text().replace('mmseg.MixVisionTransformer', 'EfficientMiT'))
    image, offsets = image_and_offsets(run, 1 / 6, 0.5)
    expected = moved(SegInferencer(config, checkpoint, device='cpu').predict(image).probabilities, offsets)
    export_onnx(config, checkpoint, tmp_path / 'plain.onnx')
    export_onnx(config, checkpoint, tmp_path / 'uniform.onnx', class_prior='uniform')
    onnx = dict(device='cpu', backend='onnx')
    later = SegInferencer(config, tmp_path / 'plain.onnx', class_prior='uniform', **onnx)
    before = SegInferencer(config, tmp_path / 'uniform.onnx', **onnx)
    for inferencer in (later, before):
        np.testing.assert_allclose(inferencer.predict(image).probabilities, expected, atol=1e-5)
        inferencer.predict_rasters([clips / 'img_dir' / 'val' / 'clip0.png'], tmp_path, overwrite=True, progress=False)
    with pytest.raises(ConfigError, match=r'uniform\.onnx .*uniform at strength 0\.5'):
        SegInferencer(config, tmp_path / 'uniform.onnx', class_prior='source', **onnx)
