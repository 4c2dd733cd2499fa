"""Areas of the classes of a map, by polygons and with intervals."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import shapely
from mmengine.logging import MMLogger
from pyogrio.errors import DataLayerError, DataSourceError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.evaluation.area_estimate import AreaEstimate, ErrorMatrix
from mmrs.geo.label_maps import open_classes
from mmrs.geo.vectors import Polygons, VectorLayer
from mmrs.prediction.maps import read_fingerprint
from mmrs.prediction.zonal_areas import ZonalAreas, zonal_areas
from mmrs.utils.errors import ConfigError, require, some
from mmrs.utils.files import atomic_path, writing
from mmrs.utils.progress import progress_bar

__all__ = ['AreaReport', 'measure_areas']

LAYER = 'areas'

_SUFFIXES = ('.csv', '.gpkg')

_HECTARE = 10_000


@dataclass
class AreaReport:
    """Areas of K classes in P zones.

    Attributes:
        names: Of the zones.
        zones: What the map says.
        estimate: Square metres ``(P, K)`` that the errors of the map are taken out of, if these are known.
        total: The same of all zones together, ``(K,)``; its interval is not the sum of theirs.
    """

    names: list[str]
    zones: ZonalAreas
    estimate: AreaEstimate | None = None
    total: AreaEstimate | None = None

    def columns(self) -> dict[str, np.ndarray]:
        """All figures by their names in the table, ``(P, K)`` each."""
        zones = self.zones
        metres = dict(mapped=zones.square_metres)
        if zones.expected is not None:
            metres['expected'] = zones.expected
        if self.estimate is not None:
            low, high = self.estimate.interval()
            metres.update(adjusted=self.estimate.areas, low=low, high=high)
        columns: dict[str, np.ndarray] = dict(pixels=zones.pixels)
        for name, values in metres.items():
            columns[f'{name}_m2'] = values
            columns[f'{name}_ha'] = values / _HECTARE
        with np.errstate(invalid='ignore'):
            columns['percent'] = 100 * zones.square_metres / zones.square_metres.sum(axis=1, keepdims=True)
        return columns

    def csv(self) -> str:
        """A row for each class in each zone; what is unknown is empty."""
        columns, text = self.columns(), io.StringIO()
        table = csv.writer(text, lineterminator='\n')
        table.writerow(['polygon', 'class_id', 'class', *columns, 'covered_percent'])
        for i, name in enumerate(self.names):
            covered = _cell(100 * self.zones.covered[i], 'percent')
            for k, label in enumerate(self.zones.classes):
                cells = [_cell(values[i, k], column) for column, values in columns.items()]
                table.writerow([name, k, label, *cells, covered])
        return text.getvalue()

    def write_polygons(self, path: Path, name: Path, polygons: Polygons, layer: VectorLayer) -> None:
        """Write the polygons to a GeoPackage, with a field for each figure of each class.

        Args:
            path: The file.
            name: How messages call it.
            polygons: The zones.
            layer: Where they are from.

        Raises:
            OutputError: It cannot be written.
        """
        fields: dict[str, np.ndarray] = dict(polygon=np.array(self.names, object))
        fields['covered_percent'] = 100 * self.zones.covered
        for column, values in self.columns().items():
            fields.update({f'{column}_{label}': values[:, k] for k, label in enumerate(self.zones.classes)})
        errors = DataSourceError, DataLayerError, OSError
        try:
            with writing(name, errors), warnings.catch_warnings():
                pyogrio.raw.write(
                    path,
                    shapely.to_wkb(polygons.shapes),
                    list(fields.values()),
                    list(fields),
                    layer=LAYER,
                    driver='GPKG',
                    geometry_type='MultiPolygon',
                    promote_to_multi=True,
                    crs=layer.crs.to_wkt(),
                )
        finally:
            for suffix in ('-journal', '-wal', '-shm'):
                Path(f'{path}{suffix}').unlink(missing_ok=True)

    def print(self, console: Console) -> None:
        """Show the areas of all zones together, in hectares."""
        zones, number = self.zones, len(self.names)
        together = f'the sum of {number} polygons' if number > 1 else self.names[0]
        table = Table(title=f'Hectares of {together}', title_justify='left')
        table.add_column('class')
        columns = [('mapped', [_hectares(value) for value in zones.square_metres.sum(axis=0)])]
        if zones.expected is not None:
            columns.append(('expected', [_hectares(value) for value in zones.expected.sum(axis=0)]))
        if self.total is not None:
            columns.append(('adjusted', [_hectares(value) for value in self.total.areas]))
            columns.append(('±', [_hectares(value) for value in self.total.margins]))
        for heading, _ in columns:
            table.add_column(heading, justify='right')
        for k, label in enumerate(zones.classes):
            table.add_row(escape(label), *(cells[k] for _, cells in columns))
        console.print(table)


def measure_areas(
    map_: str | Path,
    out: Sequence[str | Path] = (),
    polygons: str | Path | None = None,
    polygon_layer: str | None = None,
    polygon_attribute: str | None = None,
    confusion: str | Path | None = None,
    probabilities: str | Path | None = None,
    level: float = 0.95,
    overwrite: bool = False,
    progress: bool = True,
) -> AreaReport:
    """Measure the classes of a map, window by window.

    Args:
        map_: A label map that a prediction has written, or a mosaic of such (VRT).
        out: Files to write: a table (``.csv``), and the polygons with their areas (``.gpkg``).
        polygons: Vector file of districts, parcels or the like, in any CRS; without it, the whole map counts.
        polygon_layer: Its layer, where it has several.
        polygon_attribute: Field that names the polygons; they are numbered from 1 without it.
        confusion: How often the map is wrong, see :meth:`ErrorMatrix.read`, for adjusted areas with intervals.
        probabilities: Those of a prediction, for expected areas: sums of the probabilities of a class.
        level: Confidence of the intervals.
        overwrite: Replace files that exist.
        progress: Show a progress bar.

    Raises:
        ConfigError: The options make no sense.
        DataError: A file cannot be used, or no polygon meets the map.
        OutputError: A file exists already or cannot be written.
    """
    targets = [Path(path) for path in out]
    for path in targets:
        require(path.suffix.lower() in _SUFFIXES, 'out', str(path), 'a file name that ends in .csv or .gpkg')
        if path.suffix.lower() == '.gpkg' and polygons is None:
            raise ConfigError(f'{path} is for polygons; name some (--polygons FILE), or write a table: FILE.csv')
    if polygons is None and (polygon_layer is not None or polygon_attribute is not None):
        raise ConfigError('polygon_layer and polygon_attribute are of polygons (--polygons FILE)')
    require(
        len({path.resolve() for path in targets}) == len(targets),
        'out',
        list(map(str, targets)),
        'different names were',
    )
    inputs = {Path(path).resolve() for path in (map_, polygons, confusion, probabilities) if path is not None}
    for path in targets:
        require(path.resolve() not in inputs, 'out', str(path), 'a file that is not read')
    matrix = None if confusion is None else ErrorMatrix.read(confusion, open_classes(map_)[0])
    if probabilities is not None and not read_fingerprint(Path(probabilities)).get('calibration'):
        MMLogger.get_current_instance().warning(
            f'{probabilities} holds probabilities that are not calibrated, so that sums of them may be far off: see '
            'predict.py --calibrated'
        )
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_path(path, overwrite)) for path in targets]
        layer = shapes = None
        names = [Path(map_).name]
        if polygons is not None:
            layer = VectorLayer(str(polygons), polygon_layer, polygon_attribute, 'polygon')
            shapes = layer.within(layer.bounds)
            if not len(shapes.shapes):
                raise ConfigError(f'{polygons}: the layer {layer.name} has no polygons')
            names = [str(i if value is None else value) for i, value in enumerate(shapes.values, 1)]
        bar = stack.enter_context(progress_bar(transient=True, disable=not progress or not sys.stderr.isatty()))
        task = bar.add_task('measuring', total=None)
        zones = zonal_areas(
            map_, layer, shapes, probabilities, lambda done, total: bar.update(task, completed=done, total=total)
        )
        if layer is not None:
            _mention_gaps(zones, names, layer.path, str(map_))
        report = AreaReport(names, zones)
        if matrix is not None:
            report.estimate = matrix.estimate(zones.square_metres, level)
            report.total = matrix.estimate(zones.square_metres.sum(axis=0), level)
        for path, file in zip(targets, files):
            if path.suffix.lower() == '.csv':
                with writing(path):
                    file.write_text(report.csv(), encoding='utf-8')
            elif shapes is not None and layer is not None:
                report.write_polygons(file, path, shapes, layer)
    return report


def _mention_gaps(zones: ZonalAreas, names: Sequence[str], polygons: str, map_: str) -> None:
    outside = [name for name, out in zip(names, zones.outside) if out]
    partly = [name for name, share, out in zip(names, zones.covered, zones.outside) if share < 0.99 and not out]
    logger = MMLogger.get_current_instance()
    if outside:
        logger.warning(f'{polygons}: {len(outside)} of {len(names)} polygons lie outside of {map_}: {some(outside)}')
    if partly:
        logger.warning(
            f'{polygons}: {map_} has no data in more than 1 % of {len(partly)} of {len(names)} polygons: '
            f'{some(partly)}. '
            'Areas are of what has data; covered_percent says how much that is'
        )


def _cell(value: Any, column: str) -> str:
    if column == 'pixels':
        return str(int(value))
    return f'{value:.{6 if column.endswith("_ha") else 2}f}' if np.isfinite(value) else ''


def _hectares(square_metres: float) -> str:
    return f'{square_metres / _HECTARE:,.2f}'
