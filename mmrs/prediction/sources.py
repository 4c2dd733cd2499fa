"""Windows of images, as the model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dataset import Compose
from torch import Tensor

from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import fill_missing, read_image
from mmrs.geo.resampling import resample, resampling_weights
from mmrs.geo.vectors import burn_labels
from mmrs.geo.windows import Window
from mmrs.utils.errors import ConfigError

__all__ = ['ArraySource', 'RasterSource', 'Source', 'WindowPixels', 'WindowSteps']


@dataclass(frozen=True)
class WindowPixels:
    """A window of an image.

    Attributes:
        image: ``(C, h, w)``, at the size that the model takes.
        valid: ``(h, w)``, bool: pixels with data; None if all have.
        shown: ``(H, W)``, bool, at the window's own size: pixels of the map that have data and are wanted.
        inside: Shares of h and w, from the top and the left, that the window fills; the rest was added to narrow ones.
    """

    image: Tensor
    valid: Tensor | None
    shown: np.ndarray
    inside: tuple[float, float]


class Source(Protocol):
    """An image that windows are read from."""

    def read(self, window: Window) -> WindowPixels | None:
        """A window; None where nothing of it is wanted."""
        ...


class WindowSteps:
    """What a test pipeline does to an image between loading and packing it, for windows.

    Args:
        steps: Configurations of transforms.
    """

    def __init__(self, steps: Sequence[dict[str, Any]] = ()) -> None:
        self._steps = Compose(list(steps)) if steps else None

    def __call__(self, image: np.ndarray, valid: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
        """From ``(h, w, C)`` pixels and their validity to tensors; the size may change."""
        if self._steps is not None:
            results: dict[str, Any] = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
            if valid is not None:
                results.update(valid_map=valid.astype(np.uint8), seg_fields=['valid_map'])
            results = self._steps(results)
            if 'pad_shape' in results:
                raise ConfigError(
                    'the test pipeline pads images, of which the prediction of windows would not know: take Pad out of '
                    'it (narrow windows are extended anyway)'
                )
            image, valid = results['img'], results['valid_map'] == 1 if valid is not None else None
        image = np.atleast_3d(image)  # OpenCV drops the axis of a single band
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))


# A network that halves the resolution five times has two pixels left of these.
_LEAST_SIDE = 64


def _mirrored(pixels: np.ndarray) -> np.ndarray:
    """What is too narrow for a network, continued at the right and bottom by its mirror image."""
    missing = [(0, max(0, _LEAST_SIDE - side)) for side in pixels.shape[:2]]
    return np.pad(pixels, missing + [(0, 0)] * (pixels.ndim - 2), 'symmetric')


def _prepare(
    image: np.ndarray, valid: np.ndarray | None, shown: np.ndarray, steps: WindowSteps, model_size: tuple[int, int]
) -> WindowPixels:
    if image.shape[:2] != model_size:
        weights = (resampling_weights(0, old, new, old) for old, new in zip(image.shape, model_size))
        image, valid = resample(image, valid, *weights)
        if valid is not None:
            fill_missing(image, valid)
    if min(model_size) < _LEAST_SIDE:
        image, valid = _mirrored(image), None if valid is None else _mirrored(valid)
    height, width = (length / side for length, side in zip(model_size, image.shape))
    return WindowPixels(*steps(image, valid), shown, (height, width))


class RasterSource:
    """A raster file.

    Args:
        path: The file.
        grid: Its grid.
        bands: Numbers of the bands to read, counted from 1; by default all but an alpha band.
        steps: What the test pipeline does to an image.
        model_size: Rows and columns to which a window is resampled before the steps.
        aoi: Vector file with the area of interest, if that is not the whole raster.
        aoi_layer: Its layer.
        apply_scale: Whether the scale and offset that the file gives for its bands are applied.
    """

    def __init__(
        self,
        path: str,
        grid: RasterGrid,
        bands: Sequence[int] | None,
        steps: WindowSteps,
        model_size: tuple[int, int],
        aoi: str | None = None,
        aoi_layer: str | None = None,
        apply_scale: bool = False,
    ) -> None:
        self._path, self._grid, self._bands, self._steps = path, grid, bands, steps
        self._model_size, self._aoi, self._aoi_layer, self._apply_scale = model_size, aoi, aoi_layer, apply_scale

    def read(self, window: Window) -> WindowPixels | None:
        """See :class:`Source`.

        Raises:
            DataError: The file is missing or cannot be read.
        """
        shown = np.ones((window[3] - window[1], window[2] - window[0]), bool)
        if self._aoi is not None:
            grid = self._grid.window(window)
            shown = burn_labels(self._aoi, grid, {None: 1}, background=0, layer=self._aoi_layer) == 1
            if not shown.any():
                return None
        image, valid = read_image(self._path, self._bands, window, apply_scale=self._apply_scale)
        if valid is not None:
            shown = shown & valid
            if not shown.any():
                return None
        return _prepare(image, valid, shown, self._steps, self._model_size)


class ArraySource:
    """An image in memory.

    Args:
        image: ``(H, W, C)``.
        valid: ``(H, W)``, bool: pixels with data; by default those with finite values in all bands.
        steps: What the test pipeline does to an image.
    """

    def __init__(self, image: np.ndarray, valid: np.ndarray | None, steps: WindowSteps) -> None:
        finite = np.isfinite(image).all(axis=-1)
        valid = finite if valid is None else valid & finite
        self._valid = None if valid.all() else valid
        # Bytes stay bytes, everything else becomes a float, as when a file is read.
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        if self._valid is not None:
            image = image.copy()
            fill_missing(image, self._valid)
        self._image, self._steps = image, steps

    def read(self, window: Window) -> WindowPixels | None:
        """See :class:`Source`."""
        x0, y0, x1, y1 = window
        image = self._image[y0:y1, x0:x1]
        valid = None if self._valid is None else self._valid[y0:y1, x0:x1]
        if valid is not None and not valid.any():
            return None
        shown = np.ones(image.shape[:2], bool) if valid is None else valid
        return _prepare(image, valid, shown, self._steps, shown.shape)
