"""Images on the pixel grid of another image."""

import os
from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import shapely
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from mmrs.geo.footprints import boundary
from mmrs.geo.grids import TOLERANCE, RasterGrid, place
from mmrs.geo.rasters import PathLike, fill_missing, read_image, shared_raster
from mmrs.geo.windows import Window

# Pixels around the part of an image that a window shows: the reach of the bilinear kernel, which is up to 2 where the
# image is up to twice as fine as the window, and room for GDAL's approximation of a change of CRS.
_MARGIN = 4


def read_aligned_image(
    path: PathLike,
    grid_path: PathLike,
    bands: Sequence[int] | None,
    window: Window,
    grid_shape: tuple[int, int],
    apply_scale: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads what an image shows of a window of another raster, on the pixels of that window.

    Where both have the same pixels (to 1/1000 of one), they are read as they are. Otherwise the image is warped:
    interpolated linearly, or where it has at least twice as many pixels along a side, averaged to less than twice as
    many before. A change of CRS is right to an eighth of a pixel.

    Args:
        path: The image.
        grid_path: The other raster.
        bands: Numbers of the bands to read; see `read_image`.
        window: x0, y0, x1, y1 in pixels of the other raster, or of that raster resampled.
        grid_shape: Rows and columns of the whole other raster, or of that raster resampled.
        apply_scale: As for `read_image`.

    Returns:
        The image and the map of the pixels that hold data, as of `read_image`. A pixel holds data where the image does
        at its centre. Pixels of the image without data take no part in the interpolation.

    Raises:
        UnreadableError: A file is missing or cannot be read.
        DataError: The image lacks one of the bands.
    """
    path, grid_path = os.fspath(path), os.fspath(grid_path)
    with shared_raster(grid_path) as raster:
        whole = RasterGrid.of(raster)
    with shared_raster(path) as raster:
        own = RasterGrid.of(raster)
    if whole.matches(own):
        return read_image(path, bands, window, grid_shape, apply_scale)
    grid = whole.resampled(grid_shape).window(window)
    edge, fineness = _in_pixels(grid, own)
    if fineness >= 2:
        own = own.resampled((ceil(own.height / int(fineness)), ceil(own.width / int(fineness))))
        edge, fineness = _in_pixels(grid, own)
    same_pixels = grid.crs == own.crs and _is_shift(grid, own)
    margin = 0 if same_pixels else _MARGIN
    (left, top), (right, bottom) = edge.min(axis=0), edge.max(axis=0)
    if same_pixels:
        left, top, right, bottom = (round(value) for value in (left, top, right, bottom))
    part = (
        max(0, floor(left) - margin),
        max(0, floor(top) - margin),
        min(own.width, ceil(right) + margin),
        min(own.height, ceil(bottom) + margin),
    )
    if part[0] >= part[2] or part[1] >= part[3]:
        # One pixel, for the number of bands and their type.
        image, _ = read_image(path, bands, (0, 0, 1, 1), own.shape, apply_scale)
        return np.zeros((*grid.shape, image.shape[2]), image.dtype), np.zeros(grid.shape, bool)
    image, valid = read_image(path, bands, part, own.shape, apply_scale)
    if valid is None:
        valid = np.ones(image.shape[:2], bool)
    if same_pixels:
        x, y = part[0] - int(left), part[1] - int(top)
        here = slice(y, y + image.shape[0]), slice(x, x + image.shape[1])
        warped, shown = np.zeros((*grid.shape, image.shape[2]), image.dtype), np.zeros(grid.shape, bool)
        warped[here], shown[here] = image, valid
    else:
        warped, shown = _warp(image, valid, own.window(part), grid, fineness)
    if shown.all():
        return warped, None
    fill_missing(warped, shown)
    return warped, shown


def _in_pixels(grid: RasterGrid, other: RasterGrid) -> tuple[np.ndarray, float]:
    """The edge of a grid in pixels of another grid, `(N, 2)`; and how many of these go along the side of a pixel."""
    edge = np.stack(place(~other.transform, *boundary(grid, other.crs).T), axis=1)
    return edge, float(np.sqrt(shapely.Polygon(edge).area / (grid.width * grid.height)))


def _is_shift(grid: RasterGrid, other: RasterGrid) -> bool:
    """Whether the pixels of two grids in one CRS are the same, but for whole rows and columns."""
    columns, rows = np.array([0, grid.width, 0, grid.width]), np.array([0, 0, grid.height, grid.height])
    x, y = place(grid.transform, columns, rows)
    x, y = place(~other.transform, x, y)
    offsets = np.stack((x - columns, y - rows))
    return bool(np.abs(offsets - offsets[:, :1].round()).max() <= TOLERANCE)


def _warp(
    image: np.ndarray, valid: np.ndarray, own: RasterGrid, grid: RasterGrid, fineness: float
) -> tuple[np.ndarray, np.ndarray]:
    """An image `(H, W, C)` on another grid, and where it holds data there.

    The rules for pixels without data are `read_image`'s, several of which GDAL has no notion of: so what it warps is
    what `read_image` made of the file, with the valid pixels as alpha band.
    """
    number = image.shape[2]
    with MemoryFile() as file:
        with file.open(
            driver='GTiff',
            count=number + 1,
            height=own.height,
            width=own.width,
            dtype=image.dtype,
            crs=own.crs,
            transform=own.transform,
            photometric='MINISBLACK',
        ) as raster:
            raster.colorinterp = [ColorInterp.gray] * number + [ColorInterp.alpha]
            raster.write(image.transpose(2, 0, 1), list(range(1, number + 1)))
            raster.write(np.where(valid, 255, 0).astype(image.dtype), number + 1)
        with (
            file.open() as raster,
            WarpedVRT(
                raster,
                crs=grid.crs,
                transform=grid.transform,
                width=grid.width,
                height=grid.height,
                resampling=Resampling.bilinear,
                # GDAL's own guess is of the rectangle around the window, which blurs what is turned.
                XSCALE=1 / fineness,
                YSCALE=1 / fineness,
            ) as view,
        ):
            warped = view.read()
    return np.ascontiguousarray(warped[:-1].transpose(1, 2, 0)), warped[-1] > 0
