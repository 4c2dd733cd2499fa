"""How fast windows are read, beside plain rasterio, and a large raster to try it on."""

import resource
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from mmengine.runner import set_random_seed
from rasterio.transform import Affine
from rasterio.windows import Window
from rich.progress import track

from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.geo.classes import ClassTable, LabelClass
from mmrs.utils.errors import require_number
from mmrs.utils.files import atomic_path, write_text

_TILE = 512
_PIECE = 25  # windows read one way before it is the other's turn
_CLASSES = 6
_PATCH = 64  # side of the squares of one class, in pixels


@dataclass(frozen=True)
class WindowRates:
    """What a benchmark found.

    Attributes:
        rasters: Number of rasters.
        windows: Number of windows read in one round.
        size: Rows and columns of the first window.
        bare: Windows a second of a plain loop over open rasterio files.
        dataset: Windows a second of a `RasterDataset` that loads images.
        peak_bytes: Largest resident memory of the process so far.
    """

    rasters: int
    windows: int
    size: tuple[int, int]
    bare: float
    dataset: float
    peak_bytes: int


def measure_windows(path: str | Path, size: int = 512, number: int = 400, rounds: int = 3) -> WindowRates:
    """Reads windows at random places in one process, a few at a time in either way; of each few the best round counts.

    Args:
        path: A raster, or a folder of them.
        size: Side of a window in pixels.
        number: Windows in a round.
        rounds: Rounds, after one that counts for neither.

    Raises:
        ConfigError: A number below 1.
        DataError: A file is missing or cannot be read.
    """
    require_number('number', number, at_least=1)
    require_number('rounds', rounds, at_least=1)
    dataset = RasterDataset(
        data_prefix=dict(img_path=str(path)),
        windows=dict(size=size),
        pipeline=[dict(type='LoadRasterImage')],
        skip_empty=False,
    )
    order = np.random.default_rng(0).integers(len(dataset), size=number).tolist()

    set_random_seed(0)  # the places of the windows; the plain loop then reads the same
    places = [(sample['img_path'], sample['window']) for sample in map(dataset.__getitem__, order)]
    seconds = np.empty((2, rounds, len(range(0, number, _PIECE))))
    with ExitStack() as files:
        rasters = {name: files.enter_context(rasterio.open(name)) for name in {name for name, _ in places}}
        windows = [(rasters[name], Window(x0, y0, x1 - x0, y1 - y0)) for name, (x0, y0, x1, y1) in places]
        for turn in range(rounds):
            set_random_seed(0)
            for piece, start in enumerate(range(0, number, _PIECE)):
                part = slice(start, start + _PIECE)
                begin = time.perf_counter()
                for raster, window in windows[part]:
                    raster.read(window=window)
                middle = time.perf_counter()
                for index in order[part]:
                    dataset[index]
                seconds[:, turn, piece] = middle - begin, time.perf_counter() - middle
    bare, loaded = number / seconds.min(1).sum(1)
    x0, y0, x1, y1 = places[0][1]
    return WindowRates(len(rasters), number, (y1 - y0, x1 - x0), bare, loaded, peak_bytes())


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def make_large_raster(
    folder: str | Path, side: int = 20000, bands: int = 4, dtype: str = 'uint16', compress: str = 'deflate'
) -> Path:
    """Writes a raster that is large enough for reading by window to matter, with labels that can be learned.

    The scene is a mosaic of squares of six classes, each with its own mean in every band and the same noise.

    Args:
        folder: Gets `images/scene.tif`, `labels/scene.tif` (uint8 ids) and `classes.yaml`.
        side: Width and height in pixels.
        bands: Number of bands.
        dtype: Type of the values, which are below 4000, or below 200 for uint8.
        compress: Compression of the GeoTIFF, as GDAL names it; `none` for none.

    Returns:
        The image.

    Raises:
        OutputError: A file exists.
    """
    folder = Path(folder)
    image_path, label_path = folder / 'images' / 'scene.tif', folder / 'labels' / 'scene.tif'
    rng = np.random.default_rng(0)
    span = 200 if dtype == 'uint8' else 4000
    means = rng.uniform(0.2, 0.8, (_CLASSES, bands)) * span
    noise = rng.normal(0, 0.05 * span, (bands, 2 * _TILE, 2 * _TILE))
    profile = dict(
        driver='GTiff', width=side, height=side, tiled=True, blockxsize=_TILE, blockysize=_TILE, compress=compress,
        interleave='pixel', crs='EPSG:32633', transform=Affine(0.3, 0, 400000, 0, -0.3, 5800000), bigtiff='if_safer',
    )  # fmt: skip
    with ExitStack() as outputs:
        files = [outputs.enter_context(atomic_path(path)) for path in (image_path, label_path)]
        image = outputs.enter_context(rasterio.open(files[0], 'w', count=bands, dtype=dtype, **profile))
        labels = outputs.enter_context(rasterio.open(files[1], 'w', count=1, dtype='uint8', **profile))
        for top in track(range(0, side, _TILE), f'writing {image_path}'):
            for left in range(0, side, _TILE):
                height, width = min(_TILE, side - top), min(_TILE, side - left)
                squares = rng.integers(_CLASSES, size=(_TILE // _PATCH, _TILE // _PATCH), dtype=np.uint8)
                classes = np.kron(squares, np.ones((_PATCH, _PATCH), np.uint8))[:height, :width]
                # One piece of noise, shifted: drawing it anew would take longer than all else.
                y, x = rng.integers(_TILE, size=2)
                pixels = means[classes].transpose(2, 0, 1) + noise[:, y : y + height, x : x + width]
                window = Window(left, top, width, height)
                image.write(pixels.clip(0, span).astype(dtype), window=window)
                labels.write(classes, 1, window=window)
    names = tuple(LabelClass(f'class_{i}', (i,)) for i in range(_CLASSES))
    write_text(ClassTable(names).to_yaml(), folder / 'classes.yaml')
    return image_path


def format_rates(rates: WindowRates) -> str:
    """A report of one benchmark."""
    height, width = rates.size
    return (
        f'{rates.windows} windows of {width} x {height} pixels from {rates.rasters} rasters, one process\n'
        f'bare rasterio   {rates.bare:8.1f} windows/s\n'
        f'RasterDataset   {rates.dataset:8.1f} windows/s, {rates.dataset / rates.bare:.2f} of it\n'
        f'peak memory     {rates.peak_bytes / 1e9:8.2f} GB, the whole process'
    )
