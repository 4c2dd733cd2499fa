"""The zone along class boundaries, where a reference is uncertain."""

import cv2
import numpy as np

from mmrs.geo.classes import IGNORE_INDEX


def disc(radius: float, pixel: np.ndarray | None = None) -> np.ndarray:
    """The pixels around one whose centres are no further away than a radius.

    Args:
        radius: Above 0, in the unit of `pixel`.
        pixel: `(2, 2)` matrix from offsets (columns, rows) to offsets on the ground, for pixels that are no squares of
            side 1 or are turned.

    Returns:
        `(H, W)`, uint8, 1 inside; height and width are odd and the pixel itself is in the middle.
    """
    pixel = np.eye(2) if pixel is None else pixel
    # The furthest column and row of the ellipse that the disc is in pixels.
    columns, rows = np.floor(radius * np.linalg.norm(np.linalg.inv(pixel), axis=1) + 1e-6).astype(int)
    offsets = np.mgrid[-rows : rows + 1, -columns : columns + 1][::-1]
    distance = np.linalg.norm(np.tensordot(pixel, offsets, axes=1), axis=0)
    return (distance <= radius * (1 + 1e-6)).astype(np.uint8)


def near_boundary(labels: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Where another class lies within reach of a labelled pixel.

    What an erosion of each class by the footprint takes away. Neither ignored pixels nor the edge of the array are
    another class.

    Args:
        labels: Class indices `(H, W)`, uint8, 255 for ignored pixels.
        footprint: What is within reach, such as a `disc`.

    Returns:
        `(H, W)`, bool; False for ignored pixels.
    """
    labelled = labels != IGNORE_INDEX
    # Largest and smallest class within reach: 0 never raises the largest, 255 never lowers the smallest.
    largest = cv2.dilate(np.where(labelled, labels, np.uint8(0)), footprint)
    smallest = cv2.erode(labels, footprint)
    return labelled & (largest != smallest)
