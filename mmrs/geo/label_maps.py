"""Rasters of class indices that say what their classes are, as predictions are written."""

import json

from rasterio.enums import ColorInterp

from mmrs.geo.classes import ClassTable, Colour, LabelClass
from mmrs.geo.rasters import PathLike, open_raster
from mmrs.geo.vectors import is_vector
from mmrs.utils.errors import DataError

#: Tag of the map files that holds the class names, as a JSON list in the order of the class indices.
CLASSES_TAG = 'CLASSES'


def open_classes(path: PathLike) -> tuple[list[str], list[Colour]]:
    """Class names and colours of a finished label map, in the order of its class indices.

    Raises:
        UnreadableError: The file is missing or cannot be read.
        DataError: It is no label map.
    """
    with open_raster(path, quiet=True) as raster:
        kind = f'{raster.count} bands of {"/".join(sorted(set(raster.dtypes)))}'
        labels = raster.count == 1 and raster.dtypes[0] == 'uint8' and raster.colorinterp[0] == ColorInterp.palette
        colours = raster.colormap(1) if labels else {}
        tag = raster.tags().get(CLASSES_TAG)
    if not labels or tag is None:
        found = f'it has no tag {CLASSES_TAG}' if labels else f'it has {kind}' + ' without colour table' * (not colours)
        raise DataError(
            f'{path} is no label map of a prediction: {found}; one band of uint8 with a colour table and the tag '
            f'{CLASSES_TAG} was expected. Give the label raster that tools/predict.py wrote.'
        )
    try:
        names = json.loads(tag)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f'{path}: the tag {CLASSES_TAG} is {tag!r:.80}; a JSON list of class names was expected')
    if len(names) > len(colours):
        raise DataError(f'{path} has {len(names)} classes, but its colour table has {len(colours)} colours')
    return names, [colours[index][:3] for index in range(len(names))]


def names_classes(path: str) -> bool:
    """Whether a file of labels says what its classes are.

    Raises:
        UnreadableError: It is a raster that is missing or cannot be read.
    """
    if is_vector(path):
        return False
    with open_raster(path, quiet=True) as raster:
        return CLASSES_TAG in raster.tags()


def own_table(path: PathLike) -> ClassTable:
    """The classes of a finished label map as a table; raises as `open_classes`."""
    names, palette = open_classes(path)
    return ClassTable(tuple(LabelClass(n, (i,), (c,)) for i, (n, c) in enumerate(zip(names, palette))))
