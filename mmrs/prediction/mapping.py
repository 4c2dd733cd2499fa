"""From rasters to maps: many of them, in one process or in several, now or in the next attempt."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rich
import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info
from mmengine.logging import MMLogger

from mmrs.datasets.image_warnings import FILES, file_warnings
from mmrs.geo.grids import crs_beside, write_crs
from mmrs.geo.qgis import write_style
from mmrs.geo.windows import Window
from mmrs.prediction.areas import write_areas
from mmrs.prediction.canvas import Blended
from mmrs.prediction.jobs import MapJob, list_inputs
from mmrs.prediction.maker import STOPS_SEQUENCE, MapMaker, MapPlan
from mmrs.prediction.polygons import check_polygon_grids, check_polygon_options, write_polygons
from mmrs.prediction.predictors import Predictor
from mmrs.prediction.qgis_project import write_project
from mmrs.prediction.sources import RasterSource, WindowPixels
from mmrs.prediction.stream import Task, Times, stream
from mmrs.prediction.vrt import mosaic, mosaic_grid
from mmrs.prediction.window_grid import Run
from mmrs.utils.errors import DataError, OutputError, UserError, describe, require, some
from mmrs.utils.progress import progress_bar

__all__ = ['MapReport', 'make_maps']

T = TypeVar('T')

#: A band whose mean is this many standard deviations away from the training images' is worth a warning.
_FAR = 10


@dataclass
class MapReport:
    """What became of the rasters.

    Attributes:
        maps: The label map of each raster that has one now, in the order of the rasters.
        skipped: Those of them that were finished before.
        outside: Rasters that lie outside of the area that is wanted.
        failed: What is wrong, by the raster that could not be read.
        times: Of this process.
        pixels: Of the maps that were made now.
    """

    maps: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    pixels: int = 0


class _Work:
    """The parts of a map that are to be made; an output of `stream`."""

    def __init__(self, maker: MapMaker, job: MapJob, missing: Sequence[tuple[int, Window]]) -> None:
        self.job, self.missing = job, missing
        self.error: str | None = None
        #: Whether a window with data was read.
        self.has_data = False
        self._maker, self._store = maker, maker.store(job.target)

    @property
    def failed(self) -> bool:
        """Whether the raster cannot be read."""
        return self.error is not None

    def fail(self, error: Exception) -> None:
        """Note what is wrong with the raster."""
        self.error = describe(error)

    def write(self, blended: Blended) -> None:
        """Keep a part."""
        window, probabilities, shown = blended
        values = torch.from_numpy(probabilities)
        self._store.write(window, {layer.name: layer.encode(values, shown) for layer in self._maker.layers})

    def runs(self, parts: Sequence[tuple[int, Window]]) -> list[Run]:
        """How to make some of the parts."""
        grid = self.job.windows
        return [run for lane in range(len(grid.lanes)) for run in grid.runs(lane, {p for i, p in parts if i == lane})]

    def tasks(self, runs: Sequence[Run], finish: Callable[[], None] | None) -> Iterator[Task]:
        """Some runs; `finish` is called after the last one."""
        checked = _Checked(self._source(), self, self._maker.predictor)
        for run in runs:
            yield Task(checked, self.job.windows, run, self, finish if run is runs[-1] else None)

    @contextmanager
    def adapted(self) -> Iterator[None]:
        """The model is adapted to the raster inside; that it cannot be is noted."""
        with ExitStack() as stack:
            try:
                if self._maker.scenes is not None:
                    stack.enter_context(self._maker.scenes.of(self._source(), self.job.windows))
            except (OSError, ValueError) as error:
                if self._maker.continual:
                    raise DataError(f'{self.job.path}: {describe(error)}. {STOPS_SEQUENCE}') from error
                self.fail(error)
            yield

    def _source(self) -> RasterSource:
        job, maker = self.job, self._maker
        settings = maker.settings
        return RasterSource(
            job.path,
            job.grid,
            settings.bands,
            maker.steps,
            job.model_size,
            settings.aoi,
            settings.aoi_layer,
            settings.apply_scale,
        )


class _Checked:
    """A raster whose values are compared with those of the training images, once."""

    def __init__(self, source: RasterSource, work: _Work, predictor: Predictor) -> None:
        self._source, self._work, self._predictor = source, work, predictor

    def read(self, window: Window) -> WindowPixels | None:
        found = self._source.read(window)
        work = self._work
        if found is not None and not work.has_data:
            work.has_data = True
            means = found.image.float().mean((1, 2)).tolist()
            for band, (mean, expected, std) in enumerate(zip(means, self._predictor.mean, self._predictor.std), 1):
                if abs(mean - expected) > _FAR * std:
                    MMLogger.get_current_instance().warning(
                        f'{work.job.path}: band {band} has a mean of {mean:.4g} where a window was looked at, but '
                        f'{expected:.4g} +- {std:.3g} in the training images. Other units, another type or other '
                        'bands? The map is hardly of any use then.'
                    )
                    break
        return found


def make_maps(
    maker: MapMaker,
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    vector: str | os.PathLike | None = None,
    min_area: float = 0,
    simplify: float = 0,
    vrt: str | os.PathLike | None = None,
    areas: str | os.PathLike | None = None,
    project: str | os.PathLike | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> MapReport:
    """Predict rasters.

    Under ``torchrun`` each process calls it alike and predicts its share of the windows. The first one puts together
    what several made parts of.

    Args:
        maker: How.
        inputs: Rasters and folders.
        out: Folder of the maps, or for a single raster its map.
        vector: GeoPackage for the areas of all maps.
        min_area: Square metres that an area of it has at least.
        simplify: Metres that its outlines may be off.
        vrt: Virtual raster for the mosaic of all maps.
        areas: Table (CSV) of the area of each class in each map.
        project: Project for QGIS (``.qgs``) with the rasters, their maps and `vector`.
        dry_run: Only print what would be done.
        progress: Whether to show a progress bar.

    Returns:
        What became of the rasters; in all processes the same, but for the times.

    Raises:
        ConfigError: The settings make no sense.
        DataError: The maps cannot have their polygons in one file, or make no mosaic.
        OutputError: Something exists already, or cannot be written. Finished parts stay for another attempt.
    """
    targets = list_inputs(inputs, out)
    if vector is not None:
        check_polygon_options(Path(vector), min_area, simplify)
    if vrt is not None:
        require(Path(vrt).suffix.lower() == '.vrt', 'vrt', os.fspath(vrt), 'a file name that ends in .vrt')
    if areas is not None:
        require(Path(areas).suffix.lower() == '.csv', 'areas', os.fspath(areas), 'a file name that ends in .csv')
    if project is not None:
        require(Path(project).suffix.lower() == '.qgs', 'project', os.fspath(project), 'a file name that ends in .qgs')
    joint = [Path(path) for path in (vector, vrt, areas, project) if path is not None]

    def prepare() -> MapPlan:
        plan = maker.plan(targets, joint)
        # What could not be made of the maps in the end.
        found = {job.path: job.map_grid for job in (*plan.jobs, *plan.finished)}
        grids = {path: found[path] for path in targets if path in found}
        if grids and vector is not None:
            check_polygon_grids(grids, min_area > 0 or simplify > 0)
        if grids and vrt is not None:
            mosaic_grid(list(grids.items()))
        _mention_crs(plan)
        for text in file_warnings([job.path for job in plan.jobs], maker.settings.bands, maker.settings.apply_scale):
            MMLogger.get_current_instance().warning(text)
        _compare_with_card(maker, plan)
        if dry_run:
            rich.print(maker.table(plan))
        else:
            maker.open(plan)
        return plan

    plan = _from_first(prepare)
    if dry_run:
        return MapReport(outside=plan.outside, failed=plan.failed)
    _require_shared_folder(plan, maker)
    works = [_Work(maker, job, parts) for job, parts in zip(plan.jobs, plan.missing)]
    if maker.continual:
        works = _with_finished(works, [_Work(maker, job, []) for job in plan.finished], list(targets))
    times, unreadable = _predict(maker, works, progress)
    failed = dict(plan.failed)
    for found in _together(all_gather_object, unreadable):
        failed.update(found)

    def conclude() -> MapReport:
        for job in plan.finished:
            _attempt(maker.complete, job, failed)
        for job in plan.jobs:
            store = maker.store(job.target)
            if job.path not in failed and store.folder.exists():  # several processes made parts of it
                _attempt(maker.publish, job, failed)
            if job.path in failed and store.begun:
                said = failed[job.path].rstrip('.')
                failed[job.path] = f'{said}. What is predicted of it is in {store.folder}: --resume continues'
            elif job.path in failed:
                store.remove()
        done = [job for job in plan.jobs if job.path not in failed]
        maps = {job.path: job.target for job in (*done, *plan.finished)}
        report = MapReport([maps[path] for path in targets if path in maps], failed=failed, outside=plan.outside)
        report.skipped = [job.target for job in plan.finished]
        report.pixels = sum(job.map_grid.width * job.map_grid.height for job in done)
        if vector is not None and report.maps:
            write_polygons(report.maps, Path(vector), min_area, simplify, overwrite=True, progress=progress)
        if vrt is not None and report.maps:
            mosaic(report.maps, Path(vrt), overwrite=True)
            write_style(Path(vrt), maker.layers[0].renderer)
        if areas is not None and report.maps:
            write_areas(report.maps, areas, overwrite=True)
        if project is not None and report.maps:
            grids = {job.path: job.map_grid for job in (*done, *plan.finished)}
            shown = {path: (maps[path], grids[path]) for path in targets if path in maps}
            polygons = None if vector is None else Path(vector)
            write_project(Path(project), shown, maker.layers, polygons, overwrite=True)
        return report

    report = _from_first(conclude)
    report.times = times
    return report


def _mention_crs(plan: MapPlan) -> None:
    """Warn of rasters whose CRS lies beside them, where it is not read."""
    without = [job.path for job in plan.jobs if job.grid.crs is None and not job.grid.transform.is_identity]
    beside = [path for path in without if crs_beside(path) is not None]
    if beside:
        MMLogger.get_current_instance().warning(
            f'{some(beside)} has no CRS, so that its map has none either. {write_crs(beside[0])}.'
        )


def _compare_with_card(maker: MapMaker, plan: MapPlan) -> None:
    """Warn of rasters that are not as the images that the checkpoint's card tells of."""
    card, settings = maker.card, maker.settings
    if card is None:
        return
    for job in plan.jobs[:FILES]:
        try:
            texts = card.warnings(job.path, settings.bands, settings.apply_scale, settings.gsd is not None)
        except (OSError, ValueError):  # said where it is predicted
            continue
        for text in texts:
            MMLogger.get_current_instance().warning(text)


def _require_shared_folder(plan: MapPlan, maker: MapMaker) -> None:
    for job in plan.jobs[:1]:
        folder = maker.store(job.target).folder
        if not folder.is_dir():
            raise OutputError(
                f'{folder}, which the first process has made, is not there on {socket.gethostname()}: the '
                'processes need a folder that all of them see'
            )


def _together(function: Callable[[Any], T], data: Any) -> T:
    """Call what all processes have to call."""
    try:
        return function(data)
    except RuntimeError as error:
        raise OutputError('another process has stopped; its own message says why. --resume continues') from error


def _from_first(function: Callable[[], T]) -> T:
    """What a function returns in the first process, in all of them; the others wait for it."""
    result: list[Any] = [None]
    if get_dist_info()[0] == 0:
        try:
            result = [function()]
        except UserError as error:
            result = [error]
    _together(broadcast_object_list, result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def _attempt(function: Callable[[MapJob], None], job: MapJob, failed: dict[str, str]) -> None:
    """Finish a map; that its raster cannot be read is noted."""
    try:
        function(job)
    except OutputError:
        raise
    except (OSError, ValueError) as error:
        failed[job.path] = describe(error)


def _predict(maker: MapMaker, works: Sequence[_Work], progress: bool) -> tuple[Times, dict[str, str]]:
    """Predict this process's share of the parts, and put together the maps that no other process has a share in.

    Returns:
        Where the time went, and what is wrong, by the raster.
    """
    rank, processes = get_dist_info()
    shares = _share([work.missing for work in works], rank, processes)
    own = [(work, work.runs(parts), len(parts) == len(work.missing)) for work, parts in zip(works, shares)]
    description = 'predicting windows' if processes == 1 else f'predicting windows (process 1 of {processes})'
    bar = progress_bar(disable=not progress or rank != 0)
    publisher = ThreadPoolExecutor(1, 'publisher')
    with bar:
        shown = bar.add_task(description, total=sum(run.windows for _, runs, _ in own for run in runs))
        publishing: list[Future] = []
        failed: dict[str, str] = {}

        def publish(job: MapJob) -> None:
            publishing.append(publisher.submit(_attempt, maker.publish, job, failed))

        def advance(windows: int) -> None:
            bar.advance(shown, windows)
            while publishing and publishing[0].done():
                publishing.pop(0).result()  # raises what went wrong

        def tasks(works: Sequence[tuple[_Work, list[Run], bool]]) -> Iterator[Task]:
            for work, runs, alone in works:
                yield from work.tasks(runs, partial(publish, work.job) if alone else None)

        try:
            if maker.scenes is None:
                times = stream(tasks(own), maker.predictor, advance)
            else:  # one raster after the other, for the model is another one for each
                times = Times()
                with maker.scenes.sequence() if maker.continual else nullcontext():
                    for work, runs, alone in own:
                        if not (runs or maker.continual):
                            continue
                        with work.adapted():
                            if runs and not work.failed:
                                times += stream(tasks([(work, runs, alone)]), maker.predictor, advance)
            for published in publishing:
                published.result()
        finally:
            publisher.shutdown(cancel_futures=True)
    empty = [w.job.path for w, runs, alone in own if alone and runs and not (w.has_data or w.failed)]
    if empty:
        MMLogger.get_current_instance().warning(f'{some(empty)}: no pixel with data was found, and the map has none.')
    return times, failed | {work.job.path: work.error for work in works if work.error is not None}


def _with_finished(works: Sequence[_Work], finished: Sequence[_Work], order: Sequence[str]) -> list[_Work]:
    """In the order of the rasters, up to the last that lacks anything, all those that a sequence passes."""
    found = {work.job.path: work for work in (*works, *finished)}
    ordered = [found[path] for path in order if path in found]
    last = max((i for i, work in enumerate(ordered) if work.missing), default=-1)
    return ordered[: last + 1]


def _share(
    missing: Sequence[Sequence[tuple[int, Window]]], rank: int, processes: int
) -> list[list[tuple[int, Window]]]:
    """A process's share of the parts of each map: consecutive ones, of about as many pixels as any other process's."""
    pixels = [(x1 - x0) * (y1 - y0) for parts in missing for _, (x0, y0, x1, y1) in parts]
    middles = np.cumsum(pixels) - np.array(pixels) / 2
    owners = iter((middles * processes / max(1, sum(pixels))).astype(int).tolist())
    return [[part for part in parts if next(owners) == rank] for parts in missing]
