"""A trained model as a file that needs neither PyTorch nor this project."""

from __future__ import annotations

import inspect
import io
import json
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pooch
import torch
from mmengine.config import Config
from mmseg.models import BaseSegmentor
from torch import Tensor, nn

from mmrs.apis.class_prior import ClassPrior, PriorOptions
from mmrs.apis.inference import init_model
from mmrs.apis.statistics import leaves, loaded_bands
from mmrs.models.binary import two_logits
from mmrs.prediction.onnx_predictor import METADATA_KEY, OnnxPredictor, import_onnx_package
from mmrs.prediction.predictors import TorchPredictor
from mmrs.utils.errors import ConfigError, OutputError, require_number
from mmrs.utils.files import atomic_path
from mmrs.version import __version__

__all__ = ['OPSET', 'TOLERANCE', 'export_onnx']

#: Version of the ONNX operators: the newest that PyTorch 2.1 writes.
OPSET = 17
#: How far onnxruntime may be from PyTorch, where nothing else is asked for.
TOLERANCE = 1e-4
#: Batch, height and width that the graph is traced with, and those that it is then tried with.
_TRACED, _TRIED = (2, 96, 128), ((1, 128, 128), (2, 97, 131), (1, 160, 96))

_HINT = 'docs/deployment.md says which networks can be exported, and what to use instead of some'


class _Graph(nn.Module):
    """From pixels in file units to probabilities and logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: BaseSegmentor, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shape = image.shape[2:]
        # As slices are predicted: mmseg resizes to the `img_shape` of the first image.
        meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, padding_size=[0] * 4)
        logits = two_logits(self.model.encode_decode((image - self.mean) / self.std, [meta]))
        return logits.softmax(1), logits


def export_onnx(
    config: str | Path | Config,
    checkpoint: str | Path | None,
    out: str | Path,
    opset: int = OPSET,
    tolerance: float = TOLERANCE,
    cfg_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    trust_checkpoint: bool = False,
    class_prior: str | Path | None = None,
    prior_strength: float | None = None,
    source_shares: str | Path | None = None,
) -> dict[str, float]:
    """Write the part of a model that predicts as an ONNX file, and compare the two in onnxruntime and PyTorch.

    The graph takes `image`, float32 ``(N, C, H, W)`` in file units, for any N, H and W: it normalises. It returns
    `probabilities` and `logits`, ``(N, K, H, W)``, also of a model with one output for two classes. Classes, palette,
    mean, standard deviation, bands, the threshold of such a model, the class prior and the hash of the checkpoint are
    in the file's metadata, see :class:`OnnxPredictor`.

    Args:
        config: A configuration or its file.
        checkpoint: Weights to load; None exports random ones.
        out: File to write.
        opset: Version of the ONNX operators.
        tolerance: How far onnxruntime may be from PyTorch: in probabilities, and in logits divided by the greatest one
            if that is above 1. Rounding errors of a trained network are around 1e-6.
        cfg_options: Dotted keys and values that override the configuration.
        overwrite: Replace `out`.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.
        class_prior: Shares of the classes to predict with, see :class:`PriorOptions`; by default those that the model
            has learned. The file says so, and is not given another one later.
        prior_strength: Likewise.
        source_shares: Likewise.

    Returns:
        The greatest differences between onnxruntime and PyTorch on random images of three sizes: of `probabilities`,
        and of `logits`, divided likewise.

    Raises:
        ConfigError: The model has no class names, cannot be written as a graph for all sizes, or the graph computes
            something else; no file is left then. Or `tolerance` is not above 0, or `onnx` or `onnxruntime` is not
            installed.
        CheckpointError: The checkpoint cannot be read or does not fit.
        OutputError: `out` exists already or cannot be written.
    """
    onnx = import_onnx_package('onnx')
    import_onnx_package('onnxruntime')
    require_number('tolerance', tolerance, above=0)
    options = PriorOptions(class_prior, prior_strength, source_shares)
    with atomic_path(out, overwrite) as temporary:
        model = init_model(config, checkpoint, 'cpu', cfg_options, trust_checkpoint)
        predictor = TorchPredictor(model)
        prior = options.apply(model, model.cfg, predictor.classes) if options else None
        graph = _Graph(model, predictor.mean, predictor.std).eval()
        exported = onnx.load_model_from_string(_trace(graph, opset))
        onnx.helper.set_model_props(exported, {METADATA_KEY: json.dumps(_metadata(predictor, prior, checkpoint))})
        onnx.checker.check_model(exported)
        try:
            onnx.save(exported, temporary)
        except OSError as error:
            raise OutputError(f'{out} cannot be written: {error.strerror}') from error
        return _compare(temporary, graph, predictor, tolerance)


def _trace(graph: _Graph, opset: int) -> bytes:
    axes = {0: 'N', 2: 'H', 3: 'W'}
    buffer = io.BytesIO()
    options: dict[str, Any] = dict(
        f=buffer,
        input_names=['image'],
        output_names=['probabilities', 'logits'],
        dynamic_axes=dict.fromkeys(('image', 'probabilities', 'logits'), axes),
        opset_version=opset,
    )
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        # The exporter that traces is in all supported versions of PyTorch, needs no further package and is fast. Sizes
        # stay free where a module computes them from its input's shape; where it does not, the comparison finds out.
        options['dynamo'] = False
    # On an error it prints the whole graph, asked or not.
    silent = mock.patch.object(torch._C, '_jit_onnx_log', create=True)
    with silent, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of the exporter's age, and of constants, most of which are some
        try:
            torch.onnx.export(graph, (_random_images(graph, *_TRACED),), **options)
        except (RuntimeError, ValueError) as error:
            reason = textwrap.shorten(str(error), 200)
            raise ConfigError(
                f'PyTorch cannot export {_name(graph.model)} with --opset {opset} ({reason}). {_HINT}'
            ) from error
    return buffer.getvalue()


def _random_images(graph: _Graph, number: int, height: int, width: int) -> Tensor:
    """Noise of the training images' mean and standard deviation."""
    generator = torch.Generator().manual_seed(height)
    return torch.randn(number, len(graph.mean), height, width, generator=generator) * graph.std + graph.mean


def _name(model: Any) -> str:
    parts = [getattr(model, name, None) for name in ('backbone', 'decode_head')]
    parts = [part[-1] if isinstance(part, nn.ModuleList) else part for part in parts]  # cascades
    names = ' and '.join(type(part).__name__ for part in parts if part is not None)
    return f'{type(model).__name__} with {names}' if names else type(model).__name__


def _metadata(predictor: TorchPredictor, prior: ClassPrior | None, checkpoint: str | Path | None) -> dict[str, Any]:
    cfg = predictor.model.cfg
    test = cfg.get('test_dataloader')
    return dict(
        classes=predictor.classes,
        palette=predictor.palette,
        mean=predictor.mean,
        std=predictor.std,
        threshold=predictor.threshold,
        bands=loaded_bands(next(leaves(test.dataset))) if test else None,
        config=Path(cfg.filename).name if cfg.filename else None,
        version=__version__,
        class_prior=None if prior is None else prior.record(),
        weights=None if checkpoint is None else pooch.file_hash(str(checkpoint)),
    )


@torch.no_grad()
def _compare(file: Path, graph: _Graph, predictor: TorchPredictor, tolerance: float) -> dict[str, float]:
    session = OnnxPredictor(file, 'cpu').session
    greatest = dict(probabilities=0.0, logits=0.0)
    for size in _TRIED:
        images = _random_images(graph, *size)
        try:
            # The predictor normalises in its own way.
            expected = predictor(images, None).numpy(), graph(images)[1].numpy()
            found = session.run(['probabilities', 'logits'], {'image': images.numpy()})
        except Exception as error:  # of any class: networks have their own ways to reject a size
            raise _refusal(graph, size, f'it fails ({textwrap.shorten(str(error), 200)})') from error
        for name, ours, theirs in zip(greatest, found, expected):
            if ours.shape != theirs.shape:
                raise _refusal(graph, size, f'{name} are {ours.shape} in onnxruntime, {theirs.shape} in PyTorch')
            scale = 1.0 if name == 'probabilities' else max(1.0, float(np.abs(theirs).max()))
            difference = float(np.abs(ours - theirs).max()) / scale
            if not difference < tolerance:  # nor NaN
                reason = f'{name} of onnxruntime and PyTorch differ by {difference:.2g}, the tolerance is {tolerance:g}'
                raise _refusal(graph, size, reason)
            greatest[name] = max(greatest[name], difference)
    return greatest


def _refusal(graph: _Graph, size: tuple[int, int, int], reason: str) -> ConfigError:
    number, height, width = size
    return ConfigError(
        f'{_name(graph.model)} cannot be exported for images of any size: with {number} of {height} x {width} px '
        f'{reason}. {_HINT}'
    )
