"""Curves of training runs, from the scalars that MMEngine's `LocalVisBackend` writes."""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrs.models.adaptors.base import SHARES
from mmrs.utils.errors import ConfigError, DataError, require_folder
from mmrs.utils.files import atomic_path

__all__ = [
    'LINE_COLOURS',
    'Curves',
    'chosen_keys',
    'plot_curves',
    'read_scalars',
    'scalar_files',
    'smoothed',
    'training_records',
]

#: Values by name: steps and values, each in the order of the steps.
Curves = Mapping[str, 'tuple[np.ndarray, np.ndarray]']

#: What is shown unless asked otherwise: the total loss, the scores, and whether adaptation is active.
DEFAULT_KEYS = ('loss', 'regression/loss', 'mIoU', 'aAcc', *(f'{beginning}*' for beginning in SHARES))

_NOT_SHOWN = {'iter', 'step', 'epoch', 'time', 'data_time', 'memory'}

#: Okabe and Ito's colours of lines, which colour-blind readers can tell apart.
LINE_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#8C6D31')


def scalar_files(run: Path) -> list[Path]:
    """The ``scalars.json`` of a run, one for each time that it was begun or resumed, the oldest first.

    Raises:
        DataError: There is none.
    """
    if run.is_file():
        return [run]
    require_folder(run, 'a work dir or its scalars.json')
    files = sorted(run.glob('*/vis_data/scalars.json')) or sorted(run.glob('**/scalars.json'))
    if not files:
        raise DataError(f'{run} holds no scalars.json (below TIME/vis_data): has training logged anything yet?')
    return files


def _records(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):  # a run that is being written, or was killed
                break
            record = None
        if not isinstance(record, dict):
            raise DataError(f"{file}, line {number} is no JSON object: is it one of MMEngine's scalars.json?")
        records.append(record)
    return records


def read_scalars(run: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the scalars of a run.

    Args:
        run: A ``scalars.json``, or a work dir. A resumed run has several; from where a later one starts, it replaces
            the earlier ones.

    Raises:
        DataError: There is no such file, or it is no such file.
    """
    series: dict[str, dict[int, float]] = {}
    for file in scalar_files(Path(run)):
        records = _records(file)
        steps = [int(r['step']) for r in records if 'step' in r]
        for values in series.values():
            for step in [s for s in values if steps and s >= min(steps)]:
                del values[step]
        for record in records:
            for key, value in record.items():
                if key not in _NOT_SHOWN and isinstance(value, (int, float)) and 'step' in record:
                    series.setdefault(key, {})[int(record['step'])] = float(value)
    curves = {}
    for key, values in series.items():
        if values:
            steps = sorted(values)
            curves[key] = (np.array(steps), np.array([values[s] for s in steps]))
    return curves


def training_records(run: str | Path) -> list[dict[str, Any]]:
    """What the training of a run has logged, time and memory too, without its validations.

    Raises:
        DataError: As :func:`read_scalars`.
    """
    return [record for file in scalar_files(Path(run)) for record in _records(file) if 'iter' in record]


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean over `window` values (the next odd number), fewer at the ends; NaN is left out."""
    half = window // 2
    finite = np.isfinite(values)
    kernel = np.ones(2 * half + 1)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[half : half + len(values)]
    count = np.convolve(finite.astype(float), kernel)[half : half + len(values)].round()
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def chosen_keys(runs: Mapping[str, Curves], keys: Sequence[str] | None = None) -> list[str]:
    """The keys to draw, by names or patterns; by default the total loss, the scores, and whether adaptation is active.

    Raises:
        ConfigError: No run has such a key.
    """
    known = list(dict.fromkeys(key for curves in runs.values() for key in curves))
    chosen: dict[str, None] = {}
    for pattern in keys or DEFAULT_KEYS:
        found = fnmatch.filter(known, pattern)
        if keys and not found:
            near = difflib.get_close_matches(pattern, known, n=3) or known
            raise ConfigError(f'no run has {pattern!r}; there is {", ".join(near)}')
        chosen.update(dict.fromkeys(found))
    return list(chosen) or known


def plot_curves(
    runs: Mapping[str, Curves],
    path: str | Path,
    keys: Sequence[str] | None = None,
    window: int | None = None,
    title: str = '',
    overwrite: bool = False,
) -> list[str]:
    """Draw one panel for each key, with all runs in it.

    Values logged during training are smoothed, the raw ones pale behind; scores of validations are joined dots.

    Args:
        runs: Curves by the name of the run.
        path: Picture to write; the suffix says in which format.
        keys: Names or patterns (``decode.*``) of what to draw; else the total loss, the scores, and whether adaptation
            is active.
        window: Number of logged values to smooth over; 1 for none, by default a twentieth of them.
        title: Title.
        overwrite: Replace the picture where it exists.

    Returns:
        The keys drawn.

    Raises:
        ConfigError: No run has such a key.
        OutputError: The picture exists.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    chosen = chosen_keys(runs, keys)
    columns = min(len(chosen), 3 if len(chosen) > 4 else 2)
    rows = math.ceil(len(chosen) / columns)
    figure = Figure((5.2 * columns, 3.4 * rows + 0.5), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    # Validations are rarer than log lines of the training.
    longest = {name: max(len(steps) for steps, _ in curves.values()) for name, curves in runs.items() if curves}
    for axis, key in zip(axes.flat, chosen):
        for i, (name, curves) in enumerate(runs.items()):
            if key not in curves:
                continue
            steps, values = curves[key]
            colour = LINE_COLOURS[i % len(LINE_COLOURS)]
            dots = len(steps) < 0.5 * longest[name] or len(steps) < 3
            width = max(3, len(steps) // 20) if window is None else window
            if dots or width <= 1:
                axis.plot(steps, values, '-o' if dots else '-', color=colour, markersize=3.5, linewidth=1.4, label=name)
            else:
                axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axis.plot(steps, smoothed(values, width), color=colour, linewidth=1.6, label=name)
        axis.set_title(key, fontsize=10, loc='left')
        axis.set_xlabel('iteration')
        axis.xaxis.set_major_formatter(lambda x, _: f'{x / 1000:g}k' if abs(x) >= 1000 else f'{x:g}')
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    for axis in axes.flat[len(chosen) :]:
        axis.remove()
    handles = [figure.axes[0].plot([], [], color=LINE_COLOURS[i % len(LINE_COLOURS)])[0] for i in range(len(runs))]
    figure.legend(handles, list(runs), loc='outside lower center', ncols=min(len(runs), 4), frameon=False)
    if title:
        figure.suptitle(title)
    with atomic_path(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=120)
    return chosen
