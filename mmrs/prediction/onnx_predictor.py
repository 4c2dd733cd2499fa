from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrs.utils.errors import ConfigError, DataError

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
        if not self._file.is_file():
            raise DataError(f'{path}: no such file; a model in ONNX format was expected, {_EXPORT}')
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
            metadata = self._metadata()
            self.classes = tuple(str(name) for name in metadata['classes'])
            self.palette = [(int(red), int(green), int(blue)) for red, green, blue in metadata['palette']]
            self.mean, self.std = ([float(value) for value in metadata[key]] for key in ('mean', 'std'))
            threshold = metadata.get('threshold')  # files of earlier versions have none
            self.threshold = None if threshold is None else float(threshold)
        except (TypeError, ValueError) as error:
            raise DataError(f'{path}: its metadata {METADATA_KEY!r} are of no use ({error}); {_EXPORT}') from error
        self.bands = len(self.mean)

    def _metadata(self) -> dict[str, Any]:
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise DataError(
                f'{self._file} has no metadata {METADATA_KEY!r}, which names the classes and has mean and standard '
                f'deviation of the bands: this project did not export it; {_EXPORT}'
            )
        metadata = json.loads(text)
        missing = [key for key in ('classes', 'palette', 'mean', 'std') if key not in metadata]
        if missing:
            raise DataError(f'{self._file}: its metadata {METADATA_KEY!r} lacks {", ".join(missing)}; {_EXPORT}')
        return metadata

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
        return torch.from_numpy(self.session.run(['probabilities'], feed)[0])


def _providers(runtime: Any, device: str | None) -> list[tuple[str, dict[str, str]]]:
    """What a device is called by onnxruntime, and its options."""
    cpu: tuple[str, dict[str, str]] = ('CPUExecutionProvider', {})
    has_cuda = 'CUDAExecutionProvider' in runtime.get_available_providers()
    try:
        kind = torch.device(device or ('cuda' if has_cuda else 'cpu'))
    except RuntimeError as error:
        raise ConfigError(f"device is {device!r}; 'cpu' or 'cuda' was expected") from error
    if kind.type == 'cpu':
        return [cpu]
    if kind.type != 'cuda':
        raise ConfigError(f"device {device} is unknown to the ONNX predictor: 'cpu' or 'cuda' was expected")
    if not has_cuda:
        raise ConfigError(f'device {device}: this onnxruntime runs on the CPU only; pip install onnxruntime-gpu')
    return [('CUDAExecutionProvider', {'device_id': str(kind.index or 0)}), cpu]
