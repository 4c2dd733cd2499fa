"""Hooks that write what a model predicts during a test."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from rasterio.errors import NotGeoreferencedWarning

from mmrs.datasets.transforms.loading import LoadRasterImage
from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import open_raster, read_image
from mmrs.registry import HOOKS
from mmrs.utils.files import atomic_path
from mmrs.visualization.panels import class_colours, draw_sample, write_picture

__all__ = ['LabelMapHook', 'OverlayHook']

NODATA = 255


class _OutputHook(Hook):
    # Whether the folder may be written to is for the caller to check, before any process of several writes into it.
    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)
        self._common: str | None = None

    def _path(self, runner: Runner, sample: SegDataSample, suffix: str) -> Path:
        """Where the result of an image goes: its place below the images' folder, so that no two names meet.

        A window of an image has its corners in its name, x0, y0, x1 and y1.
        """
        dataset = runner.test_dataloader.dataset
        prefix = getattr(dataset, 'data_prefix', {}).get('img_path')
        if prefix is None and self._common is None:  # several data sets in one
            folders = [
                os.path.dirname(os.path.abspath(dataset.get_data_info(i)['img_path'])) for i in range(len(dataset))
            ]
            self._common = os.path.commonpath(folders)
        prefix = prefix or self._common
        image = Path(sample.img_path)
        inside = os.path.relpath(image, prefix) if prefix else image.name
        path = self.out_dir / Path(image.name if inside.startswith('..') or inside == '.' else inside)
        return path.with_name(window_name(sample) + suffix)


def window_name(sample: SegDataSample) -> str:
    """Name of an image without suffix, and where a sample is a window of it, the window's corners."""
    name = Path(sample.metainfo.get('img_path', '')).stem
    window, shape = _window(sample)
    if window is None or tuple(window) == (0, 0, *shape[::-1]):
        return name
    return '_'.join((name, *map(str, window)))


def _window(sample: SegDataSample) -> tuple[Any, Any]:
    return sample.metainfo.get('window'), sample.metainfo.get('grid_shape')


@HOOKS.register_module()
class LabelMapHook(_OutputHook):
    """Writes each predicted label map, with the values that the data set's own label maps have.

    The map of a georeferenced image is a GeoTIFF with its CRS and transform and the classes' colours as a colour table;
    that of any other image is a grey-scale PNG. The map of a window lies where the window does. Where the image has no
    data (its own nodata, mask, NaN in a band that the model sees), it is 255. Ids outside of 0 to 254 give way to
    training indices, with a warning.

    Args:
        out_dir: Folder for the maps. Files of the same names are replaced.
    """

    def before_test(self, runner: Runner) -> None:
        """Look up the values of the data set's label maps, and the bands that the model sees."""
        dataset = runner.test_dataloader.dataset
        infos = [part.get_data_info(0) for part in getattr(dataset, 'datasets', [dataset])]
        info = infos[0]
        count = len(dataset.metainfo['classes'])
        values = np.arange(256)
        for value, index in reversed(list((info.get('label_map') or {}).items())):
            if 0 <= index < count:
                values[index] = value
        values[:count] += bool(info.get('reduce_zero_label'))
        ids = values[:count].tolist()
        if min(ids) < 0 or max(ids) >= NODATA or len(set(ids)) < count:
            print_log(
                f'Label maps in {self.out_dir} hold training indices: the data set has ids from {min(ids)} to '
                f'{max(ids)}, and the maps have 8 bits, of which {NODATA} means no data; or a class without '
                'counterpart in it would have the id of another.',
                logger='current',
                level=logging.WARNING,
            )
            values = np.arange(256)
        if any(info.get(key) != other.get(key) for other in infos for key in ('label_map', 'reduce_zero_label')):
            print_log(
                f'Label maps in {self.out_dir} hold training indices: the test data sets have other ids each.',
                logger='current',
                level=logging.WARNING,
            )
            values = np.arange(256)
        transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
        self._bands = next((t.bands for t in transforms if isinstance(t, LoadRasterImage)), None)
        self._values = values.astype(np.uint8)
        self._colours = {int(values[i]): colour for i, colour in enumerate(class_colours(dataset.metainfo))}

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[SegDataSample] | None = None
    ) -> None:
        """Write the maps of a batch."""
        for sample in outputs or ():
            labels = self._values[
                sample.pred_sem_seg.data.squeeze().long().cpu().numpy()
            ]  # mmseg: real numbers of two classes
            window, shape = _window(sample)
            with open_raster(sample.img_path, quiet=True) as image:
                grid = RasterGrid.of(image)
            located = grid.crs is not None or not grid.transform.is_identity
            if window is not None:
                grid = grid.resampled(shape).window(window)
            _, valid = read_image(sample.img_path, self._bands, window, shape)
            if valid is not None:
                labels = np.where(valid, labels, NODATA).astype(np.uint8)
            profile: dict[str, Any] = dict(driver='PNG')
            if located:
                profile = dict(driver='GTiff', crs=grid.crs, transform=grid.transform, nodata=NODATA)
                profile.update(compress='deflate', tiled=True)
            path = self._path(runner, sample, '.tif' if located else '.png')
            with atomic_path(path, overwrite=True) as temporary, warnings.catch_warnings():
                warnings.simplefilter('ignore', NotGeoreferencedWarning)
                height, width = labels.shape
                with rasterio.open(
                    temporary, 'w', height=height, width=width, count=1, dtype='uint8', **profile
                ) as out:
                    if located:  # before any pixel: it is part of the header
                        out.write_colormap(1, self._colours)
                    out.write(labels, 1)


@HOOKS.register_module()
class OverlayHook(_OutputHook):
    """Writes a picture of image, ground truth and prediction for every n-th image of a test.

    Args:
        out_dir: Folder for the pictures. Files of the same names are replaced.
        interval: n.
    """

    def __init__(self, out_dir: str, interval: int = 1) -> None:
        super().__init__(out_dir)
        self.interval = interval
        self._seen = 0

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[SegDataSample] | None = None
    ) -> None:
        """Write the pictures of a batch."""
        for sample in outputs or ():
            # Its place in the data set; the last ones are there a second time, to share them evenly.
            place = self._seen * get_world_size() + get_rank()
            if place % self.interval == 0 and place < len(runner.test_dataloader.dataset):
                image, valid = read_image(sample.img_path, None, *_window(sample))
                path = self._path(runner, sample, '.png')
                meta = runner.test_dataloader.dataset.metainfo
                # MMEngine's visualizer itself is for the first of several processes only.
                bands = getattr(runner.visualizer, 'bands', None)
                picture = draw_sample(path.stem, image, sample, meta, bands=bands, valid=valid)
                write_picture(path, picture, overwrite=True)
            self._seen += 1
