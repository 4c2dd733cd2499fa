"""What a data set has to know of its rasters before it reads any of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rich.progress import track

from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import colour_kinds, image_bands, open_raster, read_image
from mmrs.geo.windows import partition
from mmrs.utils.errors import DataError

_THREADS = 8  # opening files is mostly waiting, in particular on a network

# A map of all land in pixels of 10 m has fewer. A list of the windows of many more would fill the memory.
_MOST_PIXELS = 1 << 42


@dataclass(frozen=True)
class RasterHeader:
    """One raster.

    Attributes:
        path: Its file.
        grid: Where its pixels lie.
        count: Number of its bands.
        bands: Number of bands that an image of it has: a palette makes three, an alpha band is none.
        dtype: Their type; several, joined by `/`, where they differ.
        row_wise: Whether the file holds compressed whole rows, so that a window costs as much as the rows it touches.
        empty: Whether no pixel holds data.
        planes: Number of its bands that are no alpha band.
        nodata: The declared nodata value, if there is one.
    """

    path: str
    grid: RasterGrid
    count: int
    bands: int
    dtype: str
    row_wise: bool
    empty: bool
    planes: int
    nodata: float | None

    @property
    def pixel_metres(self) -> tuple[float, float] | None:
        """Width and height of a pixel in metres, where they are known."""
        try:
            return self.grid.pixel_metres()
        except DataError:
            return None


def read_headers(paths: Sequence[str], find_empty: bool, bands: Sequence[int] | None = None) -> list[RasterHeader]:
    """Reads the headers of rasters, with a progress bar where there are many.

    Args:
        paths: The files.
        find_empty: Whether to look for data in the rasters that may lack some. Where there is data, the first look
            mostly finds it; a raster without any is read to its end.
        bands: Numbers of the bands in which data counts, from 1; all by default.

    Raises:
        UnreadableError: A file is missing, cannot be read, or ends before its pixels do.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda path: read_header(path, find_empty, bands), paths)
        return list(track(found, 'reading headers', total=len(paths), disable=len(paths) < 200, transient=True))


def read_header(path: str, find_empty: bool, bands: Sequence[int] | None = None) -> RasterHeader:
    """Reads the header of a raster; see `read_headers`."""
    with open_raster(path, quiet=True) as raster:
        if raster.width * raster.height > _MOST_PIXELS:
            raise DataError(
                f'{path} says that it has {raster.width} x {raster.height} pixels (width x height), more than any '
                'raster. Restore the file from its source.'
            )
        numbers = image_bands(raster)
        dtypes = sorted({raster.dtypes[number - 1] for number in numbers})
        declares = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
        declares |= len(numbers) < raster.count  # an alpha band
        may_lack_data = declares or any('float' in dtype for dtype in dtypes)
        return RasterHeader(
            path,
            RasterGrid.of(raster),
            raster.count,
            3 if colour_kinds(raster)[0] == ColorInterp.palette else len(numbers),
            '/'.join(dtypes),
            raster.compression is not None and raster.block_shapes[0][1] == raster.width,
            find_empty and may_lack_data and not _has_data(path, raster.shape, bands),
            len(numbers),
            raster.nodata,
        )


def _has_data(path: str, shape: tuple[int, int], bands: Sequence[int] | None) -> bool:
    windows = partition(shape, (1024, 1024))
    # Scattered, for data and no data each lie together.
    order = np.random.default_rng(0).permutation(len(windows))
    for window in (windows[i] for i in order):
        _, valid = read_image(path, bands, window)
        if valid is None or valid.any():
            return True
    return False
