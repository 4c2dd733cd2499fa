"""How fast rasters become maps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from mmrs.apis.inference import WINDOW, init_model
from mmrs.prediction.jobs import MapSettings
from mmrs.prediction.maker import MapMaker
from mmrs.prediction.mapping import make_maps
from mmrs.prediction.predictors import TorchPredictor
from mmrs.prediction.scenes import SceneStatistics
from mmrs.utils.errors import require_number

__all__ = ['PredictionTimes', 'benchmark_prediction']


@dataclass(frozen=True)
class PredictionTimes:
    """Seconds for one raster.

    Attributes:
        pixels: Of the raster.
        seconds: From the first look at the raster to its finished map.
        model: Of it, in the model.
        waiting_share: Share of the time from the first window to the last in which the model waits for windows, or for
            its predictions to be taken.
    """

    pixels: int
    seconds: float
    model: float
    waiting_share: float

    def __str__(self) -> str:
        return (
            f'raster                      {self.pixels / 1e6:10.2f} megapixels\n'
            f'end to end                  {self.pixels / 1e6 / self.seconds:10.3f} megapixels per second\n'
            f'model alone                 {self.pixels / 1e6 / self.model:10.3f} megapixels per second\n'
            f'ratio                       {self.model / self.seconds:10.2f}\n'
            f'share of time model waits   {100 * self.waiting_share:9.1f} %'
        )


class _Timed(TorchPredictor):
    """Counts the seconds in the model."""

    seconds = 0.0

    def __call__(self, images: Tensor, valid: Tensor | None) -> Tensor:
        began = time.perf_counter()
        probabilities = super().__call__(images, valid)
        if probabilities.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - began
        return probabilities


def benchmark_prediction(
    config: str | Path | Mapping[str, Any],
    size: int = 4096,
    window: int = WINDOW,
    batch_size: int = 4,
    threads: int | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    adapt: bool = False,
) -> PredictionTimes:
    """Predict a raster of random pixels with random weights, as `tools/predict.py` does.

    Args:
        config: Configuration file.
        size: Side of the raster, in pixels.
        window: Side of a window.
        batch_size: Windows that are predicted together.
        threads: Threads of a CPU run; None leaves torch's choice.
        cfg_options: Dotted keys and values that override the configuration.
        adapt: Whether statistics of batch normalisation follow the raster first; what that takes is no part of the time
            in the model.

    Raises:
        ConfigError: Something in the configuration or the sizes cannot work.
    """
    require_number('size', size, at_least=1, unit='pixels')
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        predictor = _Timed(init_model(config, cfg_options=cfg_options))
        scenes = SceneStatistics(predictor) if adapt else None
        maker = MapMaker(predictor, MapSettings(window=window, batch_size=batch_size), scenes=scenes)
        predictor(torch.zeros(batch_size, predictor.bands, window, window, dtype=torch.uint8), None)  # to warm up
        predictor.seconds = 0.0
        with tempfile.TemporaryDirectory() as folder:
            raster = _write_random(Path(folder) / 'raster.tif', size, predictor.bands)
            began = time.perf_counter()
            report = make_maps(maker, [raster], Path(folder) / 'maps')
            seconds = time.perf_counter() - began
    finally:
        torch.set_num_threads(before)
    return PredictionTimes(report.pixels, seconds, predictor.seconds, report.times.waiting_share)


def _write_random(path: Path, size: int, bands: int) -> Path:
    """A tiled and compressed raster, as they are in use."""
    rng = np.random.default_rng(0)
    with rasterio.open(
        path, 'w', driver='GTiff', width=size, height=size, count=bands, dtype='uint8', tiled=True, compress='deflate',
        crs='EPSG:32633', transform=from_origin(500000, 5000000, 0.5, 0.5),
    ) as raster:  # fmt: skip
        for _, block in raster.block_windows(1):
            raster.write(rng.integers(1, 255, (bands, block.height, block.width), np.uint8), window=block)
    return path
