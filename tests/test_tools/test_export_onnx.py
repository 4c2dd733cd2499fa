import json

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from PIL import Image

from mmrs.apis import init_model
from tools.deployment import export_onnx

onnxruntime = pytest.importorskip('onnxruntime', reason='pip install onnxruntime')
pytest.importorskip('onnx', reason='pip install onnx')

# The tiny runs use mmseg's class, which cannot be exported; ours takes the same weights.
BACKBONE = 'model.backbone.type=EfficientMiT'


def run(*arguments):
    return export_onnx.main([str(argument) for argument in arguments])


@pytest.mark.parametrize('kind', ['finished', 'adapted'])
def test_the_file_predicts_with_onnxruntime_alone(kind, request, clips, tmp_path, capsys):
    run_of = request.getfixturevalue(kind)
    file = tmp_path / 'models' / 'tiny.onnx'
    assert run(run_of.config, run_of.checkpoint, '-o', file, '--cfg-options', BACKBONE) == 0
    out = capsys.readouterr().out
    assert f'{file}: ' in out
    assert 'differs from PyTorch by at most: probabilities ' in out
    assert list(file.parent.iterdir()) == [file]

    session = onnxruntime.InferenceSession(file)
    classes = json.loads(session.get_modelmeta().custom_metadata_map['mmrs'])['classes']
    image = np.asarray(Image.open(clips / 'img_dir' / 'val' / 'clip0.png'))
    probabilities = session.run(['probabilities'], {'image': image.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
    assert probabilities.shape == (len(classes), *image.shape[:2])
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    # Where the best two are as good as equal, either may win.
    second, first = np.sort(probabilities, axis=0)[-2:]
    clear = first - second > 1e-4
    assert clear.mean() > 0.5
    model = init_model(run_of.config, run_of.checkpoint, 'cpu')
    sample = SegDataSample(metainfo=dict(img_shape=image.shape[:2], ori_shape=image.shape[:2]))
    batch = dict(inputs=[torch.from_numpy(image.transpose(2, 0, 1).copy())], data_samples=[sample])
    expected = model.test_step(batch)[0].pred_sem_seg.data[0].numpy()
    assert np.array_equal(probabilities.argmax(0)[clear], expected[clear])

    assert run(run_of.config, run_of.checkpoint, '-o', file, '--cfg-options', BACKBONE) == 2
    assert 'exists already' in capsys.readouterr().err
    overwrite = ['--overwrite', '--opset', 16, '--cfg-options', BACKBONE]
    assert run(run_of.config, run_of.checkpoint, '-o', file, *overwrite) == 0


def test_what_cannot_be_exported(finished, tmp_path, capsys):
    assert run(finished.config, finished.checkpoint, '-o', tmp_path / 'tiny.onnx') == 2
    assert 'error: EncoderDecoder with MixVisionTransformer and SegformerHead cannot' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
