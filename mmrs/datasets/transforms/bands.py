from collections.abc import Callable

import numpy as np


def in_fours(function: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Applies a function of OpenCV to four bands at a time, as many take no more, and keeps the axis of a single band.

    Args:
        function: From an image to an image, which may have another height and width.
        image: `(H, W, C)`.
    """
    parts = []
    for first in range(0, image.shape[-1], 4):
        part = np.ascontiguousarray(image[..., first : first + 4])
        done = function(part)
        parts.append(done.reshape(*done.shape[:2], part.shape[-1]))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
