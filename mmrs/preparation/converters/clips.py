"""Cutting rasters into clips."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from mmrs.geo.grids import RasterGrid, check_labels_fit
from mmrs.geo.windows import clip_origins

EDGES = ('drop', 'shift')


class Clip(NamedTuple):
    """A rectangle of pixels; the lower right corner is outside."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def window(self) -> Window:
        """The same for rasterio."""
        return Window(self.x0, self.y0, self.x1 - self.x0, self.y1 - self.y0)

    def __str__(self) -> str:
        return f'{self.x0}_{self.y0}_{self.x1}_{self.y1}'


def clip_grid(width: int, height: int, size: int, stride: int, edge: str) -> list[Clip]:
    """All clips of a raster, row by row, which is the order in which a raster is read fastest."""
    return [
        Clip(x, y, x + size, y + size)
        for y in clip_origins(height, size, stride, edge)
        for x in clip_origins(width, size, stride, edge)
    ]


def check_clipping(clip_size: int, stride: int, edge: str) -> None:
    """Raises ValueError for sizes that cut nothing, or that leave gaps."""
    if clip_size < 1 or stride < 1:
        raise ValueError(f'Clip size {clip_size} and stride {stride} must be at least 1 pixel.')
    if stride > clip_size:
        raise ValueError(f'Stride {stride} is larger than the clip size {clip_size}: the pixels between would be lost.')
    if edge not in EDGES:
        raise ValueError(f'Edge is {edge!r}; one of {", ".join(EDGES)} was expected.')


def read_clip(raster: DatasetReader, clip: Clip, bands: list[int] | None = None) -> np.ndarray:
    """Pixels `(C, H, W)` of a clip."""
    return raster.read(bands, window=clip.window)


def georeference(raster: DatasetReader, clip: Clip | None = None) -> dict[str, Any]:
    """`crs` and `transform` of a raster, or of a clip of it, as far as it has them."""
    old = raster.transform
    if old == Affine.identity():
        return {}
    x, y = (clip.x0, clip.y0) if clip else (0, 0)
    moved = Affine(old.a, old.b, old.c + old.a * x + old.b * y, old.d, old.e, old.f + old.d * x + old.e * y)
    return dict(crs=raster.crs, transform=moved)


def check_place(
    image_path: str, image: Mapping[str, Any], label_path: str, labels: Mapping[str, Any], shape: tuple[int, int]
) -> None:
    """Raises ValueError where labels lie elsewhere than their image, as far as both have a CRS.

    Args:
        image_path: The image.
        image: Its `georeference`.
        label_path: Its labels.
        labels: Their `georeference`.
        shape: Rows and columns of both.
    """
    if image.get('crs') and labels.get('crs'):
        own, other = (RasterGrid(**where, height=shape[0], width=shape[1]) for where in (image, labels))
        check_labels_fit(image_path, own, label_path, other)


def write_raster(
    path: Path,
    image: np.ndarray,
    crs: CRS | None = None,
    transform: Affine | None = None,
    nodata: float | None = None,
    colorinterp: Sequence[ColorInterp] | None = None,
) -> None:
    """Writes an image `(C, H, W)` or a label map `(H, W)` as PNG or GeoTIFF, by the suffix.

    A file of that name appears only when it is complete. The georeference of a PNG stands beside it, in GDAL's
    `NAME.png.aux.xml`. In an image of several bands, the pixels without data are those where every band is `nodata`.
    A fourth band of a GeoTIFF is no transparency unless `colorinterp` says so. Raises OSError if the file cannot be
    written.
    """
    image = image if image.ndim == 3 else image[None]
    # PNG's default compression takes five times as long and saves 7 % on aerial images.
    is_png = path.suffix == '.png'
    options = dict(driver='PNG', zlevel=1) if is_png else dict(driver='GTiff', compress='deflate', alpha='no')
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    sidecar = Path(f'{temporary}.aux.xml')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(
                temporary,
                'w',
                count=image.shape[0],
                height=image.shape[1],
                width=image.shape[2],
                dtype=image.dtype,
                crs=crs,
                transform=transform,
                nodata=nodata,
                **options,
            ) as raster:
                if colorinterp is not None:
                    raster.colorinterp = colorinterp
                if is_png and nodata is not None:
                    # GDAL drops the nodata value of a PNG of several bands, but keeps it under this name.
                    raster.update_tags(NODATA_VALUES=' '.join([f'{nodata:g}'] * len(image)))
                raster.write(image)
        if sidecar.exists():
            os.replace(sidecar, f'{path}.aux.xml')
        os.replace(temporary, path)
    except Exception as error:  # GDAL's own errors, on writing, are of no public kind
        raise OSError(f'{path} cannot be written: {error}') from error
    finally:
        temporary.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)
