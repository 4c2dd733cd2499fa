"""Which rasters become which maps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from mmrs.geo.folders import CONVERT, RASTER_SUFFIXES, list_rasters, other_rasters
from mmrs.geo.grids import Bounds, RasterGrid, same_gsd, write_crs
from mmrs.geo.handles import file_state
from mmrs.geo.rasters import image_bands, open_raster, require_last_block
from mmrs.geo.vectors import VectorLayer
from mmrs.prediction.area import open_area, parse_crs, wanted_area
from mmrs.prediction.predictors import Predictor
from mmrs.prediction.window_grid import WindowGrid
from mmrs.utils.errors import ConfigError, DataError, require, require_number

__all__ = ['MapJob', 'MapSettings', 'list_inputs', 'plan_job']

MAP_SUFFIXES = ('.tif', '.tiff')

# Folders are searched for these.
_SUFFIXES = (*RASTER_SUFFIXES, '.vrt')
_ADVICE = f'name them one by one, or {CONVERT}'

#: A window has no fewer pixels of the raster on a side than this, where the model's resolution is finer.
SMALLEST_WINDOW = 8

#: A window has no more pixels of the raster than this on a side, for memory is bounded by the window.
LARGEST_WINDOW = 8192


@dataclass(frozen=True)
class MapSettings:
    """How maps are made.

    Attributes:
        window: Side of a window in pixels, at the ground sampling distance of the model.
        overlap: Share of a window that it has in common with the next one, from 0 and below 1.
        blend: Weights of overlapping windows: ``cosine``, ``gaussian`` or ``flat``.
        batch_size: Windows that are predicted together.
        bands: Numbers of the bands to read, counted from 1; by default all but an alpha band.
        apply_scale: Whether the scale and offset that rasters give for their bands are applied.
        gsd: Ground sampling distance in metres at which the model sees the rasters; by default their own. The map has
            the raster's pixels all the same.
        bbox: Smallest x and y, largest x and y: predict there only.
        bbox_crs: CRS of `bbox`; by default the raster's.
        aoi: Vector file: predict in its polygons only.
        aoi_layer: Its layer, where it has several.
        extra: Rasters beside the labels: ``probabilities``, ``confidence``, ``entropy``.
        dtype: Their type, ``uint8`` or ``float16``.

    Raises:
        ConfigError: A window, a distance or a bounding box that cannot be.
    """

    window: int = 512
    overlap: float = 0.25
    blend: str = 'cosine'
    batch_size: int = 4
    bands: tuple[int, ...] | None = None
    apply_scale: bool = False
    gsd: float | None = None
    bbox: Bounds | None = None
    bbox_crs: str | None = None
    aoi: str | None = None
    aoi_layer: str | None = None
    extra: tuple[str, ...] = ()
    dtype: str = 'uint8'

    def __post_init__(self) -> None:
        require_number('window', self.window, at_least=1, unit='pixels')
        if self.gsd is not None:
            require_number('gsd', self.gsd, above=0, unit='metres')
        if self.bbox is not None:
            x0, y0, x1, y1 = self.bbox
            valid = x0 < x1 and y0 < y1 and all(map(math.isfinite, self.bbox))
            require(valid, 'bbox', self.bbox, 'XMIN YMIN XMAX YMAX with XMIN < XMAX and YMIN < YMAX were')

    def area(self) -> tuple[Bounds | None, CRS | None, VectorLayer | None]:
        """The bounding box, its CRS and the area of interest, as `wanted_area` takes them.

        Raises:
            ConfigError: There is no such CRS, or no polygon.
            DataError: The file of the area is missing or cannot be read, or has no such layer.
        """
        crs = None if self.bbox_crs is None else parse_crs(self.bbox_crs)
        return self.bbox, crs, None if self.aoi is None else open_area(self.aoi, self.aoi_layer)


@dataclass(frozen=True)
class MapJob:
    """A raster and its map.

    Attributes:
        path: The raster.
        target: The label map.
        grid: The raster's grid.
        windows: The windows; what is wanted of the raster is their `wanted`.
        model_size: Rows and columns to which a window is resampled for the model.
        fingerprint: All that the map depends on. Parts and maps with another one are of another run.
    """

    path: str
    target: Path
    grid: RasterGrid
    windows: WindowGrid
    model_size: tuple[int, int]
    fingerprint: dict[str, Any]

    @property
    def map_grid(self) -> RasterGrid:
        """The grid of the map."""
        # Without a cut, to the last bit what the raster has.
        return self.grid if self.windows.area is None else self.grid.window(self.windows.wanted)


def list_inputs(inputs: Sequence[str | os.PathLike], out: str | os.PathLike) -> dict[str, Path]:
    """The map of each raster.

    Args:
        inputs: Rasters, and folders in which and below which all rasters count.
        out: Folder of the maps, in which those of a folder lie as its rasters do. For a single file it may be the map
            itself, ``.tif``.

    Returns:
        The map by the raster, in the order of the inputs and in folders of the names.

    Raises:
        ConfigError: No raster, or a folder of rasters that is the one for the maps.
        DataError: Two files of a folder differ by their suffixes only.
    """
    out = Path(out)
    if out.is_file() and out.suffix.lower() not in MAP_SUFFIXES:
        raise ConfigError(f'-o {out} is a file; a folder for the maps was expected')
    single = out.suffix.lower() in MAP_SUFFIXES
    if single and (len(inputs) != 1 or os.path.isdir(inputs[0])):
        raise ConfigError(f'-o {out} is a file, for a single raster; name a folder for the maps of several')
    found: dict[str, Path] = {}
    for given in inputs:
        path = os.fspath(given)
        if not os.path.isdir(path):
            found[path] = out if single else out / f'{Path(path).stem}.tif'
            continue
        own = os.path.abspath(out) + os.sep
        if os.path.join(os.path.abspath(path), '').startswith(own):
            raise ConfigError(f'{path} lies in the folder of the maps, {out}; name another one with -o')
        for stem, name in list_rasters(path, _SUFFIXES, _ADVICE).items():
            raster = os.path.join(path, name)
            if not os.path.abspath(raster).startswith(own):  # maps of an earlier run
                found[raster] = out / f'{stem}.tif'
    if not found:
        others = [
            f'; {folder} has {kinds}: {_ADVICE}' for folder in inputs if (kinds := other_rasters(folder, _SUFFIXES))
        ]
        raise ConfigError(
            f'{", ".join(map(str, inputs))}: there is no raster ({", ".join(_SUFFIXES)}){"".join(others)}'
        )
    return found


def plan_job(
    path: str, target: Path, settings: MapSettings, predictor: Predictor, identity: Mapping[str, Any]
) -> MapJob | None:
    """Look at a raster.

    Args:
        path: The raster.
        target: Its map.
        settings: How it is to be made.
        predictor: The model.
        identity: What tells the model and its preparation of windows from others.

    Returns:
        None if the raster lies outside of the area that is wanted.

    Raises:
        DataError: It cannot be read, has other bands than the model, or no CRS where one is needed.
    """
    with open_raster(path, quiet=True) as raster:
        require_last_block(path, raster)
        grid = RasterGrid.of(raster)
        if grid.transform.is_identity and (raster.gcps[0] or raster.rpcs):
            kind = f'{len(raster.gcps[0])} ground control points' if raster.gcps[0] else 'rational polynomials (RPC)'
            raise DataError(
                f'{path} is located by {kind}, not by a transform, so that its pixels are no grid on the ground. '
                'Rectify it first: gdalwarp -r bilinear -t_srs CRS IN OUT'
            )
        _check_bands(path, settings, predictor, raster)
    area = None
    if settings.bbox is not None or settings.aoi is not None:
        area = wanted_area(path, grid, *settings.area())
        if area is None:
            return None
    size = _window_size(path, grid, settings)
    windows = WindowGrid(
        shape=grid.shape,
        size=size,
        overlap=settings.overlap,
        blend=settings.blend,
        area=area,
        classes=len(predictor.classes),
        batch_size=settings.batch_size,
    )
    about = dict(raster=os.path.basename(path), raster_state=list(file_state(path)[1:]), **identity, **asdict(settings))
    if settings.aoi is not None:
        about['aoi'] = [os.path.basename(settings.aoi), *file_state(settings.aoi)[1:]]
    height, width = (max(1, round(settings.window * own / full)) for own, full in zip(windows.size, size))
    return MapJob(path, target, grid, windows, (height, width), about)


def _check_bands(path: str, settings: MapSettings, predictor: Predictor, raster: Any) -> None:
    count = 3 if raster.colorinterp[0] == ColorInterp.palette else len(image_bands(raster))
    if settings.bands is not None:
        beyond = [band for band in settings.bands if not 1 <= band <= max(count, raster.count)]
        if beyond:
            raise DataError(f'{path} has {raster.count} bands, numbered from 1; bands {beyond} were asked for')
        count = len(settings.bands)
    if count != predictor.bands:
        raise DataError(
            f'{path} has {count} bands (alpha not counted), but the model was trained on {predictor.bands}. Choose '
            'bands with --bands, in the order of the training images.'
        )


def _window_size(path: str, grid: RasterGrid, settings: MapSettings) -> tuple[int, int]:
    """Rows and columns of a window in pixels of the raster, where that is large enough."""
    if settings.gsd is None:
        return settings.window, settings.window
    try:
        metres = grid.pixel_metres()
    except ValueError as error:
        advice = f'. {write_crs(path)}.' if grid.crs is None else ''
        raise DataError(f'{path}: {error}, which a ground sampling distance needs{advice}') from error
    height, width = (
        settings.window if same_gsd(metre, settings.gsd) else max(1, round(settings.window * settings.gsd / metre))
        for metre in reversed(metres)
    )
    if min(height, width) < min(SMALLEST_WINDOW, settings.window):
        raise DataError(
            f'{path}: {settings.window} px at {settings.gsd:g} m are no more than {width} x {height} px of its '
            f'{metres[0]:.3g} x {metres[1]:.3g} m. Is the gsd right? It is in metres per pixel.'
        )
    if max(map(min, (height, width), grid.shape)) > LARGEST_WINDOW:
        most = settings.window * LARGEST_WINDOW // max(height, width)
        raise DataError(
            f'{path}: {settings.window} px at {settings.gsd:g} m are {width} x {height} px of its {metres[0]:.3g} x '
            f'{metres[1]:.3g} m, too many for the memory. Choose --window {most} or less.'
        )
    return height, width
