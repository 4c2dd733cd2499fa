"""Pixels of another size, from images some of whose pixels hold no data."""

import numpy as np
from scipy.sparse import csr_array

# Rows that are made at a time: so few that what they are made of stays in the processor's cache.
_ROWS = 16

# A smaller share of a pixel comes from the rounding of its edges.
_SLIVER = 1e-6


def resampling_weights(start: float, stop: float, count: int, length: int) -> csr_array:
    """What each of a row of pixels counts in pixels of another size along the same line.

    A larger pixel is the mean of what it covers, a smaller one is interpolated linearly between centres.

    Args:
        start: Where the new pixels begin, counted in old ones.
        stop: Where they end.
        count: Their number.
        length: Number of the old pixels.

    Returns:
        `(count, length)`, float32; the sums of the rows are not 1, but whole numbers stay exact.
    """
    step = (stop - start) / count
    edges = start + step * np.arange(count + 1)
    if step >= 1:
        lower, upper = edges[:-1, None], edges[1:, None]
        columns = np.floor(lower + _SLIVER).astype(int) + np.arange(int(np.ceil(step)) + 1)
        weights = np.minimum(columns + 1, upper) - np.maximum(columns, lower)
    else:
        centres = ((edges[:-1] + edges[1:]) / 2 - 0.5).clip(0, length - 1)[:, None]
        columns = np.floor(centres + _SLIVER).astype(int) + np.arange(2)
        weights = 1 - abs(columns - centres)
    kept = (weights > _SLIVER) & (columns < length)
    rows = np.broadcast_to(np.arange(count)[:, None], columns.shape)
    return csr_array((weights[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(count, length))


def resample(
    image: np.ndarray, valid: np.ndarray | None, rows: csr_array, columns: csr_array
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image at another size. Pixels without data count for nothing.

    Args:
        image: `(H, W, C)`, uint8 or float32; not changed.
        valid: `(H, W)`, bool: which pixels hold data; None where all do.
        rows: `(h, H)`, see `resampling_weights`.
        columns: `(w, W)`.

    Returns:
        The image `(h, w, C)` of the same type, uint8 rounded, and which pixels hold data: those in which one with data
        counts. The others are 0.
    """
    result = np.empty((rows.shape[0], columns.shape[0], image.shape[2]), image.dtype)
    shown = np.empty(result.shape[:2], bool)
    for top in range(0, len(result), _ROWS):
        part = rows[top : top + _ROWS]
        first, last = part.indices.min(), part.indices.max() + 1
        part, pixels = part[:, first:last], image[first:last].astype(np.float32)
        if valid is None:
            total = np.outer(part.sum(axis=1), columns.sum(axis=1))[..., None]
        else:
            own = valid[first:last]
            pixels[~own] = 0
            total = _weighted(own[..., None].astype(np.float32), part, columns)
            shown[top : top + _ROWS] = total[..., 0] > 0
            total[total == 0] = 1
        means = _weighted(pixels, part, columns) / total
        result[top : top + _ROWS] = means.round() if image.dtype == np.uint8 else means
    return result, None if valid is None else shown


def _weighted(pixels: np.ndarray, rows: csr_array, columns: csr_array) -> np.ndarray:
    height, width, number = pixels.shape
    lines = (rows @ pixels.reshape(height, width * number)).reshape(-1, width, number).transpose(1, 0, 2)
    return (columns @ lines.reshape(width, -1)).reshape(columns.shape[0], -1, number).transpose(1, 0, 2)
