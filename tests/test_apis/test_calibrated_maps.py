import json

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from PIL import Image

from mmrs.apis import SegInferencer, init_model
from mmrs.apis.calibration import calibrate
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, OutputError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools.analysis_tools import calibrate as calibrate_tool

TWO = "class_map=dict(rest=['impervious_surface', 'low_vegetation', 'tree'], thing=['building', 'car', 'clutter'])"
BINARY = f"""
model = dict(decode_head=dict(
    num_classes=2, out_channels=1, threshold=0.5,
    loss_decode=dict(_delete_=True, type='PixelMeanCrossEntropyLoss')))
train_dataloader = dict(dataset=dict({TWO}))
val_dataloader = dict(dataset=dict({TWO}))
test_dataloader = dict(dataset=dict({TWO}))
"""


@pytest.fixture(scope='module', params=['softmax', 'sigmoid'])
def run(request, tmp_path_factory):
    """Configuration, checkpoint and clips of a network that has learned something."""
    folder = tmp_path_factory.mktemp(request.param)
    clips = write_clips(folder / 'clips', val=3)
    base = write_config(folder / 'base.py', clips)
    base.write_text(base.read_text().replace('mmseg.MixVisionTransformer', 'EfficientMiT'))
    config = folder / 'tiny.py'
    config.write_text(f"_base_ = './base.py'\n{BINARY if request.param == 'sigmoid' else ''}")
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    dataset = DATASETS.build(Config.fromfile(config).train_dataloader.dataset)
    batch = pseudo_collate([dataset[i] for i in range(len(dataset))])
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), 0.01))
    model.train()
    for _ in range(25):
        model.train_step(batch, wrapper)
    meta = dict(dataset_meta=dataset.metainfo)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'x.pth')
    return config, folder / 'x.pth', clips


@pytest.fixture(scope='module')
def found(run, tmp_path_factory):
    """What was written, by method, and the folder."""
    folder = tmp_path_factory.mktemp('found')
    for method in ('temperature', 'vector'):
        arguments = [str(run[0]), str(run[1]), '--method', method, '--target', 'val', '--device', 'cpu']
        picture = ['--picture', str(folder / f'{method}.png')]
        assert calibrate_tool.main([*arguments, '-o', str(folder / f'{method}.json'), *picture]) == 0
        assert Image.open(folder / f'{method}.png').width > 500
    return folder


def inferencer(run, **options):
    return SegInferencer(run[0], options.pop('checkpoint', run[1]), device='cpu', **options)


def images(run, split):
    """Images and class indices of a split, 255 where they do not count."""
    two = 'sigmoid' in str(run[0])
    for path in sorted((run[2] / 'img_dir' / split).iterdir()):
        label = np.asarray(Image.open(run[2] / 'ann_dir' / split / path.name)).astype(int) - 1
        index = np.array([0, 1, 0, 0, 1, 1, 255]) if two else np.array([0, 1, 2, 3, 4, 5, 255])
        yield np.asarray(Image.open(path)), index[label]


def error(confidence, hit):
    """The expected calibration error of 15 bins."""
    place = np.ceil(confidence * 15)
    groups = [place == i for i in range(1, 16)]
    return sum(abs(confidence[own].sum() - hit[own].sum()) for own in groups) / len(hit)


@pytest.mark.parametrize('method', ['temperature', 'vector'])
def test_figures_are_those_of_maps(run, found, method):
    """Those of the target before and after, and those of the source before, by predictions of whole images."""
    written = json.loads((found / f'{method}.json').read_text())
    calibrated = dict(calibrated=found / f'{method}.json')
    for domain, split, when, options in (
        ('source', 'train', 'before', {}),
        ('target', 'val', 'before', {}),
        ('target', 'val', 'after', calibrated),
    ):
        own = inferencer(run, **options)
        confidence, hit = [], []
        for image, label in images(run, split):
            probabilities = own.predict(image).probabilities
            confidence.append(probabilities.max(0)[label != 255])
            hit.append((probabilities.argmax(0) == label)[label != 255])
        confidence, hit = np.concatenate(confidence), np.concatenate(hit)
        shown = written[domain][when]
        assert shown['pixels'] == len(hit)
        assert shown['accuracy'] == pytest.approx(hit.mean(), abs=1e-3)
        assert shown['confidence'] == pytest.approx(confidence.mean(), abs=1e-5)
        assert shown['ece'] == pytest.approx(error(confidence, hit), abs=2e-3)
    assert list(written['source']['after']['classwise']) == list(written['classes'])


def test_halves_are_tried_on_each_other(run, found):
    """What is fitted to two images each is worse on the other two than what is fitted to all is on these."""
    written = json.loads((found / 'vector.json').read_text())
    own, losses = inferencer(run, calibrated=found / 'vector.json'), []
    for image, label in images(run, 'train'):
        probabilities = own.predict(image).probabilities
        losses.append(-np.log(np.take_along_axis(probabilities, label[None] % 255, 0)[0][label != 255]))
    assert written['source']['after']['nll'] > np.concatenate(losses).mean() + 1e-6


def test_a_temperature_keeps_the_labels(run, found, tmp_path):
    written = json.loads((found / 'temperature.json').read_text())
    factor = next(iter(written['scale'].values()))
    assert set(written['scale'].values()) == {factor}
    plain, own = inferencer(run), inferencer(run, calibrated=found / 'temperature.json')
    written['scale'] = dict.fromkeys(written['scale'], 1.0)
    (tmp_path / 'one.json').write_text(json.dumps(written))
    one = inferencer(run, calibrated=tmp_path / 'one.json')
    for image, _ in images(run, 'val'):
        expected, found_ = plain.predict(image), own.predict(image)
        np.testing.assert_array_equal(one.predict(image).probabilities, expected.probabilities)
        np.testing.assert_array_equal(found_.labels, expected.labels)
        sharper = expected.probabilities.astype(float) ** factor
        np.testing.assert_allclose(found_.probabilities, sharper / sharper.sum(0), atol=1e-5)
        assert abs(found_.probabilities - expected.probabilities).max() > 0.01


def test_a_class_prior_is_that_of_calibrated_logits(run, found, tmp_path):
    image, _ = next(images(run, 'val'))
    calibrated = dict(calibrated=found / 'vector.json')
    own, both = inferencer(run, **calibrated), inferencer(run, **calibrated, class_prior='uniform', prior_strength=1.0)
    offsets = np.array(list(both.class_prior['offsets'].values()))
    expected = own.predict(image).probabilities.astype(float) * np.exp(offsets)[:, None, None]
    np.testing.assert_allclose(both.predict(image).probabilities, expected / expected.sum(0), atol=1e-5)
    # Flips are averaged after the scaling.
    tta, probabilities = inferencer(run, **calibrated, tta=True).predict(image).probabilities, 0
    for axes in ((), (0,), (1,), (0, 1)):
        turned = own.predict(np.ascontiguousarray(np.flip(image, axes))).probabilities
        probabilities = probabilities + np.flip(turned, [axis + 1 for axis in axes]) / 4
    np.testing.assert_allclose(tta, probabilities, atol=1e-5)


def test_maps_say_their_calibration_and_are_not_resumed_with_another(run, found, tmp_path):
    scene = run[2] / 'img_dir' / 'val' / 'clip0.png'
    inferencer(run).predict_rasters([scene], tmp_path, progress=False)
    own = inferencer(run, calibrated=found / 'temperature.json')
    assert 'calibration' in own.predict_rasters([scene], tmp_path, resume=True, progress=False).failed[str(scene)]
    own.predict_rasters([scene], tmp_path, overwrite=True, progress=False)
    assert not own.predict_rasters([scene], tmp_path, resume=True, progress=False).failed
    other = inferencer(run, calibrated=found / 'vector.json')
    report = other.predict_rasters([scene], tmp_path, resume=True, progress=False)
    assert "calibration.method was 'temperature', is 'vector'" in report.failed[str(scene)]
    with rasterio.open(tmp_path / 'clip0.tif') as raster:
        record = json.loads(raster.tags()['MMRS_SETTINGS'])['calibration']
    written = json.loads((found / 'temperature.json').read_text())
    assert record['scale'] == pytest.approx(written['scale'], rel=1e-5)


def test_another_model_is_refused(run, found, tmp_path):
    state = torch.load(run[1], weights_only=False)
    state['state_dict']['decode_head.conv_seg.bias'] += 1
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match=r'other\.pth has weights'):
        inferencer(run, checkpoint=tmp_path / 'other.pth', calibrated=found / 'temperature.json')


@pytest.mark.slow
def test_exported_models(run, found, tmp_path):
    pytest.importorskip('onnx', reason='pip install onnx')
    pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
    from mmrs.apis import export_onnx

    image, _ = next(images(run, 'val'))
    export_onnx(run[0], run[1], tmp_path / 'model.onnx')
    export_onnx(run[0], run[1], tmp_path / 'uniform.onnx', class_prior='uniform')
    for method in ('temperature', 'vector'):
        options = dict(calibrated=found / f'{method}.json')
        onnx = inferencer(run, checkpoint=tmp_path / 'model.onnx', backend='onnx', **options).predict(image)
        expected = inferencer(run, **options).predict(image)
        np.testing.assert_allclose(onnx.probabilities, expected.probabilities, atol=1e-4)
    with pytest.raises(ConfigError, match=r'uniform\.onnx .*prior'):
        inferencer(run, checkpoint=tmp_path / 'uniform.onnx', backend='onnx', calibrated=found / 'vector.json')
    export_onnx(run[0], None, tmp_path / 'random.onnx')
    with pytest.raises(ConfigError, match=r'random\.onnx'):
        inferencer(run, checkpoint=tmp_path / 'random.onnx', backend='onnx', calibrated=found / 'vector.json')


def test_what_makes_no_sense(run, found, tmp_path):
    out = tmp_path / 'a.json'
    unlabelled = {'val_dataloader.dataset.data_prefix': dict(_delete_=True, img_path='img_dir/val')}
    for options, kind, name in (
        (dict(data='val', target='val'), ConfigError, 'val'),
        (dict(data='all'), ConfigError, 'all'),
        (dict(number=1), ConfigError, 'number'),
        (dict(out=found / 'vector.json'), OutputError, r'vector\.json'),
        (dict(data='val', cfg_options=unlabelled), ConfigError, 'seg_map_path'),
        (dict(data='val', cfg_options=dict(val_dataloader=None)), ConfigError, 'val_dataloader'),
    ):  # fmt: skip
        with pytest.raises(kind, match=name):
            calibrate(run[0], run[1], **{'out': out, 'device': 'cpu', **options})
    assert not out.exists()
