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

from mmrs.datasets.vectors import open_layer
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
from mmrs.utils.errors import ConfigError, OutputError, describe, is_user_error, some
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

    def store(self, target: Path) -> PartStore:
        """Where the parts of a map are."""
        return PartStore(target.with_name(f'.{target.stem}.parts'), self.layers)

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
            ConfigError: Two rasters would have one map, or one be overwritten by a map.
            OutputError: Something exists already.
        """
        self._require_places(targets, joint)
        if not (self.resume or self.overwrite):
            made = (path for target in targets.values() for path in self.outputs(target))
            exist = [str(path) for path in (*joint, *made) if path.exists()]
            exist += [str(store.folder) for store in map(self.store, targets.values()) if store.begun]
            if exist:
                raise OutputError(
                    f'{some(exist)} exist{"s" * (len(exist) == 1)} already: pass --resume to keep what is finished, '
                    '--overwrite to replace it, or choose another folder with -o'
                )
        if self.settings.aoi is not None:
            open_layer(self.settings.aoi, None, None)  # what is wrong with it is wrong for all
        plan = _Plan()
        with ThreadPoolExecutor(_THREADS) as threads:
            for path, (job, finished, error) in zip(targets, threads.map(self._look, targets.items())):
                if error:
                    plan.failed[path] = error
                elif job is None:
                    plan.outside.append(path)
                else:
                    (plan.finished if finished else plan.jobs).append(job)
        return plan

    def _require_places(self, targets: Mapping[str, Path], joint: Sequence[Path]) -> None:
        made_of: dict[Any, str] = {}
        inputs = {_identity(path): path for path in targets}
        for path, target in targets.items():
            for file in self.outputs(target):
                place = _identity(file)
                other = made_of.setdefault(place, path)
                if other != path:
                    raise ConfigError(
                        f'{other} and {path} would both become {file}; predict them into folders of their own'
                    )
                if place in inputs:
                    by = 'its own map' if inputs[place] == path else f'what is made of {path}'
                    raise ConfigError(f'{inputs[place]} would be overwritten by {by}; name another folder with -o')
        for file in joint:
            if _identity(file) in inputs:
                raise ConfigError(f'{file} is a raster to predict, and would be overwritten; choose another name')

    def _look(self, item: tuple[str, Path]) -> tuple[MapJob | None, bool, str]:
        """A raster's job, None outside of the area; whether its map is finished; what is wrong, if anything is."""
        try:
            job = plan_job(*item, self.settings, self.predictor, self.identity)
            if job is None or not self.resume:
                return job, False, ''
            finished, store = job.target.exists(), self.store(job.target)
            different: list[str] = []
            if finished:
                different = differences(read_fingerprint(job.target), job.fingerprint)
            elif store.begun:
                different = store.differences(job.fingerprint)
        except ConfigError:  # it concerns all rasters
            raise
        except (OSError, ValueError) as error:
            return None, False, describe(error)
        if different and not self.overwrite:
            message = (
                f'{job.target if finished else store.folder} was made with other settings: {"; ".join(different)}. Use '
                'those again, choose another folder with -o, or pass --overwrite too'
            )
            return job, False, message
        return job, finished and not different, ''

    def open(self, plan: _Plan) -> None:
        """Make the work folders."""
        for job in plan.jobs:
            store = self.store(job.target)
            store.open(job.fingerprint, self.resume and not store.differences(job.fingerprint))
            done = store.finished()
            lanes = range(len(job.windows.lanes))
            plan.missing.append([(i, part) for i in lanes for part in job.windows.parts(i) if part not in done])

    def publish(self, job: MapJob) -> None:
        """Turn the parts of a map into its files."""
        store = self.store(job.target)
        if self.quicklook:
            quicklook_path(job.target).unlink(missing_ok=True)  # that of the map which is replaced
        tags = {FINGERPRINT_TAG: job.fingerprint}
        store.merge(job.map_grid, job.windows.wanted[:2], job.target, tags, self.resume or self.overwrite)
        self.complete(job)

    def complete(self, job: MapJob) -> None:
        """Add what may be missing beside a finished map."""
        picture = quicklook_path(job.target)
        if self.quicklook and not picture.exists():
            bands = self.settings.bands
            shown = bands and (bands[:3] if len(bands) >= 3 else bands[:1])
            write_quicklook(job.path, job.target, picture, shown, overwrite=True)
        self.store(job.target).remove()


def _identity(path: str | Path) -> Any:
    """Equal for all names of a file."""
    try:
        state = os.stat(path)
    except OSError:
        return os.path.abspath(path)
    return state.st_dev, state.st_ino


def quicklook_path(target: Path) -> Path:
    """The picture of a map."""
    return target.with_name(f'{target.stem}_quicklook.png')


class _Work:
    """The parts of a map that are to be made; an output of `stream`."""

    def __init__(self, maker: MapMaker, job: MapJob, missing: Sequence[tuple[int, Window]]) -> None:
        self.job, self.missing = job, missing
        self.error: str | None = None
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
            rich.print(_table(plan, maker))
        else:
            maker.open(plan)
        return plan

    plan = _from_first(prepare)
    if dry_run:
        return MapReport(outside=plan.outside, failed=plan.failed)
    _require_shared_folder(plan, maker)
    works = [_Work(maker, job, parts) for job, parts in zip(plan.jobs, plan.missing)]
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
                failed[job.path] += f'. What is predicted of it is in {store.folder}: --resume continues'
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
        return report

    report = _from_first(conclude)
    report.times = times
    return report


def _table(plan: _Plan, maker: MapMaker) -> Table:
    table = Table('raster', 'pixels', 'windows', 'map', 'state')
    for job in plan.jobs:
        runs = [run for lane in range(len(job.windows.lanes)) for run in job.windows.runs(lane)]
        state = 'half done' if maker.store(job.target).begun else 'to be replaced' if job.target.exists() else 'new'
        size = f'{job.map_grid.width} x {job.map_grid.height}'
        table.add_row(job.path, size, f'{sum(run.windows for run in runs):,}', str(job.target), state)
    for job in plan.finished:
        table.add_row(job.path, f'{job.map_grid.width} x {job.map_grid.height}', '0', str(job.target), 'finished')
    return table


def _require_shared_folder(plan: _Plan, maker: MapMaker) -> None:
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
        except Exception as error:
            if not is_user_error(error):
                raise
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
    bar = Progress(
        TextColumn('predicting' if processes == 1 else f'predicting (process 1 of {processes})'), BarColumn(),
        MofNCompleteColumn(), TextColumn('windows'), TimeElapsedColumn(), TextColumn('ETA'), TimeRemainingColumn(),
        disable=not progress or rank != 0,
    )  # fmt: skip
    publisher = ThreadPoolExecutor(1, 'publisher')
    with bar:
        shown = bar.add_task('', total=sum(run.windows for _, runs, _ in own for run in runs))
        publishing: list[Future] = []
        failed: dict[str, str] = {}

        def publish(job: MapJob) -> None:
            publishing.append(publisher.submit(_attempt, maker.publish, job, failed))

        def advance(windows: int) -> None:
            bar.advance(shown, windows)
            while publishing and publishing[0].done():
                publishing.pop(0).result()  # raises what went wrong

        def tasks() -> Iterator[Task]:
            for work, runs, alone in own:
                yield from work.tasks(runs, partial(publish, work.job) if alone else None)

        try:
            times = stream(tasks(), maker.predictor, advance)
            for published in publishing:
                published.result()
        finally:
            publisher.shutdown(cancel_futures=True)
    return times, failed | {work.job.path: work.error for work in works if work.error is not None}


def _share(
    missing: Sequence[Sequence[tuple[int, Window]]], rank: int, processes: int
) -> list[list[tuple[int, Window]]]:
    """A process's share of the parts of each map: consecutive ones, of about as many pixels as any other process's."""
    pixels = [(x1 - x0) * (y1 - y0) for parts in missing for _, (x0, y0, x1, y1) in parts]
    middles = np.cumsum(pixels) - np.array(pixels) / 2
    owners = iter((middles * processes / max(1, sum(pixels))).astype(int).tolist())
    return [[part for part in parts if next(owners) == rank] for parts in missing]
