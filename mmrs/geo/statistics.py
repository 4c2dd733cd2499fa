"""Statistics of bands and classes over whole data sets: streaming, cached."""

import hashlib
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.dist import is_main_process
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mmrs.geo.handles import scanning
from mmrs.geo.labels import read_labels
from mmrs.geo.rasters import (
    chosen_bands,
    expand_palette,
    open_raster,
    scale_values,
    shown_pixels,
    where_all,
    without_nodata,
)
from mmrs.geo.statistics_bands import BandAccumulator, BandStatistics
from mmrs.geo.statistics_cache import Stamp, StatisticsCache, file_stamp
from mmrs.utils.errors import DataError
from mmrs.utils.progress import progress_bar

Item = TypeVar('Item')
Result = TypeVar('Result')
Advance = Callable[[float], None]

# Every raster is read through the same windows whatever its own blocks are, so that the hash of its pixels does not
# depend on how a file is organised. They are as high as the largest usual blocks.
_WINDOW_HEIGHT, _WINDOW_WIDTH = 512, 2048


def raster_windows(raster: DatasetReader) -> Iterator[Window]:
    """The windows through which a raster is read, row by row."""
    for top in range(0, raster.height, _WINDOW_HEIGHT):
        for left in range(0, raster.width, _WINDOW_WIDTH):
            height, width = min(_WINDOW_HEIGHT, raster.height - top), min(_WINDOW_WIDTH, raster.width - left)
            yield Window(left, top, width, height)


def value_type(raster: DatasetReader, apply_scale: bool) -> str:
    """Data type of what `read_windows` yields."""
    return 'float32' if apply_scale and raster.colorinterp[0] != ColorInterp.palette else raster.dtypes[0]


def read_windows(
    raster: DatasetReader, bands: Sequence[int], apply_scale: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Reads a raster window by window, in its own data type, or with `apply_scale` as `read_image` has it then.

    Yields:
        Pixels `(C, H, W)`, and a boolean map `(H, W)` of those that hold data, by the rules of `read_image`; None where
        all do.
    """
    paletted = raster.colorinterp[0] == ColorInterp.palette
    for window in raster_windows(raster):
        if paletted:
            colours = expand_palette(raster.read(1, window=window), raster.colormap(1))
            planes = colours.transpose(2, 0, 1)[[band - 1 for band in bands]]
        else:
            planes = raster.read(list(bands), window=window)
        valid = where_all(
            shown_pixels(raster, [1] if paletted else bands, window=window),
            None if paletted else without_nodata(planes.transpose(1, 2, 0), raster, bands),
            np.isfinite(planes).all(axis=0) if planes.dtype.kind == 'f' else None,
        )
        if apply_scale and not paletted:
            planes = planes.astype(np.float32)
            scale_values(planes.transpose(1, 2, 0), raster, bands)
        yield planes, None if valid is None or valid.all() else valid


def measure(
    path: str | Path, bands: Sequence[int] | None = None, advance: Advance | None = None, apply_scale: bool = False
) -> BandStatistics:
    """Statistics of one raster; see `band_statistics`. `advance` is told the share that each window is."""
    with open_raster(path, quiet=True) as raster:
        own = chosen_bands(raster, bands)
        accumulator = BandAccumulator(len(own), value_type(raster, apply_scale))
        for planes, valid in read_windows(raster, own, apply_scale):
            accumulator.add(planes, valid)
            if advance is not None:
                advance(planes[0].size / (raster.width * raster.height))
    return accumulator.result()


def map_files(
    function: Callable[[Item, Advance], Result],
    items: Sequence[Item],
    sizes: Sequence[int],
    workers: int,
    description: str,
    progress: bool = True,
) -> Generator[Result, None, None]:
    """Calls a function for each item, in threads (reading a raster does not hold Python's lock), with a progress bar.

    Args:
        function: Takes an item, and what it calls with each share of the item (all together 1) that is done.
        items: Its arguments.
        sizes: Bytes of each, for the bar.
        workers: Number of threads; 0 for none.
        description: What the bar says.
        progress: Whether to show the bar, on stderr of the main process.

    Yields:
        The results in the order of the items.
    """
    bar = progress_bar(percent=True, disable=not (progress and is_main_process()))

    def run(pair: tuple[Item, int]) -> Result:
        item, size = pair
        done = 0.0

        def advance(share: float) -> None:
            nonlocal done
            done += share
            bar.advance(task, share * size)

        result = function(item, advance)
        bar.advance(task, (1 - done) * size)
        return result

    if not items:
        return
    # Around the threads and not in them: there is one block cache for all.
    with scanning(), bar:
        task = bar.add_task(description, total=sum(sizes))
        if workers <= 1:
            yield from map(run, zip(items, sizes))
            return
        # Threads share the filters of warnings, so that those which `open_raster` sets do not hold for certain.
        with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            # Left by an error or Ctrl-C, the iterator of `map` cancels what has not begun.
            yield from pool.map(run, zip(items, sizes))


def default_workers() -> int:
    """As many threads as there are processors for this process, at most 8: more would wait for the disk."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(8, count)


def band_statistics(
    images: BaseDataset | Sequence[str | Path],
    bands: Sequence[int] | None = None,
    workers: int | None = None,
    cache: bool = True,
    progress: bool = True,
    apply_scale: bool = False,
) -> BandStatistics:
    """Statistics of the bands of a data set's images, each file read once, window by window.

    Left out are pixels that a file declares as nodata or hides by a mask, and pixels that are not finite in one of the
    bands: those that training ignores. Rasters count as they are in the file, whatever the data set resamples.

    Args:
        images: A data set, or paths.
        bands: Numbers of the bands, counted from 1, in the wanted order. By default all but transparency.
        workers: Number of threads; one per processor by default.
        cache: Whether to keep the numbers of each file (see `cache_folder`) and to read only files that have changed.
        progress: Whether to show a progress bar.
        apply_scale: Whether the scale and offset that files give for their bands are applied.

    Raises:
        UnreadableError: A file is missing or cannot be read.
        DataError: There are no images, a file lacks one of `bands`, or two have different numbers of bands.
    """
    if isinstance(images, Sequence):
        paths = [str(path) for path in images]
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ''
    else:
        paths = list(dict.fromkeys(images.get_data_info(i)['img_path'] for i in range(len(images))))
        root = getattr(images, 'data_root', None) or ''
    if not paths:
        raise DataError('There are no images to take statistics of.')
    settings: dict[str, Any] = dict(bands=None if bands is None else list(bands))
    if apply_scale:
        settings['apply_scale'] = True
    store = StatisticsCache('bands', root, settings, cache)
    keys, stamps = [store.key(path) for path in paths], [file_stamp(path) for path in paths]

    def read(i: int, advance: Advance) -> dict[str, np.ndarray]:
        return _pack(measure(paths[i], bands, advance, apply_scale))

    threads = default_workers() if workers is None else workers
    parts = [_unpack(arrays) for arrays in _kept(store, keys, stamps, read, threads, 'Band statistics', progress)]
    for path, part in zip(paths, parts):
        if len(part.count) != len(parts[0].count):
            raise DataError(
                f'{path} has {len(part.count)} bands, but {paths[0]} has {len(parts[0].count)}. All images of a '
                'data set must have the same bands; choose those that all of them have by their numbers.'
            )
    return BandStatistics.merge(parts)


def _kept(
    store: StatisticsCache,
    keys: Sequence[str],
    stamps: Sequence[Stamp],
    read: Callable[[int, Advance], dict[str, np.ndarray]],
    workers: int,
    description: str,
    progress: bool,
) -> list[dict[str, np.ndarray]]:
    """The arrays of each key: what the cache has, and otherwise what `read` returns for its index."""
    found = {i: arrays for i, key in enumerate(keys) if (arrays := store.get(key, stamps[i])) is not None}
    missing = [i for i in range(len(keys)) if i not in found]
    reading = map_files(read, missing, [stamps[i][0] for i in missing], workers, description, progress)
    try:
        with closing(reading):
            for i, arrays in zip(missing, reading):
                store.put(keys[i], stamps[i], arrays)
                found[i] = arrays
    finally:
        store.save()  # what was read before an error or Ctrl-C need not be read again
    return [found[i] for i in range(len(keys))]


def _pack(statistics: BandStatistics) -> dict[str, np.ndarray]:
    return dict(
        dtype=np.array(statistics.dtypes),
        moments=statistics.moments.ravel(),
        values=np.concatenate(statistics.values),
        counts=np.concatenate(statistics.counts),
        lengths=np.array([len(values) for values in statistics.values]),
    )


def _unpack(arrays: dict[str, np.ndarray]) -> BandStatistics:
    ends = arrays['lengths'].cumsum()[:-1]
    values, counts = (tuple(np.split(arrays[name], ends)) for name in ('values', 'counts'))
    return BandStatistics(tuple(arrays['dtype'].tolist()), arrays['moments'].reshape(5, -1), values, counts)


def class_statistics(dataset: BaseDataset, workers: int = 0, cache: bool = True, progress: bool = True) -> np.ndarray:
    """Labelled pixels of each sample by class, with nothing read but the label maps.

    Args:
        dataset: A data set with labels.
        workers: Number of threads; 0 for none.
        cache: Whether to keep the numbers of each file (see `cache_folder`) and to read only files that have changed.
        progress: Whether to show a progress bar.

    Returns:
        Counts by training index, `(N, K)`, int64, in the data set's order. Ignored pixels count nowhere.

    Raises:
        UnreadableError: A file is missing or cannot be read.
        DataError: The data set has no labels or no classes, or a label map holds what is no class.
    """
    classes = dataset.metainfo.get('classes')
    if not classes:
        raise DataError(f'{type(dataset).__name__} has no classes to count; give it a classes_file or metainfo.')
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    if not infos:
        return np.zeros((0, len(classes)), np.int64)
    bare = next((info['img_path'] for info in infos if info.get('seg_map_path') is None), None)
    if bare is not None:
        raise DataError(f'{bare} has no label map to count classes in; add seg_map_path to data_prefix.')
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    # A pipeline may read labels in its own way; without one they are read as LoadRasterAnnotations does.
    loader = next((t for t in transforms if hasattr(t, 'read_labels')), None)
    read, name = (read_labels, 'LoadRasterAnnotations()') if loader is None else (loader.read_labels, repr(loader))

    root = getattr(dataset, 'data_root', None) or os.path.commonpath(
        [os.path.dirname(os.path.abspath(info['seg_map_path'])) for info in infos]
    )
    store = StatisticsCache('classes', root, dict(classes=list(classes), loader=name), cache)
    keys = [_label_key(store, info) for info in infos]
    stamp_of = {path: file_stamp(path) for path in {path for info in infos for path in _label_files(info)}}
    stamps = [_sum([stamp_of[path] for path in _label_files(info)]) for info in infos]

    def count(i: int, _: Advance) -> dict[str, np.ndarray]:
        return dict(counts=count_classes(read, infos[i], len(classes)))

    return np.stack([own['counts'] for own in _kept(store, keys, stamps, count, workers, 'Class statistics', progress)])


def count_classes(read: Callable[[dict], np.ndarray], info: dict, number: int) -> np.ndarray:
    """Pixels of each of `number` classes in a sample, int64; see `read_labels` for what it raises."""
    return np.bincount(read(info).ravel(), minlength=256)[:number]


def _label_files(info: dict) -> list[str]:
    """The files that the labels of a sample depend on."""
    path = info['seg_map_path']
    files = [path]
    if path.lower().endswith('.shp'):  # the attributes stand beside the polygons
        files += [file for file in (path[:-4] + '.dbf', path[:-4] + '.DBF') if os.path.isfile(file)]
    if 'window' in info:  # the image's grid says which labels its pixels get
        files.append(info['img_path'])
    return files


def _sum(stamps: Sequence[Stamp]) -> Stamp:
    return sum(size for size, _ in stamps), sum(time for _, time in stamps)


def _label_key(store: StatisticsCache, info: dict) -> str:
    """Paths inside the root, and a digest of all else that the data set says about the sample: classes, window, ..."""
    paths = [store.key(info[name]) for name in ('img_path', 'seg_map_path') if name in info]
    others = {name: value for name, value in info.items() if name not in ('img_path', 'seg_map_path', 'sample_idx')}
    text = repr(sorted(others.items()))
    return '|'.join([*paths, hashlib.sha256(text.encode()).hexdigest()[:12]])
