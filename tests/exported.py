"""Whether an ONNX file predicts what the model in PyTorch does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.apis import init_model
from mmrs.apis.export import TOLERANCE, export_onnx
from mmrs.prediction.onnx_predictor import OnnxPredictor


@torch.no_grad()
def write_checkpoint(config: str | Path | Config, file: Path, options: Mapping[str, Any]) -> Path:
    """Random weights, with logits as far apart as those of a trained model."""
    torch.manual_seed(0)
    model = init_model(config, device='cpu', cfg_options=options)
    for name, parameter in model.named_parameters():
        if name.endswith(('bn2.weight', 'bn3.weight')):
            parameter.fill_(0.2)  # else rounding errors grow from layer to layer
    images, meta = torch.randn(2, 3, 96, 96), [dict(img_shape=(96, 96))]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0
    model.encode_decode(images, meta)
    for norm in norms:
        norm.eval().running_var.clamp_(min=0.01)  # of two pooled images it is next to nothing
    spread = model.encode_decode(images, meta).std()
    for name, parameter in model.named_parameters():
        if 'conv_seg' in name:
            parameter.mul_(2 / spread)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), file)
    return file


def _images_with_holes(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (number, 3, height, width)).astype(np.uint8)
    valid = np.ones((number, height, width), bool)
    valid[0, 5:25, 10:40] = False
    valid[-1, :, -9:] = False
    return images, valid


@torch.no_grad()
def _probabilities_in_torch(model: Any, images: np.ndarray, valid: np.ndarray) -> np.ndarray:
    samples = [SegDataSample(metainfo=dict(img_shape=images.shape[-2:], ori_shape=images.shape[-2:])) for _ in images]
    for sample, known in zip(samples, valid):
        sample.valid_map = PixelData(data=torch.from_numpy(known)[None])
    data = model.data_preprocessor(dict(inputs=list(torch.from_numpy(images)), data_samples=samples))
    return model.encode_decode(data['inputs'], [sample.metainfo for sample in samples]).softmax(1).numpy()


def assert_export_agrees(config: str | Path | Config, options: Mapping[str, Any], folder: Path) -> None:
    """Export a model with random weights, and compare what both predict."""
    onnx = pytest.importorskip('onnx', reason='pip install onnx')
    checkpoint = write_checkpoint(config, folder / 'weights.pth', options)
    differences = export_onnx(config, checkpoint, folder / 'exported' / 'model.onnx', cfg_options=options)
    assert all(value < TOLERANCE for value in differences.values())
    assert [file.name for file in (folder / 'exported').iterdir()] == ['model.onnx']

    model: Any = init_model(config, checkpoint, 'cpu', options)
    predictor = OnnxPredictor(folder / 'exported' / 'model.onnx', 'cpu')
    for size in ((3, 64, 96), (1, 71, 135)):
        images, valid = _images_with_holes(*size)
        expected = _probabilities_in_torch(model, images, valid)
        assert expected.std(1).mean() > 0.1, 'near-uniform probabilities would agree with anything'
        found = predictor(torch.from_numpy(images), torch.from_numpy(valid))
        assert found.shape == expected.shape
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - expected).max() < 1e-4
        # The pixels without data, whatever they hold, are seen by nobody.
        images[~np.broadcast_to(valid[:, None], images.shape)] = 0
        assert torch.equal(predictor(torch.from_numpy(images), torch.from_numpy(valid)), found)
        without = predictor(torch.from_numpy(images), None)
        assert (without - found).abs().max() > 1e-2

    # Nothing but what predicts: no teacher, discriminator or reference.
    parts: list[nn.Module] = [model.segmentor] if hasattr(model, 'segmentor') else [model.backbone, model.decode_head]
    most = sum(tensor.numel() for part in parts for tensor in part.state_dict().values()) + 2000
    graph = onnx.load(folder / 'exported' / 'model.onnx').graph
    assert sum(int(np.prod(tensor.dims)) for tensor in graph.initializer) <= most
