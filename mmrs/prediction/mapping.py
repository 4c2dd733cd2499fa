"""From rasters to maps: many of them, in one process or in several, now or in the next attempt."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rich
import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info
from mmengine.logging import MMLogger
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mmrs.datasets.windows import Window
from mmrs.prediction.canvas import Blended
from mmrs.prediction.fingerprint import FINGERPRINT_TAG, differences, read_fingerprint
from mmrs.prediction.jobs import MapJob, MapSettings, list_inputs, plan_job
from mmrs.prediction.maps import map_layers
from mmrs.prediction.parts import PartStore
from mmrs.prediction.polygons import check_polygon_options, write_polygons
from mmrs.prediction.predictors import Predictor
from mmrs.prediction.sources import RasterSource, WindowPixels, WindowSteps
from mmrs.prediction.stream import Task, Times, stream
from mmrs.prediction.vrt import mosaic
from mmrs.prediction.window_grid import Run
from mmrs.utils.errors import OutputError, UserError, describe, some
from mmrs.visualization.quicklook import write_quicklook

__all__ = ['MapMaker', 'MapReport', 'make_maps']

T = TypeVar('T')

_THREADS = 8  # opening files is mostly waiting, in particular on a network

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


@dataclass
class _Plan:
    """What the first process finds out for all.

    Attributes:
        jobs: The rasters to predict.
        missing: Of each, the lane and the pixels of the parts that are not there yet.
        finished: Those whose maps are there already.
        outside: Rasters outside of the area that is wanted.
        failed: What is wrong, by the raster.
    """

    jobs: list[MapJob] = field(default_factory=list)
    missing: list[list[tuple[int, Window]]] = field(default_factory=list)
    finished: list[MapJob] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class MapMaker:
    """Predicts rasters.

    Args:
        predictor: The model.
        settings: How maps are made.
        steps: Configurations of the transforms that the windows go through.
        identity: What tells the model and the steps from others.
        quicklook: Whether to draw each map.
        resume: Whether to keep finished maps and to continue half-done ones.
        overwrite: Whether to replace maps.
    """

    def __init__(
        self,
        predictor: Predictor,
        settings: MapSettings,
        steps: Sequence[dict[str, Any]] = (),
        identity: Mapping[str, Any] | None = None,
        quicklook: bool = False,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.predictor, self.settings, self.steps = predictor, settings, WindowSteps(steps)
        self.identity = dict(identity or {})
        self.quicklook, self.resume, self.overwrite = quicklook, resume, overwrite
        self.layers = map_layers(predictor.classes, predictor.palette, settings.extra, settings.dtype)

    def store(self, job: MapJob) -> PartStore:
        """Where the parts of a map are."""
        return PartStore(job.work_dir, self.layers)

    def outputs(self, target: Path) -> list[Path]:
        """All files of a map."""
        files = [target.with_name(f'{target.stem}{layer.suffix}{target.suffix}') for layer in self.layers]
        return [*files, quicklook_path(target)] if self.quicklook else files

    def plan(self, targets: Mapping[str, Path], joint: Sequence[Path] = ()) -> _Plan:
        """Look at all rasters, and at what there is of their maps.

        Args:
            targets: The map of each raster.
            joint: What is made of all maps together.

        Raises:
            OutputError: Something exists already.
        """
        if not (self.resume or self.overwrite):
            files = [*joint, *(path for target in targets.values() for path in self.outputs(target))]
            exist = [str(path) for path in files if path.exists()]
            if exist:
                raise OutputError(
                    f'{some(exist)} exist{"s" * (len(exist) == 1)} already: pass --resume to keep what is finished, '
                    '--overwrite to replace it, or choose another folder with -o'
                )
        plan = _Plan()
        with ThreadPoolExecutor(_THREADS) as threads:
            for path, found in zip(targets, threads.map(self._look, targets.items())):
                if isinstance(found, Exception):
                    plan.failed[path] = describe(found)
                elif found is None:
                    plan.outside.append(path)
                else:
                    self._place(found, plan)
        return plan

    def _look(self, item: tuple[str, Path]) -> MapJob | Exception | None:
        try:
            return plan_job(*item, self.settings, self.predictor, self.identity)
        except (OSError, ValueError) as error:
            return error

    def _place(self, job: MapJob, plan: _Plan) -> None:
        if self.resume and job.target.exists():
            different = differences(read_fingerprint(job.target), job.fingerprint)
            if not different:
                plan.finished.append(job)
                return
            if not self.overwrite:
                plan.failed[job.path] = (
                    f'{job.target} was made with other settings: {"; ".join(different)}. Use those again, choose '
                    'another folder with -o, or pass --overwrite too'
                )
                return
        plan.jobs.append(job)

    def open(self, plan: _Plan) -> None:
        """Make the work folders."""
        for job in plan.jobs:
            store = self.store(job)
            store.open(job.fingerprint, self.resume)
            done = store.finished()
            lanes = range(len(job.windows.lanes))
            plan.missing.append([(i, part) for i in lanes for part in job.windows.parts(i) if part not in done])

    def publish(self, job: MapJob) -> None:
        """Turn the parts of a map into its files."""
        store = self.store(job)
        tags = {FINGERPRINT_TAG: job.fingerprint}
        store.merge(job.map_grid, job.windows.wanted[:2], job.target, tags, self.resume or self.overwrite)
        self.complete(job)

    def complete(self, job: MapJob) -> None:
        """Add what may be missing beside a finished map."""
        picture = quicklook_path(job.target)
        if self.quicklook and not (self.resume and picture.exists()):
            bands = self.settings.bands
            shown = bands and (bands[:3] if len(bands) >= 3 else bands[:1])
            write_quicklook(job.path, job.target, picture, shown, overwrite=True)
        self.store(job).remove()


def quicklook_path(target: Path) -> Path:
    """The picture of a map."""
    return target.with_name(f'{target.stem}_quicklook.png')


class _Work:
    """The parts of a map that are to be made; an output of `stream`."""

    def __init__(self, maker: MapMaker, job: MapJob, missing: Sequence[tuple[int, Window]]) -> None:
        self.job, self.missing = job, missing
        self.error: str | None = None
        self._maker, self._store = maker, maker.store(job)

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
        job, maker = self.job, self._maker
        settings = maker.settings
        source = RasterSource(job.path, job.grid, settings.bands, maker.steps, job.model_size, settings.aoi)
        checked = _Checked(source, job.path, maker.predictor)
        for run in runs:
            yield Task(checked, job.windows, run, self, finish if run is runs[-1] else None)


class _Checked:
    """A raster whose values are compared with those of the training images, once."""

    def __init__(self, source: RasterSource, path: str, predictor: Predictor) -> None:
        self._source, self._path, self._predictor = source, path, predictor
        self._looked = False

    def read(self, window: Window) -> WindowPixels | None:
        found = self._source.read(window)
        if found is not None and not self._looked:
            self._looked = True
            means = found.image.float().mean((1, 2)).tolist()
            for band, (mean, expected, std) in enumerate(zip(means, self._predictor.mean, self._predictor.std), 1):
                if abs(mean - expected) > _FAR * std:
                    MMLogger.get_current_instance().warning(
                        f'{self._path}: band {band} has a mean of {mean:.4g} where a window was looked at, but '
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
        dry_run: Only print what would be done.
        progress: Whether to show a progress bar.

    Returns:
        What became of the rasters; in all processes the same, but for the times.

    Raises:
        ConfigError: The settings make no sense.
        OutputError: Something exists already, or cannot be written. Finished parts stay for another attempt.
    """
    targets = list_inputs(inputs, out)
    if vector is not None:
        check_polygon_options(Path(vector), min_area, simplify)
    joint = [Path(path) for path in (vector, vrt) if path is not None]

    def prepare() -> _Plan:
        plan = maker.plan(targets, joint)
        if dry_run:
            rich.print(_table(plan))
        else:
            maker.open(plan)
        return plan

    plan = _from_first(prepare)
    if dry_run:
        return MapReport(outside=plan.outside, failed=plan.failed)
    _require_shared_folder(plan, maker)
    works = [_Work(maker, job, parts) for job, parts in zip(plan.jobs, plan.missing)]
    times = _predict(maker, works, progress)
    failed = dict(plan.failed)
    for found in all_gather_object({work.job.path: work.error for work in works if work.error is not None}):
        failed.update(found)

    done = [job for job in plan.jobs if job.path not in failed]
    maps = {job.path: job.target for job in (*done, *plan.finished)}
    report = MapReport([maps[path] for path in targets if path in maps], failed=failed, times=times)
    report.skipped, report.outside = [job.target for job in plan.finished], plan.outside
    report.pixels = sum(job.map_grid.width * job.map_grid.height for job in done)

    def conclude() -> None:
        for job in plan.finished:
            maker.complete(job)
        for job in plan.jobs:
            store = maker.store(job)
            if job.path not in failed:
                if store.folder.exists():  # several processes made parts of it
                    maker.publish(job)
            elif store.finished():
                failed[job.path] += f'. What is predicted of it is in {store.folder}: --resume continues'
            else:
                store.remove()
        if vector is not None and report.maps:
            write_polygons(report.maps, Path(vector), min_area, simplify, overwrite=True, progress=progress)
        if vrt is not None and report.maps:
            mosaic(report.maps, Path(vrt), overwrite=True)

    _from_first(conclude)
    return report


def _table(plan: _Plan) -> Table:
    table = Table('raster', 'pixels', 'windows', 'map', 'state')
    for job in plan.jobs:
        runs = [run for lane in range(len(job.windows.lanes)) for run in job.windows.runs(lane)]
        state = 'half done' if job.work_dir.exists() else 'to be replaced' if job.target.exists() else 'new'
        size = f'{job.map_grid.width} x {job.map_grid.height}'
        table.add_row(job.path, size, f'{sum(run.windows for run in runs):,}', str(job.target), state)
    for job in plan.finished:
        table.add_row(job.path, f'{job.map_grid.width} x {job.map_grid.height}', '0', str(job.target), 'finished')
    return table


def _require_shared_folder(plan: _Plan, maker: MapMaker) -> None:
    for job in plan.jobs[:1]:
        if not job.work_dir.is_dir():
            raise OutputError(
                f'{job.work_dir}, which the first process has made, is not there on {socket.gethostname()}: the '
                'processes need a folder that all of them see'
            )


def _from_first(function: Callable[[], T]) -> T:
    """What a function returns in the first process, in all of them; the others wait for it."""
    result: list[Any] = [None]
    if get_dist_info()[0] == 0:
        try:
            result = [function()]
        except UserError as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], UserError):
        raise result[0]
    return result[0]


def _predict(maker: MapMaker, works: Sequence[_Work], progress: bool) -> Times:
    """Predict this process's share of the parts, and put together the maps that no other process has a share in."""
    rank, processes = get_dist_info()
    shares = _share([work.missing for work in works], rank, processes)
    own = [(work, work.runs(parts), len(parts) == len(work.missing)) for work, parts in zip(works, shares)]
    bar = Progress(
        TextColumn('predicting' if processes == 1 else f'predicting (process 1 of {processes})'), BarColumn(),
        MofNCompleteColumn(), TextColumn('windows'), TimeElapsedColumn(), TextColumn('ETA'), TimeRemainingColumn(),
        disable=not progress or rank != 0,
    )  # fmt: skip
    with bar, ThreadPoolExecutor(1, 'publisher') as publisher:
        shown = bar.add_task('', total=sum(run.windows for _, runs, _ in own for run in runs))
        publishing: list[Future] = []

        def publish(job: MapJob) -> None:
            publishing.append(publisher.submit(maker.publish, job))

        def tasks() -> Iterator[Task]:
            for work, runs, alone in own:
                while publishing and publishing[0].done():
                    publishing.pop(0).result()  # raises what went wrong
                yield from work.tasks(runs, partial(publish, work.job) if alone else None)

        times = stream(tasks(), maker.predictor, lambda windows: bar.advance(shown, windows))
        for published in publishing:
            published.result()
    return times


def _share(
    missing: Sequence[Sequence[tuple[int, Window]]], rank: int, processes: int
) -> list[list[tuple[int, Window]]]:
    """A process's share of the parts of each map: consecutive ones, of about as many pixels as any other process's."""
    pixels = [(x1 - x0) * (y1 - y0) for parts in missing for _, (x0, y0, x1, y1) in parts]
    middles = np.cumsum(pixels) - np.array(pixels) / 2
    owners = iter((middles * processes / max(1, sum(pixels))).astype(int).tolist())
    return [[part for part in parts if next(owners) == rank] for parts in missing]
