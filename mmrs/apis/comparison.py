"""Scores of several configurations over several seeds: means, spreads and tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmrs.models.adaptors.base import share_title
from mmrs.utils.errors import DataError
from mmrs.utils.files import write_json, write_text
from mmrs.visualization.curves import read_scalars

__all__ = ['Comparison', 'Spread', 'last_values', 'markdown_table', 'output_console']

NOTE = 'All in percent. Scores of the last iteration, not of the best one'


def output_console() -> Console:
    """Standard output; in a file or pipe it is wide enough for a table, where rich takes 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are aligned to the right."""
    lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


@dataclass(frozen=True)
class Spread:
    """One value over several seeds; seeds where it is NaN do not count.

    Args:
        values: One for each seed.
    """

    values: tuple[float, ...]

    @property
    def finite(self) -> list[float]:
        """The values that count."""
        return [value for value in self.values if math.isfinite(value)]

    @property
    def mean(self) -> float | None:
        """Mean; None without values."""
        return statistics.fmean(self.finite) if self.finite else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation, that is with n - 1; None for fewer than two values."""
        return statistics.stdev(self.finite) if len(self.finite) > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            return '-'
        if self.deviation is None:
            return f'{self.mean:.1f}'
        return f'{self.mean:.1f} ± {self.deviation:.1f} ({min(self.finite):.1f}–{max(self.finite):.1f})'

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = (min(self.finite), max(self.finite)) if self.finite else (None, None)
        return dict(mean=self.mean, std=self.deviation, min=low, max=high, values=list(self.values))


def last_values(run: str | Path, iteration: int) -> dict[str, float] | None:
    """What a finished run has logged last.

    Args:
        run: Work dir.
        iteration: Its last iteration.

    Returns:
        ``mIoU``, ``aAcc`` and ``IoU.<class>`` of the validation at `iteration`, and the last logged means of
        shares (``confident_share`` and the like), all in percent. None where there is no such validation.
    """
    try:
        curves = read_scalars(run)
    except DataError:  # nothing logged yet
        return None
    if 'mIoU' not in curves or curves['mIoU'][0][-1] != iteration:
        return None
    values = {}
    for key, (steps, logged) in curves.items():
        if (key in ('mIoU', 'aAcc') or key.startswith('IoU.')) and steps[-1] == iteration:
            values[key] = float(logged[-1])
        elif share_title(key):
            values[key] = 100 * float(logged[-1])
    return values


def _rank(key: str) -> int:
    """Classes first, then the means, then what says whether adaptation was active."""
    return [key.startswith('IoU.'), key == 'mIoU', key == 'aAcc', True].index(True)


def _title(key: str) -> str:
    if key == 'aAcc':
        return 'overall accuracy'
    return share_title(key) or key.replace('IoU.', 'IoU ').replace('_', ' ')


@dataclass
class Comparison:
    """Values by name, seed and key.

    Args:
        seeds: Seeds.
        values: Name of a configuration to seed to key to value, in percent. A run that failed is not there.
        about: What the names stand for, for the JSON file.
        failed: Runs that failed, with the reason.
        titles: Names for the tables, where others than in `values`.
    """

    seeds: Sequence[int]
    values: dict[str, dict[int, dict[str, float]]]
    about: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of the tables."""
        found = [key for runs in self.values.values() for values in runs.values() for key in values]
        return sorted(dict.fromkeys(found), key=_rank)

    def spread(self, name: str, key: str) -> Spread:
        """A value over the seeds that have it."""
        runs = self.values[name]
        return Spread(tuple(runs[seed][key] for seed in self.seeds if key in runs.get(seed, {})))

    def gain(self, name: str, key: str = 'mIoU') -> Spread:
        """The difference to the first configuration, seed by seed."""
        first, other = next(iter(self.values.values())), self.values[name]
        pairs = [(first.get(seed, {}), other.get(seed, {})) for seed in self.seeds]
        return Spread(tuple(b[key] - a[key] for a, b in pairs if key in a and key in b))

    def title_of(self, name: str) -> str:
        """A configuration's name for a table, with the number of its seeds where some are missing."""
        runs, wanted = len(self.values[name]), len(self.seeds)
        title = self.titles.get(name, name)
        return title if runs == wanted else f'{title} ({runs} of {wanted} seeds)'

    def rows(self) -> list[list[str]]:
        """Rows of a table: a value's name, then its spread for each configuration."""
        return [[_title(key), *(str(self.spread(name, key)) for name in self.values)] for key in self.keys]

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        seeds = ', '.join(map(str, self.seeds))
        notes = [f'{NOTE}. Seed {seeds}.']
        if len(self.seeds) > 1:
            notes = [f'{NOTE}: mean ± sample standard deviation (minimum–maximum) over seeds {seeds}.']
        first, *others = self.values
        for name in others:
            gain = self.gain(name)
            if gain.mean is not None:
                values = f' ({", ".join(f"{value:+.1f}" for value in gain.finite)})' if len(gain.finite) > 1 else ''
                pair = f'{self.titles.get(name, name)} over {self.titles.get(first, first)}'
                notes.append(f'{pair}: {gain.mean:+.1f} points of mIoU{values}.')
        notes += [f'Failed: {run}.' for run in self.failed]
        return notes

    def table(self, title: str | None = None) -> Table:
        """For the terminal."""
        # Not rich's own caption, which would be broken at the width of the table.
        table = Table(title=title, title_justify='left', title_style='bold')
        table.add_column('')
        for name in self.values:
            table.add_column(self.title_of(name), justify='right')
        sections = [(0, 1, 1, 2)[_rank(key)] for key in self.keys]
        for key, row, section, following in zip(self.keys, self.rows(), sections, [*sections[1:], None]):
            table.add_row(*row, end_section=section != following, style='bold' if key == 'mIoU' else None)
        return table

    def markdown(self) -> str:
        """For the documentation."""
        header = ['', *map(self.title_of, self.values)]
        notes = '\n'.join(f'{note}  ' for note in self.notes()).rstrip()
        return f'{markdown_table(header, self.rows())}\n{notes}\n'

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        configs = {
            name: dict(
                **self.about.get(name, {}),
                runs={str(seed): values for seed, values in runs.items()},
                summary={key: self.spread(name, key).as_dict() for key in self.keys},
                mIoU_gain_over_first=self.gain(name).as_dict(),
            )
            for name, runs in self.values.items()
        }
        return dict(note=f'{NOTE}; std is the sample standard deviation', seeds=list(self.seeds), configs=configs,
                    failed=self.failed)  # fmt: skip

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``comparison.json`` and ``comparison.md``, in place of earlier ones; returns their paths."""
        json_file, markdown_file = folder / 'comparison.json', folder / 'comparison.md'
        write_json(self.as_dict(), json_file, overwrite=True)
        write_text(self.markdown(), markdown_file, overwrite=True)
        return json_file, markdown_file
