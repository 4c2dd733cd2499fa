"""A predicted raster and its reference, read side by side."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from rasterio.warp import transform

from mmrs.geo.classes import IGNORE_INDEX, ClassTable
from mmrs.geo.grids import RasterGrid, check_labels_fit, place
from mmrs.geo.headers import RasterHeader, read_headers
from mmrs.geo.label_maps import CLASSES_TAG, names_classes, open_classes, own_table
from mmrs.geo.labels import label_facts, read_labels, training_indices
from mmrs.geo.masks import find_hidden_class, holds_colours, not_resampled, packed
from mmrs.geo.rasters import PathLike
from mmrs.geo.vector_labels import VectorLabels
from mmrs.geo.vectors import is_vector
from mmrs.geo.windows import Window
from mmrs.utils.errors import ConfigError, DataError


class RasterPair:
    """A predicted raster and its reference on the prediction's pixel grid.

    The reference is read as a `RasterDataset` reads labels: a raster of class ids on any grid, or polygons; and also a
    mask in the colours of the classes. A reference raster of the same size is taken pixel by pixel where one of the
    two has no CRS.

    Args:
        prediction: A map of `tools/predict.py`; or, with `table`, any raster of the ids in it.
        label: The reference.
        table: Names, ids and colours of the reference's classes; by default those that it names itself, as a map of
            `tools/predict.py` does, else the prediction's, ids from 0.
        reduce_zero_label: Whether id 0 of the reference is ignored and 1 is the first class.
        vector_labels: How polygons become labels.

    Attributes:
        classes: Names of the predicted classes, K of them.
        grid: Pixel grid of the prediction.

    Raises:
        ConfigError: `reduce_zero_label` and a table of ids exclude each other.
        DataError: A file cannot be read, or the files, or their classes, do not belong together.
    """

    def __init__(
        self,
        prediction: PathLike,
        label: PathLike,
        table: ClassTable | None = None,
        reduce_zero_label: bool = False,
        vector_labels: VectorLabels | None = None,
    ) -> None:
        self.prediction, self.label = os.fspath(prediction), os.fspath(label)
        image = _header(self.prediction)
        if image.count != 1:
            raise DataError(f'{self.prediction} has {image.count} bands; a map of classes has one.')
        if reduce_zero_label and table is not None and any(c.ids for c in table.classes):
            raise ConfigError('reduce_zero_label and a table of classes with ids exclude each other; leave out one')
        self.grid = image.grid
        self.classes, own_ids = _predicted_classes(self.prediction, table)
        if table is None:
            table = own_table(self.label if names_classes(self.label) else self.prediction)
        index_of_name = _positions(self.prediction, self.classes, table)
        facts = dict(grid_shape=self.grid.shape, classes=self.classes)
        self._own: dict[str, Any] = dict(
            facts, img_path=self.prediction, seg_map_path=self.prediction, label_map=own_ids
        )
        if own_ids is not None:  # as the table says
            self._own.update(label_colours=table.index_of_colour, by_colour=table.by_colour)
        self._labels = dict(
            facts,
            img_path=self.prediction,
            seg_map_path=self.label,
            reduce_zero_label=reduce_zero_label,
            **label_facts(table, index_of_name),
        )
        self._label_grid: RasterGrid | None = None
        if is_vector(self.label):
            vector_labels, index_of_id = vector_labels or VectorLabels(), training_indices(self._labels)
            vector_labels.check([(image, self.label)], index_of_name, index_of_id)
            self._labels['vector_labels'] = vector_labels.burning(index_of_name, index_of_id)
        else:
            self._open_raster(_header(self.label), table)

    def _open_raster(self, header: RasterHeader, table: ClassTable) -> None:
        grid = self._label_grid = header.grid
        if (grid.crs is None) != (self.grid.crs is None) and grid.shape == self.grid.shape:
            self._labels['img_path'] = self.label  # so that it is read on its own grid
            self._label_grid = None
        else:
            check_labels_fit(self.prediction, self.grid, self.label, grid)
            if self.grid.matches(grid):
                self._label_grid = None
        by_colour = holds_colours(self.label, header.planes, self._labels['label_colours'], table.by_colour)
        self._labels['by_colour'] = by_colour
        if header.planes > 1 and self._label_grid is not None:
            raise not_resampled(self.label)

    def hidden_classes(self) -> list[str]:
        """What `find_hidden_class` says of the two files."""
        found = []
        for facts in (self._own, self._labels):
            if 'vector_labels' not in facts:
                by_colour = facts.get('by_colour', False)
                index_of = packed(facts['label_colours']) if by_colour else training_indices(facts)
                found.append(find_hidden_class(facts['seg_map_path'], by_colour, index_of, self.classes))
        return list(filter(None, found))

    @cached_property
    def label_pixel(self) -> np.ndarray:
        """`(2, 2)` matrix from offsets in the prediction (columns, rows) to those in pixels of the reference.

        Exact between grids of one CRS, elsewhere right at the middle of the prediction. The pixels of polygons are
        the prediction's.
        """
        if self._label_grid is None:
            return np.eye(2)
        x, y = self.grid.width / 2, self.grid.height / 2
        points = [place(self.grid.transform, *point) for point in ((x, y), (x + 1, y), (x, y + 1))]
        if self.grid.crs != self._label_grid.crs:
            points = list(zip(*transform(self.grid.crs, self._label_grid.crs, *zip(*points))))
        middle, right, below = (np.array(place(~self._label_grid.transform, *point)) for point in points)
        return np.column_stack([right - middle, below - middle])

    def predicted(self, window: Window) -> np.ndarray:
        """Predicted class indices `(H, W)`, uint8, 255 where there is no prediction.

        Raises:
            DataError: The file cannot be read, or has an id that is no class.
        """
        return _load(self._own, window)

    def labelled(self, window: Window) -> np.ndarray:
        """Labelled class indices `(H, W)`, uint8, 255 where the pixel is ignored; raises as `predicted`."""
        return _load(self._labels, window)


def _header(path: str) -> RasterHeader:
    return read_headers([path], find_empty=False)[0]


def _load(facts: dict[str, Any], window: Window) -> np.ndarray:
    return read_labels(dict(facts, window=window))


def _predicted_classes(path: str, table: ClassTable | None) -> tuple[tuple[str, ...], dict[int, int] | None]:
    """Names of the classes of a prediction, and their indices by id (None for ids that are indices)."""
    if names_classes(path):
        return tuple(open_classes(path)[0]), None
    if table is None:
        raise DataError(
            f'{path} does not say what its classes are, as a map of tools/predict.py does in its tag {CLASSES_TAG}. '
            'Give a table of them (--classes FILE).'
        )
    return table.names, table.index_of_id


def _positions(prediction: str, classes: Sequence[str], table: ClassTable) -> dict[str, int]:
    """Predicted index, or 255, by the name of a labelled class."""
    unknown = [name for name in table.names if name not in classes]
    if unknown:
        raise DataError(
            f'{prediction} has no class {", ".join(unknown)}, which the table of classes has; its classes are '
            f'{", ".join(classes)}. Rename the classes of the table, or mark what is not predicted with `ignore: true`.'
        )
    return {c.name: IGNORE_INDEX if c.ignore else classes.index(c.name) for c in table.classes}
