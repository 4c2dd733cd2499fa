"""How right predicted rasters are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrs.apis.raster_report import RasterReport, RasterScores
from mmrs.evaluation.boundaries import disc, near_boundary
from mmrs.evaluation.errors_map import BLOCK, RIGHT, WRONG, write_errors
from mmrs.evaluation.iou_metric import confusion_matrix
from mmrs.evaluation.raster_pair import RasterPair
from mmrs.geo.classes import IGNORE_INDEX, load_classes
from mmrs.geo.folders import RASTER_SUFFIXES, list_rasters, other_rasters
from mmrs.geo.grids import RasterGrid
from mmrs.geo.handles import scanning
from mmrs.geo.rasters import PathLike
from mmrs.geo.vector_labels import VectorLabels
from mmrs.geo.vectors import VECTOR_SUFFIXES, is_vector
from mmrs.geo.windows import Window
from mmrs.prediction.maps import EXTRA_LAYERS
from mmrs.utils.errors import ConfigError, DataError, OutputError, UserError, describe, require_number, some
from mmrs.utils.files import new_directory
from mmrs.utils.progress import progress_bar

__all__ = ['evaluate_raster', 'evaluate_rasters', 'pair_rasters']

#: Pixels. A larger disc has more of them than the memory holds.
LARGEST_RADIUS = 100

# Ends of the names of what lies beside a map.
_BESIDE = (*(f'_{layer}' for layer in EXTRA_LAYERS), '_quicklook')

# Side in pixels of the windows that are compared at a time.
_WINDOW = 4 * BLOCK


def pair_rasters(
    paths: Sequence[PathLike], pred_suffix: str | None = None, label_suffix: str | None = None
) -> dict[str, tuple[str, str]]:
    """Pair predictions with their references.

    Args:
        paths: A prediction and its reference, or several pairs; or a folder of each. In folders, files of the same name
            but for the suffix belong together, and each reference needs a prediction.
        pred_suffix: End of the names of predictions in a folder; by default the suffix of any image format.
        label_suffix: The same of references; by default the suffix of any image or vector format.

    Returns:
        Prediction and reference by the name of the pair.

    Raises:
        ConfigError: The paths are no pairs, or two have the same name.
        DataError: No two files in the folders have the same name.
    """
    texts = [os.fspath(path) for path in paths]
    folders = [os.path.isdir(path) for path in texts]
    if folders == [True, True]:
        return _pair_folders(texts[0], texts[1], pred_suffix, label_suffix)
    if any(folders):
        raise ConfigError(f'{texts[folders.index(True)]} is a folder; pairs of files or two folders were expected')
    if len(texts) % 2 or not texts:
        raise ConfigError(f'{len(texts)} files were given; each prediction needs its reference: PRED LABEL ...')
    pairs = {Path(prediction).stem: (prediction, label) for prediction, label in zip(texts[::2], texts[1::2])}
    if len(pairs) < len(texts) // 2:
        raise ConfigError('two predictions have the same name, which results are told apart by; rename one')
    return pairs


def _pair_folders(
    predictions: str, labels: str, pred_suffix: str | None, label_suffix: str | None
) -> dict[str, tuple[str, str]]:
    predicted = list_rasters(predictions, RASTER_SUFFIXES if pred_suffix is None else (pred_suffix,))
    labelled = list_rasters(labels, RASTER_SUFFIXES + VECTOR_SUFFIXES if label_suffix is None else (label_suffix,))
    # Where maps are compared with maps, what lies beside them is no reference of its own.
    labelled = {name: label for name, label in labelled.items() if name in predicted or not _is_beside(name, labelled)}
    if not predicted.keys() & labelled.keys():
        others = ''.join(f' {path} has {kinds}.' for path in (predictions, labels) if (kinds := other_rasters(path)))
        raise DataError(
            f'No file of {predictions} ({some(list(predicted)) or "none"}) is called like one of {labels} '
            f'({some(list(labelled)) or "none"}). Different ends of the names can be given (--pred-suffix, '
            f'--label-suffix).{others}'
        )
    return {
        name: (
            os.path.join(predictions, predicted.get(name, name + (pred_suffix or '.tif'))),
            os.path.join(labels, label),
        )
        for name, label in labelled.items()
    }


def _is_beside(name: str, labelled: Mapping[str, str]) -> bool:
    """Whether a file is one that `tools/predict.py` writes beside its maps."""
    return any(name.endswith(end) and name.removesuffix(end) in labelled for end in _BESIDE)


def evaluate_raster(prediction: PathLike, label: PathLike, **options: Any) -> RasterReport:
    """Score one predicted raster; arguments and errors are those of :func:`evaluate_rasters`."""
    return evaluate_rasters({Path(prediction).stem: (prediction, label)}, **options)


def evaluate_rasters(
    pairs: Mapping[str, tuple[PathLike, PathLike]],
    classes: PathLike | None = None,
    reduce_zero_label: bool = False,
    label_attribute: str | None = None,
    label_class: str | None = None,
    label_layer: str | None = None,
    label_background: str | None = None,
    erode: float = 0,
    missing_as_error: bool = False,
    out: PathLike | None = None,
    errors_map: bool = False,
    overwrite: bool = False,
) -> RasterReport:
    """Score predicted rasters against references on the same or on other grids, window by window.

    Pixels count on the prediction's grid. Those that the reference ignores, or does not reach, do not count.

    Args:
        pairs: Prediction and reference by the name of the pair, see :func:`pair_rasters`. All have the same classes.
        classes: Table of the reference's classes (see :func:`mmrs.geo.classes.load_classes`), and of those of
            predictions that do not name theirs. By default the predictions' own, with ids from 0.
        reduce_zero_label: Whether id 0 of the references is ignored and 1 is the first class.
        label_attribute: Field of polygons with their class, by name or id.
        label_class: Class of all polygons, instead.
        label_layer: Layer of the vector files.
        label_background: Class outside all polygons; ignored by default.
        erode: Score once more without the pixels that have another class within this radius, in pixels of the
            reference. 0 for not at all; the ISPRS takes 3.
        missing_as_error: Count labelled pixels without prediction as wrong, instead of leaving them out.
        out: Folder for ``metrics.json``, ``confusion_matrix.png`` and maps of errors.
        errors_map: Write ``NAME_errors.tif`` to `out`: 0 right, 1 wrong, 255 not scored.
        overwrite: Write into a folder that is not empty.

    Returns:
        The scores. A pair that cannot be scored is in its `failed`, unless none can.

    Raises:
        ConfigError: Options that cannot work.
        DataError: No pair can be scored, or no pixel has a label.
        OutputError: The folder is not empty, or cannot be written.
    """
    require_number('erode', erode, at_least=0, at_most=LARGEST_RADIUS, unit='pixels')
    if errors_map and out is None:
        raise ConfigError('a map of errors needs a folder: --out DIR')
    table = None if classes is None else load_classes(classes)
    polygons = VectorLabels(label_attribute, label_class, label_layer, label_background)
    if polygons != VectorLabels() and not any(is_vector(os.fspath(label)) for _, label in pairs.values()):
        raise ConfigError(
            'label_attribute, label_class, label_layer and label_background are for polygons, but no reference is a '
            f'vector file ({", ".join(VECTOR_SUFFIXES)})'
        )
    folder = None if out is None else new_directory(out, overwrite)
    report, opened = RasterReport(erode), {}
    for name, (prediction, label) in pairs.items():
        with _failures(report, name):
            pair = opened[name] = RasterPair(prediction, label, table, reduce_zero_label, polygons)
            _require_classes(pair, next(iter(opened.values())))
    opened = {name: pair for name, pair in opened.items() if name not in report.failed}
    windows = {name: _windows(pair.grid) for name, pair in opened.items()}
    with progress_bar(transient=True, disable=not sys.stderr.isatty()) as bar, scanning():
        task, done = bar.add_task('scoring', total=sum(map(len, windows.values()))), 0
        for name, pair in opened.items():
            map_file = folder / f'{name}_errors.tif' if folder is not None and errors_map else None
            with (
                _failures(report, name),
                nullcontext() if map_file is None else write_errors(map_file, pair.grid, overwrite) as write,
            ):
                report.files[name] = _score(
                    pair, windows[name], erode, missing_as_error, write, lambda: bar.advance(task)
                )
                report.hidden_classes += pair.hidden_classes()
            done += len(windows[name])
            bar.update(task, completed=done)  # also where a pair failed on the way
    if not report.files:
        raise DataError('\n'.join(report.failed.values()) or 'no predictions were given')
    if not report.full.labelled.any():
        raise DataError(
            f'No pixel is both in a prediction and labelled with a class: {some([str(p[1]) for p in pairs.values()])}. '
            'Pair the right files, or correct the ids of the classes.'
        )
    if folder is not None:
        report.save(folder)
    return report


@contextmanager
def _failures(report: RasterReport, name: str) -> Iterator[None]:
    """Notes what is wrong with a pair, so that the others can go on; wrong options and a full disk stop them all."""
    try:
        yield
    except (ConfigError, OutputError):
        raise
    except UserError as error:
        report.failed[name] = describe(error)


def _require_classes(pair: RasterPair, first: RasterPair) -> None:
    if pair.classes != first.classes:
        raise DataError(
            f'{pair.prediction} has classes {", ".join(pair.classes)}, but {first.prediction} has '
            f'{", ".join(first.classes)}. Score them in two runs.'
        )


def _windows(grid: RasterGrid) -> list[Window]:
    return [
        (x, y, min(x + _WINDOW, grid.width), min(y + _WINDOW, grid.height))
        for y in range(0, grid.height, _WINDOW)
        for x in range(0, grid.width, _WINDOW)
    ]


def _score(
    pair: RasterPair,
    windows: Sequence[Window],
    erode: float,
    missing_as_error: bool,
    write: Callable[[Window, np.ndarray], None] | None,
    advance: Callable[[], None],
) -> tuple[RasterScores, RasterScores]:
    """Scores of a pair, of all labelled pixels and of those away from boundaries."""
    footprint = disc(erode, pair.label_pixel) if erode else None
    missing = len(pair.classes)  # stands for no prediction
    full, boundary = np.zeros((2, missing, missing + 1), np.int64)
    for window in windows:
        predicted = pair.predicted(window)
        predicted[predicted == IGNORE_INDEX] = missing
        if footprint is None:
            labels = pair.labelled(window)
        else:
            labels, near = _with_boundaries(pair, window, footprint)
            boundary += _count(predicted[near], labels[near], missing)
        full += _count(predicted, labels, missing)
        if write is not None:
            scored = (labels != IGNORE_INDEX) & (missing_as_error | (predicted != missing))
            write(window, np.where(scored, np.where(labels == predicted, RIGHT, WRONG), IGNORE_INDEX).astype(np.uint8))
        advance()
    return (
        RasterScores(pair.classes, full, missing_as_error),
        RasterScores(pair.classes, full - boundary, missing_as_error),
    )


def _count(predicted: np.ndarray, labels: np.ndarray, missing: int) -> np.ndarray:
    counts = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), missing + 1, IGNORE_INDEX)
    return counts.numpy()[:-1]  # nothing is labelled as missing


def _with_boundaries(pair: RasterPair, window: Window, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a window, and where they are near a boundary, which may lie outside of it."""
    x0, y0, x1, y1 = window
    rows, columns = (side // 2 for side in footprint.shape)
    left, top = max(0, x0 - columns), max(0, y0 - rows)
    around = left, top, min(pair.grid.width, x1 + columns), min(pair.grid.height, y1 + rows)
    labels = pair.labelled(around)
    inside = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    return labels[inside], near_boundary(labels, footprint)[inside]
