"""Labels of a sample, checked and turned into training indices."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrs.geo.aligned_labels import read_aligned_labels, window_grid
from mmrs.geo.classes import IGNORE_INDEX, ClassTable, to_hex
from mmrs.geo.masks import UNKNOWN, holds_colours, look_up, packed, read_mask, value_name
from mmrs.geo.rasters import image_bands, open_raster
from mmrs.geo.vectors import burn_labels
from mmrs.utils.errors import DataError, some


def read_labels(sample: Mapping) -> np.ndarray:
    """Training indices `(H, W)`, uint8, of a raster of labels or of polygons.

    Args:
        sample: What `LoadRasterAnnotations` requires.

    Raises:
        UnreadableError: A file is missing or cannot be read.
        DataError: The file has a wrong number of bands, another size or place than the image, or ids or colours that
            are no class.
    """
    return _burn(sample) if 'vector_labels' in sample else _read(sample)


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
        raise DataError(
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
        raise DataError((_unknown_colours if by_colour else _unknown_ids)(path, labels, unknown, results))
    return indices


def label_facts(table: ClassTable, index_of_name: Mapping[str, int]) -> dict[str, Any]:
    """What a sample for `read_labels` says of its classes.

    Args:
        table: The classes of the labels.
        index_of_name: Index wanted for each of them, 255 for none.
    """
    return dict(
        label_map={
            value: index if index == IGNORE_INDEX else index_of_name[table.names[index]]
            for value, index in table.index_of_id.items()
        },
        label_colours={
            colour: IGNORE_INDEX if c.ignore else index_of_name[c.name] for c in table.classes for colour in c.colours
        },
    )


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
    found = some([value_name(value, True) for value in values[:9].tolist()], 8)
    return (
        f'{path}: colour {found} on {100 * unknown.mean():.3g} % of the pixels is no class of the data set. Expected: '
        f'{", ".join(map(to_hex, results["label_colours"]))}. Add it to the table of classes, with `ignore: true` for '
        'unlabelled pixels; or, if the values are ids and no grey, give the classes an `id` each.'
    )


def _unknown_ids(path: str, labels: np.ndarray, unknown: np.ndarray, results: Mapping) -> str:
    values = np.unique(labels[unknown])
    found = some(list(map(str, values[:9].tolist())), 8)
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
