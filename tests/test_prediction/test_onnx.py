"""Models as ONNX files: what onnxruntime computes is what PyTorch does."""

import json
import sys

import numpy as np
import pytest
import torch

import mmrs
from mmrs.apis.export import export_onnx
from mmrs.prediction.onnx_predictor import METADATA_KEY, OnnxPredictor
from mmrs.utils import ConfigError, DataError, OutputError
from tests.exported import assert_export_agrees, write_checkpoint
from tests.tiny_runs import REPOSITORY

onnx = pytest.importorskip('onnx', reason='pip install onnx')
pytest.importorskip('onnxruntime', reason='pip install onnxruntime')

MIT = {
    'model.backbone.embed_dims': 4,
    'model.backbone.num_layers': [1, 1, 1, 1],
    'model.backbone.num_heads': [1, 1, 1, 1],
    'model.decode_head.channels': 8,
}
RESNET = {
    'model.backbone.stem_channels': 4,
    'model.backbone.base_channels': 4,
    'model.decode_head.channels': 8,
}
#: The networks that there are configurations for, made small. The adaptors: `test_conformance.py`.
NETWORKS = {
    'source_only/potsdam2vaihingen': MIT,
    'source_only/method': RESNET,
    'feature_regression/demo': RESNET,
}
SMALLEST = 'source_only/potsdam2vaihingen'


def path_of(name):
    path = REPOSITORY / 'configs' / f'{name}.py'
    axes = dict(task='potsdam2vaihingen', network='deeplabv3plus_r50')
    return dict(config=path, **axes) if path.stem == 'method' else path


@pytest.fixture(scope='module')
def smallest(tmp_path_factory):
    """Checkpoint and ONNX file of the smallest model."""
    folder = tmp_path_factory.mktemp('smallest')
    checkpoint = write_checkpoint(path_of(SMALLEST), folder / 'weights.pth', MIT)
    export_onnx(path_of(SMALLEST), checkpoint, folder / 'model.onnx', cfg_options=MIT)
    return checkpoint, folder / 'model.onnx'


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_agrees_with_torch(name, tmp_path):
    assert_export_agrees(path_of(name), NETWORKS[name], tmp_path)


def test_metadata(smallest, tmp_path):
    predictor = OnnxPredictor(smallest[1])
    assert predictor.classes[4] == 'car'
    assert predictor.palette[1] == (0, 0, 255)
    assert predictor.bands == 3
    np.testing.assert_allclose(predictor.mean, [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(predictor.std, [58.395, 57.12, 57.375], rtol=1e-6)
    assert predictor.session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    metadata = predictor.metadata
    assert metadata['bands'] is None
    assert metadata['config'] == 'potsdam2vaihingen.py'
    assert metadata['version'] == mmrs.__version__

    bands = {'test_dataloader.dataset.pipeline': [dict(type='LoadRasterImage', bands=[4, 1, 2])]}
    export_onnx(path_of(SMALLEST), smallest[0], tmp_path / 'model.onnx', cfg_options={**MIT, **bands})
    assert OnnxPredictor(tmp_path / 'model.onnx').metadata['bands'] == [4, 1, 2]


def test_nothing_is_overwritten_unasked(smallest, tmp_path):
    file = tmp_path / 'model.onnx'
    file.write_text('mine')
    with pytest.raises(OutputError, match='exists already'):
        export_onnx(path_of(SMALLEST), smallest[0], file, cfg_options=MIT)
    assert file.read_text() == 'mine'
    export_onnx(path_of(SMALLEST), smallest[0], file, cfg_options=MIT, overwrite=True)
    assert OnnxPredictor(file).bands == 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        # Its attention takes the lengths of the traced image for constants.
        ({'model.backbone.type': 'mmseg.MixVisionTransformer'}, 'with 1 of 128 x 128 px it fails.*deployment.md'),
        (
            {'model.decode_head': dict(type='PSPHead', in_index=3, in_channels=4, channels=4, num_classes=6)},
            'PyTorch cannot export EncoderDecoder with EfficientMiT and PSPHead.*adaptive_avg_pool2d',
        ),
        # PyTorch's prediction pads the image first.
        ({'model.data_preprocessor.test_cfg': dict(size_divisor=64)}, 'with 2 of 97 x 131 px .* differ by'),
        ({'model.decode_head.out_channels': 1, 'model.decode_head.num_classes': 2}, '1 outputs for'),
        (
            {
                'model.backbone.type': 'MultiResolution',
                'model.backbone.base': 'EfficientMiT',
                'model.decode_head.type': 'HRDAHead',
                'model.decode_head.base': 'EfficientSegformerHead',
            },
            'several resolutions cannot be exported.*windows',
        ),
    ],
    ids=['constant sizes', 'pooling', 'padding', 'one output', 'windows'],
)
def test_a_graph_that_is_not_the_model_is_refused(tmp_path, capfd, options, message):
    if 'model.decode_head' in options:
        options = {**options, 'model.decode_head': dict(options['model.decode_head'], _delete_=True)}
        options = {**{key: value for key, value in MIT.items() if 'decode_head' not in key}, **options}
    else:
        options = {**MIT, **options}
    file = tmp_path / 'model.onnx'
    file.write_text('mine')
    with pytest.raises(ConfigError, match=message):
        export_onnx(path_of(SMALLEST), None, file, cfg_options=options, overwrite=True)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [('model.onnx', 'mine')]
    assert len(capfd.readouterr().out) < 1000, 'PyTorch printed the graph'


def test_unknown_opset(smallest, tmp_path):
    with pytest.raises(ConfigError, match=r'with --opset 99 .*[Uu]nsupported'):
        export_onnx(path_of(SMALLEST), smallest[0], tmp_path / 'model.onnx', 99, cfg_options=MIT)
    assert not list(tmp_path.iterdir())


def test_rounding_errors_beyond_the_tolerance(smallest, tmp_path):
    with pytest.raises(ConfigError, match=r'differ by .*, the tolerance is 1e-08'):
        export_onnx(path_of(SMALLEST), smallest[0], tmp_path / 'model.onnx', tolerance=1e-8, cfg_options=MIT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('tolerance', [0, -1, float('nan')])
def test_tolerances_that_are_none(tmp_path, tolerance):
    with pytest.raises(ConfigError, match=r'tolerance is .*above 0 was expected'):
        export_onnx(path_of(SMALLEST), None, tmp_path / 'model.onnx', tolerance=tolerance, cfg_options=MIT)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(smallest, tmp_path, monkeypatch):
    def save(_model, path):
        path.write_bytes(b'half of it')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(onnx, 'save', save)
    with pytest.raises(OutputError, match=r'model\.onnx cannot be written: No space left'):
        export_onnx(path_of(SMALLEST), smallest[0], tmp_path / 'model.onnx', cfg_options=MIT)
    assert not list(tmp_path.iterdir())


def test_another_number_of_bands(smallest):
    with pytest.raises(DataError, match=r'images have 4 bands, but the model in .*model\.onnx takes 3'):
        OnnxPredictor(smallest[1])(torch.zeros(1, 4, 64, 64), None)


def test_files_that_are_no_export(smallest, tmp_path):
    with pytest.raises(DataError, match='no such file'):
        OnnxPredictor(tmp_path / 'missing.onnx')
    (tmp_path / 'text.onnx').write_text('not a model')
    with pytest.raises(DataError, match=r'text\.onnx is not a model in ONNX format .*export it with'):
        OnnxPredictor(tmp_path / 'text.onnx')
    model = onnx.load(smallest[1])
    model.metadata_props[0].value = '{"classes": ["a"], "palette": [[0, 0, 0]]}'
    onnx.save(model, tmp_path / 'short.onnx')
    with pytest.raises(DataError, match=r"'mmrs'.*without 'mean'.*export it"):
        OnnxPredictor(tmp_path / 'short.onnx')
    whole = dict(classes=['a'], palette=[[0, 0, 0]], mean=[0.0], std=[1.0])
    for text in ('no JSON', '3', *(json.dumps({**whole, key: 'x'}) for key in ('palette', 'mean', 'std'))):
        model.metadata_props[0].value = text
        onnx.save(model, tmp_path / 'odd.onnx')
        with pytest.raises(DataError, match=r"its metadata 'mmrs',.* are of no use"):
            OnnxPredictor(tmp_path / 'odd.onnx')
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'foreign.onnx')
    with pytest.raises(DataError, match=rf'without {METADATA_KEY!r}.*tools/deployment/export_onnx.py'):
        OnnxPredictor(tmp_path / 'foreign.onnx')


def test_devices(smallest):
    with pytest.raises(ConfigError, match="'cpu' or 'cuda' was expected"):
        OnnxPredictor(smallest[1], 'mps')
    with pytest.raises(ConfigError, match="device is 'gpu'; 'cpu' or 'cuda' was expected"):
        OnnxPredictor(smallest[1], 'gpu')
    import onnxruntime

    if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
        with pytest.raises(ConfigError, match='pip install onnxruntime-gpu'):
            OnnxPredictor(smallest[1], 'cuda:1')


@pytest.mark.parametrize('package', ['onnx', 'onnxruntime'])
def test_what_is_not_installed_is_named(smallest, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f'need {package} .*pip install onnx onnxruntime'):
        export_onnx(path_of(SMALLEST), smallest[0], tmp_path / 'model.onnx', cfg_options=MIT)
    if package == 'onnxruntime':
        with pytest.raises(ConfigError, match='pip install'):
            OnnxPredictor(smallest[1])
