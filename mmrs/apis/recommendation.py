"""From labels of the source and images of the target to a checkpoint that one can take, or the advice not to."""

from __future__ import annotations

import itertools
import math
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmrs.apis.class_shares import label_shares
from mmrs.apis.compare import UNWATCHED, Entry, Run, SeriesProgress, duration, parse_options, probe, seconds_of_step
from mmrs.apis.inference import PREDICTING
from mmrs.apis.selection import Candidate, Judged, Selection, find_candidates, target_crops
from mmrs.engine.saved_runs import newest_checkpoint, number_of
from mmrs.evaluation.label_free.choice import MARGIN, Choice
from mmrs.install import install
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError, OutputError, require_number, require_one_of
from mmrs.utils.files import write_text
from mmrs.utils.records import shown
from mmrs.utils.shipped import CONFIGS
from mmrs.weights import read_checkpoint, state_dict_of

__all__ = ['Recommendation', 'Recommended']

#: A candidate is judged by this alone; others would cost passes of the network.
_CRITERIA = ('consistency',)


@dataclass(frozen=True)
class Recommended:
    """What came out.

    Attributes:
        choice: Which candidate, and the verdict.
        candidate: The candidate.
        text: All of it in words, with a table of the candidates.
    """

    choice: Choice
    candidate: Candidate
    text: str


class _BudgetSpentError(Exception):
    """The time for training is over."""


@dataclass
class Recommendation:
    """Trains a network on the source, then climbs a ladder of adaptations while that makes maps more consistent.

    Rungs are trainings, from cheap to dear: the source alone, once for each `taus`, then each method likewise. Each
    network is a candidate as it is, and in variants that cost no training. No label of the target is read.

    Args:
        task: Name or file of the data, see :func:`load_config`; with images of both domains.
        network: Likewise.
        schedule: Likewise; the network's default where there is none.
        methods: Names of methods of `configs`, or files of their configurations, the cheap ones first.
        taus: Strengths of prior-neutral training; 0, plain training, is among them.
        strengths: Of corrections to equal shares of the classes after plain training, 0 to 1.
        statistics: Weights of the target's statistics of batch normalisation, 0 to 1, for networks that have it.
        out: Folder of runs and results.
        budget: Seconds for trainings in this call; None: no limit.
        patience: Rungs without a more consistent candidate after which it ends.
        seed: Of all trainings, and of the images that are looked at.
        margin: See :class:`Selection`.
        number: Likewise.
        size: Likewise.
        cfg_options: ``KEY=VALUE`` for all trainings.
        overwrite: Train anew what was trained with other settings.
        device: Of the candidates' predictions.
        console: Where to report progress.

    Raises:
        ConfigError: A name is unknown, or a number makes no sense.
    """

    task: str
    network: str
    schedule: str | None = None
    methods: Sequence[str] = ('dacs',)
    taus: Sequence[float] = (0.0, 1.0)
    strengths: Sequence[float] = (0.5, 1.0)
    statistics: Sequence[float] = (0.5, 1.0)
    out: Path = Path('work_dirs/recommendation')
    budget: float | None = None
    patience: int = 2
    seed: int = 0
    margin: float = MARGIN
    number: int = 40
    size: int = 512
    cfg_options: Sequence[str] = ()
    overwrite: bool = False
    device: str | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __post_init__(self) -> None:
        install()
        for name in ('taus', 'strengths', 'statistics'):
            for value in getattr(self, name):
                require_number(name, value, at_least=0, at_most=1)
        for name in ('patience', 'number', 'size'):
            require_number(name, getattr(self, name), at_least=1, whole=True)
        require_number('margin', self.margin, at_least=0)
        if self.budget is not None:
            require_number('budget', self.budget, above=0)
        taus = dict.fromkeys((0.0, *map(float, self.taus)))
        #: The trainings, in the order in which they are tried.
        self.rungs = [
            self._rung(method, tau) for method, tau in itertools.product(('source_only', *self.methods), taus)
        ]
        names = [run.entry.name for run in self.rungs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f'methods: {", ".join(dict.fromkeys(twice))} is there twice; each needs a name of its own'
            )

    def _rung(self, method: str, tau: float) -> Run:
        options = [*self.cfg_options, *([f'class_prior.tau={tau:g}'] if tau else []), UNWATCHED]
        file = _method_file(method)
        name = file.absolute().parent.name if file.stem == 'method' else file.stem
        title = name + (f'_tau{tau:g}' if tau else '')
        entry = Entry(file, None, tuple(options), self.task, self.network, self.schedule, title)
        config = load_config(file, parse_options(options), **entry.axes)
        if not (config.get('train_cfg') or {}).get('max_iters'):
            raise ConfigError(f'config {file} has no train_cfg.max_iters; it must count iterations')
        return Run(entry, self.seed, self.out, config)

    # Plan ------------------------------------------------------------------------------------------------------------

    def estimate(self) -> float:
        """Say what would be trained, in what time and with how much memory, by a few iterations of each.

        Returns:
            Seconds that are left, of training alone.
        """
        table = Table(title=f'{len(self.rungs)} trainings, each {self.rungs[0].iterations} iterations at most')
        for heading in ('training', 'state', 'time left', 'memory'):
            table.add_column(heading, justify='left' if heading == 'training' else 'right')
        total = 0.0
        for run in self.rungs:
            left, memory = self._left(run), None
            seconds = 0.0
            if left:
                step, memory = probe(run)
                seconds = left * step
            total += seconds
            size = f'{memory / 1e9:.1f} GB' if memory else '-'
            table.add_row(run.entry.name, run.state(), duration(seconds), size)
        self.console.print(table)
        self._say(f'about {duration(total)} of training are left; it ends earlier if nothing gets more consistent')
        return total

    def _left(self, run: Run) -> int:
        """Iterations that a run still has to do."""
        state = run.state()
        if state == 'finished':
            return 0
        newest = None if state == 'changed' else newest_checkpoint(run.folder)
        return run.iterations - (number_of(newest) or 0 if newest else 0)

    # Do --------------------------------------------------------------------------------------------------------------

    def run(self) -> Recommended:
        """Do whatever is not yet done, and recommend.

        Raises:
            ConfigError: The budget is too small for the first training, or a configuration cannot work.
            OutputError: The folder holds runs of other settings.
            UserError: A training failed.
        """
        self._time_left = math.inf if self.budget is None else self.budget
        for run in self.rungs:
            if not self.overwrite and (changes := run.changes()):
                raise OutputError(
                    f'{run.folder} holds a run of other settings ({shown(changes)}). Choose another folder with -o, or '
                    'train it anew with --overwrite'
                )
        # What judging needs is looked at before hours of training.
        target_crops([self._data], 1, self.size)
        label_shares(self.rungs[0].config)
        trained: list[Run] = []
        left_out: list[str] = []
        best, without = -math.inf, 0
        for i, run in enumerate(self.rungs):
            if without >= self.patience:
                names = ', '.join(own.entry.name for own in self.rungs[i:])
                left_out.append(f'{names}: the {without} trainings before gave no more consistent candidate')
                break
            if why := self._train(run):
                left_out.append(f'{run.entry.name}: {why}')
                if not trained:  # what all others are compared with
                    raise ConfigError(f'{left_out[0]}: pass a larger --budget, or none')
                continue
            trained.append(run)
            selection = self._selection(trained)
            judged = selection.judge()
            choice, reasons = selection.choose(judged)
            values = [own.scores[_CRITERIA[0]].value for own, reason in zip(judged, reasons) if reason is None]
            highest = max([value for value in values if not math.isnan(value)], default=-math.inf)
            without = 0 if highest > best else without + 1
            best = max(best, highest)
            self._say(f'{run.entry.name}: {selection.sentence(judged, choice, reasons)}')
        text = self._text(selection, judged, choice, reasons, left_out)
        selection.save(judged, choice, reasons, text)
        write_text(text, self.out / 'recommendation.md', overwrite=True)
        return Recommended(choice, selection.candidates[choice.candidate], text)

    def _train(self, run: Run) -> str | None:
        """Why a run is not trained; None: it is."""
        if self.overwrite and run.changes():
            shutil.rmtree(run.folder)
        if not (left := self._left(run)):
            return None
        if self._time_left <= 0:
            return 'the budget is spent'
        if self._time_left < math.inf:
            if (step := seconds_of_step(run.folder)) is None:
                step, _ = probe(run)
            if left * step > self._time_left:
                return f'it would take another {duration(left * step)}, more than is left of the budget'
        self._say(f'{run.entry.name}: {left} iterations ({run.folder})')
        progress, start = SeriesProgress([run], self.console), time.monotonic()

        def poll() -> None:
            progress.update()
            if time.monotonic() - start > self._time_left:
                raise _BudgetSpentError

        with progress.bar:
            progress.begin(run, run.iterations - left)
            try:
                run.train(poll)
            except _BudgetSpentError:
                return 'the budget was spent before it ended; the same command goes on with it'
            finally:
                self._time_left -= time.monotonic() - start
        return None

    def _selection(self, runs: Sequence[Run]) -> Selection:
        candidates: list[Candidate] = []
        for run in runs:
            # What has been trained under equal shares has nothing to correct.
            strengths = () if 'class_prior.tau=1' in run.entry.cfg_options else self.strengths
            state = state_dict_of(read_checkpoint(run.checkpoint), run.checkpoint)
            norms = [key for key in state if key.startswith(PREDICTING) and key.endswith('.running_mean')]
            statistics = self.statistics if norms else ()
            candidates += find_candidates([run.checkpoint], strengths, statistics)
        return Selection(
            candidates,
            _CRITERIA,
            self.margin,
            self.number,
            self.size,
            self.seed,
            records=self.out / 'selection',
            data=[self._data],
            device=self.device,
        )

    @property
    def _data(self) -> Config:
        """A configuration with images of both domains."""
        run = next((own for own in self.rungs if 'target' in own.config.train_dataloader.dataset), self.rungs[0])
        return load_config(run.entry.config, parse_options(self.cfg_options), **run.entry.axes)

    # Say -------------------------------------------------------------------------------------------------------------

    def _text(
        self,
        selection: Selection,
        judged: Sequence[Judged],
        choice: Choice,
        reasons: Sequence[str | None],
        left_out: Sequence[str],
    ) -> str:
        parts = [selection.table(judged, choice, reasons), selection.sentence(judged, choice, reasons)]
        if left_out:
            parts.append('Left out:\n' + ''.join(f'- {text}\n' for text in left_out).rstrip())
        if choice.verdict != 'none':
            chosen = selection.candidates[choice.candidate]
            parts.append(f'For maps:\n\n    {shlex.join(selection.prediction(chosen))}')
        return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _method_file(method: str) -> Path:
    """The configuration of a method: a file, or that of a name."""
    if method.endswith('.py'):
        return Path(method)
    files = {path.parent.name: path for path in CONFIGS.glob('*/method.py')}
    require_one_of('method', method, sorted(files))
    return files[method]
