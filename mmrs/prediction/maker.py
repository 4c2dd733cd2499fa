"""What is to be done to turn rasters into maps, and what is done at the beginning and the end of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from rich.table import Table

from mmrs.geo.handles import file_state
from mmrs.geo.headers import read_headers
from mmrs.geo.label_maps import CLASSES_TAG
from mmrs.geo.qgis import MARK, is_own_style, style_path, write_style
from mmrs.geo.vectors import VectorLayer
from mmrs.geo.windows import Window
from mmrs.prediction.area import describe_miss
from mmrs.prediction.areas import AREA_COLUMNS
from mmrs.prediction.card import Card
from mmrs.prediction.jobs import MAP_SUFFIXES, MapJob, MapSettings, plan_job
from mmrs.prediction.maps import EXTRA_LAYERS, FINGERPRINT_TAG, MapLayer, map_layers, read_fingerprint
from mmrs.prediction.parts import PartStore
from mmrs.prediction.predictors import Predictor
from mmrs.prediction.scenes import SceneAdaptation
from mmrs.prediction.sources import WindowSteps
from mmrs.utils.errors import ConfigError, DataError, OutputError, describe, some
from mmrs.utils.records import differences
from mmrs.visualization.quicklook import write_quicklook

__all__ = ['STOPS_SEQUENCE', 'MapMaker', 'MapPlan']

#: Why a raster that cannot be read ends a sequence.
STOPS_SEQUENCE = 'The maps of the rasters after it would depend on it (--continual): mend it, or leave it out'

_THREADS = 8  # opening files is mostly waiting, in particular on a network


@dataclass
class MapPlan:
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
    """How rasters become maps, and what comes before and after the prediction of each.

    Args:
        predictor: The model.
        settings: How maps are made.
        steps: Configurations of the transforms that the windows go through.
        identity: What tells the model and the steps from others.
        quicklook: Whether to draw each map.
        resume: Whether to keep finished maps and to continue half-done ones.
        overwrite: Whether to replace maps.
        scenes: What the model does before each raster.
        card: Of the checkpoint, with whose images rasters are compared.
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
        scenes: SceneAdaptation | None = None,
        card: Card | None = None,
    ) -> None:
        self.predictor, self.settings, self.steps = predictor, settings, WindowSteps(steps)
        self.identity = dict(identity or {})
        self.quicklook, self.resume, self.overwrite = quicklook, resume, overwrite
        self.scenes, self.card = scenes, card
        self.continual = scenes is not None and scenes.continual
        self.layers = map_layers(
            predictor.classes, predictor.palette, settings.extra, settings.dtype, predictor.threshold
        )

    def store(self, target: Path) -> PartStore:
        """Where the parts of a map are."""
        return PartStore(target.with_name(f'.{target.stem}.parts'), self.layers)

    def outputs(self, target: Path) -> list[Path]:
        """All files of a map."""
        files = [layer.path(target) for layer in self.layers]
        return [*files, quicklook_path(target)] if self.quicklook else files

    def leftovers(self, path: str, target: Path) -> list[Path]:
        """Files that an earlier run made of a raster beside its map, and this run does not make."""
        pictures = [] if self.quicklook or not _made_of(target, path) else [quicklook_path(target)]
        layers = map_layers(self.predictor.classes, self.predictor.palette, EXTRA_LAYERS)
        rasters = [file for layer in layers if (file := layer.path(target)) not in self.outputs(target)]
        return [file for file in pictures if file.exists()] + [file for file in rasters if _made_of(file, path)]

    def plan(self, targets: Mapping[str, Path], joint: Sequence[Path] = ()) -> MapPlan:
        """Look at all rasters, and at what there is of their maps.

        Args:
            targets: The map of each raster.
            joint: What is made of all maps together.

        Raises:
            ConfigError: Two rasters would have one map, or one be overwritten by a map; or the area meets no raster.
            DataError: A raster cannot be read on which the maps of others depend.
            OutputError: Something exists already.
        """
        self._require_places(targets, joint)
        if not (self.resume or self.overwrite):
            made = (path for target in targets.values() for path in self.outputs(target))
            exist = [str(path) for path in (*joint, *made) if path.exists()]
            exist += [str(file) for item in targets.items() for file in self.leftovers(*item)]
            exist += [str(store.folder) for store in map(self.store, targets.values()) if store.begun]
            if exist:
                raise OutputError(
                    f'{some(exist)} exist{"s" * (len(exist) == 1)} already: pass --resume to keep what is finished, '
                    '--overwrite to replace it, or choose another folder with -o'
                )
        area = self.settings.area()  # what is wrong with it is wrong for all
        plan = MapPlan()
        with ThreadPoolExecutor(_THREADS) as threads:
            looked = threads.map(self._look, targets.items(), self._identities(targets))
            for path, (job, finished, error) in zip(targets, looked):
                if error and self.continual:
                    raise DataError(f'{path}: {error}. {STOPS_SEQUENCE}')
                if error:
                    plan.failed[path] = error
                elif job is None:
                    plan.outside.append(path)
                else:
                    (plan.finished if finished else plan.jobs).append(job)
        if len(plan.outside) == len(targets):
            grids = {header.path: header.grid for header in read_headers(plan.outside, find_empty=False)}
            raise ConfigError(describe_miss(grids, *area))
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
        if self.settings.aoi is not None:
            inputs[_identity(self.settings.aoi)] = self.settings.aoi
        for file in joint:
            if _identity(file) in inputs or _identity(file) in made_of:
                raise ConfigError(f'{file} would overwrite what it is made from; choose another name')
            folder = next(parent for parent in file.absolute().parents if parent.exists())
            if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
                raise OutputError(f'{file} cannot be written: it is a folder, or {folder} takes no files')
            if self.resume and not self.overwrite and file.exists() and not _is_ours(file):
                raise OutputError(f'{file} exists already, and is of no prediction; choose another name')

    def _identities(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """What each map depends on beside its raster and the settings."""
        before = ''
        for number, path in enumerate(paths):
            if not self.continual:
                yield self.identity
                continue
            yield self.identity | dict(rasters_before=f'{number} ({before[:12]})')
            before = hashlib.sha256(repr((before, os.path.basename(path), file_state(path)[1:])).encode()).hexdigest()

    def _look(self, item: tuple[str, Path], identity: Mapping[str, Any]) -> tuple[MapJob | None, bool, str]:
        """A raster's job, None outside of the area; whether its map is finished; what is wrong, if anything is."""
        try:
            job = plan_job(*item, self.settings, self.predictor, identity)
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

    def open(self, plan: MapPlan) -> None:
        """Make the work folders."""
        for job in plan.jobs:
            store = self.store(job.target)
            store.open(job.fingerprint, self.resume)
            done = store.finished()
            lanes = range(len(job.windows.lanes))
            plan.missing.append([(i, part) for i in lanes for part in job.windows.parts(i) if part not in done])

    def table(self, plan: MapPlan) -> Table:
        """What would be done, to be printed."""
        table = Table('raster', 'pixels', 'windows', 'map', 'state')
        for job in (*plan.jobs, *plan.finished):
            size = f'{job.map_grid.width} x {job.map_grid.height}'
            runs = [run for lane in range(len(job.windows.lanes)) for run in job.windows.runs(lane)]
            state = 'half done' if self.store(job.target).begun else 'to be replaced' if job.target.exists() else 'new'
            state = 'finished' if job in plan.finished else state
            table.add_row(job.path, size, f'{sum(run.windows for run in runs):,}', str(job.target), state)
        return table

    def publish(self, job: MapJob) -> None:
        """Turn the parts of a map into its files."""
        state = list(file_state(job.path)[1:])
        if state and state != job.fingerprint['raster_state']:
            raise DataError(f'{job.path} was replaced while it was predicted; --resume --overwrite starts it anew')
        store = self.store(job.target)
        if self.quicklook:
            quicklook_path(job.target).unlink(missing_ok=True)  # that of the map which is replaced
        for file in self.leftovers(job.path, job.target) if self.overwrite else ():
            file.unlink()
            file.with_name(f'{file.name}.aux.xml').unlink(missing_ok=True)
            if file.suffix in MAP_SUFFIXES and (style := style_path(file)).exists() and is_own_style(style):
                style.unlink()
        tags = {FINGERPRINT_TAG: job.fingerprint}
        store.merge(job.map_grid, job.windows.wanted[:2], job.target, tags, self.resume or self.overwrite)
        styles = [style_path(layer.path(job.target)) for layer in self._styled(job)]
        kept = [str(style) for style in styles if style.exists() and not is_own_style(style)]
        if kept:
            MMLogger.get_current_instance().warning(
                f'{some(kept)}: kept, for no prediction has written it, and QGIS shows the map by it. To have the '
                "map's own style, remove it and run the command again with --resume."
            )
        self.complete(job)

    def _styled(self, job: MapJob) -> list[MapLayer]:
        """The layers that get a style: none whose style QGIS would take up for the predicted raster itself."""
        taken = style_path(job.path).resolve()
        return [layer for layer in self.layers if style_path(layer.path(job.target)).resolve() != taken]

    def complete(self, job: MapJob) -> None:
        """Add what may be missing beside a finished map."""
        picture = quicklook_path(job.target)
        if self.quicklook and not picture.exists():
            bands = self.settings.bands
            shown = bands and (bands[:3] if len(bands) >= 3 else bands[:1])
            write_quicklook(job.path, job.target, picture, shown, overwrite=True)
        for layer in self._styled(job):
            write_style(layer.path(job.target), layer.renderer)
        self.store(job.target).remove()


def _is_ours(joint: Path) -> bool:
    """Whether a file was made of all maps together."""
    if joint.suffix.lower() == '.vrt':
        return f'key="{CLASSES_TAG}"' in joint.read_text(errors='replace')
    if joint.suffix.lower() == '.qgs':
        return MARK in joint.read_text(errors='replace')
    if joint.suffix.lower() == '.csv':
        return joint.read_text(errors='replace').startswith(','.join(AREA_COLUMNS))
    try:
        return VectorLayer(str(joint), 'classes', 'class_id').count >= 0
    except (OSError, ValueError):
        return False


def _made_of(file: Path, raster: str) -> bool:
    """Whether a file is one that a run made of a raster of that name."""
    try:
        return file.exists() and read_fingerprint(file).get('raster') == os.path.basename(raster)
    except (OSError, ValueError):  # nothing of ours
        return False


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
