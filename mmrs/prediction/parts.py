"""Prediction of one raster, kept in parts until all are there."""

import os
import re
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from mmrs.geo.grids import RasterGrid
from mmrs.geo.handles import bound_block_cache
from mmrs.geo.label_maps import CLASSES_TAG
from mmrs.geo.rasters import require_all_blocks
from mmrs.geo.windows import Window
from mmrs.prediction.maps import MapLayer
from mmrs.prediction.vrt import Band, Source, write_vrt
from mmrs.utils.errors import OutputError
from mmrs.utils.files import writing
from mmrs.utils.records import Record

#: Side of the blocks of a finished raster and of its parts.
BLOCK = 512

_THREADS = 8  # reading small files is mostly waiting, in particular on a network

_CHECKSUM_BYTES = 4


class PartStore:
    """The work folder of the prediction of one raster.

    The prediction is computed in parts: rectangles of pixels that cover it and have none in common. Each part is
    written to files of its own, so that work goes on after a stop with the parts that are missing, and so that several
    processes, on one machine or on several with a common file system, can each write some of them. One of the
    processes calls `open` before the others do, and `merge` and `remove` after they are done.

    Args:
        folder: The work folder. It must be on the file system of the finished rasters.
        layers: The rasters to write, the labels first.
    """

    def __init__(self, folder: Path, layers: Sequence[MapLayer]) -> None:
        self.folder = folder
        self.layers = list(layers)
        self._settings = Record(folder / 'settings.json')
        # There from the moment in which the first raster takes its final name.
        self._moving = folder / 'moving'

    def open(self, settings: dict[str, Any], resume: bool) -> None:
        """Makes the folder.

        Args:
            settings: What the parts depend on besides the layers; values that JSON knows.
            resume: Whether to keep the parts that are there already, if they were made with these settings. Otherwise
                they are removed.

        Raises:
            OutputError: The folder cannot be made.
        """
        if not resume or self.differences(settings):
            self.remove()
            self._settings.write(self._wanted(settings))

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """What the parts that are there were made with, if not with these settings."""
        return self._settings.differences(self._wanted(settings))

    @property
    def begun(self) -> bool:
        """Whether there are parts."""
        return bool(self._settings) and any(self.folder.glob(f'*_{self.layers[0].name}.tif'))

    def _wanted(self, settings: dict[str, Any]) -> dict[str, Any]:
        return settings | dict(layers={layer.name: [layer.dtype, *layer.bands] for layer in self.layers})

    def write(self, window: Window, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a part.

        Args:
            window: Its pixels, counted as in the raster that is predicted.
            arrays: By the names of all layers, what their `encode` returned for it.

        Raises:
            OutputError: It cannot be written; the disk may be full.
        """
        for layer in self.layers:
            path = self._path(window, layer)
            temporary = path.with_name(f'.{path.name}.{os.getpid()}')
            try:
                with writing(path):  # GDAL itself does not always notice that a disk is full
                    temporary.write_bytes(_part_file(layer, arrays[layer.name]))
                    os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def finished(self) -> set[Window]:
        """The parts that are there, whole and in all layers."""
        pattern = re.compile(rf'(\d+)_(\d+)_(\d+)_(\d+)_{self.layers[0].name}\.tif')
        found = [match for name in os.listdir(self.folder) if (match := pattern.fullmatch(name))]
        windows = [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in (match.groups() for match in found)]
        with ThreadPoolExecutor(_THREADS) as threads:
            whole = threads.map(
                lambda window: all(_is_whole(self._path(window, layer)) for layer in self.layers), windows
            )
            return {window for window, is_whole in zip(windows, whole) if is_whole}

    def merge(
        self,
        grid: RasterGrid,
        origin: tuple[int, int],
        target: Path,
        tags: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Makes the finished rasters, Cloud-Optimised GeoTIFFs, of the parts.

        Each takes its final name when all of them are complete, and the labels do so last.

        Args:
            grid: The pixels of the finished rasters.
            origin: Column and row of their first pixel, counted as the windows of the parts are.
            target: The finished labels, `NAME.tif`. The other layers' suffixes are added to its name.
            tags: Metadata of all rasters beside the class names; what is no string is written as JSON.
            overwrite: Whether the rasters may replace others.

        Returns:
            The finished rasters.

        Raises:
            OutputError: Parts are missing, a raster exists already, or one cannot be written.
        """
        targets = [layer.path(target) for layer in self.layers]
        # What a stop in the middle of the last step left under its final name is this prediction's own.
        if not overwrite and not self._moving.exists():
            for path in targets:
                if path.exists():
                    raise OutputError(f'{path} exists already; choose another name or ask for it to be overwritten')
        places = self._places(grid, origin)
        merged = [self.folder / f'merged_{layer.name}.tif' for layer in self.layers]
        try:
            for layer, path, final in zip(self.layers, merged, targets):
                self._merge(layer, path, final, grid, places, {CLASSES_TAG: layer.classes, **(tags or {})})
            self._move(merged, targets)
        finally:
            for path in self.folder.glob('merged_*'):
                path.unlink(missing_ok=True)
        return targets

    def _places(self, grid: RasterGrid, origin: tuple[int, int]) -> dict[Window, Window]:
        """Where each part lies in the finished raster."""
        x, y = origin
        places = {(x0, y0, x1, y1): (x0 - x, y0 - y, x1 - x, y1 - y) for x0, y0, x1, y1 in self.finished()}
        xs = sorted({0, grid.width}.union(*((x0, x1) for x0, _, x1, _ in places.values())))
        ys = sorted({0, grid.height}.union(*((y0, y1) for _, y0, _, y1 in places.values())))
        column, row = {x: i for i, x in enumerate(xs)}, {y: i for i, y in enumerate(ys)}
        parts = np.zeros((len(ys) - 1, len(xs) - 1), int)
        for x0, y0, x1, y1 in places.values():
            parts[row[y0] : row[y1], column[x0] : column[x1]] += 1
        inside = (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, grid.width, grid.height)
        if not inside or parts.max() > 1:
            raise OutputError(f'{self.folder} holds parts that do not belong together; start without --resume')
        if missing := np.argwhere(parts == 0).tolist():
            i, j = missing[0]
            area = (xs[j] + x, ys[i] + y, xs[j + 1] + x, ys[i + 1] + y)
            raise OutputError(
                f'{self.folder} has {len(places)} parts, but not all pixels: there is none for x {area[0]} to '
                f'{area[2]}, y {area[1]} to {area[3]}. Continue with --resume.'
            )
        return places

    def _merge(
        self,
        layer: MapLayer,
        path: Path,
        final: Path,
        grid: RasterGrid,
        places: Mapping[Window, Window],
        tags: Mapping[str, Any],
    ) -> None:
        """Writes a finished raster, under the temporary name `path`."""
        sources = [
            Source(self._path(part, layer), (part[3] - part[1], part[2] - part[0]), (BLOCK, BLOCK), window)
            for part, window in sorted(places.items(), key=lambda item: (item[1][1], item[1][0]))
        ]
        categories, colours = (layer.classes, layer.palette) if layer.categorical else ((), ())
        bands = [Band(_gdal_type(layer), layer.nodata, name, layer.scale, categories, colours) for name in layer.bands]
        bound_block_cache()
        view = path.with_suffix('.vrt')
        try:
            write_vrt(view, grid, bands, sources, tags, overwrite=True)
            # Without that option, GDAL lists the folder for each part that it opens.
            with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN='TRUE'), warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                rasterio.shutil.copy(
                    view,
                    path,
                    driver='COG',
                    compress='DEFLATE',
                    blocksize=BLOCK,
                    overview_resampling='MODE' if layer.categorical else 'AVERAGE',
                    bigtiff='IF_SAFER',
                    num_threads='ALL_CPUS',
                    **_bits(layer),
                )
                _require_whole(path, grid, layer)
        except Exception as error:  # GDAL's own errors, on writing, are of no public kind
            raise OutputError(
                f'{final} cannot be written: {self._reason(error)}. {self.folder} keeps the parts: continue with '
                '--resume.'
            ) from error

    def _reason(self, error: Exception) -> str:
        """Why GDAL could not write a raster: that the disk is full is nothing that it says."""
        try:
            for path in self.folder.glob('merged_*'):
                with path.open('ab') as file:
                    file.write(bytes(1 << 20))
        except OSError as cause:
            return str(cause.strerror)
        free = shutil.disk_usage(self.folder).free
        parts = sum(path.stat().st_size for path in self.folder.iterdir())
        return f'{error} (the parts take {parts >> 20} MiB, and {free >> 20} MiB are free on the disk)'

    def _move(self, merged: Sequence[Path], targets: Sequence[Path]) -> None:
        """Gives finished rasters their final names, the first one last."""
        moved: list[Path] = []
        with writing(targets[0]):
            self._moving.touch()
        try:
            for path, final in reversed(list(zip(merged, targets))):
                sidecar, final_sidecar = Path(f'{path}.aux.xml'), Path(f'{final}.aux.xml')
                with writing(final):
                    if sidecar.exists():
                        os.replace(sidecar, final_sidecar)
                    else:  # one that is there belongs to the raster that is replaced
                        final_sidecar.unlink(missing_ok=True)
                    moved.append(final_sidecar)
                    os.replace(path, final)
                moved.append(final)
        except OSError:
            for path in moved:
                path.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Removes the folder with all that it holds.

        Raises:
            OutputError: That is not possible.
        """
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f'{self.folder} cannot be removed: {error.strerror}') from error

    def _path(self, window: Window, layer: MapLayer) -> Path:
        return self.folder / f'{"_".join(map(str, window))}_{layer.name}.tif'


def _gdal_type(layer: MapLayer) -> str:
    return 'uint8' if layer.dtype == 'uint8' else 'float32'


def _bits(layer: MapLayer) -> dict[str, int]:
    # GDAL before 3.11 has no type for half floats, but GeoTIFF has.
    return {} if layer.dtype == 'uint8' else dict(nbits=16)


def _part_file(layer: MapLayer, array: np.ndarray) -> bytes:
    """A GeoTIFF of values `(C, H, W)`, with its checksum behind it, where readers do not look."""
    count, height, width = array.shape
    with MemoryFile() as file:
        with file.open(
            driver='GTiff',
            count=count,
            height=height,
            width=width,
            dtype=_gdal_type(layer),
            transform=Affine.scale(2),  # says nothing, but without one rasterio warns
            tiled=True,
            blockxsize=BLOCK,
            blockysize=BLOCK,
            compress='deflate',
            zlevel=1,
            interleave='band',
            **_bits(layer),
        ) as raster:
            raster.write(array.astype(_gdal_type(layer), copy=False))
        data = file.read()
    return data + _checksum(data)


def _is_whole(path: Path) -> bool:
    """Whether a part is as it was written."""
    try:
        data = memoryview(path.read_bytes())
    except OSError:
        return False
    return _checksum(data[:-_CHECKSUM_BYTES]) == data[-_CHECKSUM_BYTES:]


def _checksum(data: bytes | memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, 'big')


def _require_whole(path: Path, grid: RasterGrid, layer: MapLayer) -> None:
    """Raises an error unless a raster that was just written is complete, with its overviews."""
    length = path.stat().st_size
    with rasterio.open(path) as raster:
        if raster.shape != grid.shape or raster.count != len(layer.bands):
            raise OutputError(f'it has {raster.count} bands of {raster.height} x {raster.width} pixels')
        levels = range(len(raster.overviews(1)))
    for options in [{}, *(dict(overview_level=level) for level in levels)]:
        with rasterio.open(path, **options) as raster:
            require_all_blocks(raster, length)
