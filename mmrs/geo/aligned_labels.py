"""Label rasters on the pixel grid of an image."""

import os
from math import prod

import numpy as np
import rasterio.windows
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from mmrs.geo.grids import RasterGrid, check_labels_fit
from mmrs.geo.handles import file_state, handles
from mmrs.geo.masks import mask_colours, not_resampled, read_mask
from mmrs.geo.rasters import (
    PathLike,
    image_bands,
    open_raster,
    open_unmanaged,
    reading,
    require_one_band,
    shared_raster,
)
from mmrs.geo.windows import Window


def window_grid(img_path: PathLike, window: Window, grid_shape: tuple[int, int]) -> RasterGrid:
    """The grid of a window of a raster that may be resampled, as in the info of a `RasterDataset`'s sample."""
    with shared_raster(img_path) as image:
        return RasterGrid.of(image).resampled(grid_shape).window(window)


def read_aligned_labels(
    path: PathLike, img_path: PathLike, window: Window, grid_shape: tuple[int, int], by_colour: bool = False
) -> tuple[np.ndarray, float | None, np.ndarray | None]:
    """Reads the class ids, or colours, of a window of an image.

    Where the label raster has the pixels of the image (to 1/1000 of one), it is read straight. Otherwise each pixel
    gets the id at its centre, or the most frequent one in it where the labels are much finer. A change of CRS is right
    to an eighth of a pixel.

    Args:
        path: The label raster.
        img_path: The image.
        window: x0, y0, x1, y1 in pixels of the image, or of the resampled image.
        grid_shape: Rows and columns of the whole image, or of the resampled image.
        by_colour: Whether the labels are colours, see `read_mask`. Those of three bands cannot be resampled.

    Returns:
        The ids or packed colours `(H, W)`, the declared nodata value, and a boolean map `(H, W)` of the pixels that the
        label raster covers with data, or None where it has no say in that.

    Raises:
        UnreadableError: A file is missing or cannot be read.
        DataError: The label raster has several bands that are no colours, or cannot belong to the image.
    """
    path, img_path = os.fspath(path), os.fspath(img_path)
    with reading(path):
        key = (path, file_state(path), img_path, file_state(img_path), tuple(grid_shape))
        labels, straight = handles.get(key, lambda: _open_labels(path, img_path, grid_shape))
        raster = labels if straight else labels.src_dataset
        if not by_colour:
            require_one_band(path, len(image_bands(raster)))
        if straight:
            values, covered = read_mask(labels, by_colour, window, grid_shape)
            return values, labels.nodata, covered
        if by_colour and len(mask_colours(raster).bands) > 1:
            raise not_resampled(path)
        x0, y0, x1, y1 = window
        ids, alpha = labels.read(window=rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0))
        return mask_colours(raster).pack(ids[None]) if by_colour else ids, None, alpha > 0


def _open_labels(path: str, img_path: str, grid_shape: tuple[int, int]) -> tuple[DatasetReader, bool]:
    """The label raster, or a view of it on the image's grid; and whether it is the raster itself."""
    with open_raster(img_path, quiet=True) as image:
        grid = RasterGrid.of(image)
    labels = open_unmanaged(path)
    own = RasterGrid.of(labels)
    check_labels_fit(img_path, grid, path, own)
    # A virtual raster lets its files do the resampling, and these would read their overviews.
    if grid.matches(own) and (labels.driver != 'VRT' or own.shape == tuple(grid_shape)):
        return labels, True
    grid = grid.resampled(grid_shape)
    same_crs = own.crs == grid.crs
    area, own_area = (abs(g.transform.determinant) if same_crs else prod(g.pixel_metres()) for g in (grid, own))
    # The most frequent of hardly more than one id would be any of them.
    finer = area > 1.5 * own_area
    view = WarpedVRT(
        labels,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=Resampling.mode if finer else Resampling.nearest,
        add_alpha=len(image_bands(labels)) == labels.count,
    )
    return view, False
