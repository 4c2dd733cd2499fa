"""Rasters and label maps that the tests of maps generate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio


def write_raster(path: Path, pixels: np.ndarray, tags: dict | None = None, palette: Any = (), **profile: Any) -> Path:
    """Writes an array `(H, W)` or `(C, H, W)`; with a palette as a palette image."""
    pixels = np.asarray(pixels)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    driver = 'PNG' if path.suffix == '.png' else 'GTiff'
    profile = dict(driver=driver, count=count, height=height, width=width, dtype=pixels.dtype, **profile)
    with rasterio.open(path, 'w', **profile) as raster:
        if len(palette):  # before any pixel: it is part of the header
            raster.write_colormap(1, dict(enumerate(palette)))
        raster.update_tags(**(tags or {}))
        raster.write(pixels)
    return path


def write_label_map(
    path: Path, labels: np.ndarray, classes: Any, palette: Any, nodata: float = 255, **place: Any
) -> Path:
    """Writes class indices as a prediction does."""
    return write_raster(path, labels, dict(CLASSES=json.dumps(classes)), palette, nodata=nodata, **place)
