"""From 16-bit values to 8 bits."""

import numpy as np
from rasterio.io import DatasetReader

from mmrs.geo.masks import strips
from mmrs.preparation.converters.clips import Clip, read_clip

#: Shares (%) of the pixels below the value that becomes black and the one that becomes white.
PERCENTILES = (2.0, 98.0)


def valid_pixels(image: np.ndarray, nodata: float | None = None) -> np.ndarray:
    """Which pixels `(H, W)` of an image `(C, H, W)` hold data: those where any band differs from `nodata` (or 0)."""
    return (image != (nodata or 0)).any(axis=0)


def histogram(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Counts `(C, 65536)` of the values of each band of an image `(C, H, W)`, uint16, at the valid pixels."""
    return np.stack([np.bincount(band[valid], minlength=65536) for band in image])


def raster_histogram(raster: DatasetReader, bands: list[int]) -> np.ndarray:
    """The counts of a whole raster, which is read strip by strip."""
    counts = np.zeros((len(bands), 65536), np.int64)
    for window in strips(raster):
        image = read_clip(raster, Clip(*window), bands)
        counts += histogram(image, valid_pixels(image, raster.nodata))
    return counts


def percentile_bounds(counts: np.ndarray, percentiles: tuple[float, float] = PERCENTILES) -> np.ndarray:
    """The values `(C, 2)` up to which these shares (%) of the pixels of each band lie.

    Args:
        counts: Pixels by value, `(C, 65536)`; a band may be without any.
        percentiles: Lower and upper share, 0 to 100.
    """
    below = counts.cumsum(axis=1)
    # The smallest value with at least this many pixels up to it, and at least one.
    wanted = np.maximum(np.outer(below[:, -1], percentiles) / 100, 1)
    return np.stack([np.searchsorted(own, goal).clip(max=65535) for own, goal in zip(below, wanted)])


def to_uint8(image: np.ndarray, bounds: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Stretches an image to 8 bits, linearly.

    Args:
        image: The image, `(C, H, W)`.
        bounds: For each band the values that become 0 and 255, `(C, 2)`; what lies beyond becomes 0 or 255 too.
        valid: Pixels that hold data, `(H, W)`. The others become 0; if there are any, valid ones become at least 1,
            so that 0 can be declared as nodata.

    Returns:
        The image, `(C, H, W)`, uint8, rounded.
    """
    low, high = (bounds[:, i, None, None].astype(np.float32) for i in range(2))
    scaled = np.rint((image - low) / np.maximum(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)
    return scaled if valid.all() else np.where(valid, np.maximum(scaled, 1), np.uint8(0))
