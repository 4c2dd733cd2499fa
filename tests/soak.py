"""Shows that runs can be trusted: they are killed, given bad files and bad numbers, and have to come through.

Tiny runs of every method, as processes of their own, on a CPU. A trial is lost if what it demands does not hold:

    kill        a run killed with SIGKILL at random moments and resumed ends with bitwise the same weights, teachers,
                optimizers, schedules and logged losses as one that nobody stopped, with 0 and with 2 loader workers
    processes   two processes hold equal parameters after each step; when one is killed, the other ends within a minute,
                and the resumed run ends like one that nobody stopped
    files       unreadable images and labels are replaced up to the allowed share, damaged checkpoints passed over
    numbers     steps on NaN are skipped and counted, and too many of them end the run
    memory      500 steps, and a prediction of many windows, need no more memory at their end than at their beginning

Usage:
    python tests/soak.py                            all of it, in up to 15 minutes on 2 cores; Linux only
    python tests/soak.py --only kill --minutes 60   kill as many runs as an hour has time for
    python tests/soak.py --only files --keep work   keep the runs and what they said in the folder work

What time is left after one trial of each is used for further ones of `kill`, at other moments. Exit status 1 if a trial
is lost, or if there was no time for one of each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasterio
import torch
from mmengine.hooks import Hook
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mmrs.registry import HOOKS
from mmrs.weights import read_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where a script finds `tests`

from tests.rank_recorder import digest
from tests.tiny_runs import (
    REPOSITORY,
    write_adaptation_config,
    write_clips,
    write_config,
    write_regression_config,
)

ITERATIONS = 30
#: Seconds within which a run has to end when one of its processes is killed.
END_WITHIN = 60
#: Seconds after which a process of these tiny runs counts as hanging.
HANGS_AFTER = 300


class LostError(Exception):
    """What a trial demands does not hold."""


def demand(condition: object, message: str) -> None:
    """Raise :class:`LostError` unless the condition holds."""
    if not condition:
        raise LostError(message)


def resident() -> float:
    """Memory of this process in MiB."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


@HOOKS.register_module()
class Witness(Hook):
    """Writes a line after each iteration: process, its memory, and with several processes a digest of the weights.

    Args:
        file: What it writes to.
        poison: At these iterations an image of the batch becomes NaN.
    """

    priority = 'LOWEST'

    def __init__(self, file: str, poison: Sequence[int] = ()) -> None:
        self.file, self.poison = file, set(poison)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter in self.poison:
            images = data_batch.get('target', data_batch)['inputs']
            images[0] = images[0] * float('nan')

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        line = dict(iter=runner.iter + 1, rank=runner.rank, pid=os.getpid(), memory=resident())
        if runner.world_size > 1:
            line['digest'] = digest(list(runner.model.module.parameters()))
        with open(self.file, 'a') as file:
            file.write(json.dumps(line) + '\n')


# Configurations -----------------------------------------------------------------------------------------------------

COMMON = """
_base_ = './{base}'
custom_imports = dict(imports=['mmrs.registry', 'tests.soak'], allow_failed_imports=False)
randomness = dict(seed=7, deterministic=True)
train_cfg = dict(max_iters={iterations}, val_interval=10)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end={iterations}, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=3))
image = dict(type='LoadRasterImage')
look = dict(type='PhotoMetricDistortion')
labelled = [image, dict(type='LoadRasterAnnotations'), dict(type='RandomFlip', prob=0.5), look,
            dict(type='PackSegInputs')]
witness = dict(type='Witness', file='{witness}')
"""
PLAIN = """
train_dataloader = dict(
    sampler=dict(type='RareClassSampler', _delete_=True),
    dataset=dict(pipeline=labelled, rare_class_sampling=dict(temperature=0.5, min_pixels=10)))
custom_hooks = [witness]
"""
ADAPTED = """
train_dataloader = dict(dataset=dict(
    source=dict(pipeline=labelled),
    target=dict(data_root='{target}', data_prefix=dict(img_path='img_dir/train'),
                pipeline=[image, look, dict(type='PackSegInputs')])))
model = dict(self_training=dict(teacher='{teacher}', threshold=0.2))
custom_hooks = [dict(type='TeacherEMAHook', decay=0.9), witness]
"""
# Gradients of two batches make a step, so that a checkpoint can lie between.
ACCUMULATED = """
optim_wrapper = dict(segmentor=dict(accumulative_counts=2), discriminator=dict(accumulative_counts=2))
"""
REGRESSED = """
train_dataloader = dict(dataset=dict(target=dict(pipeline=[image, look])))
model = dict(train_decode_head=True)
custom_hooks = [witness]
"""


def write_plain(folder: Path, data: Path) -> tuple[Path, str]:
    return write_config(folder / 'tiny.py', data), PLAIN


def write_adapted(teacher: str, folder: Path, data: Path) -> tuple[Path, str]:
    target = write_clips(data / 'target', train=6, val=0, seed=1)
    text = ADAPTED.replace('{teacher}', teacher).replace('{target}', str(target))
    return write_adaptation_config(folder / 'tiny.py', data), text + (ACCUMULATED if teacher == 'single_target' else '')


def write_regressed(folder: Path, data: Path) -> tuple[Path, str]:
    return write_regression_config(folder / 'tiny.py', data, data), REGRESSED


METHODS: dict[str, Callable[[Path, Path], tuple[Path, str]]] = {
    'source only': write_plain,
    'ST-DASegNet, decoder_only': partial(write_adapted, 'decoder_only'),
    'ST-DASegNet, single_target': partial(write_adapted, 'single_target'),
    'feature regression': write_regressed,
}


@dataclass
class Run:
    """A tiny training in a folder of its own."""

    folder: Path
    method: str
    iterations: int = ITERATIONS
    extra: str = ''
    data: Path = field(init=False)
    config: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.data = write_clips(self.folder / 'data', train=8, val=3)
        base, text = METHODS[self.method](self.folder, self.data)
        self.config = self.folder / 'run.py'
        common = COMMON.format(base=base.name, iterations=self.iterations, witness=self.folder / 'witness.jsonl')
        self.config.write_text(common + text + self.extra)
        self._logs = itertools.count()

    @property
    def work_dir(self) -> Path:
        return self.folder / 'work'

    def start(self, *arguments: str, processes: int = 1) -> Started:
        """Start or continue it."""
        script = [sys.executable, str(REPOSITORY / 'tools' / 'train.py'), str(self.config)]
        if processes > 1:
            script = ['bash', str(REPOSITORY / 'tools' / 'dist_train.sh'), str(self.config), str(processes)]
        command = [*script, '--work-dir', str(self.work_dir), '--resume', *arguments]
        return Started(command, self.folder / f'output{next(self._logs)}.txt')

    def finish(self, *arguments: str, processes: int = 1) -> str:
        """Continue it to its end; what it said."""
        started = self.start(*arguments, processes=processes)
        status = started.wait(HANGS_AFTER)
        demand(status == 0, f'ended with {status}: {started.last_line}')
        return started.said

    def witnessed(self) -> list[dict]:
        """The lines of the :class:`Witness`."""
        file = self.folder / 'witness.jsonl'
        lines = file.read_text().split('\n')[:-1] if file.is_file() else []
        return [json.loads(line) for line in lines]

    def result(self) -> dict[str, Any]:
        """What a run ends with, by name: what must not depend on whether it was interrupted."""
        checkpoint = read_checkpoint(self.work_dir / f'iter_{self.iterations}.pth')
        scalars = {
            name: np.asarray(buffer.data[0]) if hasattr(buffer, 'data') else buffer
            for name, buffer in checkpoint['message_hub']['log_scalars'].items()
            if not re.search('time|memory', name)
        }
        kept = {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers')}
        return dict(flat({**kept, 'scalars': scalars, 'state': checkpoint['meta'].get('state')}))


def flat(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists, by dotted name."""
    if isinstance(value, dict):
        value = list(value.items())
    elif isinstance(value, (list, tuple)):
        value = list(enumerate(value))
    else:
        yield name, value
        return
    for key, inner in value:
        yield from flat(inner, f'{name}.{key}' if name else str(key))


def demand_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise :class:`LostError` unless all leaves are equal, bit for bit."""
    demand(any('loss' in name for name in expected), 'no loss was logged that could be compared')
    names = sorted(set(found) ^ set(expected))
    demand(not names, f'{len(names)} values are there in one of the runs only, the first is {names[:1]}')
    names = [name for name in expected if not _same(found[name], expected[name])]
    demand(not names, f'{len(names)} of {len(expected)} values differ from those of the uninterrupted run: {names[:3]}')


def _same(first: Any, second: Any) -> bool:
    if isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(second, np.ndarray):
        return first.shape == second.shape and np.array_equal(first, second, equal_nan=True)
    return type(first) is type(second) and first == second


class Started:
    """A process and those that it starts, as one session."""

    #: Those that may still run.
    all: ClassVar[list[Started]] = []

    def __init__(self, command: Sequence[str], output: Path) -> None:
        environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHON=sys.executable, CUDA_VISIBLE_DEVICES='')
        environment.update(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE', MMRS_CACHE=str(output.parent / 'cache'))
        self.output = output
        with output.open('wb') as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=output.parent,
                start_new_session=True,
            )  # fmt: skip
        self.begun = time.monotonic()
        Started.all.append(self)

    @property
    def said(self) -> str:
        return self.output.read_text(errors='replace')

    @property
    def last_line(self) -> str:
        return (self.said.strip().splitlines() or ['(nothing was said)'])[-1]

    def wait(self, seconds: float) -> int:
        """Exit status.

        Raises:
            LostError: It did not end in time; it is killed then.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill(whole=True)
            raise LostError(f'did not end within {seconds:.0f} s; it last said: {self.last_line}') from None

    def kill(self, whole: bool) -> None:
        """SIGKILL to the process, or to those that it started, too."""
        (os.killpg if whole else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def left_over(self) -> list[int]:
        """Processes of the session that are still there."""
        found = []
        for path in Path('/proc').glob('[0-9]*/stat'):
            try:
                state, _, _, session = path.read_text().rsplit(')', 1)[1].split()[:4]
            except OSError:  # it ended meanwhile
                continue
            if int(session) == self.process.pid and state != 'Z':
                found.append(int(path.parent.name))
        return found

    def demand_nothing_left(self, within: float) -> None:
        """Raise :class:`LostError` if processes stay behind."""
        until = time.monotonic() + within
        while self.left_over():
            if time.monotonic() > until:
                raise LostError(f'{len(self.left_over())} processes were left {within:.0f} s after the run had ended')
            time.sleep(0.2)


# Trials -------------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One trial; `what` says it in the table, where those that share it are one row."""

    section: str
    what: str
    try_out: Callable[[Path, random.Random], None]
    seconds: float
    """How long it takes, about."""


class Uninterrupted:
    """Results of the runs that nobody stops, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}
        self.locks = {(method, processes): threading.Lock() for method in METHODS for processes in (1, 2)}

    def __call__(self, method: str, processes: int = 1) -> tuple[dict[str, Any], float]:
        """What it ended with, and the seconds that it took."""
        key = method, processes
        with self.locks[key]:
            if key not in self.results:
                run = Run(self.folder / f'{slug(method)}_{processes}', method)
                begun = time.monotonic()
                run.finish(processes=processes)
                if processes > 1:
                    demand_equal_ranks(run)
                self.results[key] = run.result(), time.monotonic() - begun
        return self.results[key]


def slug(text: str) -> str:
    return re.sub(r'\W+', '_', text)


def kill_and_resume(uninterrupted: Uninterrupted, method: str, workers: int, folder: Path, rng: random.Random) -> None:
    """Kill a run two times, at any moment from the import of its first module on."""
    expected, seconds = uninterrupted(method)
    run = Run(folder, method, extra=f'train_dataloader.update(dict(num_workers={workers}))\n')
    for _ in range(2):
        started = run.start()
        try:
            # Half of a run is its start.
            status = started.process.wait(rng.uniform(0.3, 1.0) * seconds)
            demand(status == 0, f'ended with {status}: {started.last_line}')
        except subprocess.TimeoutExpired:
            # As a user does, or the kernel, which leaves the loader's workers to themselves.
            started.kill(whole=rng.random() < 0.5)
        started.demand_nothing_left(30)
    run.finish()
    demand_equal(run.result(), expected)


def demand_equal_ranks(run: Run) -> None:
    """Raise :class:`LostError` unless two processes had the same parameters after each step."""
    seen: dict[int, set[str]] = {}
    for line in run.witnessed():
        seen.setdefault(line['iter'], set()).add(line['digest'])
    demand(len(seen) == run.iterations, f'{len(seen)} of {run.iterations} iterations were seen')
    apart = [i for i, digests in seen.items() if len(digests) > 1]
    demand(not apart, f'parameters differ between the processes after iterations {apart[:5]}')


def lose_a_process(uninterrupted: Uninterrupted, method: str, folder: Path, rng: random.Random) -> None:
    """Kill one of two processes, and resume."""
    expected, _ = uninterrupted(method, 2)
    # A checkpoint holds no gradients of several processes, so that it must not lie between two that make a step.
    run = Run(folder, method, extra="default_hooks['checkpoint'].update(dict(interval=4))\n")
    started = run.start(processes=2)
    rank, iteration = rng.randrange(2), rng.randrange(1, ITERATIONS - 5)
    while not (lines := [x for x in run.witnessed() if x['rank'] == rank and x['iter'] >= iteration]):
        demand(started.process.poll() is None, f'ended with {started.process.poll()}: {started.last_line}')
        demand(time.monotonic() - started.begun < HANGS_AFTER, f'hangs before iteration {iteration}')
        time.sleep(0.02)
    os.kill(lines[-1]['pid'], signal.SIGKILL)
    status = started.wait(END_WITHIN)
    demand(status != 0, f'the run ended with status 0 though process {rank} was killed')
    demand('Traceback' not in started.said, f'not one readable message but a traceback: {started.output}')
    started.demand_nothing_left(END_WITHIN)
    run.finish(processes=2)
    demand_equal_ranks(run)
    demand_equal(run.result(), expected)


def garbage(path: Path, rng: random.Random) -> None:
    """Overwrite a file: by its first half, or by noise."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if rng.random() < 0.5 else rng.randbytes(len(content)))


def unreadable(what: str, allowed: bool, folder: Path, rng: random.Random) -> None:
    """One of the files in a folder of the training data cannot be read."""
    share = 'train_cfg.update(dict(max_unreadable=0.9))\n' if allowed else ''
    run = Run(folder, 'ST-DASegNet, decoder_only', iterations=12, extra=share)
    path = rng.choice(sorted((run.data / what).iterdir()))
    garbage(path, rng)
    if allowed:
        said = run.finish()
        warnings = [line for line in said.splitlines() if 'WARNING' in line and str(path) in line]
        demand(len(warnings) == 1, f'{len(warnings)} warnings name {path.name} instead of one')
        return
    demand_refused(run.start(), str(path))


def demand_refused(started: Started, *parts: str) -> None:
    """Raise :class:`LostError` unless the run stops with an error message that says certain things."""
    status = started.wait(HANGS_AFTER)
    demand(status != 0, 'the run should have stopped with an error, but went to its end')
    error = started.said[started.said.rfind('error: ') :]
    demand('Traceback' not in started.said and 'error: ' in started.said, f'no readable error: {started.last_line}')
    missing = [part for part in parts if part not in error]
    demand(not missing, f'the error does not say {missing}: {error.strip()[:300]}')


def damaged_checkpoint(uninterrupted: Uninterrupted, how: str, folder: Path, rng: random.Random) -> None:
    """The newest checkpoint of an interrupted run is no more what it was."""
    expected, _ = uninterrupted('ST-DASegNet, decoder_only')
    run = Run(folder, 'ST-DASegNet, decoder_only')
    run.finish('--cfg-options', 'train_cfg.max_iters=12')
    newest = run.work_dir / 'iter_12.pth'
    content = bytearray(newest.read_bytes())
    if how == 'truncated':
        newest.write_bytes(content[: rng.randrange(len(content))])
    elif how == 'a byte changed':
        with zipfile.ZipFile(newest) as archive:
            # Padding between the tensors may change.
            part = rng.choice([entry for entry in archive.infolist() if entry.file_size > 0])
            start = part.header_offset + 30 + int.from_bytes(content[part.header_offset + 28 :][:2], 'little')
        content[start + len(part.filename) + rng.randrange(part.file_size)] ^= 1 << rng.randrange(8)
        newest.write_bytes(content)
    elif how == 'last_checkpoint empty':
        (run.work_dir / 'last_checkpoint').write_text('')
    elif how == 'last_checkpoint missing':
        (run.work_dir / 'last_checkpoint').unlink()
    said = run.finish()
    resumed = re.search(r'resumed .*?(?:iter_|iter: )(\d+)', said)
    at = 12 if how.startswith('last') else 9
    demand(resumed, 'the run does not say where it goes on')
    demand(resumed and int(resumed[1]) == at, f'went on from {resumed and resumed[1]} instead of {at}')
    if at == 9:
        warned = any('WARNING' in line and newest.name in line for line in said.splitlines())
        demand(warned, f'no warning names {newest.name}')
    demand_equal(run.result(), expected)


def all_damaged(folder: Path, rng: random.Random) -> None:
    """No checkpoint is whole."""
    run = Run(folder, 'source only', iterations=12)
    run.finish('--cfg-options', 'train_cfg.max_iters=6')
    for path in run.work_dir.glob('iter_*.pth'):
        garbage(path, rng)
    demand_refused(run.start(), str(run.work_dir))


def poisoned(method: str, folder: Path, rng: random.Random) -> None:
    """Three steps see NaN: all others are taken."""
    at = sorted(rng.sample(range(1, 20), 3))
    run = Run(folder, method, iterations=20, extra=f'witness.update(dict(poison={at}))\n')
    said = run.finish()
    result = run.result()
    weights = [v for name, v in result.items() if name.startswith('state_dict') and v.is_floating_point()]
    demand(all(value.isfinite().all() for value in weights), 'weights are not finite')
    counted = int(np.ravel(result['scalars.train/skipped_steps'])[-1])
    demand(counted == 3, f'{counted} skipped steps were counted instead of 3')
    reports = sum('WARNING' in line and str(run.data) in line for line in said.splitlines())
    demand(reports == 3, f'{reports} warnings name files instead of 3')


def poisoned_for_ever(folder: Path, rng: random.Random) -> None:
    """From some iteration on all is NaN: the run has to stop."""
    first = rng.randrange(20)
    run = Run(folder, 'ST-DASegNet, decoder_only', extra=f'witness.update(dict(poison=list(range({first}, 99))))\n')
    demand_refused(run.start(), str(run.data))


def demand_flat(early: Sequence[float], late: Sequence[float], what: str) -> None:
    """Raise :class:`LostError` if the later memory is more than 2 % above the earlier one."""
    before, after = statistics.median(early), statistics.median(late)
    demand(
        after <= 1.02 * before, f'{what}: {before:.0f} MiB grew to {after:.0f} MiB, {100 * (after / before - 1):.1f} %'
    )


def flat_training(folder: Path, rng: random.Random) -> None:
    """500 steps."""
    extra = "train_cfg.update(dict(val_interval=100))\ndefault_hooks['checkpoint'].update(dict(interval=50))\n"
    run = Run(folder, 'ST-DASegNet, decoder_only', iterations=500, extra=extra)
    run.finish()
    memory = [line['memory'] for line in run.witnessed()]
    demand(len(memory) == 500, f'{len(memory)} of 500 iterations were seen')
    demand_flat(memory[100:130], memory[470:], 'steps 100 to 500')


PREDICTION = """
import sys
from mmrs.apis import SegInferencer
from tests.soak import resident
config, checkpoint, raster, out, witness = sys.argv[1:]
inferencer = SegInferencer(config, checkpoint, device='cpu', window=64, overlap=0.5, batch_size=4)
with open(witness, 'w') as file:
    inferencer.predictor.model.backbone.register_forward_hook(lambda *_: print(resident(), file=file))
    inferencer.predict_rasters([raster], out)
"""


def flat_prediction(folder: Path, rng: random.Random) -> None:
    """A raster of 63 x 63 windows."""
    run = Run(folder, 'source only', iterations=1)
    run.finish()
    raster, witness = folder / 'large.tif', folder / 'prediction.txt'
    profile = dict(driver='GTiff', width=2048, height=2048, count=3, dtype='uint8', crs='EPSG:32633', tiled=True)
    with rasterio.open(raster, 'w', **profile, transform=rasterio.Affine(1, 0, 500000, 0, -1, 5000000)) as file:
        file.write(np.random.default_rng(0).integers(1, 255, (3, 2048, 2048), dtype=np.uint8))
    files = run.config, run.work_dir / 'iter_1.pth', raster, folder / 'map.tif', witness
    started = Started([sys.executable, '-c', PREDICTION, *map(str, files)], folder / 'predict.txt')
    demand(started.wait(HANGS_AFTER) == 0, f'ended with an error: {started.last_line}')
    memory = [float(line) for line in witness.read_text().split()]
    demand(len(memory) > 900, f'{len(memory)} batches of windows were predicted instead of 993')
    fifth = len(memory) // 5
    demand_flat(memory[fifth : 2 * fifth], memory[-fifth:], 'the last four fifths of the windows')


def trials(uninterrupted: Uninterrupted) -> list[Trial]:
    """One of each, in the order in which they are tried."""
    found = []
    for method in METHODS:
        for workers in (0, 2):
            what = f'{method}, {workers} workers: equals the uninterrupted run'
            found.append(Trial('kill', what, partial(kill_and_resume, uninterrupted, method, workers), 45))
    for method in METHODS:
        what = f'{method}: a process killed, equal afterwards'
        found.append(Trial('processes', what, partial(lose_a_process, uninterrupted, method), 60))
    kinds = {'image': 'img_dir/train', 'label': 'ann_dir/train', 'target image': 'target/img_dir/train'}
    for kind, allowed in itertools.product(kinds, (True, False)):
        what = f'unreadable {kind}, {"replaced" if allowed else "more than allowed, the run stops"}'
        found.append(Trial('files', what, partial(unreadable, kinds[kind], allowed), 15))
    for how in ('truncated', 'a byte changed', 'last_checkpoint empty', 'last_checkpoint missing'):
        what = f'newest checkpoint: {how}' if not how.startswith('last') else how
        found.append(Trial('files', what, partial(damaged_checkpoint, uninterrupted, how), 30))
    found.append(Trial('files', 'no checkpoint is whole, the run stops', all_damaged, 25))
    found += [Trial('numbers', f'{method}: NaN in 3 steps', partial(poisoned, method), 15) for method in METHODS]
    found.append(Trial('numbers', 'NaN for ever, the run stops', poisoned_for_ever, 15))
    found.append(Trial('memory', '500 steps of ST-DASegNet, within 2 %', flat_training, 60))
    found.append(Trial('memory', 'prediction of 3969 windows, within 2 %', flat_prediction, 60))
    return found


# The whole ----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A line of the table."""

    trial: Trial
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0


def soak(rows: Sequence[Row], folder: Path, seconds: float, seed: int, jobs: int) -> None:
    """Try each row's trial once, then those of `kill` again while there is time, and note it in the rows."""
    end = time.monotonic() + seconds
    first = iter(rows)
    again = itertools.cycle([row for row in rows if row.trial.section == 'kill'] or [None])
    number = itertools.count()
    expected = spent = 1.0  # how slow this machine is, against what the trials are said to take

    def next_row() -> Row | None:
        row = next(first, None) or next(again)
        fits = row is not None and time.monotonic() + max(1, spent / expected) * row.trial.seconds < end
        return row if fits else None

    def one(row: Row, n: int) -> tuple[Row, str | None, float]:
        begun, problem = time.monotonic(), None
        place = folder / f'{n:03d}_{slug(row.trial.what)}'
        try:
            row.trial.try_out(place, random.Random(f'{seed} {n}'))
        except Exception as error:  # a trial that breaks is lost, too
            problem = f'{place.name}: {error if isinstance(error, LostError) else repr(error)}'
        return row, problem, time.monotonic() - begun

    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task('soak', total=seconds)
        running: set[Future] = set()
        try:
            while True:
                while len(running) < jobs and (row := next_row()) is not None:
                    running.add(pool.submit(one, row, next(number)))
                if not running:
                    break
                done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    row, problem, took = future.result()
                    row.tried += 1
                    row.seconds += took
                    row.lost += [problem] if problem else []
                    expected, spent = expected + row.trial.seconds, spent + took
                    said = f'{"lost" if problem else "survived"}: {row.trial.what}, {took:.0f} s'
                    bar.console.print(escape(said), highlight=False)
                bar.update(task, completed=seconds - max(end - time.monotonic(), 0))
        finally:  # interrupted
            for started in Started.all:
                for process in started.left_over():
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)


def report(rows: Sequence[Row]) -> Table:
    """What was tried, survived, lost."""
    table = Table('', 'trial', 'tried', 'survived', 'lost', 's each')
    for row in rows:
        tried, lost = row.tried, len(row.lost)
        each = f'{row.seconds / tried:.0f}' if tried else '-'
        table.add_row(row.trial.section, escape(row.trial.what), str(tried), str(tried - lost), str(lost), each)
    totals = [sum(row.tried for row in rows), sum(len(row.lost) for row in rows)]
    table.add_section()
    table.add_row('', 'all', str(totals[0]), str(totals[0] - totals[1]), str(totals[1]), '')
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Soak; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=14, help='how long it may take (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the random moments and damages (default: %(default)s)')
    sections = ('kill', 'processes', 'files', 'numbers', 'memory')
    parser.add_argument('--only', action='append', choices=sections, help='this part alone; may be given several times')
    parser.add_argument('--jobs', type=int, default=2, help='trials at once (default: %(default)s)')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='leave the runs in this folder, which must be new')
    args = parser.parse_args(argv)
    if args.keep is not None and args.keep.exists():
        parser.error(f'--keep {args.keep}: it is there already')
    if args.keep is not None:
        args.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix='mmrs-soak-') as scratch:
        folder = args.keep.resolve() if args.keep else Path(scratch)
        rows = [Row(t) for t in trials(Uninterrupted(folder)) if args.only is None or t.section in args.only]
        soak(rows, folder, 60 * args.minutes, args.seed, args.jobs)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(report(rows))
    for message in itertools.chain.from_iterable(row.lost for row in rows):
        console.print(f'lost: {escape(message)}', highlight=False, soft_wrap=True)
    untried = [row.trial.what for row in rows if not row.tried]
    if untried:
        console.print(f'not enough time for {len(untried)} trials, the first is: {untried[0]}; raise --minutes')
    return int(bool(untried) or any(row.lost for row in rows))


if __name__ == '__main__':
    sys.exit(main())
