"""Transforms that read images and label maps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmrs.datasets.aligned_images import read_aligned_image
from mmrs.datasets.aligned_labels import read_aligned_labels, window_grid
from mmrs.datasets.classes import IGNORE_INDEX, to_hex
from mmrs.datasets.masks import UNKNOWN, holds_colours, look_up, packed, read_mask, value_name
from mmrs.datasets.rasters import image_bands, open_raster, read_image
from mmrs.datasets.vectors import burn_labels
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError


@TRANSFORMS.register_module()
class LoadRasterImage(BaseTransform):
    """Reads an image, or a window of one, of any format and any number of bands.

    The bands keep the order of the file (RGB stays RGB), palette images become RGB, uint8 stays uint8 and every other
    type becomes float32. Pixels without data (nodata, mask or alpha band, NaN) get the mean of the others, so that
    resizing and colour changes meet no black holes. Where there are any, `valid_map` tells them apart.

    Required: `img_path`; `window` and `grid_shape` from a `RasterDataset`; and from a `GeographicPairedDataset`
    `grid_path`, the raster that these two belong to, onto which the image is warped (see `read_aligned_image`).
    Added: `img` `(H, W, C)`, `img_shape` and `ori_shape` `(H, W)`; and, where the image has pixels without data,
    `valid_map` `(H, W)`, uint8: 1 where there is data, anything else where there is none. It is one of `seg_fields`,
    so that it is resized, cropped and flipped with the image.

    Args:
        bands: Numbers of the bands to read, counted from 1, in the wanted order. By default all but an alpha band.
        apply_scale: Whether values are multiplied by the scale that the file gives for their band, and its offset is
            added; uint8 becomes float32 then, too. Declared nodata is compared with the values before that.
    """

    def __init__(self, bands: Sequence[int] | None = None, apply_scale: bool = False) -> None:
        if bands is not None and not (isinstance(bands, Sequence) and bands and all(isinstance(b, int) for b in bands)):
            raise ConfigError(f'LoadRasterImage: bands is {bands!r}; a list of numbers, counted from 1, was expected')
        if not isinstance(apply_scale, bool):
            raise ConfigError(f'LoadRasterImage: apply_scale is {apply_scale!r}; True or False was expected')
        self.bands = None if bands is None else tuple(bands)
        self.apply_scale = apply_scale

    def transform(self, results: dict) -> dict | None:
        """Reads the image; None where it has no data at all and the data set wants none such.

        Raises:
            OSError: The file is missing or cannot be read.
            ValueError: A band is missing.
        """
        path = results['img_path']
        if 'grid_path' in results:
            results['img'], valid = read_aligned_image(
                path, results['grid_path'], self.bands, results['window'], results['grid_shape'], self.apply_scale
            )
        else:
            results['img'], valid = read_image(
                path, self.bands, results.get('window'), results.get('grid_shape'), self.apply_scale
            )
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        if valid is not None:
            if results.get('skip_empty') and not valid.any():
                return None
            # As the file has it, for labels that are loaded behind a resize or a flip.
            results['ori_valid_map'] = valid
            # Not bool, which OpenCV cannot resize.
            results['valid_map'] = valid.astype(np.uint8)
            results.setdefault('seg_fields', []).append('valid_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(bands={self.bands}, apply_scale={self.apply_scale})'


def image_loader(transforms: Iterable[Callable]) -> LoadRasterImage | None:
    """What reads the images in a pipeline; None where that is another loader."""
    return next((t for t in transforms if isinstance(t, LoadRasterImage)), None)


@TRANSFORMS.register_module()
class LoadRasterAnnotations(BaseTransform):
    """Reads labels, checks them, and turns them into training indices.

    Labels are a raster of class ids; of a `RasterDataset` also polygons (see `burn_labels`) or a raster on another grid
    than the image (see `read_aligned_labels`). A palette image counts by its palette indices. A mask of three bands
    holds colours of the classes instead, and so does one of one band, be it grey or a palette, where the classes have
    colours and no ids (see `MaskColours`). With the data set's `reduce_zero_label`, id 0 is ignored and ids 1 to K
    become 0 to K-1. Ignored pixels become 255; so do the id 255, unless it is a class's, the file's declared nodata
    value, and the pixels that a mask hides, where the image has no data or the labels do not reach.

    Required: `seg_map_path`, and from the data set `reduce_zero_label`, `label_map`, `classes`, and for masks in
    colours `label_colours` (training index by colour) and `by_colour` (of one band too); `window`, `grid_shape` and
    `vector_labels` from a `RasterDataset`. Added: `gt_seg_map` `(H, W)`, uint8, one of `seg_fields`.
    """

    def transform(self, results: dict) -> dict:
        """Reads the labels.

        Raises:
            OSError: A file is missing or cannot be read.
            ValueError: The sample has no label path, or the file has a wrong number of bands, another size or place
                than the image, or ids or colours that are no class.
        """
        if results.get('seg_map_path') is None:
            raise ValueError(
                f'{results.get("img_path", "The sample")} has no label path (seg_map_path). Remove '
                f'{type(self).__name__} from the pipeline of an unlabelled data set, or add seg_map_path to its '
                'data_prefix.'
            )
        indices = _burn(results) if 'vector_labels' in results else _read(results)
        if 'ori_valid_map' in results:
            indices[~results['ori_valid_map']] = IGNORE_INDEX
        results['gt_seg_map'] = indices
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def _burn(results: Mapping) -> np.ndarray:
    grid = window_grid(results['img_path'], results['window'], results['grid_shape'])
    return burn_labels(results['seg_map_path'], grid, **results['vector_labels'])


def _read(results: Mapping) -> np.ndarray:
    path = results['seg_map_path']
    by_colour, index_of_colour = results.get('by_colour', False), results.get('label_colours') or {}
    if 'window' in results:
        labels, nodata, covered = read_aligned_labels(
            path, results['img_path'], results['window'], results['grid_shape'], by_colour
        )
    else:
        with open_raster(path) as mask:
            by_colour = holds_colours(path, len(image_bands(mask)), index_of_colour, by_colour)
            (labels, covered), nodata = read_mask(mask, by_colour), mask.nodata
    if labels.shape != tuple(results.get('ori_shape', labels.shape)):
        (h, w), (label_h, label_w) = results['ori_shape'], labels.shape
        raise ValueError(
            f'The image {results["img_path"]} has {w} x {h} pixels (width x height), but its label map {path} has '
            f'{label_w} x {label_h}. They must be of one size.'
        )
    index_of_value: dict[Any, int] = packed(index_of_colour) if by_colour else training_indices(results)
    if nodata is not None and not by_colour:
        index_of_value[nodata] = IGNORE_INDEX
    indices = look_up(labels, index_of_value)
    if covered is not None:
        indices[~covered] = IGNORE_INDEX
    unknown = indices == UNKNOWN
    if unknown.any():
        raise ValueError((_unknown_colours if by_colour else _unknown_ids)(path, labels, unknown, results))
    return indices


def training_indices(results: Mapping) -> dict[Any, int]:
    """Training index by label id, from the info of a sample.

    Data sets that do not say how many classes they have may hold any id.
    """
    label_map, classes = results.get('label_map'), results.get('classes')
    if label_map is not None:
        indices = dict(label_map)
    else:
        indices = {index: index for index in range(len(classes) if classes is not None else UNKNOWN)}
    if results.get('reduce_zero_label'):
        indices = {0: IGNORE_INDEX, **{index + 1: new for index, new in indices.items()}}
    # A class table may give the value 255 to a class of its own.
    return {IGNORE_INDEX: IGNORE_INDEX, **indices}


def _unknown_colours(path: str, labels: np.ndarray, unknown: np.ndarray, results: Mapping) -> str:
    values = np.unique(labels[unknown])
    found = ', '.join(value_name(value, True) for value in values[:8].tolist()) + (', ...' if len(values) > 8 else '')
    return (
        f'{path}: colour {found} on {100 * unknown.mean():.3g} % of the pixels is no class of the data set. Expected: '
        f'{", ".join(map(to_hex, results["label_colours"]))}. Add it to the table of classes, with `ignore: true` for '
        'unlabelled pixels; or, if the values are ids and no grey, give the classes an `id` each.'
    )


def _unknown_ids(path: str, labels: np.ndarray, unknown: np.ndarray, results: Mapping) -> str:
    values = np.unique(labels[unknown])
    found = ', '.join(str(value) for value in values[:8].tolist()) + (', ...' if len(values) > 8 else '')
    known = training_indices(results)
    classes = sorted(value for value, index in known.items() if index != IGNORE_INDEX)
    ignored = sorted(value for value, index in known.items() if index == IGNORE_INDEX)
    expected = f'{_ranges(classes)} ({len(classes)} classes)' + (
        f', or {_ranges(ignored)} (ignored)' if ignored else ''
    )
    return (
        f'{path}: label id {found} on {100 * unknown.mean():.3g} % of the pixels is no class of the data set. '
        f'Expected: {expected}. Correct the label map, the classes of the data set, or its reduce_zero_label.'
    )


def _ranges(values: list) -> str:
    """`0 to 5, 255` of a sorted list of whole numbers."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ', '.join(str(run[0]) if len(run) == 1 else f'{run[0]} to {run[-1]}' for run in runs)
