"""Where the windows of a raster are."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmrs.utils.errors import ConfigError, require, require_number, require_one_of

UNITS = ('pixel', 'metre')

#: Left, top, right and bottom of a rectangle of pixels; right and bottom are outside.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Windows:
    """How rasters are cut into windows.

    Attributes:
        size: Side of a window. A raster that is smaller gives one window of its own size.
        stride: From one window to the next in training; by default the size.
        unit: Of both: `pixel`, after resampling where there is any, or `metre`.
        jitter: In training, whether the place of a window is drawn anew each time it is read, up to half a stride from
            its own: random windows, yet spread evenly over each raster in every epoch.

    Raises:
        ConfigError: A value that makes no windows.
    """

    size: float
    stride: float | None = None
    unit: str = 'pixel'
    jitter: bool = True

    def __post_init__(self) -> None:
        require_one_of('windows: unit', self.unit, UNITS)
        for name, value in (('size', self.size), ('stride', self.size if self.stride is None else self.stride)):
            require_number(f'windows: {name}', value, above=0)
            require(self.unit != 'pixel' or value == int(value), f'windows: {name}', value, 'a whole number of pixels')
        if self.stride is not None and self.stride > self.size:
            raise ConfigError(
                f'windows: stride {self.stride} is larger than size {self.size}, which leaves gaps between windows'
            )

    def in_pixels(self, pixel_metres: tuple[float, float] | None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size and stride, each as (rows, columns); `pixel_metres` is the width and height of a pixel."""
        width, height = pixel_metres if self.unit == 'metre' and pixel_metres else (1.0, 1.0)
        stride = self.size if self.stride is None else self.stride
        (h, w), (y, x) = (
            (max(1, round(length / height)), max(1, round(length / width))) for length in (self.size, stride)
        )
        return (h, w), (y, x)


def training_windows(shape: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]) -> list[Window]:
    """A grid of windows of one size, row by row; the last of a row or column is shifted back into the raster."""
    sides = []
    for length, side, step in zip(shape, size, stride):
        side = min(side, length)
        sides.append([(start, start + side) for start in clip_origins(length, side, step, 'shift')])
    return [(x0, y0, x1, y1) for y0, y1 in sides[0] for x0, x1 in sides[1]]


def partition(shape: tuple[int, int], size: tuple[int, int]) -> list[Window]:
    """Windows that cover each pixel once, none larger than `size` and all of about one size, row by row."""
    sides = []
    for length, side in zip(shape, size):
        edges = np.linspace(0, length, math.ceil(length / side) + 1).round().astype(int).tolist()
        sides.append(list(pairwise(edges)))
    return [(x0, y0, x1, y1) for y0, y1 in sides[0] for x0, x1 in sides[1]]


def jittered(window: Window, shape: tuple[int, int], stride: tuple[int, int]) -> Window:
    """A window of the same size up to half a stride away, uniformly among the places inside the raster.

    It uses numpy's global generator, as the transforms of mmcv and mmseg do, which MMEngine seeds in every worker.
    """
    x0, y0, x1, y1 = window
    x, y = (
        int(np.random.randint(max(0, start - step // 2), min(length - side, start + step // 2) + 1))  # noqa: NPY002
        for start, side, length, step in ((x0, x1 - x0, shape[1], stride[1]), (y0, y1 - y0, shape[0], stride[0]))
    )
    return x, y, x + x1 - x0, y + y1 - y0


def clip_origins(length: int, size: int, stride: int, edge: str) -> list[int]:
    """Where the clips along one side of a raster begin.

    Args:
        length: Pixels of the side.
        size: Pixels of a clip.
        stride: Pixels from one clip to the next.
        edge: What becomes of a rest that is too small for a clip. `drop` leaves it out, as the published clips do;
            `shift` covers it by a last clip that ends with the raster and overlaps the one before.
    """
    origins = list(range(0, length - size + 1, stride))
    if edge == 'shift' and origins and origins[-1] + size < length:
        origins.append(length - size)
    return origins
