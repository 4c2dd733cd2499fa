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
from mmrs.utils.errors import DataError, OutputError, require_number, require_one_of
from mmrs.utils.files import atomic_path

EDGES = ('drop', 'shift')


class Clip(NamedTuple):
    """A rectangle of pixels; the lower right corner is outside."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def window(self) -> Window:
        """The rectangle for rasterio."""
        return Window(self.x0, self.y0, self.x1 - self.x0, self.y1 - self.y0)

    def __str__(self) -> str:
        return f'{self.x0}_{self.y0}_{self.x1}_{self.y1}'


def clip_grid(width: int, height: int, size: int, stride: int, edge: str) -> list[Clip]:
    """All clips of a raster, row by row, which is the order in which a raster is read fastest.

    Where the raster is narrower or lower than a clip, the clips are too.
    """
    w, h = min(size, width), min(size, height)
    return [
        Clip(x, y, x + w, y + h)
        for y in clip_origins(height, h, stride, edge)
        for x in clip_origins(width, w, stride, edge)
    ]


def check_clipping(clip_size: int, stride: int, edge: str) -> None:
    """Raises ConfigError for sizes that cut nothing, or that leave gaps."""
    require_number('clip_size', clip_size, at_least=1, unit='pixels', whole=True)
    # A larger one would lose the pixels between the clips.
    require_number('stride', stride, at_least=1, at_most=clip_size, unit='pixels', whole=True)
    require_one_of('edge', edge, EDGES)


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


class Placed(NamedTuple):
    """An image or its labels, by all that the other must agree with.

    Attributes:
        path: The file.
        shape: Rows and columns.
        where: Its `georeference`.
    """

    path: str
    shape: tuple[int, int]
    where: Mapping[str, Any]

    @classmethod
    def of(cls, raster: DatasetReader) -> 'Placed':
        """An open raster."""
        return cls(raster.name, raster.shape, georeference(raster))


def check_fit(image: Placed, labels: Placed) -> None:
    """Raises DataError where labels are not of their image's size or, as far as both have a CRS, lie elsewhere."""
    if image.shape != labels.shape:
        raise DataError(
            f'{image.path} has {image.shape[1]} x {image.shape[0]} pixels (width x height), but its labels '
            f'{labels.path} have {labels.shape[1]} x {labels.shape[0]}. They must be of one size.'
        )
    if image.where.get('crs') and labels.where.get('crs'):
        own, other = (RasterGrid(**side.where, height=side.shape[0], width=side.shape[1]) for side in (image, labels))
        check_labels_fit(image.path, own, labels.path, other)


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
    A fourth band of a GeoTIFF is no transparency unless `colorinterp` says so. Raises OutputError if the file cannot
    be written.
    """
    image = image if image.ndim == 3 else image[None]
    # PNG's default compression takes five times as long and saves 7 % on aerial images.
    is_png = path.suffix == '.png'
    options = dict(driver='PNG', zlevel=1) if is_png else dict(driver='GTiff', compress='deflate', alpha='no')
    with atomic_path(path, overwrite=True) as temporary:
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
        except Exception as error:  # GDAL's own errors, on writing, are of no public kind
            raise OutputError(f'{path} cannot be written: {error}') from error
        finally:
            sidecar.unlink(missing_ok=True)
