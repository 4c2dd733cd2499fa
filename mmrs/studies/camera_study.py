"""How much of what a change of camera costs does feature regression win back, with and without misalignment?"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from mmengine.config import Config
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmrs.apis.compare import parse_options
from mmrs.apis.comparison import Spread, markdown_table
from mmrs.apis.testing import evaluate
from mmrs.apis.training import train
from mmrs.engine.saved_runs import newest_checkpoint
from mmrs.geo.rasters import open_raster
from mmrs.install import install
from mmrs.models.losses.feature_regression import parse_tolerance
from mmrs.registry import DATASETS
from mmrs.utils.config import load_config, walk
from mmrs.utils.errors import CheckpointError, ConfigError, OutputError
from mmrs.utils.files import atomic_path, write_json, write_text
from mmrs.utils.progress import progress_bar
from mmrs.utils.records import Record
from mmrs.utils.shipped import CONFIGS
from mmrs.visualization import class_colours, colour_labels, compose, to_display

__all__ = ['CameraStudy', 'Configs', 'Job']

SCORES = 'scores.json'
SETTINGS = 'settings.json'
LABEL_MAPS = 'label_maps'
REFERENCE, FINE_TUNED = 'reference', 'fine-tuned'
TOLERANCES = ('exact', 'local(3)', 'pyramid', 'gram')


@dataclass(frozen=True)
class Configs:
    """The three configurations of a study; all of them test on the images of the other camera.

    Args:
        reference: Trains on the images as they are.
        regression: Feature regression; its target's pipeline has a `CameraChange` and a `Misalignment`.
        fine_tuned: Trains on the images of the other camera, with their labels.
    """

    reference: Path = CONFIGS / 'source_only/dubai_synthetic.py'
    regression: Path = CONFIGS / 'feature_regression/dubai_synthetic.py'
    fine_tuned: Path = CONFIGS / 'target_supervised/dubai_synthetic.py'


@dataclass(frozen=True)
class Job:
    """One score: a network, trained if need be, tested on images of one strength.

    Args:
        method: `reference`, `fine-tuned`, or a tolerance.
        strength: Of the camera change; 0 for the images as they are.
        shift: Misalignment of the pairs, in pixels of the images as the network sees them.
        seed: Of the training.
    """

    method: str
    strength: float
    shift: float
    seed: int

    @property
    def folder(self) -> Path:
        """Where it is done, inside the study's folder."""
        place = f'seed_{self.seed}/strength_{self.strength:g}'
        return Path(place + (f'_shift_{self.shift:g}' if self.shift else ''), self.method)


@dataclass
class CameraStudy:
    """A study.

    Args:
        out: Folder for runs, table and picture.
        strengths: Of the `CameraChange`.
        shifts: Of the `Misalignment`, in pixels.
        tolerances: Of the `FeatureRegressionLoss`.
        seeds: Of the trainings; each has a reference of its own.
        cfg_options: ``KEY=VALUE`` for all configurations.
        configs: The configurations.
        console: Where to report.
    """

    out: Path
    strengths: Sequence[float] = (0.5, 1.0, 2.0)
    shifts: Sequence[float] = (0.0, 4.0, 8.0)
    tolerances: Sequence[str] = TOLERANCES
    seeds: Sequence[int] = (0, 1)
    cfg_options: Sequence[str] = ()
    configs: Configs = field(default_factory=Configs)
    console: Console = field(default_factory=Console)

    def jobs(self) -> list[Job]:
        """All scores of the study, seed by seed, those without misalignment first."""
        jobs = []
        for seed in self.seeds:
            jobs += [Job(REFERENCE, strength, 0, seed) for strength in (0, *self.strengths)]
            for shift in self.shifts:
                for strength in self.strengths:
                    jobs += [Job(tolerance, strength, shift, seed) for tolerance in self.tolerances]
            jobs += [Job(FINE_TUNED, strength, 0, seed) for strength in self.strengths]
        return jobs

    def run(self, dry_run: bool = False) -> dict[Job, dict[str, float]]:
        """Do what is not done yet.

        Args:
            dry_run: Only say what that is.

        Returns:
            Scores in percent, `mIoU` and `aAcc`.

        Raises:
            ConfigError: A tolerance or a configuration cannot be studied.
            OutputError: The folder holds a study of other settings.
            UserError: A training or test failed.
        """
        jobs = self.jobs()
        todo = [job for job in jobs if not (self.out / job.folder / SCORES).is_file()]
        self.console.print(f'{len(jobs) - len(todo)} of {len(jobs)} scores are there already', highlight=False)
        if dry_run:
            for job in todo:
                self.console.print(f'  to do: {job.folder}', highlight=False)
            return self.scores()
        self._check_settings()
        with progress_bar(console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task('', total=len(todo))
            for job in todo:
                progress.update(task, description=str(job.folder))
                start = time.monotonic()
                self._do(job)
                score = self.scores()[job]['mIoU']
                took = time.monotonic() - start
                self.console.print(f'{job.folder}: mIoU {score:.1f} after {took:.0f} s', highlight=False)
                progress.advance(task)
        return self.scores()

    def scores(self) -> dict[Job, dict[str, float]]:
        """The scores that are there."""
        found = {job: self.out / job.folder / SCORES for job in self.jobs()}
        return {job: json.loads(path.read_text()) for job, path in found.items() if path.is_file()}

    def _check_settings(self) -> None:
        for tolerance in self.tolerances:
            parse_tolerance(tolerance)
        self._config(self.configs.regression, shift=max(self.shifts))
        settings = {name: self._config(getattr(self.configs, name)).pretty_text for name in Configs.__annotations__}
        record = Record(self.out / SETTINGS)
        if record and record.differences(settings):
            raise OutputError(f'{self.out} holds a study with other configurations or options; choose another folder')
        record.write(settings)

    def _config(self, path: Path, strength: float = 1, shift: float = 0, seed: int = 0) -> Config:
        install()
        config = load_config(path, parse_options(self.cfg_options))
        found = set()
        for node in (cast('dict', node) for _, node in walk(config)):
            found.add(kind := node.get('type'))
            if kind == 'CameraChange':
                node['strength'] = strength
            elif kind == 'Misalignment':
                node['shift'] = shift
        for kind in ('CameraChange', 'Misalignment') if shift else ('CameraChange',):
            if kind not in found:
                raise ConfigError(f'config {path} has no {kind} in any pipeline')
        config.randomness = dict(seed=seed)
        # Runs of a study are logged in files; on the screen they would bury its own lines.
        config.log_level = 'WARNING'
        return config

    def _reference(self, seed: int) -> Path:
        """The reference's checkpoint, after training it if need be."""
        folder = self.out / f'seed_{seed}' / REFERENCE
        config = self._config(self.configs.reference, seed=seed)
        checkpoint = folder / f'iter_{config.train_cfg.max_iters}.pth'
        if not checkpoint.is_file():
            train(config, folder, resume='auto')
        return checkpoint

    def _do(self, job: Job) -> None:
        logging.getLogger('mmengine').setLevel(logging.WARNING)
        folder, reference = self.out / job.folder, self._reference(job.seed)
        config, checkpoint = self._config(self.configs.reference, job.strength, seed=job.seed), reference
        if job.method != REFERENCE:
            path = self.configs.fine_tuned if job.method == FINE_TUNED else self.configs.regression
            config = self._config(path, job.strength, job.shift, job.seed)
            if job.method == FINE_TUNED:
                config.load_from = str(reference)
                train(config, folder, overwrite=True)
            else:
                config.merge_from_dict({'model.loss_regression.tolerance': job.method})
                train(config, folder, overwrite=True, reference=str(reference))
            checkpoint = _result(folder)
        results = evaluate(config, checkpoint, folder / 'test', out=folder / LABEL_MAPS, overwrite=True)
        write_json({key: results[key] for key in ('mIoU', 'aAcc')}, folder / SCORES)
        for weights in folder.glob('*.pth'):  # several gigabytes in all
            weights.unlink()

    # Table -----------------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """Method, mIoU for each pair of strength and shift, and the same as a share of what the change cost."""
        scores = {(j.method, j.strength, j.shift, j.seed): values['mIoU'] for j, values in self.scores().items()}

        def spread(method: str, strength: float, shift: float = 0) -> str:
            found = [scores[key] for seed in self.seeds if (key := (method, strength, shift, seed)) in scores]
            return str(Spread(tuple(found))).split(' (')[0]

        def recovered(method: str, strength: float, shift: float) -> str:
            shares = []
            for seed in self.seeds:
                keys = [(method, strength, shift), (REFERENCE, strength, 0), (REFERENCE, 0, 0)]
                if all((*key, seed) in scores for key in keys):
                    own, lower, upper = (scores[(*key, seed)] for key in keys)
                    if upper > lower:  # else there is nothing to win back
                        shares.append(100 * (own - lower) / (upper - lower))
            return f' [{np.mean(shares):.0f} %]' if shares else ''

        columns = self.columns()
        yield 'reference, source images', [spread(REFERENCE, 0) for _ in columns]
        yield 'reference, changed images', [spread(REFERENCE, strength) for strength, _ in columns]
        for tolerance in self.tolerances:
            yield f'regression, {tolerance}', [spread(tolerance, *c) + recovered(tolerance, *c) for c in columns]
        tuned = [spread(FINE_TUNED, strength) + recovered(FINE_TUNED, strength, 0) for strength, _ in columns]
        yield 'fine-tuned with labels', tuned

    def columns(self) -> list[tuple[float, float]]:
        """Strength and shift of the columns."""
        return [(strength, shift) for shift in self.shifts for strength in self.strengths]

    def titles(self) -> list[str]:
        """Of the columns."""
        return [f'{strength:g}' + (f', {shift:g} px' if shift else '') for strength, shift in self.columns()]

    def table(self) -> Table:
        """For the terminal."""
        table = Table('mIoU at strength, shift', title='Change of camera: mIoU in %, [share of the loss won back]')
        for title in self.titles():
            table.add_column(title, justify='right')
        for method, cells in self.rows():
            table.add_row(method, *(cell.replace('[', r'\[') for cell in cells))
        return table

    def save(self) -> Path:
        """Write the table as Markdown; returns its file."""
        header = ['mIoU at strength, shift', *self.titles()]
        path = self.out / 'camera_study.md'
        rows = ([method, *cells] for method, cells in self.rows())
        write_text(markdown_table(header, rows), path, overwrite=True)
        return path

    # Picture ---------------------------------------------------------------------------------------------------------

    def draw(self, strength: float, number: int = 3) -> Path:
        """Draw what all methods make of some test images, without misalignment, for the first seed.

        Args:
            strength: One of the study's.
            number: How many images, at even distances through the test set.

        Raises:
            ConfigError: A score is missing.
        """
        jobs = [
            (title, Job(method, at, 0, self.seeds[0]))
            for title, method, at in (
                ('reference, source', REFERENCE, 0),
                ('reference, changed', REFERENCE, strength),
                *((f'regression, {tolerance}', tolerance, strength) for tolerance in self.tolerances),
                ('fine-tuned', FINE_TUNED, strength),
            )
        ]
        scores = self.scores()
        if missing := [str(job.folder) for _, job in jobs if job not in scores]:
            raise ConfigError(f'the picture needs {", ".join(missing)}, which is not done')
        sets = [self._test_set(at) for at in (0, strength)]
        meta: Mapping[str, Any] = sets[0].metainfo
        colours = class_colours(meta)
        rows = []
        for index in np.linspace(0, len(sets[0]) - 1, number + 2).round().astype(int)[1:-1].tolist():
            unchanged, changed = (data[index] for data in sets)
            labels = unchanged['data_samples'].gt_sem_seg.data.squeeze().numpy()
            pictures = [to_display(s['inputs'].permute(1, 2, 0).numpy()) for s in (unchanged, changed)]
            row = [('source image', pictures[0]), (f'changed, strength {strength:g}', pictures[1])]
            row.append(('ground truth', colour_labels(labels, colours)))
            name = Path(unchanged['data_samples'].img_path).stem
            for title, job in jobs:
                (file,) = (self.out / job.folder / LABEL_MAPS).glob(f'{name}.*')
                with open_raster(file) as raster:
                    ids = raster.read(1)
                row.append((f'{title}: {scores[job]["mIoU"]:.1f}', colour_labels(ids, colours)))
            size = (300, round(300 * labels.shape[0] / labels.shape[1]))
            rows.append([(title, np.asarray(Image.fromarray(p).resize(size))) for title, p in row])
        half = (len(rows[0]) + 1) // 2
        panels = [part for row in rows for part in (row[:half], row[half:])]
        path = self.out / f'camera_study_{strength:g}.png'
        with atomic_path(path, overwrite=True) as temporary:
            Image.fromarray(compose(panels, meta['classes'], colours, size=300)).save(temporary, optimize=True)
        return path

    def _test_set(self, strength: float) -> Any:
        return DATASETS.build(self._config(self.configs.reference, strength).test_dataloader.dataset)


def _result(folder: Path) -> Path:
    """The checkpoint that validation picked, or, without validation, the last one."""
    best = sorted(folder.glob('best_*.pth'))
    last = newest_checkpoint(folder)
    if last is None:
        raise CheckpointError(f'{folder} holds no checkpoint, though its training ended well')
    return best[-1] if best else last
