"""What it gains to choose the tiles that are labelled, against labelling random ones."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from rich.console import Console

from mmrs.apis.compare import Entry, Run, compare, duration, plan_runs, probe
from mmrs.apis.comparison import NOTE, Spread, markdown_table
from mmrs.apis.tile_selection import TileSelection
from mmrs.evaluation.tile_choice import CRITERIA, Random
from mmrs.evaluation.tile_choice.facts import FEATURES, GRADIENTS
from mmrs.registry import DATASETS
from mmrs.studies.trials import PAIRS, Trials
from mmrs.utils.errors import ConfigError, DataError, UserError, describe, require, require_number, require_one_of
from mmrs.utils.files import write_json, write_text

__all__ = ['METHOD', 'TileStudy']

#: What is trained on the chosen tiles, and how it is told their names.
METHOD, OPTION = 'source_and_labelled', 'labelled_images={}'
#: The network that chooses.
_BASE = 'source_only'
#: Of the draw of the held-out images, the same for all that is compared.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class _Choice:
    """A way to choose, and how many tiles.

    Attributes:
        criterion: Name of `CRITERIA`.
        number: K.
        draw: Seed of a random choice; None: nothing is drawn.
    """

    criterion: str
    number: int
    draw: int | None = None

    def __str__(self) -> str:
        return f'{self.criterion}_{self.number}' + ('' if self.draw is None else f'_draw{self.draw}')


#: mIoU by choice and seed.
_Scores = dict[_Choice, dict[int, float]]


@dataclass
class TileStudy:
    """Trains on K tiles that were chosen in several ways, and scores on images of which none could be chosen.

    A part of the target's images is held out first, the same in all runs: a choice that took hard tiles away from
    those that are scored would look better than it is.

    Args:
        out: Folder of the results, with one folder for each pair.
        downloads: As of :class:`Trials`.
        pairs: Names of `PAIRS`.
        criteria: Names of `CRITERIA` that random choices are compared with.
        numbers: How many tiles are labelled.
        draws: Random choices for each number.
        seeds: Of trainings; with each, another network chooses.
        method: What is trained on the tiles, as :class:`Trials` names methods.
        option: ``KEY={}`` of the configuration that takes the file with their names.
        held_out: Share of the target's images, above 0 and below 1.
        cfg_options: ``KEY=VALUE`` for all trainings.
        overwrite: Train anew what was trained with other settings.
        device: Of the network that chooses.
        console: Where to report progress.

    Raises:
        ConfigError: A name is unknown, or a number cannot work.
    """

    out: Path
    downloads: Path = Path('downloads')
    pairs: Sequence[str] = ('dubai', 'gid5')
    criteria: Sequence[str] = tuple(name for name in CRITERIA if name != Random.name)
    numbers: Sequence[int] = (5, 10)
    draws: int = 5
    seeds: Sequence[int] = (0,)
    method: str = METHOD
    option: str = OPTION
    held_out: float = 1 / 3
    cfg_options: Sequence[str] = ()
    overwrite: bool = False
    device: str | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __post_init__(self) -> None:
        for name in self.criteria:
            require_one_of('criterion', name, [own for own in CRITERIA if own != Random.name])
        for number in (*self.numbers, self.draws):
            require_number('numbers and draws', number, at_least=1, whole=True)
        require(bool(self.numbers), 'numbers', list(self.numbers), 'numbers of tiles were')
        require_number('held_out', self.held_out, above=0, below=1)
        require(self.option.count('{}') == 1, 'option', self.option, 'KEY={}')
        self._trials = Trials(
            self.out,
            self.downloads,
            self.pairs,
            (_BASE, self.method),
            seeds=self.seeds,
            cfg_options=self.cfg_options,
            overwrite=self.overwrite,
            console=self.console,
        )

    def choices(self) -> list[_Choice]:
        """What is compared for each pair and seed."""
        random = [_Choice(Random.name, k, draw) for k, draw in itertools.product(self.numbers, range(self.draws))]
        return random + [_Choice(name, k) for k, name in itertools.product(self.numbers, self.criteria)]

    # Do --------------------------------------------------------------------------------------------------------------

    def run(self) -> list[Path]:
        """Do whatever is not yet done; what is done already is left as it is.

        Returns:
            The tables: Markdown and JSON of each pair.

        Raises:
            UserError: Something failed; all that could be done without it was.
        """
        for pair in self.pairs:  # all of them before hours of training
            self._trials.prepare(pair)
        tables: list[Path] = []
        failed: list[str] = []
        for pair in self.pairs:
            base: dict[int, float] = {}
            scores: _Scores = {choice: {} for choice in self.choices()}
            for seed in self.seeds:
                self._say(f'[bold]{PAIRS[pair].title}, seed {seed}[/]')
                try:
                    self._run(pair, seed, base, scores, failed)
                except UserError as error:
                    failed.append(f'{pair}, seed {seed}: {describe(error)}')
            tables += self._save(pair, base, scores)
        if failed:
            raise UserError('\n'.join(failed))
        return tables

    def estimate(self, iterations: int = 12) -> float:
        """Say what would be trained, and how long it takes in all, by a few iterations of the first network.

        Returns:
            Seconds.
        """
        total = 0.0
        for pair in self.pairs:
            self._trials.prepare(pair)
            (run,) = plan_runs([self._base(pair)], self.seeds[:1], self.out / pair)
            number = len(self.seeds) * (1 + len(self.choices()))
            self._say(f'{PAIRS[pair].title}: {number} runs of about {run.iterations} iterations')
            total += probe(run, iterations)[0] * run.iterations * number
        self._say(
            f'about {duration(total)} of training in all, if {self.method} is as fast as {_BASE}; validations, tests '
            'and what is done already not counted'
        )
        return total

    def _run(self, pair: str, seed: int, base: dict[int, float], scores: _Scores, failed: list[str]) -> None:
        entry, out = self._base(pair), self.out / pair
        first = compare([entry], [seed], out, overwrite=self.overwrite, console=self.console)
        failed += [f'{pair}: {run}: {why}' for run, why in first.failed.items()]
        if seed not in first.values[entry.name]:
            return
        base[seed] = first.values[entry.name][seed]['mIoU']
        (run,) = plan_runs([entry], [seed], out)
        entries = {self._entry(pair, choice, names): choice for choice, names in self._lists(pair, run).items()}
        found = compare(list(entries), [seed], out, overwrite=self.overwrite, console=self.console)
        failed += [f'{pair}: {name}: {why}' for name, why in found.failed.items()]
        for own, choice in entries.items():
            if seed in found.values[own.name]:
                scores[choice][seed] = found.values[own.name][seed]['mIoU']

    def _base(self, pair: str) -> Entry:
        entry = next(own for own in self._trials.entries(pair) if own.name.startswith(_BASE))
        return replace(entry, cfg_options=(*entry.cfg_options, *self._scored(pair)))

    def _entry(self, pair: str, choice: _Choice, names: Path) -> Entry:
        entry = self._trials.entries(pair)[-1]
        options = (*entry.cfg_options, *self._scored(pair), self.option.format(names))
        return replace(entry, cfg_options=options, title=str(choice))

    def _scored(self, pair: str) -> list[str]:
        held_out = self._split(pair)[1]
        return [f'{role}_dataloader.dataset.ann_file={held_out}' for role in ('val', 'test')]

    # Lists of names --------------------------------------------------------------------------------------------------

    def _split(self, pair: str) -> tuple[Path, Path]:
        """Files with the names among which tiles are chosen, and of those that are held out."""
        files = tuple(self._folder(pair) / f'{name}.txt' for name in ('pool', 'held_out'))
        if not all(path.is_file() for path in files):
            names = self._names(pair)
            order = np.random.default_rng(_SPLIT_SEED).permutation(len(names))
            number = round(self.held_out * len(names))
            require(0 < number < len(names), 'held_out', self.held_out, f'a share of {len(names)} images')
            for path, places in zip(files, (order[number:], order[:number])):
                write_text(''.join(f'{names[i]}\n' for i in sorted(places.tolist())), path, overwrite=True)
        pool, held_out = files
        return pool, held_out

    def _names(self, pair: str) -> list[str]:
        """Of all images of the target that have labels."""
        entry = self._trials.entries(pair)[0]
        (run,) = plan_runs([entry], self.seeds[:1], self.out / pair)
        return image_names(run.config.val_dataloader.dataset)

    def _folder(self, pair: str) -> Path:
        # Absolute: a data set looks for other lists in the folder of its data.
        return (self.out / pair / 'lists').absolute()

    def _lists(self, pair: str, run: Run) -> dict[_Choice, Path]:
        """Files with the names that each choice took, by the network of a run; what is known is not chosen anew."""
        pool = self._split(pair)[0]
        about = dict(weights=pooch.file_hash(str(run.checkpoint)), pool=pool.read_text(encoding='utf-8').split('\n'))
        record = self._folder(pair) / f'seed_{run.seed}.json'
        known: dict[str, Any] = json.loads(record.read_text(encoding='utf-8')) if record.is_file() else {}
        chosen = known['chosen'] if known.get('about') == about else {}
        if missing := [choice for choice in self.choices() if str(choice) not in chosen]:
            chosen |= self._choose(run, pool, missing)
            write_json(dict(about=about, chosen=chosen), record, overwrite=True)
        files = {}
        for choice in self.choices():
            text = ''.join(f'{name}\n' for name in chosen[str(choice)])
            # Other names are another file, so that a run with other tiles is seen to be another run.
            path = self._folder(pair) / f'{choice}_{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt'
            write_text(text, path, overwrite=True)
            files[choice] = path
        return files

    def _choose(self, run: Run, pool: Path, choices: Sequence[_Choice]) -> dict[str, list[str]]:
        config = next(iter(sorted(run.folder.glob('*.py'))))  # the configuration with all that was filled
        selection = TileSelection(
            config,
            run.checkpoint,
            ['config:test'],
            run.folder / 'tiles.csv',  # which is not written
            k=max(choice.number for choice in choices),
            cfg_options={'test_dataloader.dataset.ann_file': str(pool)},
            device=self.device,
        )
        tiles, table = selection.look((FEATURES, GRADIENTS))
        return {
            str(choice): [
                tiles[own.index].name
                for own in CRITERIA[choice.criterion](table, choice.draw or 0).choose(choice.number)
            ]
            for choice in choices
        }

    # Tables ----------------------------------------------------------------------------------------------------------

    def _save(self, pair: str, base: Mapping[int, float], scores: _Scores) -> list[Path]:
        rows = rows_of(scores)
        header = ['tiles', 'choice', 'runs', 'mIoU', 'gain over random', 'above of random draws']
        lines = []
        for row in rows:
            gain = '-' if row['gain'].mean is None else _short(row['gain'], '+')
            beaten = '-' if row['draws'] == 0 else f'{row["beaten"]} of {row["draws"]}'
            lines.append([str(row['number']), row['criterion'], str(row['runs']), _short(row['mIoU']), gain, beaten])
        note = (
            f'{PAIRS[pair].title}: {self.method} on K tiles of the target, scored on held-out images of it; {NOTE}; '
            'mean ± sample standard deviation over draws and seeds. Gain: over the mean of the random draws of the '
            'same seed. '
            f'{_BASE}, on the same images: {_short(Spread(tuple(base.values())))}.'
        )
        markdown, record = self.out / f'{pair}.md', self.out / f'{pair}.json'
        write_text(f'{note}\n\n{markdown_table(header, lines)}', markdown, overwrite=True)
        plain = [
            {key: value.as_dict() if isinstance(value, Spread) else value for key, value in row.items()} for row in rows
        ]
        write_json(dict(note=note, base=dict(base), rows=plain), record, overwrite=True)
        return [markdown, record]

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def rows_of(scores: _Scores) -> list[dict[str, Any]]:
    """A row for each number of tiles and criterion, random draws first."""
    random: dict[tuple[int, int], list[float]] = {}
    for choice, by_seed in scores.items():
        if choice.draw is not None:
            for seed, value in by_seed.items():
                random.setdefault((choice.number, seed), []).append(value)
    rows = []
    for number, criterion in dict.fromkeys((choice.number, choice.criterion) for choice in scores):
        own = [
            (seed, value)
            for choice, by_seed in scores.items()
            if (choice.number, choice.criterion) == (number, criterion)
            for seed, value in by_seed.items()
        ]
        compared = [] if criterion == Random.name else [pair for pair in own if (number, pair[0]) in random]
        others = [(value, random[number, seed]) for seed, value in compared]
        rows.append(
            dict(
                number=number,
                criterion=criterion,
                runs=len(own),
                mIoU=Spread(tuple(value for _, value in own)),
                gain=Spread(tuple(value - float(np.mean(draws)) for value, draws in others)),
                beaten=sum(value > other for value, draws in others for other in draws),
                draws=sum(len(draws) for _, draws in others),
            )
        )
    return sorted(rows, key=lambda row: (row['number'], row['criterion'] != Random.name))


def image_names(dataset: Mapping[str, Any]) -> list[str]:
    """Names of a data set's images, as a list of names has them.

    Raises:
        ConfigError: It is none of whole images in one folder.
        DataError: There are none.
    """
    built = DATASETS.build({**dataset, 'pipeline': []})
    folder = built.data_prefix['img_path']
    infos = [built.get_data_info(i) for i in range(len(built))]
    if any('window' in info for info in infos):
        raise ConfigError(f'{folder}: tiles of this study are whole images; windows of rasters were found')
    names = [str(Path(info['img_path']).relative_to(folder)) for info in infos]
    if not names:
        raise DataError(f'{folder}: there is no image')
    return names


def _short(value: Spread, sign: str = '') -> str:
    if value.mean is None:
        return '-'
    return f'{value.mean:{sign}.1f}' + ('' if value.deviation is None else f' ± {value.deviation:.1f}')
