"""The trials: what methods gain on real pairs of domains, in runs of minutes on a CPU."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mmrs.apis.compare import Entry, Run, compare, duration, parse_options, plan_runs, probe, seconds_of_step
from mmrs.apis.comparison import NOTE, Spread, markdown_table
from mmrs.geo.folders import list_rasters
from mmrs.geo.statistics import default_workers
from mmrs.install import install
from mmrs.models.adaptors.base import DISC_ACCURACY
from mmrs.preparation.converters.clips import write_raster
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import Split, load_recipe
from mmrs.utils.config import load_config
from mmrs.utils.errors import (
    ConfigError,
    UserError,
    describe,
    require,
    require_file,
    require_folder,
    require_number,
    require_one_of,
)
from mmrs.utils.files import write_json, write_text
from mmrs.utils.processes import run_tool, tail
from mmrs.utils.shipped import CONFIGS, TOOLS
from mmrs.visualization.label_curves import plot_label_curves

__all__ = ['PAIRS', 'STARTS', 'Pair', 'Trials']

NETWORK = 'segformer_efficientnet-lite0'
# An adaptation that starts from another training has as many iterations as that one, and both together as one without.
_FIRST_HALF, _SECOND_HALF = 'adamw_600_first_half', 'adamw_600_second_half'
_RECIPES = TOOLS / 'dataset_converters' / 'recipes'

_RANDOM = ('model.backbone.init_cfg=None', 'model.backbone.norm_eval=False')
#: What a network starts from, and the options that say so. ``pretrained``: a pre-training on the pair's own images,
#: which starts from random weights.
STARTS = dict(imagenet=(), random=_RANDOM, pretrained=_RANDOM)


# The pairs -----------------------------------------------------------------------------------------------------------


def _convert_dubai(downloads: Path, data: Path) -> None:
    tiles = dict(source='train=Tile 1,Tile 2,Tile 3,Tile 7,Tile 8', target='val=Tile 4,Tile 5,Tile 6')
    for domain, split in tiles.items():
        recipe = load_recipe(_RECIPES / 'dubai.yaml', dict([Split.parse_argument(split)]))
        Conversion(recipe, downloads, data / f'dubai_{domain}').run(default_workers())


def _convert_gid5(downloads: Path, data: Path) -> None:
    Conversion(load_recipe(_RECIPES / 'gid5_clips.yaml'), downloads, data / 'gid5_clips').run(default_workers())


_REFLECTANCE_CLASSES = """\
classes:
  - {name: shadow, id: 0, color: '#303030'}
  - {name: water, id: 1, color: '#2060E0'}
  - {name: land, id: 3, color: '#60A040'}
  - {name: cloud, id: 4, color: '#F0F0F0'}
"""


def _convert_reflectance(downloads: Path, data: Path) -> None:
    folder = data / 'reflectance'
    for sensor, (kind, key) in itertools.product(('landsat5', 'sentinel2'), dict(images='img', labels='msk').items()):
        file, target = downloads / f'{sensor}.npz', folder / sensor / kind / 'scene.tif'
        if not target.is_file():
            require_file(file, 'the arrays img and msk of a scene')
            with np.load(file) as arrays:
                write_raster(target, arrays[key].transpose(2, 0, 1))
    if not (folder / 'classes.yaml').is_file():
        write_text(_REFLECTANCE_CLASSES, folder / 'classes.yaml')


@dataclass(frozen=True)
class Pair:
    """Two domains.

    Attributes:
        title: For tables.
        task: Name of the task.
        downloads: Folder of the publishers' files, below that of all downloads.
        made: What its conversion writes last, below the folder of the data.
        convert: Makes them, of these files.
    """

    title: str
    task: str
    downloads: str
    made: tuple[str, ...]
    convert: Callable[[Path, Path], None]


PAIRS = dict(
    dubai=Pair(
        'Dubai, bright to dark',
        'trial_dubai',
        'dubai',
        ('dubai_source/report.json', 'dubai_target/report.json'),
        _convert_dubai,
    ),
    gid5=Pair('GID-5, middle to dark', 'trial_gid5', 'gid5', ('gid5_clips/report.json',), _convert_gid5),
    landsat2sentinel=Pair(
        'Landsat-5 to Sentinel-2', 'landsat2sentinel', 'csmask', ('reflectance/classes.yaml',), _convert_reflectance
    ),
)


# The runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variant:
    """A row of a table: a method, where it starts, and what is done about the classes' shares."""

    method: str
    start: str
    tau: float
    strength: float = 0.0
    part: str = ''  # '_first_half' where another one starts from it
    labels: int | None = None  # labelled images of the target; None: a trial that is not about them

    @property
    def run(self) -> str:
        """Name of its training."""
        labels = '' if self.labels is None else f'_k{self.labels}'
        return f'{self.method}_{self.start}_tau{self.tau:g}{labels}{self.part}'


#: Scores by name, of a variant and a seed.
_Rows = dict[_Variant, dict[int, dict[str, float]]]


def _config_of(method: str) -> Path:
    """The file of a method: its own for trials, where it has one."""
    files = {path.stem: path for path in CONFIGS.glob('trials/*.py')}
    own = {path.parent.name: path for path in CONFIGS.glob('*/method.py')}
    require_one_of('method', method, sorted(files | own))
    return (own | files)[method]


def _takes_labels(config: Path, **axes: str) -> bool:
    """Whether a method learns from labelled images of the target."""
    return 'labelled' in load_config(config, None, **axes).train_dataloader.dataset


@dataclass
class Trials:
    """Trains and tests methods on real pairs, and tabulates them.

    Args:
        out: Folder of the results, with one folder for each pair.
        downloads: Folder of what was downloaded, with `dubai`, `gid5` and `csmask` in it.
        pairs: Names of `PAIRS`.
        methods: Names of methods, the first of which the others are compared with.
        starts: Names of `STARTS`.
        taus: Strengths of prior-neutral training; 0: plain training.
        strengths: Strengths of the correction to equal shares after training; 0: none.
        labels: Numbers of labelled images of the target for the methods that learn from them. They are drawn by the
            seed of the run, those of a smaller number among those of a larger one, from half of the target's images.
            All methods, those that take no labels too, are scored on the other half.
        seeds: Seeds.
        cfg_options: ``KEY=VALUE`` for all trainings.
        overwrite: Train anew what was trained with other settings.
        console: Where to report progress.

    Raises:
        ConfigError: A name is unknown, or a number cannot work.
    """

    out: Path
    downloads: Path = Path('downloads')
    pairs: Sequence[str] = tuple(PAIRS)
    methods: Sequence[str] = ('source_only', 'st_dasegnet')
    starts: Sequence[str] = ('imagenet',)
    taus: Sequence[float] = (0.0,)
    strengths: Sequence[float] = (0.0,)
    labels: Sequence[int] = ()
    seeds: Sequence[int] = (0, 1, 2)
    cfg_options: Sequence[str] = ()
    overwrite: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))
    data: Path = field(default=Path('data'), init=False)

    def __post_init__(self) -> None:
        install()
        for name, values, known in (('pair', self.pairs, PAIRS), ('start', self.starts, STARTS)):
            for value in values:
                require_one_of(name, value, known)
        for name, numbers in (('tau', self.taus), ('strength', self.strengths)):
            for number in numbers:
                require(0 <= number <= 1, name, number, 'a number of 0 to 1')
        for number in self.labels:
            require_number('labels', number, at_least=1, unit='images', whole=True)
        for method in self.methods:
            _config_of(method)

    # Plan ------------------------------------------------------------------------------------------------------------

    def variants(self) -> list[_Variant]:
        """The rows of each table."""
        return [
            _Variant(method, start, tau, strength, labels=labels)
            for method, start, tau, strength in itertools.product(self.methods, self.starts, self.taus, self.strengths)
            if strength == 0 or tau < 1  # a network that is neutral has nothing to correct
            for labels in self._labels_of(method)
        ]

    def _labels_of(self, method: str) -> Sequence[int | None]:
        if not self.labels:
            return [None]
        takes = _takes_labels(_config_of(method), task=PAIRS[self.pairs[0]].task, network=NETWORK)
        return sorted(set(self.labels)) if takes else [0]

    def entries(self, pair: str) -> list[Entry]:
        """The trainings of a pair, each behind the one that it starts from."""
        entries: dict[str, Entry] = {}
        for variant in self.variants():
            for entry in self._chain(pair, variant):
                entries.setdefault(entry.name, entry)
        return list(entries.values())

    def _chain(self, pair: str, variant: _Variant, schedule: str | None = None) -> Iterator[Entry]:
        options = [*STARTS[variant.start], *self.cfg_options]
        if variant.tau:
            options.append(f'class_prior.tau={variant.tau:g}')
        options += self._label_options(pair, variant.labels)
        entry = Entry(
            _config_of(variant.method), None, tuple(options), PAIRS[pair].task, NETWORK, schedule, variant.run
        )
        first = load_config(entry.config, None, **entry.axes).get('load_from')
        if first:  # work_dirs/METHOD/FILE
            before = replace(variant, method=Path(first).parent.name, strength=0.0, part='_first_half')
            yield from self._chain(pair, before, _FIRST_HALF)
            entry = replace(entry, warm_start=f'{before.run}/{Path(first).name}', schedule=_SECOND_HALF)
        elif variant.start == 'pretrained':
            own = self._pretraining(pair, variant.start)
            yield own
            config = load_config(own.config, parse_options(own.cfg_options), **own.axes)
            entry = replace(entry, warm_start=f'{own.name}/iter_{config.train_cfg.max_iters}.pth')
        yield entry

    def _label_options(self, pair: str, labels: int | None) -> list[str]:
        """What labelled images a training has, and what it is scored on."""
        if labels is None:
            return []
        pool, scored = ((self.out / pair / f'{kind}.txt').absolute() for kind in ('labelled', 'scored'))
        options = [f'{role}_dataloader.dataset.ann_file={scored}' for role in ('val', 'test')]
        return (
            options if labels == 0 else [*options, f'labelled_images.names={pool}', f'labelled_images.number={labels}']
        )

    def _pretraining(self, pair: str, start: str) -> Entry:
        options = (*STARTS[start], *self.cfg_options)
        return Entry(_config_of('contrast'), None, options, PAIRS[pair].task, NETWORK, None, 'contrast')

    # Do --------------------------------------------------------------------------------------------------------------

    def run(self) -> list[Path]:
        """Do whatever is not yet done; what is done already is left as it is.

        Returns:
            The tables, Markdown and JSON of each pair; with `labels` a picture, too.

        Raises:
            UserError: Something failed; all that could be done without it was.
        """
        tables: list[Path] = []
        failed: list[str] = []
        for name in self.pairs:  # all of them before hours of training
            self.prepare(name)
        for name in self.pairs:
            self._say(f'[bold]{PAIRS[name].title}[/]')
            out, entries = self.out / name, self.entries(name)
            try:
                comparison = compare(entries, self.seeds, out, overwrite=self.overwrite, console=self.console)
            except UserError as error:
                failed.append(f'{name}: {describe(error)}')
                continue
            failed += [f'{name}: {run}: {why}' for run, why in comparison.failed.items()]
            # Seeds that an earlier call has trained stay in the table.
            others = {int(folder.name.removeprefix('seed_')) for folder in out.glob('*/seed_*')} - set(self.seeds)
            runs = plan_runs(entries, [*self.seeds, *sorted(others)], out)
            finished = {(run.entry.name, run.seed): run for run in runs if run.state() == 'finished'}
            tables += self._save(name, self._rows(name, finished, failed))
        if failed:
            raise UserError('\n'.join(failed))
        return tables

    def prepare(self, name: str) -> None:
        """Convert a pair's files, unless they have been.

        Raises:
            DataError: They are not there.
        """
        pair = PAIRS[name]
        if not all((self.data / file).is_file() for file in pair.made):
            folder = self.downloads / pair.downloads
            require_folder(folder, f'the files of {pair.title} as docs/datasets.md describes them (--downloads)')
            pair.convert(folder, self.data)
        if self.labels:
            self._divide(name)

    def _divide(self, name: str) -> None:
        """Write which of a target's images labels are drawn from, and which are scored: halves, the same each time."""
        config = load_config(_config_of(self.methods[0]), None, task=PAIRS[name].task, network=NETWORK)
        dataset = config.test_dataloader.dataset
        images = list(list_rasters(Path(dataset.data_root) / dataset.data_prefix.img_path))
        order = np.random.default_rng(0).permutation(images)
        halves = dict(labelled=sorted(order[: len(images) // 2]), scored=sorted(order[len(images) // 2 :]))
        if max(self.labels) > len(halves['labelled']):
            raise ConfigError(
                f'{max(self.labels)} labelled images of {PAIRS[name].title} were asked for, but there are '
                f'{len(images)} of its target, and one half of them is scored: ask for fewer with --labels, or leave '
                'the pair out'
            )
        for kind, names in halves.items():
            write_text(''.join(f'{own}\n' for own in names), self.out / name / f'{kind}.txt', overwrite=True)

    def _rows(self, pair: str, finished: Mapping[tuple[str, int], Run], failed: list[str]) -> _Rows:
        """Scores by variant and seed; what fails is added to a list."""
        rows: _Rows = {variant: {} for variant in self.variants()}
        for variant, (name, seed) in itertools.product(rows, finished):
            if name != variant.run:
                continue
            try:
                scores = finished[name, seed].results() or {}
                # The least, for other programs slow down the rest of them.
                scores['ms'] = 1000 * (seconds_of_step(finished[name, seed].folder, min) or math.nan)
                if variant.strength:
                    scores = {**scores, **self._corrected(finished[name, seed], variant.strength)}
                rows[variant][seed] = scores
            except UserError as error:
                failed.append(f'{pair}: {describe(error)}')
        return rows

    def _corrected(self, run: Run, strength: float) -> dict[str, float]:
        """Scores of a run's last checkpoint under equal shares of the classes."""
        folder = run.folder / f'uniform_{strength:g}'
        scores, log = folder / 'scores.json', folder / 'output.log'
        about = [run.checkpoint.stat().st_mtime_ns, strength]
        known = json.loads(scores.read_text(encoding='utf-8')) if scores.is_file() else {}
        if known.get('about') != about:
            self._say(f'  test of {run} under equal shares, strength {strength:g}')
            shutil.rmtree(folder, ignore_errors=True)
            written = next(path for path in run.folder.glob('*.py'))  # the configuration with all that was filled
            found = folder / 'found.json'
            arguments = [str(written), str(run.checkpoint), '--work-dir', str(folder), '--metrics', str(found)]
            arguments += ['--class-prior', 'uniform', '--prior-strength', f'{strength:g}', '--overwrite']
            if run_tool('test.py', arguments, log) != 0:
                raise UserError(f'the test of {run} failed. The end of {log}:\n{tail(log)}')
            known = {**json.loads(found.read_text(encoding='utf-8')), 'about': about}
            write_json(known, scores, overwrite=True)
        keys = [key for key in known if key in ('mIoU', 'aAcc') or key.startswith('IoU.')]
        return {key: float('nan') if known[key] is None else float(known[key]) for key in keys}

    # Tables ----------------------------------------------------------------------------------------------------------

    def _save(self, name: str, rows: _Rows) -> list[Path]:
        def spread(variant: _Variant, keys: Sequence[str]) -> Spread:
            found = [[values[key] for key in keys if key in values] for values in rows[variant].values()]
            return Spread(tuple(float(np.mean(own)) for own in found if own))

        def gain(variant: _Variant) -> Spread:
            numbers = self._labels_of(self.methods[0])
            labels = variant.labels if variant.labels in numbers else numbers[0]
            plain = rows.get(_Variant(self.methods[0], variant.start, 0.0, labels=labels), {})
            pairs = [(plain[seed], values) for seed, values in rows[variant].items() if seed in plain]
            return Spread(tuple(values['mIoU'] - before['mIoU'] for before, values in pairs))

        keys = list(dict.fromkeys(key for runs in rows.values() for values in runs.values() for key in values))
        classes = [key for key in keys if key.startswith('IoU.')]
        accuracies = [key for key in keys if key.startswith(DISC_ACCURACY)]
        columns: dict[str, Callable[[_Variant], Spread]] = {
            'mIoU': lambda v: spread(v, ['mIoU']),
            'gain': gain,
            'overall accuracy': lambda v: spread(v, ['aAcc']),
            **{key.removeprefix('IoU.'): functools.partial(spread, keys=[key]) for key in classes},
            'confident target pixels': lambda v: spread(v, ['confident_share']),
            'discriminator accuracy': lambda v: spread(v, accuracies),
            'ms of an iteration': lambda v: spread(v, ['ms']),
        }
        about_labels = ['labelled images'] if self.labels else []
        header = ['method', *about_labels, 'start', 'tau in training', 'strength afterwards', 'seeds', *columns]
        lines, record = [], []
        for variant, runs in rows.items():
            values = {title: column(variant) for title, column in columns.items()}
            labels = [variant.labels] if self.labels else []
            about = [variant.method, *labels, variant.start, variant.tau, variant.strength]
            lines.append([*map(_cell, about), ' '.join(map(str, runs)), *map(_short, values.values())])
            record.append(
                dict(zip(header, [*about, list(runs)])) | {title: value.as_dict() for title, value in values.items()}
            )
        iterations = {run.entry.name: run.iterations for run in plan_runs(self.entries(name), [0], self.out / name)}
        note = (
            f'{PAIRS[name].title}: {NOTE}; mean ± sample standard deviation over the seeds. Gain: points of mIoU over '
            f'plain {self.methods[0]} from the same start, seed by seed. Iterations: '
            + ', '.join(f'{own} {number}' for own, number in iterations.items())
            + '.'
        )
        if self.labels:
            note += (
                ' Labelled images of the target are drawn from one half of them, by the seed; all methods are scored '
                'on the other half.'
            )
        stem = f'{name}_labels' if self.labels else name
        markdown, table = self.out / f'{stem}.md', self.out / f'{stem}.json'
        write_text(f'{note}\n\n{markdown_table(header, lines)}', markdown, overwrite=True)
        write_json(dict(note=note, rows=record), table, overwrite=True)
        return [markdown, table, *self._picture(name, rows)]

    def _picture(self, name: str, rows: _Rows) -> list[Path]:
        """Draw the mIoU by the number of labelled images, of plain training from the first start."""
        curves: dict[str, dict[int, list[float]]] = {}
        for variant, runs in rows.items():
            plain = _Variant(variant.method, self.starts[0], self.taus[0], self.strengths[0], labels=variant.labels)
            if variant.labels is not None and variant == plain and runs:
                scores = [values['mIoU'] for values in runs.values()]
                curves.setdefault(variant.method, {})[variant.labels] = scores
        if not curves:
            return []
        picture = self.out / f'{name}_labels.svg'
        plot_label_curves(curves, picture, PAIRS[name].title)
        return [picture]

    # Estimate --------------------------------------------------------------------------------------------------------

    def estimate(self, iterations: int = 12) -> float:
        """Say what would be trained, and about how long it takes: by finished runs, or by a few iterations.

        Args:
            iterations: Of a run that has none of its kind before it.

        Returns:
            Seconds that are left.

        Raises:
            DataError: A pair has not been converted, and its files are not there.
        """
        total = 0.0
        for name in self.pairs:
            self._say(f'[bold]{PAIRS[name].title}[/]')
            self.prepare(name)
            entries, out = self.entries(name), self.out / name
            compare(entries, self.seeds, out, dry_run=True, console=self.console)
            steps: dict[Path, float] = {}
            for run in plan_runs(entries, self.seeds, out):
                if run.state() == 'finished':
                    continue
                if run.entry.config not in steps:  # neither start nor tau changes the time
                    steps[run.entry.config] = self._seconds_of_step(run, entries, iterations)
                total += steps[run.entry.config] * run.iterations
        self._say(f'about {duration(total)} of training are left, validations and tests not counted')
        return total

    def _seconds_of_step(self, run: Run, entries: Sequence[Entry], iterations: int) -> float:
        same = [entry for entry in entries if entry.config == run.entry.config]
        for other in plan_runs([replace(own, warm_start=None) for own in same], self.seeds, run.out):
            if other.results() is not None and (known := seconds_of_step(other.folder)) is not None:
                return known
        return probe(run, iterations)[0]

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _cell(value: object) -> str:
    return f'{value:g}' if isinstance(value, (int, float)) else str(value)


def _short(value: Spread) -> str:
    if value.mean is None:
        return '-'
    return f'{value.mean:.1f}' if value.deviation is None else f'{value.mean:.1f} ± {value.deviation:.1f}'
