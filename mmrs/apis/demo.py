"""The demo: makes the synthetic pair, trains with and without adaptation, tests both, draws and tabulates."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from mmrs.apis.compare import Entry, Run, compare, duration, parse_options, plan_runs
from mmrs.apis.comparison import Comparison, output_console
from mmrs.datasets.isprs import VaihingenDataset
from mmrs.geo.rasters import open_raster, read_image
from mmrs.geo.statistics import default_workers
from mmrs.install import install
from mmrs.preparation.converters.isprs import POTSDAM, VAIHINGEN, Archive, Conversion
from mmrs.preparation.synthetic.archives import read_manifest, write_isprs_archives
from mmrs.utils.config import load_config, walk
from mmrs.utils.errors import ConfigError, UserError
from mmrs.utils.files import atomic_path
from mmrs.utils.processes import run_tool, tail
from mmrs.utils.records import Record
from mmrs.utils.shipped import CONFIGS
from mmrs.visualization import class_colours, colour_labels, compose, to_display

__all__ = ['Demo', 'choose_images', 'draw_panel', 'make_pair']

#: Where the demo's configurations expect the pair.
DATA = Path('data/synthetic')
SOURCE_ONLY = CONFIGS / 'source_only' / 'demo.py'
ADAPTED = CONFIGS / 'st_dasegnet' / 'demo.py'
#: The gap that those were made for.
GAP = 0.75
_PAIR = 'pair.json'
_META: Mapping[str, Any] = VaihingenDataset.METAINFO


def make_pair(data: Path, gap: float, overwrite: bool = False, **pair: Any) -> bool:
    """Make the synthetic archives and convert them; what is there already stays.

    Args:
        data: Folder that gets ``archives``, ``potsdam_irrg`` and ``vaihingen``.
        gap: Domain gap, 0 to 1.5.
        overwrite: Replace a pair of another gap.
        **pair: Further arguments of :func:`write_isprs_archives`.

    Returns:
        Whether anything had to be made.

    Raises:
        OutputError: The folder holds another pair, and `overwrite` is off.
    """
    archives = data / 'archives'
    made = write_isprs_archives(archives, gap, overwrite=overwrite, **{'seed': 0, **pair})
    converted = [_convert(archive, archives, data / name) for archive, name in _DATA_SETS]
    return any([made, *converted])


_DATA_SETS = ((POTSDAM, 'potsdam_irrg'), (VAIHINGEN, 'vaihingen'))


def _convert(archive: Archive, archives: Path, out: Path) -> bool:
    """Convert one of the data sets, unless it has been from these very archives."""
    origin, record = (read_manifest(archives) or {})['archives'], Record(out / _PAIR)
    if not record.differences(origin):
        return False
    conversion = Conversion(archive, archives, out, allow_missing=True)
    # Its report is mostly a list of the tiles that a pair does not have.
    with contextlib.redirect_stdout(io.StringIO()):
        # Clips of other archives must not pass for converted, nor half of these for all.
        conversion.run(default_workers(), overwrite=out.exists())
    record.write(origin)
    return True


def _tested(run: Run) -> Path:
    return run.folder / 'test'


def evaluate(run: Run, pictures: int = 6) -> dict[str, float]:
    """Test the last checkpoint of a run in a process of its own, unless it has been.

    Args:
        run: A finished run.
        pictures: About how many pictures to draw.

    Returns:
        The scores, in percent.

    Raises:
        UserError: The test failed; the message has the end of what it printed.
    """
    folder = _tested(run)
    scores, log = folder / 'scores.json', folder / 'output.log'
    if not scores.is_file():
        images = len(_images(run))
        options = list(run.entry.cfg_options)
        arguments = [str(run.entry.config), str(run.checkpoint), '--work-dir', str(folder), '--metrics', str(scores)]
        arguments += ['--out', str(folder / 'label_maps'), '--show-dir', str(folder / 'pictures'), '--overwrite']
        arguments += ['--show-interval', str(max(1, images // pictures))]
        status = run_tool('test.py', [*arguments, *(['--cfg-options', *options] if options else [])], log)
        if status != 0:
            raise UserError(f'the test of {run} ended with status {status}. The end of {log}:\n{tail(log)}')
    found = json.loads(scores.read_text(encoding='utf-8'))
    keys = [key for key in found if key in ('mIoU', 'aAcc') or key.startswith('IoU.')]
    return {key: float('nan') if found[key] is None else float(found[key]) for key in keys}


def _split(run: Run) -> tuple[Path, Path]:
    """Folders of the images and label maps that a run is tested on."""
    data = run.config.test_dataloader.dataset
    prefix = data.data_prefix
    return Path(data.data_root, prefix.img_path), Path(data.data_root, prefix.seg_map_path)


def _images(run: Run) -> list[Path]:
    return sorted(_split(run)[0].glob('*.png'))


def choose_images(labels: Mapping[str, np.ndarray], number: int) -> list[str]:
    """Choose images by their labels alone: of each area the one with the most even mixture of classes.

    Args:
        labels: Label ids, uint8 ``(H, W)``, 0 for ignored, by the name of the clip: its area, ``_`` and more.
        number: How many at most, those with the most even mixture.
    """

    def entropy(ids: np.ndarray) -> float:
        counts = np.bincount(ids.ravel(), minlength=256)[1:255]
        shares = counts[counts > 0] / max(counts.sum(), 1)
        return float(-(shares * np.log(shares)).sum())

    mixture = {name: entropy(ids) for name, ids in labels.items()}
    best: dict[str, str] = {}
    for name in sorted(labels, key=lambda name: (-mixture[name], name)):
        best.setdefault(name.split('_')[0], name)
    return list(best.values())[:number]


def draw_panel(columns: Sequence[tuple[str, Sequence[np.ndarray]]], side: int = 300, gap: int = 6) -> np.ndarray:
    """Put columns of square pictures side by side, each under one title, with the legend of the classes below.

    Args:
        columns: Title and ``(H, W, 3)`` uint8 pictures from top to bottom, as many in each.
        side: Of a picture, in pixels.
        gap: Between the pictures of a column, in pixels.
    """
    row = []
    for title, pictures in columns:
        resized = [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BOX)) for p in pictures]
        space = np.full((gap, side, 3), 255, np.uint8)
        stacked = [part for picture in resized for part in (space, picture)][1:]
        row.append((title, np.concatenate(stacked)))
    names = [name.replace('_', ' ') for name in _META['classes']]
    return compose([row], names, class_colours(_META), size=max(row[0][1].shape))


def _read_labels(path: Path) -> np.ndarray:
    with open_raster(path) as raster:  # the ids themselves, not the colours that a colour table gives them
        return raster.read(1)


def _draw_ids(ids: np.ndarray) -> np.ndarray:
    return colour_labels(ids.astype(int) - 1, class_colours(_META))


@dataclass
class Demo:
    """The demo.

    Args:
        out: Folder for runs, table and pictures.
        data: Folder of the pair; one of its own for each gap.
        gap: Domain gap of the pair.
        seeds: Seeds of the trainings; the pair's is always 0.
        cfg_options: ``KEY=VALUE`` for both configurations.
        overwrite: Make anew what was made with other settings.
        rows: Images in the picture.
        pair: Further arguments of :func:`write_isprs_archives`, such as the number of tiles.
        console: Where the table goes; by default stdout.
    """

    out: Path
    data: Path = DATA
    gap: float = GAP
    seeds: Sequence[int] = (0,)
    cfg_options: Sequence[str] = ()
    overwrite: bool = False
    rows: int = 3
    pair: Mapping[str, Any] = field(default_factory=dict)
    console: Console = field(default_factory=output_console)

    def entries(self) -> list[Entry]:
        """The two configurations: source only, and ST-DASegNet from the checkpoint that its `load_from` names."""
        install()
        source_only = Entry(SOURCE_ONLY, None, self._options(SOURCE_ONLY))
        load_from = load_config(ADAPTED, parse_options(self.cfg_options)).get('load_from')
        warm_start = f'{source_only.name}/{Path(load_from).name}' if load_from else None
        return [source_only, Entry(ADAPTED, warm_start, self._options(ADAPTED))]

    def _options(self, config: Path) -> tuple[str, ...]:
        """The options, with the data roots of a pair that is elsewhere."""
        moved = []
        for path, node in walk(load_config(config)):
            root = node.get('data_root')
            # A variable of the configuration, which has been filled in already, begins no path of a loader.
            if isinstance(root, str) and Path(root).parent == DATA != self.data and '_dataloader' in path:
                moved.append(f'{path}.data_root={self.data / Path(root).name}')
        return (*moved, *self.cfg_options)

    def run(self) -> Comparison:
        """Do whatever is not yet done, and print the table.

        Returns:
            The scores of the test, with the last logged shares of the training.

        Raises:
            UserError: Something failed.
        """
        start = time.monotonic()
        with self._step(1, f'synthetic Potsdam and Vaihingen, gap {self.gap:g}: {self.data}'):
            made = make_pair(self.data, self.gap, self.overwrite, **self.pair)
            self._say('made and converted' if made else 'already there')
        entries = self.entries()
        runs = plan_runs(entries, self.seeds, self.out)
        with self._step(2, f'training, {len(runs)} runs'):
            comparison = compare(entries, self.seeds, self.out, overwrite=self.overwrite, console=self.console)
        if comparison.failed:
            raise UserError('\n'.join(f'{run}: {why}' for run, why in comparison.failed.items()))
        with self._step(3, 'test on the target'):
            for run in runs:
                with self._busy(f'  {run}'):
                    comparison.values[run.entry.name][run.seed].update(evaluate(run))
        comparison.titles = dict(zip(comparison.values, ('source only', 'ST-DASegNet')))
        with self._step(4, 'pictures'):
            panel = self._draw([run for run in runs if run.seed == self.seeds[0]], comparison)
        self._report(comparison, [panel, *(_tested(run) / 'pictures' for run in runs)])
        self._say(f'{duration(time.monotonic() - start)} in all', indent='')
        return comparison

    def _draw(self, runs: Sequence[Run], comparison: Comparison) -> Path:
        images, labels = _split(runs[0])
        ids = {path.stem: _read_labels(labels / path.name) for path in _images(runs[0])}
        if not ids:
            raise ConfigError(f'{images} has no images')
        names = choose_images(ids, self.rows)
        columns = [
            ('target image', [to_display(read_image(images / f'{name}.png')[0]) for name in names]),
            ('ground truth', [_draw_ids(ids[name]) for name in names]),
        ]
        for run in runs:
            score = comparison.values[run.entry.name][run.seed]['mIoU']
            maps = [next((_tested(run) / 'label_maps').glob(f'{name}.[pt][ni][gf]')) for name in names]
            title = f'{comparison.titles[run.entry.name]}, mIoU {score:.1f} %'
            columns.append((title, [_draw_ids(_read_labels(path)) for path in maps]))
        target = self.out / 'demo.png'
        with atomic_path(target, overwrite=True) as temporary:
            Image.fromarray(draw_panel(columns)).save(temporary, optimize=True)
        return target

    def _report(self, comparison: Comparison, pictures: Sequence[Path]) -> None:
        self.console.print()
        self.console.print(comparison.table(f'Target test set: synthetic Vaihingen, gap {self.gap:g}'))
        for line in comparison.notes():
            self._say(line, indent='')
        self.console.print()
        for what, paths in (('table', comparison.save(self.out)), ('pictures', pictures)):
            for path in paths:
                self._say(f'{what}: {os.path.relpath(path)}', indent='')

    def _say(self, text: str, indent: str = '  ') -> None:
        self.console.print(indent + text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _step(self, number: int, title: str) -> Iterator[None]:
        self.console.print(f'[bold]{number}/4[/] {title}', highlight=False)
        try:
            yield
        except KeyboardInterrupt:
            self._say(f'Interrupted in step {number}; the same command goes on from here.')
            raise

    @contextlib.contextmanager
    def _busy(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        with self.console.status(what.strip()):
            yield
        self._say(f'{what}: done in {duration(time.monotonic() - start)}', indent='')
