"""From the pixels of windows to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from mmrs.models.binary import two_logits
from mmrs.utils.errors import ConfigError
from mmrs.visualization.panels import class_colours

__all__ = ['FlipAverage', 'Predictor', 'TorchPredictor', 'by_class']


class Predictor(Protocol):
    """What predicts windows.

    Attributes:
        classes: Names.
        palette: Colour (RGB) of each class.
        bands: Number of bands of an image.
        mean: Mean of each band in the training images, in file units.
        std: Standard deviation of each band, likewise.
        threshold: Of binary segmentation by one output: the probability above which a pixel is of the second class.
            None: a pixel is of the most probable class.
    """

    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    bands: int
    mean: list[float]
    std: list[float]
    threshold: float | None

    def __call__(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """Predict images.

        Args:
            images: ``(N, C, h, w)``, as the files have them.
            valid: ``(N, h, w)``, bool; False where an image has no data, None if all have data everywhere.

        Returns:
            Probabilities ``(N, K, h, w)``, float32.
        """
        ...


class TorchPredictor:
    """A :class:`Predictor` of a model in PyTorch.

    Args:
        model: From :func:`mmrs.apis.init_model`. Each window is predicted as a whole, whatever its `test_cfg` says.
        amp: Whether to compute in bfloat16 where torch finds that safe.

    Raises:
        ConfigError: The model has no class names, or is no segmentor with one logit per class, or one for two.
    """

    def __init__(self, model: BaseSegmentor, amp: bool = False) -> None:
        self.model, self.amp = model, amp
        meta = model.dataset_meta
        self.classes = tuple(meta.get('classes') or ())
        if not self.classes:
            raise ConfigError(
                'the classes of the model are unknown: neither its checkpoint nor the test_dataloader of its '
                'configuration names them (metainfo=dict(classes=...))'
            )
        channels = getattr(model, 'out_channels', len(self.classes))
        self.threshold = model.decode_head.threshold if channels == 1 else None
        if channels != len(self.classes) and (channels, len(self.classes)) != (1, 2):
            raise ConfigError(
                f'the model has {channels} outputs for {len(self.classes)} classes ({", ".join(self.classes)}); one '
                'for each class was expected'
            )
        self.palette = class_colours(meta)
        preprocessor = model.data_preprocessor
        for name in ('mean', 'std'):
            values = getattr(preprocessor, f'target_{name}', getattr(preprocessor, name, None))
            if values is None:
                raise ConfigError(f'model.data_preprocessor has no {name}: the number of bands is unknown')
            setattr(self, name, values.flatten().tolist())
        self.bands = len(self.mean)
        self.device = next(model.parameters()).device
        #: Factor and offset of the logits, to be broadcast over ``(N, K, H, W)``; None: they are as they are.
        self.adjustment: tuple[Tensor, Tensor] | None = None

    mean: list[float]
    std: list[float]

    def adjust_logits(self, scale: Sequence[float], offsets: Sequence[float]) -> None:
        """Predict from ``scale * logits + offsets`` from now on.

        Args:
            scale: One number for each class.
            offsets: Likewise.
        """
        self.adjustment = by_class(scale, self.device), by_class(offsets, self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """See :class:`Predictor`; the probabilities are on the model's device."""
        height, width = images.shape[-2:]
        meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
        samples = [SegDataSample(metainfo=meta) for _ in images]
        if valid is not None:
            for sample, known in zip(samples, valid):
                sample.valid_map = PixelData(data=known[None])
        data: Any = self.model.data_preprocessor(dict(inputs=list(images), data_samples=samples))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            logits = self.model.encode_decode(data['inputs'], [sample.metainfo for sample in data['data_samples']])
        logits = two_logits(logits[..., :height, :width]).float()
        if self.adjustment is not None:
            scale, offsets = self.adjustment
            logits = logits * scale + offsets
        return logits.softmax(1)


def by_class(values: Sequence[float], device: Any = None) -> Tensor:
    """Numbers of the classes, to be broadcast over ``(N, K, H, W)``."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


class FlipAverage:
    """Test-time augmentation: the mean over an image, its mirror images and the image turned by 180 degrees."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.classes, self.palette, self.bands = predictor.classes, predictor.palette, predictor.bands
        self.mean, self.std, self.threshold = predictor.mean, predictor.std, predictor.threshold

    def __call__(self, images: Tensor, valid: Tensor | None) -> Tensor:
        """See :class:`Predictor`."""
        total = self.predictor(images, valid)
        for axes in ((-1,), (-2,), (-2, -1)):
            flipped = self.predictor(images.flip(axes), None if valid is None else valid.flip(axes))
            total = total + flipped.flip(axes)
        return total / 4
