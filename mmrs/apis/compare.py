"""Trains configurations with several seeds, one run after the other, and compares them."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from mmengine.config import Config
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.apis.comparison import Comparison, last_values
from mmrs.engine.saved_runs import newest_checkpoint, number_of, own_checkpoints
from mmrs.install import install
from mmrs.utils.arguments import add_cfg_options
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError, OutputError, UserError, describe
from mmrs.utils.processes import resident, run_tool, tail
from mmrs.utils.progress import progress_bar
from mmrs.utils.records import Record, shown
from mmrs.visualization.curves import plot_curves, read_scalars

__all__ = [
    'Entry',
    'Run',
    'SeriesProgress',
    'compare',
    'duration',
    'mean_curves',
    'parse_options',
    'plan_runs',
    'plot_comparison',
    'probe',
    'seconds_of_step',
]

#: Beside the logs of a run, what decides its result.
RECORD = 'settings.json'
#: Settings that leave what is trained as it is: which of its checkpoints are kept.
_KEPT = 'default_hooks.checkpoint.'
#: The option of a training without validation.
UNWATCHED = 'val_dataloader=None'
#: What the training of a run printed.
LOG = 'output.log'


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and values from ``KEY=VALUE`` arguments, by the rules of ``--cfg-options``.

    Raises:
        ConfigError: One is no ``KEY=VALUE``, or sets what each run has for itself.
    """
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_cfg_options(parser)
    for option in options:
        if '=' not in option:
            raise ConfigError(f'--cfg-options {option}: KEY=VALUE was expected')
        key = option.split('=')[0]
        if key in ('randomness.seed', 'work_dir', 'resume'):
            raise ConfigError(f'--cfg-options {key}: each run has its own; leave it out')
    try:
        return parser.parse_args(['--cfg-options', *options]).cfg_options if options else {}
    except argparse.ArgumentError as error:
        raise ConfigError(str(error).removeprefix('argument ')) from error


@dataclass(frozen=True)
class Entry:
    """A configuration to be compared.

    Args:
        config: Configuration file.
        warm_start: What to start from: a checkpoint file, or ``NAME/FILE`` for the file of that name from the run of
            the entry NAME with the same seed.
        cfg_options: ``KEY=VALUE`` as on the command line.
        task: With a method's file: the task, see :func:`load_config`.
        network: Likewise.
        schedule: Likewise.
        title: Name of its folder, instead of :attr:`name`'s own.
    """

    config: Path
    warm_start: str | None = None
    cfg_options: tuple[str, ...] = ()
    task: str | None = None
    network: str | None = None
    schedule: str | None = None
    title: str | None = None

    @classmethod
    def parse(cls, text: str, cfg_options: Sequence[str] = (), **axes: str | None) -> Entry:
        """Read ``CONFIG`` or ``CONFIG:CHECKPOINT``."""
        config, _, warm_start = text.partition(':')
        return cls(Path(config), warm_start or None, tuple(cfg_options), **axes)

    @property
    def axes(self) -> dict[str, str]:
        """Those of task, network and schedule that are given."""
        given = dict(task=self.task, network=self.network, schedule=self.schedule)
        return {axis: value for axis, value in given.items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        """How the command line of ``train.py`` begins."""
        return [str(self.config), *(text for axis, value in self.axes.items() for text in (f'--{axis}', value))]

    @property
    def name(self) -> str:
        """Folder and name of the configuration and its axes, such as ``st_dasegnet_demo``."""
        path = self.config.absolute()
        return self.title or '_'.join([path.parent.name, path.stem, *(Path(own).stem for own in self.axes.values())])


@dataclass
class Run:
    """One configuration with one seed.

    Args:
        entry: The configuration.
        seed: The seed.
        out: Folder of all runs.
        config: The entry's configuration, with its options.
    """

    entry: Entry
    seed: int
    out: Path
    config: Config

    def __str__(self) -> str:
        return f'{self.entry.name}, seed {self.seed}'

    @property
    def folder(self) -> Path:
        """The run's work dir."""
        return self.out / self.entry.name / f'seed_{self.seed}'

    @property
    def iterations(self) -> int:
        """How many there are in all."""
        return int(self.config.train_cfg.max_iters)

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, once there is one."""
        return self.folder / f'iter_{self.iterations}.pth'

    @property
    def warm_start(self) -> Path | None:
        """The checkpoint to start from, which may not be there yet."""
        if self.entry.warm_start is None:
            return None
        name, _, file = self.entry.warm_start.partition('/')
        of_seed = self.out / name / self.folder.name / file
        given = Path(self.entry.warm_start)
        return given if given.is_file() and not of_seed.parent.is_dir() else of_seed

    def settings(self) -> dict[str, Any]:
        """What decides the result: configuration, seed and the weights to start from."""
        config = self.config.to_dict()
        if self.warm_start is not None:
            config['load_from'] = pooch.file_hash(str(self.warm_start)) if self.warm_start.is_file() else None
        return dict(seed=self.seed, config=config)

    def changes(self) -> list[str]:
        """In what the run that the folder holds differs from this one; empty if in nothing, or if there is none.

        Raises:
            OutputError: The folder holds a run of unknown settings.
        """
        if not self._record:
            if own_checkpoints(self.folder):
                raise OutputError(
                    f'{self.folder} holds a run without {RECORD}, so it was not made here and may have any settings. '
                    'Choose another folder with -o, or move that run away'
                )
            return []
        changes = [text.removeprefix('config.') for text in self._record.differences(self.settings())]
        ignored = [_KEPT]
        if self.warm_start is not None and not self.warm_start.is_file():
            ignored.append('load_from ')  # a finished run can do without
        return [text for text in changes if not text.startswith(tuple(ignored))]

    @property
    def _record(self) -> Record:
        return Record(self.folder / RECORD)

    def results(self) -> dict[str, float] | None:
        """What the finished run has logged last, see :func:`last_values`; None if it is not finished."""
        return last_values(self.folder, self.iterations)

    @property
    def finished(self) -> bool:
        """Whether it has its last validation; or its last checkpoint, if there is no validation."""
        if self.config.get('val_dataloader') is None:
            return self.checkpoint.is_file()
        return self.results() is not None

    def step(self) -> int:
        """The last logged iteration of the latest attempt."""
        files = sorted(self.folder.glob('*/vis_data/scalars.json'))
        lines = files[-1].read_text(encoding='utf-8').splitlines() if files else []
        for line in reversed(lines):
            try:
                return int(json.loads(line)['step'])
            except (json.JSONDecodeError, KeyError):  # just being written
                continue
        return 0

    def state(self) -> str:
        """``finished``, ``changed``, ``interrupted at N`` or ``to do``."""
        if self.changes():
            return 'changed'
        if self.finished:
            return 'finished'
        checkpoint = newest_checkpoint(self.folder)
        return f'interrupted at {number_of(checkpoint)}' if checkpoint else 'to do'

    def arguments(self) -> list[str]:
        """The command line of ``train.py`` that begins the run or goes on with it."""
        options = [*self.entry.cfg_options, f'randomness.seed={self.seed}']
        if self.warm_start is not None:
            options.append(f'load_from={self.warm_start}')
        checkpoint = newest_checkpoint(self.folder)
        # Logs without a usable checkpoint are worth nothing.
        how = ['--resume', str(checkpoint)] if checkpoint else ['--overwrite']
        return [*self.entry.arguments, '--work-dir', str(self.folder), *how, '--cfg-options', *options]

    def train(self, poll: Callable[[], None]) -> None:
        """Train, in a process of its own.

        Args:
            poll: Called each second meanwhile.

        Raises:
            UserError: It failed; the message has the end of what it printed.
        """
        if self.warm_start is not None and not self.warm_start.is_file():
            raise ConfigError(f'{self.warm_start}, the checkpoint to start from, does not exist')
        arguments = self.arguments()
        self._record.write(self.settings())
        log = self.folder / LOG
        status = run_tool('train.py', arguments, log, lambda _: poll())
        if status != 0:
            raise UserError(f'training ended with status {status}. The end of {log}:\n{tail(log)}')
        if not self.finished:
            raise UserError(
                f'training ended without a checkpoint or validation at iteration {self.iterations}; see {log}'
            )


def seconds_of_step(folder: Path, of: Callable[[Sequence[float]], Any] = np.median) -> float | None:
    """Median time of an iteration that a run has logged; None where it has logged nothing.

    Args:
        folder: The run's.
        of: What becomes of the logged times instead.
    """
    lines = [line for file in folder.glob('*/vis_data/scalars.json') for line in file.read_text('utf-8').splitlines()]
    times = [record['time'] for record in map(json.loads, lines) if 'loss' in record]
    return float(of(times)) if times else None


def probe(run: Run, iterations: int = 12) -> tuple[float, int | None]:
    """What a run takes, by a few of its iterations in a folder of their own.

    Returns:
        Seconds of an iteration, and bytes at the peak: of the GPU, or those that the training process has in memory,
        where the system says.

    Raises:
        UserError: They fail.
    """
    most: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / LOG
        options = [f'train_cfg.max_iters={iterations}', 'default_hooks.logger.interval=1', 'load_from=None', UNWATCHED]
        arguments = [*run.entry.arguments, '--work-dir', folder, '--overwrite', '--cfg-options']
        arguments += [*run.entry.cfg_options, *options]
        if run_tool('train.py', arguments, log, lambda pid: most.append(resident('VmHWM', pid) or 0), 0.2) != 0:
            raise UserError(f'a trial of {run} failed. The end of its output:\n{tail(log)}')
        curves = read_scalars(Path(folder))
        if 'memory' in curves:  # MMEngine's, in megabytes, where there is a GPU
            most = [int(2**20 * curves['memory'][1].max())]
        return seconds_of_step(Path(folder)) or math.nan, max(most, default=0) or None


class SeriesProgress:
    """How far a series of runs has come: a live line on a terminal, a line each minute elsewhere."""

    def __init__(self, runs: Sequence[Run], console: Console) -> None:
        self.runs, self.console = runs, console
        self.bar = progress_bar(
            console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=3600
        )
        self.bar.add_task('', total=sum(run.iterations for run in runs))
        (self.task,) = self.bar.tasks

    def begin(self, run: Run, first: int) -> None:
        """A run begins, after `first` iterations that it has done already."""
        self.run, self.first, self.done, self.printed = run, first, self.task.completed, time.monotonic()
        self.bar.update(self.task.id, total=(self.task.total or 0) - first)

    def update(self) -> None:
        """Look how far the run has come."""
        step = max(self.run.step(), self.first)
        where = f'{_where(self.run, self.runs)}, iteration {step} of {self.run.iterations}'
        self.bar.update(self.task.id, description=where, completed=self.done + step - self.first)
        if not self.console.is_terminal and time.monotonic() - self.printed >= 60:
            self.printed = time.monotonic()
            left = self.task.time_remaining
            text = 'not known yet' if left is None else duration(left)
            self.console.print(f'  {where}, time left: {text}', highlight=False)


def _where(run: Run, runs: Sequence[Run]) -> str:
    return f'run {runs.index(run) + 1} of {len(runs)}: {run}'


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{rest:02d}'


def plan_runs(entries: Sequence[Entry], seeds: Sequence[int], out: Path) -> list[Run]:
    """The runs in their order: for each seed all entries, so that a first comparison is there early.

    Raises:
        ConfigError: A configuration cannot be read or is none for this, two have one name, or a warm start is neither a
            file nor of an earlier entry.
    """
    install()
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ConfigError(f'seeds {", ".join(map(str, seeds)) or "(none)"}: different ones are needed')
    configs: dict[str, Config] = {}
    for entry in entries:
        if entry.name in configs:
            raise ConfigError(f'{entry.config}: there is another configuration of the name {entry.name}')
        config = load_config(entry.config, parse_options(entry.cfg_options), **entry.axes)
        if not (config.get('train_cfg') or {}).get('max_iters'):
            raise ConfigError(f'config {entry.config} has no train_cfg.max_iters; it must count iterations')
        if config.get('val_dataloader') is None:
            raise ConfigError(f'config {entry.config} has no val_dataloader: without validation there is no score')
        if entry.warm_start is not None:
            name = entry.warm_start.split('/')[0]
            trained = all((out / name / f'seed_{k}' / entry.warm_start.partition('/')[2]).is_file() for k in seeds)
            if name not in configs and not trained and not Path(entry.warm_start).is_file():
                raise ConfigError(
                    f'{entry.config}:{entry.warm_start} is no checkpoint file, and {name} none of the configurations '
                    f'before it ({", ".join(configs) or "there are none"})'
                )
        configs[entry.name] = config
    return [Run(entry, seed, out, configs[entry.name]) for seed in seeds for entry in entries]


def compare(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    out: str | Path,
    dry_run: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Comparison:
    """Train each configuration with each seed and gather the scores of the last iteration.

    Runs that are finished are left as they are, interrupted ones go on from their last checkpoint. A run that fails
    does not keep the others from being trained.

    Args:
        entries: The configurations.
        seeds: The seeds.
        out: Folder that gets ``NAME/seed_K`` for each run.
        dry_run: Only say what would be done.
        overwrite: Train runs anew whose settings have changed since.
        console: Where to report progress; by default stderr.

    Returns:
        The scores, of the finished runs only.

    Raises:
        ConfigError: See :func:`plan_runs`.
        OutputError: `out` holds runs of other settings, and `overwrite` is off.
    """
    console = console or Console(stderr=True)
    out = Path(out)
    runs = plan_runs(entries, seeds, out)
    states = {id(run): run.state() for run in runs}
    if dry_run:
        console.print(_plan_table(runs, states))
    elif not overwrite:
        for run in runs:
            _require_unchanged(run)
    comparison = Comparison(
        list(seeds), {e.name: {} for e in entries}, about={e.name: _about(e, runs) for e in entries}
    )
    if not dry_run:
        todo = [run for run in runs if states[id(run)] != 'finished']
        if finished := len(runs) - len(todo):
            console.print(f'{finished} of {len(runs)} runs are finished already', highlight=False)
        _train_all(todo, comparison, overwrite, console)
    for run in runs:
        results = run.results() if str(run) not in comparison.failed else None
        if results is not None and (changes := run.changes()):  # what it starts from has been trained anew
            if not dry_run:
                comparison.failed[str(run)] = f'made with other settings ({shown(changes)}): --overwrite trains it anew'
        elif results is not None:
            comparison.values[run.entry.name][run.seed] = results
    return comparison


def _train_all(runs: Sequence[Run], comparison: Comparison, overwrite: bool, console: Console) -> None:
    progress, ends = SeriesProgress(runs, console), 0
    with progress.bar:
        for run in runs:
            start, first = time.monotonic(), 0
            try:
                if run.changes() and overwrite:
                    shutil.rmtree(run.folder)
                _require_unchanged(run)
                checkpoint = newest_checkpoint(run.folder)
                first = (number_of(checkpoint) or 0) if checkpoint else 0
                after = f' after iteration {first}' if checkpoint else ''
                console.print(
                    f'{_where(run, runs)}, {run.iterations} iterations{after} ({run.folder / LOG})', highlight=False
                )
                progress.begin(run, first)
                run.train(progress.update)
            except KeyboardInterrupt:
                console.print('Interrupted; the same command goes on from the last checkpoint.', highlight=False)
                raise
            except (UserError, OSError) as error:
                comparison.failed[str(run)] = describe(error)
                console.print(f'[red]failed: {run}[/]: {escape(describe(error))}', highlight=False)
            else:
                results = run.results() or {}
                took = duration(time.monotonic() - start)
                console.print(f'  mIoU {results.get("mIoU", float("nan")):.1f} after {took}', highlight=False)
            ends += run.iterations - first
            progress.bar.update(progress.task.id, completed=ends)


def _require_unchanged(run: Run) -> None:
    if changes := run.changes():
        raise OutputError(
            f'{run.folder} holds a run of other settings ({shown(changes)}). '
            'Choose another folder with -o, or train it anew with --overwrite'
        )


def _plan_table(runs: Sequence[Run], states: dict[int, str]) -> Table:
    table = Table(title=f'{len(runs)} runs', title_justify='left')
    for heading in ('run', 'seed', 'iterations', 'starts from', 'state'):
        table.add_column(heading, justify='right' if heading in ('seed', 'iterations') else 'left', overflow='fold')
    for run in runs:
        start = str(run.entry.warm_start or run.config.get('load_from') or '-')
        cells = (run.entry.name, str(run.seed), str(run.iterations), start, states[id(run)])
        table.add_row(*map(escape, cells))
    return table


def _about(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    iterations = next(run.iterations for run in runs if run.entry == entry)
    return dict(
        config=str(entry.config),
        warm_start=entry.warm_start,
        cfg_options=list(entry.cfg_options),
        **entry.axes,
        iterations=iterations,
    )


def mean_curves(runs: Sequence[str | Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves of several runs, averaged where all of them have a value."""
    curves = [read_scalars(run) for run in runs]
    means = {}
    for key in curves[0]:
        if all(key in other for other in curves):
            values = [dict(zip(steps.tolist(), logged.tolist())) for steps, logged in (c[key] for c in curves)]
            common = sorted(set.intersection(*map(set, values)))
            if common:
                means[key] = (np.array(common), np.array([[v[step] for step in common] for v in values]).mean(0))
    return means


def plot_comparison(comparison: Comparison, out: str | Path, figure: str | Path) -> list[str]:
    """Draw the mean curves over the seeds, one line for each configuration; returns what was drawn.

    Args:
        comparison: What :func:`compare` returned.
        out: Its folder.
        figure: Picture; an earlier one is replaced.

    Raises:
        ConfigError: No run is finished.
    """
    curves = {
        comparison.titles.get(name, name): mean_curves([Path(out) / name / f'seed_{seed}' for seed in runs])
        for name, runs in comparison.values.items()
        if runs
    }
    if not curves:
        raise ConfigError('no run is finished, so there are no curves')
    number = len(comparison.seeds)
    title = f'mean over {number} seeds' if number > 1 else ''
    return plot_curves(curves, figure, title=title, overwrite=True)
