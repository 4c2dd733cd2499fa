"""How much of maps each class covers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from mmrs.geo.grids import RasterGrid
from mmrs.geo.handles import scanning
from mmrs.geo.label_maps import open_classes
from mmrs.geo.rasters import open_raster
from mmrs.geo.statistics import raster_windows
from mmrs.utils.errors import DataError
from mmrs.utils.files import write_text

__all__ = ['AREA_COLUMNS', 'class_areas', 'row_sizes', 'write_areas']

#: Of the table, in their order.
AREA_COLUMNS = ('map', 'class_id', 'class', 'pixels', 'm2', 'percent')


def class_areas(path: str | Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Pixels and square metres of each class of a map.

    Args:
        path: A label map that a prediction has written.

    Returns:
        The names of the K classes, their pixels ``(K,)``, int64, and their square metres on the ground ``(K,)``, which
        are NaN where the map has no place. In degrees, and in projections that stretch, each row of pixels has its own
        size.

    Raises:
        DataError: It is no such map, or cannot be read.
    """
    names = open_classes(path)[0]
    pixels, metres = np.zeros(len(names), np.int64), np.zeros(len(names))
    with scanning(), open_raster(path, quiet=True) as raster:
        grid = RasterGrid.of(raster)
        for window in raster_windows(raster):
            labels = raster.read(1, window=window)
            counts = np.bincount((np.arange(len(labels))[:, None] * 256 + labels).ravel(), minlength=256 * len(labels))
            by_row = counts.reshape(-1, 256)[:, : len(names)]
            try:
                size = row_sizes(grid, window)
            except DataError:  # without CRS, areas are unknown
                size = np.full(len(labels), np.nan)
            pixels += by_row.sum(axis=0)
            metres += size @ by_row
    return names, pixels, metres


def row_sizes(grid: RasterGrid, window: Window) -> np.ndarray:
    """Square metres on the ground that a pixel of each row of a window covers, ``(H,)``.

    Raises:
        DataError: There is no CRS, or none that has to do with metres; the message does not name the raster.
    """
    rows = window.row_off + np.arange(window.height) + 0.5
    places = np.stack([np.full(len(rows), window.col_off + window.width / 2), rows], axis=1)
    return np.abs(np.linalg.det(grid.pixel_vectors(places)))


def write_areas(maps: Sequence[str | Path], target: str | os.PathLike, overwrite: bool = False) -> None:
    """Write the pixels, square metres and share of each class in each map as a table (CSV).

    Maps are named from the folder of the table. The share is in percent of what has data: of the area, or of the pixels
    where a map has no place and `m2` is empty.

    Args:
        maps: Label maps that a prediction has written.
        target: The file.
        overwrite: Replace it.

    Raises:
        DataError: A map cannot be read.
        OutputError: `target` exists already or cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(AREA_COLUMNS)
    for path in maps:
        names, pixels, metres = class_areas(path)
        place = Path(os.path.relpath(path, Path(target).parent)).as_posix()
        known = np.isfinite(metres).all()
        amounts = metres if known else pixels
        shares = 100 * amounts / max(float(amounts.sum()), np.finfo(float).tiny)
        for i, name in enumerate(names):
            square = f'{metres[i]:.2f}' if known else ''
            table.writerow((place, i, name, int(pixels[i]), square, f'{shares[i]:.4f}'))
    write_text(text.getvalue(), target, overwrite)
