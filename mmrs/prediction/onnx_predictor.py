from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrs.prediction.predictors import by_class
from mmrs.utils.errors import ConfigError, DataError, require, require_file

__all__ = ['METADATA_KEY', 'OnnxPredictor', 'import_onnx_package']

#: Where an ONNX file says, in JSON, what its model was trained on.
METADATA_KEY = 'mmrs'
_EXPORT = 'export it with tools/deployment/export_onnx.py'


def import_onnx_package(name: str) -> Any:
    """`onnx` or `onnxruntime`, which only users of ONNX files need.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f'ONNX files need {name} ({error}): pip install onnx onnxruntime') from error


class OnnxPredictor:
    """A :class:`Predictor` of a model in an ONNX file, which onnxruntime computes.

    Args:
        path: Written by :func:`mmrs.apis.export.export_onnx`.
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:1'``; by default the first GPU if onnxruntime can use one.

    Raises:
        ConfigError: onnxruntime is not installed, or cannot use the device.
        DataError: The file is missing, is no ONNX file, or was not exported by this project.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        self._file = Path(path)
        runtime = import_onnx_package('onnxruntime')
        providers = _providers(runtime, device)
        require_file(path, 'a model that tools/deployment/export_onnx.py has written')
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what goes wrong is raised; no need to say it twice
        try:
            self.session = runtime.InferenceSession(self._file, options, providers)
        except Exception as error:  # of a dozen classes, without a base of their own
            raise DataError(
                f'{path} is not a model in ONNX format that onnxruntime can run ({error}); {_EXPORT}'
            ) from error
        if device is not None and self.session.get_providers()[0] != providers[0][0]:
            raise ConfigError(f'onnxruntime could not open {path} on {device}: its CUDA libraries are missing')

        try:
            self.metadata: dict[str, Any] = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA_KEY])
            metadata = self.metadata
            self.classes = tuple(str(name) for name in metadata['classes'])
            self.palette = [(int(red), int(green), int(blue)) for red, green, blue in metadata['palette']]
            self.mean, self.std = ([float(value) for value in metadata[key]] for key in ('mean', 'std'))
            threshold = metadata.get('threshold')  # files of earlier versions have none
            self.threshold = None if threshold is None else float(threshold)
        except (KeyError, TypeError, ValueError) as error:
            reason = f'without {error}' if isinstance(error, KeyError) else error
            raise DataError(
                f'{path}: its metadata {METADATA_KEY!r}, which name the classes and give mean and standard deviation '
                f'of the bands, are of no use ({reason}); {_EXPORT}'
            ) from error
        self.bands = len(self.mean)
        self._adjustment: tuple[Tensor, Tensor] | None = None

    def adjust_logits(self, scale: Sequence[float], offsets: Sequence[float]) -> None:
        """Predict from ``scale * logits + offsets`` from now on, as :class:`TorchPredictor` does.

        Args:
            scale: One number for each class.
            offsets: Likewise.

        Raises:
            ConfigError: The model was exported with a class prior of its own, which has been added already.
        """
        if (own := self.metadata.get('class_prior')) is not None:
            raise ConfigError(
                f'{self._file} was exported with the class prior {own.get("prior")} at strength {own.get("strength")}, '
                'to which neither a second prior nor a calibration can be added: predict without --class-prior and '
                '--calibrated, or export the checkpoint without a prior'
            )
        self._adjustment = by_class(scale), by_class(offsets)

    def __call__(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """See :class:`Predictor`; the probabilities are on the CPU.

        Raises:
            DataError: The images have another number of bands than the model.
        """
        if images.shape[1] != self.bands:
            raise DataError(
                f'the images have {images.shape[1]} bands, but the model in {self._file} takes {self.bands}'
            )
        pixels = images.detach().float()
        if valid is not None:
            # The mean becomes zero in the normalisation.
            pixels = torch.where(valid[:, None], pixels, pixels.new_tensor(self.mean)[:, None, None])
        feed: dict[str, np.ndarray] = {'image': pixels.cpu().numpy()}
        if self._adjustment is not None:
            scale, offsets = self._adjustment
            return (torch.from_numpy(self.session.run(['logits'], feed)[0]) * scale + offsets).softmax(1)
        return torch.from_numpy(self.session.run(['probabilities'], feed)[0])


def _providers(runtime: Any, device: str | None) -> list[tuple[str, dict[str, str]]]:
    """What a device is called by onnxruntime, and its options."""
    cpu: tuple[str, dict[str, str]] = ('CPUExecutionProvider', {})
    has_cuda = 'CUDAExecutionProvider' in runtime.get_available_providers()
    kind, colon, index = (device or ('cuda' if has_cuda else 'cpu')).partition(':')
    require(kind in ('cpu', 'cuda') and (index.isdecimal() or not colon), 'device', device, "'cpu' or 'cuda'")
    if kind == 'cpu':
        return [cpu]
    if not has_cuda:
        raise ConfigError(f'device {device}: this onnxruntime runs on the CPU only; pip install onnxruntime-gpu')
    return [('CUDAExecutionProvider', {'device_id': index or '0'}), cpu]
