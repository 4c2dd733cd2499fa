"""What single images and label maps hold, read to their end for a check."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from mmrs.datasets.image_warnings import describe_scale, translucent_share
from mmrs.geo.grids import RasterGrid
from mmrs.geo.masks import hidden_values, read_mask
from mmrs.geo.rasters import chosen_bands, image_bands, open_raster
from mmrs.geo.statistics import Advance, raster_windows, read_windows, value_type
from mmrs.geo.statistics_bands import BandAccumulator, BandStatistics
from mmrs.utils.errors import DataError

#: In pixels: from here on, two rasters are of different places rather than a little off.
OTHER_PLACE = 0.5

# A file with more different values than this is no label map, and counting them would fill the memory.
_MAX_VALUES = 1 << 16

_NO_GRID = RasterGrid(None, Affine.identity(), 0, 0)


@dataclass(frozen=True)
class ImageFacts:
    """What is in an image.

    Attributes:
        problem: Why it cannot be read; empty if it can.
        grid: Its pixels.
        bands: Number of bands, after a palette is expanded and without transparency.
        dtype: Data type.
        digest: Hash of the pixels of the chosen bands, the same for equal pixels in another format.
        statistics: Of the chosen bands; None if the file cannot be read.
        translucent_share: Share of the pixels whose alpha is neither none nor full, 0 to 1.
        scale: Scale and offset that the file gives and that were not applied, for the screen; empty for none.
    """

    problem: str = ''
    grid: RasterGrid = _NO_GRID
    bands: int = 0
    dtype: str = ''
    digest: bytes = b''
    statistics: BandStatistics | None = None
    translucent_share: float = 0.0
    scale: str = ''

    @property
    def pixel_metres(self) -> tuple[float, ...]:
        """Sides of a pixel on the ground; empty where the file does not say."""
        try:
            return self.grid.pixel_metres() if self.grid.is_georeferenced else ()
        except DataError:
            return ()

    @property
    def valid_share(self) -> float:
        """Share of the pixels that hold data, 0 to 1."""
        if self.statistics is None:
            return 0.0
        return float(self.statistics.count[0] / (self.grid.width * self.grid.height))

    @property
    def is_constant(self) -> bool:
        """Whether no band has two different values."""
        return self.statistics is not None and not np.any(self.statistics.minimum < self.statistics.maximum)


@dataclass(frozen=True)
class LabelFacts:
    """What is in a label map or colour mask.

    Attributes:
        problem: Why it cannot be read; empty if it can.
        grid: Its pixels.
        bands: Number of bands without transparency.
        by_colour: Whether `counts` are of colours.
        counts: Pixels by id, or by colour packed into a number (0xRRGGBB), without hidden ones and NaN.
        hidden: The same of the hidden ones, see `hidden_values`.
    """

    problem: str = ''
    grid: RasterGrid = _NO_GRID
    bands: int = 0
    by_colour: bool = False
    counts: Counter = field(default_factory=Counter)
    hidden: Counter = field(default_factory=Counter)


class ImageTask(NamedTuple):
    """An image to read, and how training reads it: numbers of the bands (None: all), whether their scale is applied."""

    path: str
    bands: tuple[int, ...] | None
    apply_scale: bool = False


class LabelTask(NamedTuple):
    """A label map to read: whether a map of one band holds colours, and whether a map of several bands may."""

    path: str
    by_colour: bool
    has_colours: bool


def read_facts(task: ImageTask | LabelTask, advance: Advance) -> ImageFacts | LabelFacts:
    """Reads a file to its end; whatever is wrong with it stands in `problem`. `advance` is told each share done."""
    try:
        with open_raster(task.path, quiet=True) as raster:
            grid = RasterGrid.of(raster)
            if isinstance(task, ImageTask):
                return _image(raster, grid, task, advance)
            return _label(raster, grid, task, advance)
    except Exception as error:  # one bad file, whatever a library says about it, must not end the check
        problem = str(error).removeprefix(task.path).lstrip(': ') or type(error).__name__
        return ImageFacts(problem) if isinstance(task, ImageTask) else LabelFacts(problem)


def _image(raster: DatasetReader, grid: RasterGrid, task: ImageTask, advance: Advance) -> ImageFacts:
    bands, dtype = chosen_bands(raster, task.bands), value_type(raster, task.apply_scale)
    digest = hashlib.blake2b(f'{dtype} {len(bands)} {grid.shape}'.encode(), digest_size=16)
    accumulator = BandAccumulator(len(bands), dtype)
    for planes, valid in read_windows(raster, bands, task.apply_scale):
        digest.update(np.ascontiguousarray(planes).data)
        accumulator.add(planes, valid)
        advance(planes[0].size / (grid.width * grid.height))
    return ImageFacts(
        '',
        grid,
        len(chosen_bands(raster)),
        dtype,
        digest.digest(),
        accumulator.result(),
        translucent_share(raster, bands, raster_windows(raster)),
        '' if task.apply_scale else describe_scale(raster, bands),
    )


def _label(raster: DatasetReader, grid: RasterGrid, task: LabelTask, advance: Advance) -> LabelFacts:
    bands = len(image_bands(raster))
    if bands == 2 or (bands > 2 and not task.has_colours):
        return LabelFacts('', grid, bands)
    by_colour = task.by_colour or bands > 2
    counts, hidden = Counter[float](), Counter[float]()
    for window in raster_windows(raster):
        corner = window.col_off, window.row_off
        values, covered = read_mask(raster, by_colour, (*corner, corner[0] + window.width, corner[1] + window.height))
        _count(hidden_values(raster, by_colour, values, covered), hidden)
        _count(values if covered is None else values[covered], counts)
        if len(counts) > _MAX_VALUES:
            raise DataError(f'holds more than {_MAX_VALUES} different values; is it a label map?')
        advance(values.size / (grid.width * grid.height))
    return LabelFacts('', grid, bands, by_colour, counts, hidden)


def _count(values: np.ndarray, into: Counter) -> None:
    if values.dtype == np.uint8:
        number = np.bincount(values.ravel(), minlength=256)
        found = number.nonzero()[0]
        number = number[found]
    else:
        found, number = np.unique(values, return_counts=True)
    into.update({value: count for value, count in zip(found.tolist(), number.tolist()) if value == value})
