"""Binary segmentation by one output channel, from training to maps, for every method."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mmrs.apis import SegInferencer, init_model
from mmrs.apis.export import export_onnx
from tests.tiny_runs import (  # noqa: F401
    quick_start,
    write_adaptation_config,
    write_clips,
    write_config,
    write_regression_config,
)
from tools import test as test_tool
from tools import train as train_tool

MAP = "dict(rest=['impervious_surface', 'low_vegetation', 'tree'], thing=['building', 'car', 'clutter'])"
HEAD = """
model = dict(backbone=dict(type='EfficientMiT'), decode_head=dict(
    num_classes=2, out_channels=1, threshold=0.6,
    loss_decode=dict(_delete_=True, type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 2.0])))
val_dataloader = dict(dataset=dict(class_map={map}))
test_dataloader = dict(dataset=dict(class_map={map}))
"""


def write(method, folder, clips):
    """A configuration of a method with two classes."""
    base = write_config(folder / 'base.py', clips)
    extra = HEAD.replace('{map}', MAP)
    if method == 'source_only':
        extra += f'train_dataloader = dict(dataset=dict(class_map={MAP}))\n'
    elif method == 'st_dasegnet':
        base = write_adaptation_config(folder / 'base.py', clips)
        both = ', '.join(f'{domain}=dict(class_map={MAP})' for domain in ('source', 'target'))
        extra += f'train_dataloader = dict(dataset=dict({both}))\n'
    file = folder / f'{method}.py'
    file.write_text(f"_base_ = './{base.name}'\n{extra}")
    if method != 'feature_regression':
        return file
    source = folder / 'source_only.py'
    source.write_text(file.read_text() + f'train_dataloader = dict(dataset=dict(class_map={MAP}))\n')
    regression = write_regression_config(folder / 'tiny.py', clips, clips)
    text = regression.read_text().replace('./tiny.py', './source_only.py').replace('/tiny.py', '/source_only.py')
    text = text.replace("type='PotsdamDataset'", f"type='PotsdamDataset', class_map={MAP}")
    regression.write_text(text)
    return regression


@pytest.fixture(scope='module', params=['source_only', 'st_dasegnet', 'feature_regression'])
def run(request, tmp_path_factory):
    """A finished run, and the probability of the second class on a clip in float64."""
    folder = tmp_path_factory.mktemp(request.param)
    clips = write_clips(folder / 'clips')
    config = write(request.param, folder, clips)
    assert train_tool.main([str(config), '--work-dir', str(folder / 'run')]) == 0
    checkpoint = folder / 'run' / 'iter_2.pth'
    clip = clips / 'img_dir' / 'val' / 'clip0.png'
    image = np.asarray(Image.open(clip))
    model = init_model(config, checkpoint, 'cpu')
    assert model.out_channels == 1
    with torch.no_grad():
        pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() - 120) / 60
        logits = model.encode_decode(pixels, [dict(img_shape=(64, 64))]).double()[0, 0].numpy()
    probability = 1 / (1 + np.exp(-logits))
    # Where both classes are found.
    threshold = float(np.median(probability))
    expected, sure = probability > threshold, abs(probability - threshold) > 1e-6
    return SimpleNamespace(
        config=config,
        checkpoint=checkpoint,
        image=image,
        probability=probability,
        expected=expected,
        sure=sure,
        options={'model.decode_head.threshold': threshold},
    )


def check_labels(run, labels):
    np.testing.assert_array_equal(labels[run.sure], run.expected[run.sure])
    assert set(np.unique(labels)) == {0, 1}


def test_prediction(run):
    inferencer = SegInferencer(run.config, run.checkpoint, device='cpu', cfg_options=run.options)
    prediction = inferencer.predict(run.image)
    assert prediction.classes == ('rest', 'thing')
    check_labels(run, prediction.labels)
    expected = np.stack((1 - run.probability, run.probability))
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(prediction.confidence, expected.max(0), atol=1e-5)


def test_evaluation(run, tmp_path):
    options = [f'{key}={value!r}' for key, value in run.options.items()]
    outputs = ['--out', str(tmp_path / 'out'), '--show-dir', str(tmp_path / 'pictures')]
    arguments = [str(run.config), str(run.checkpoint), '--work-dir', str(tmp_path / 'work')]
    assert test_tool.main([*arguments, *outputs, '--cfg-options', *options]) == 0
    # The first of the ids that count as a class: 1 and 2.
    check_labels(run, np.asarray(Image.open(tmp_path / 'out' / 'clip0.png')) - 1)
    assert test_tool.main([*arguments, '--tta', '--cfg-options', *options]) == 0


def test_export(run, tmp_path):
    file = tmp_path / 'model.onnx'
    differences = export_onnx(run.config, run.checkpoint, file, cfg_options=run.options)
    assert max(differences.values()) < 1e-4
    exported = SegInferencer(run.config, file, device='cpu', backend='onnx')
    assert exported.predictor.threshold == run.options['model.decode_head.threshold']
    prediction = exported.predict(run.image)
    np.testing.assert_allclose(prediction.probabilities[1], run.probability, atol=1e-4)
    close = abs(run.probability - exported.predictor.threshold) < 1e-4
    np.testing.assert_array_equal(prediction.labels[~close], run.expected[~close])
