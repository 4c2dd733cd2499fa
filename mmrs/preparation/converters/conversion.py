"""What every conversion of a published data set does: plan, report, and write what is not there yet."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from rich.console import Console
from rich.table import Table

from mmrs.preparation.converters.running import is_written, prepare_output, run_tasks
from mmrs.preparation.converters.splits import Splits, digest

# How many missing files a message lists.
_SHOWN = 40


class Sample(NamedTuple):
    """An image and its label map in the standard layout."""

    split: str
    image: Path
    labels: Path

    @classmethod
    def place(cls, out: Path, split: str, name: str, suffix: str) -> 'Sample':
        """Where the sample of that name goes; `suffix` is the image's."""
        return cls(split, out / 'img_dir' / split / f'{name}{suffix}', out / 'ann_dir' / split / f'{name}.png')

    @property
    def is_written(self) -> bool:
        """Whether an earlier run wrote it."""
        return is_written(self.image) and is_written(self.labels)


class Task(Protocol):
    """What one process works on at a time."""

    @property
    def samples(self) -> Sequence[Sample]:
        """What becomes of it."""


class DatasetConversion(ABC):
    """The conversion of a published data set to the standard layout.

    Attributes:
        out: Folder that gets `img_dir/SPLIT` and `ann_dir/SPLIT`.
        splits: How the samples are split.
        missing: What the data set should have and has not.
        units: What the source consists of, and what it becomes, for the report.
    """

    out: Path
    splits: Splits
    missing: list[str]
    units: ClassVar[tuple[str, str]] = ('tiles', 'clips')

    @property
    @abstractmethod
    def title(self) -> str:
        """What is converted, for the report."""

    @abstractmethod
    def plan(self) -> Sequence[Task]:
        """Finds the files and lays out the samples; reads no pixels."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that the converted files depend on, as JSON."""

    @property
    def depends_on_all(self) -> bool:
        """Whether adding or removing a file changes what other files are made into, so that no run can continue."""
        return False

    @staticmethod
    @abstractmethod
    def convert(task: Any) -> None:
        """Writes the samples of a task that are not there yet, and reports each by `advance`."""

    def prepare(self, tasks: Sequence[Any], workers: int) -> Sequence[Any]:
        """Adds to the tasks what takes reading pixels."""
        return tasks

    def run(self, workers: int = 1, dry_run: bool = False, overwrite: bool = False) -> dict[str, int]:
        """Converts what is not yet converted.

        Args:
            workers: Number of processes.
            dry_run: Only count.
            overwrite: Replace the results of an earlier conversion.

        Returns:
            Number of samples by split, whether converted now or before.

        Raises:
            ConfigError: The splits do not fit the data.
            DataError: Files are missing, cannot be read, or are not what they should be.
            OutputError: `out` holds something else, or a file cannot be written.
        """
        tasks = self.plan()
        counts = {name: sum(s.split == name for task in tasks for s in task.samples) for name in self.splits.names}
        self._report(tasks, counts)
        if dry_run:
            Console().print(f'Dry run: nothing is written to {self.out}.', highlight=False)
            return counts
        settings = self.settings()
        if self.depends_on_all:
            placed = [f'{sample.split}/{sample.image.name}' for task in tasks for sample in task.samples]
            settings['samples'] = dict(counts, sha256=digest(placed))
        prepare_output(self.out, settings, overwrite, counts)
        tasks = self.prepare(tasks, workers)
        run_tasks(self.convert, tasks, workers, sum(counts.values()), self.title)
        return counts

    def _report(self, tasks: Sequence[Task], counts: Mapping[str, int]) -> None:
        table = Table(title=self.title, title_justify='left')
        table.add_column('split')
        for heading in (*self.units, 'already there'):
            table.add_column(heading, justify='right')
        for name, count in counts.items():
            own = [samples for task in tasks if (samples := [s for s in task.samples if s.split == name])]
            done = sum(sample.is_written for samples in own for sample in samples)
            table.add_row(name, str(len(own)), str(count), str(done))
        console = Console()
        console.print(table)
        if self.missing:
            text = f'Left out {len(self.missing)}, because files are missing:\n  {self.list_missing()}'
            console.print(text, highlight=False, markup=False)

    def list_missing(self) -> str:
        """The first of what is missing, each on its line, for messages."""
        return '\n  '.join([*self.missing[:_SHOWN], *(['...'] if len(self.missing) > _SHOWN else [])])
