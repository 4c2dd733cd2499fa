"""A page about one or more runs: what a reader wants to know, gathered from what runs leave and from their networks."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from rich.console import Console
from rich.progress import track

from mmrs.apis.compare import duration, mean_curves
from mmrs.apis.comparison import Comparison, last_values
from mmrs.apis.inference import init_model
from mmrs.apis.report_runs import Group, Run, find_runs, group_runs
from mmrs.apis.selection import target_crops
from mmrs.apis.statistics import domain_leaves, domain_statistics
from mmrs.evaluation.label_free import Observation, observe
from mmrs.geo.statistics_bands import wasserstein_shift
from mmrs.install import install
from mmrs.models.adaptors.base import share_title
from mmrs.utils.errors import (
    ConfigError,
    DataError,
    UserError,
    describe,
    require_file,
    require_number,
)
from mmrs.utils.files import atomic_path, writing
from mmrs.version import __version__
from mmrs.visualization.curves import chosen_keys, smoothed, training_records
from mmrs.visualization.histograms import histogram_edges
from mmrs.visualization.panels import class_colours, overlay, to_display
from mmrs.visualization.report import (
    Bars,
    Code,
    Grid,
    Legend,
    Lines,
    Matrix,
    Pictures,
    Section,
    Table,
    Text,
    render,
)

__all__ = ['write_report']

#: Points of a line at most; a page shows no more.
_POINTS = 200


# Sections ------------------------------------------------------------------------------------------------------------


def _settings(groups: Sequence[Group]) -> Section:
    title = 'Settings'
    if len(groups) < 2:
        return Section(title, absent='all runs have one configuration, so that nothing differs.')
    rows = [[key, *map(_compact, values)] for key, values in _differences([group.first.settings for group in groups])]
    caption = 'Settings in which the configurations differ; – where there is none'
    return Section(title, [Table(caption, ['setting', *(group.name for group in groups)], rows, code=True)])


def _differences(nodes: Sequence[Any], key: str = '') -> Iterator[tuple[str, Sequence[Any]]]:
    """Dotted keys, and values, in which nested dicts differ; lists are compared as a whole, None is nothing."""
    dicts = [node for node in nodes if isinstance(node, dict)]
    nested = any(isinstance(own, dict) or _of_dicts(own) for node in dicts for own in node.values())
    if len(dicts) == len(nodes) or (nested and all(node is None or isinstance(node, dict) for node in nodes)):
        for name in sorted({name for node in dicts for name in node}):
            yield from _differences([(node or {}).get(name) for node in nodes], f'{key}.{name}' if key else name)
    elif any(node != nodes[0] for node in nodes):
        yield key, nodes


def _of_dicts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(own, dict) for own in value)


def _compact(value: Any) -> str:
    """A setting as one would write it in a configuration; a list of dicts has a line for each."""
    if value is None:
        return '–'
    if isinstance(value, dict):
        inner = ', '.join(f'{key}={_compact(own)}' for key, own in value.items() if key != 'type')
        return f'{value.get("type", "dict")}({inner})'
    if isinstance(value, (list, tuple)):
        items = map(_compact, value)
        return '\n'.join(items) if _of_dicts(value) else f'[{", ".join(items)}]'
    return f'{value:g}' if isinstance(value, float) else str(value)


def _curves(groups: Sequence[Group]) -> Section:
    title = 'Curves'
    curves = {}
    for group in groups:
        if folders := [run.folder for run in group.runs if run.logged]:
            curves[group.name] = mean_curves(folders)
    if not any(curves.values()):
        return Section(title, absent='no run has a scalars.json with values.')
    names = [group.name for group in groups]
    shown = chosen_keys(curves)
    others = [key for own in curves.values() for key in own if key not in shown and not key.endswith('lr')]

    def charts(keys: Sequence[str]) -> list[Lines]:
        return [
            Lines(
                share_title(key) or key, names, {name: _drawn(*own[key]) for name, own in curves.items() if key in own}
            )
            for key in keys
        ]

    seeds = ', each the mean over its seeds' if any(len(group.runs) > 1 for group in groups) else ''
    blocks: list[Any] = [Text(f'A line is a configuration{seeds}. Losses are smoothed, scores are percentages.')]
    if missing := [name for name in names if name not in curves]:
        blocks.append(Text(f'Nothing was logged by {", ".join(missing)}.'))
    blocks.append(Grid(charts(shown)))
    if others := list(dict.fromkeys(others)):
        blocks.append(Grid(charts(others), f'{len(others)} more: single losses, scores of classes'))
    return Section(title, blocks)


def _drawn(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line as it is drawn: validations as they are, training smoothed and thinned out."""
    if len(steps) <= 30:
        return steps, values
    values = smoothed(values, max(3, len(values) // 20))
    every = math.ceil(len(steps) / _POINTS)
    return steps[::every], values[::every]


def _scores(groups: Sequence[Group]) -> tuple[Section, list[str]]:
    title = 'Scores'
    values: dict[str, dict[int, dict[str, float]]] = {}
    failed = {}
    for group in groups:
        values[group.name] = {}
        for i, run in enumerate(group.runs):
            iterations = (run.config.get('train_cfg') or {}).get('max_iters')
            found = last_values(run.folder, iterations) if iterations else None
            if found is None:
                failed[str(run.folder)] = 'it has no mIoU of its last iteration'
            else:
                values[group.name][i if run.seed is None else run.seed] = found
    seeds = sorted({seed for own in values.values() for seed in own})
    if not seeds:
        return Section(title, absent='no run has the mIoU of a validation at its last iteration.'), []
    comparison = Comparison(seeds, values, failed=failed)
    note, *others = comparison.notes()
    gains = others[: len(others) - len(failed)]
    header = ['score', *map(comparison.title_of, values)]
    table = Table('IoU of each class, and means', header, comparison.rows())
    return Section(title, [*map(Text, (note, *others[len(gains) :])), table]), gains


_MARKS = {'adapted': 'chosen', 'kept': 'stays', 'none': ''}


def _choice(file: Path | None) -> tuple[Section, list[str]]:
    title = 'Choice without labels'
    if file is None:
        return Section(
            title, absent='no --selection was given; tools/analysis_tools/select_checkpoint.py writes selection.json.'
        ), []
    require_file(file, 'the selection.json of select_checkpoint.py')
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        candidates, mark, sentence = found['candidates'], _MARKS[found['verdict']], found['sentence']
        criteria = list(candidates[0]['scores'])
        rows = [
            [
                own['candidate'],
                own['reason'] or (mark if own['candidate'] == found['candidate'] else ''),
                *(_number(own['scores'][name]['value']) for name in criteria),
                *(f'{100 * share:.1f}' for share in own['shares']),
            ]
            for own in candidates
        ]
        shares = [f'{name}, %' for name in found['classes']]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f'{file} is no selection.json that tools/analysis_tools/select_checkpoint.py wrote ({error!r})'
        ) from error
    header = ['candidate', 'verdict', *(name.replace('_', ' ') for name in criteria), *shares]
    blocks = [Text(sentence), Table('Criteria (higher is better) and shares of the classes in the map', header, rows)]
    return Section(title, blocks), [sentence]


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.3f}'


@dataclass(frozen=True)
class _Maps:
    """Maps of the same places by several networks.

    Attributes:
        crops: What :func:`target_crops` drew.
        labels: By the names of groups, for each crop ``(H, W)`` class indices, 255 where there is no data.
        classes: Names.
        colours: RGB of each.
    """

    crops: Sequence[Mapping[str, Any]]
    labels: Mapping[str, Sequence[np.ndarray]]
    classes: Sequence[str]
    colours: Sequence[Sequence[int]]

    def disagreement(self, i: int) -> float:
        """Share of the pixels of a crop that not all maps give the same class; 0 without pixels."""
        maps = np.stack([own[i] for own in self.labels.values()])
        counted = (maps < len(self.classes)).all(0)
        return float((maps != maps[0]).any(0)[counted].mean()) if counted.any() else 0.0

    def shares(self, name: str) -> np.ndarray:
        """Of the classes in all maps of a group, ``(K,)``."""
        pixels = np.concatenate([labels.ravel() for labels in self.labels[name]])
        counts = np.bincount(pixels[pixels < len(self.classes)], minlength=len(self.classes))
        return counts / max(counts.sum(), 1)

    def pictures(self, i: int) -> Pictures:
        """A crop and its maps, laid over it."""
        picture = to_display(_array(self.crops[i]))
        light = 128 + picture // 2  # beneath, so that dark images leave the colours as the legend has them
        layers = {name: overlay(light, own[i], self.colours, 0.7) for name, own in self.labels.items()}
        caption = Path(self.crops[i]['data_samples'].img_path).name
        if len(self.labels) > 1:
            caption += f', maps differ on {100 * self.disagreement(i):.1f} % of the pixels'
        return Pictures(caption, {'image': picture, **layers})


def _array(crop: Mapping[str, Any]) -> np.ndarray:
    return crop['inputs'].permute(1, 2, 0).numpy()


def _predict(groups: Sequence[Group], number: int, size: int, seed: int, device: str | None) -> _Maps | str:
    """Maps of crops of the target, or why there are none."""
    mapping = [group for group in groups if group.first.checkpoint is not None]
    if not mapping:
        return 'no run has a checkpoint iter_N.pth.'
    try:
        crops = target_crops([group.first.config for group in groups], number, size, seed)
    except UserError as error:
        return f'there are no images of the target ({describe(error)}).'
    labels: dict[str, list[np.ndarray]] = {}
    classes: tuple[str, ...] = ()
    colours: Any = []
    for group in mapping:
        run = group.first
        assert run.checkpoint is not None
        model = init_model(run.config, run.checkpoint, device)
        own = tuple(model.dataset_meta['classes'])
        if classes and own != classes:
            raise ConfigError(
                f'{run.checkpoint} has the classes {", ".join(own)}, but {mapping[0].first.checkpoint} has '
                f'{", ".join(classes)}'
            )
        classes, colours = own, class_colours(model.dataset_meta)
        views = track(observe(model, crops), f'maps of {group.name}', len(crops), console=Console(stderr=True))
        labels[group.name] = [_label(seen, crop) for seen, crop in zip(views, crops)]
    return _Maps(crops, labels, classes, colours)


def _label(seen: Observation, crop: Mapping[str, Any]) -> np.ndarray:
    """Class indices of a crop, 255 where there is no data, without what a test pads."""
    height, width = crop['inputs'].shape[-2:]
    return torch.where(seen.valid, seen.label, 255)[:height, :width].cpu().numpy().astype(np.uint8)


def _areas(maps: _Maps | str, about: str) -> Section:
    title = 'Areas'
    if isinstance(maps, str):
        return Section(title, absent=maps)
    shares = {name: maps.shares(name).tolist() for name in maps.labels}
    rows = [[name, *(f'{100 * own[i]:.1f}' for own in shares.values())] for i, name in enumerate(maps.classes)]
    bars = Bars('Shares of the classes in the maps of the target', maps.classes, maps.colours, shares)
    table = Table('Shares in percent', ['class', *shares], rows)
    return Section(title, [Text(about), bars, Legend(maps.classes, maps.colours), table])


def _tiles(maps: _Maps | str, number: int, seed: int, about: str) -> list[Section]:
    title, worst_title = 'Maps', 'Largest disagreement'
    if isinstance(maps, str):
        return [Section(title, absent=maps), Section(worst_title, absent=maps)]
    if not number:
        none = '--tiles 0 asked for no pictures.'
        return [Section(title, absent=none), Section(worst_title, absent=none)]
    legend = Legend(maps.classes, maps.colours)
    drawn = sorted(np.random.default_rng(seed).permutation(len(maps.crops))[:number].tolist())
    how = Text('The slider, or the arrow keys on it, wipes from the image over one map to the next.')
    sections = [Section(title, [Text(about), how, legend, Grid([maps.pictures(i) for i in drawn])])]
    if len(maps.labels) < 2:
        return [*sections, Section(worst_title, absent='there is one network only, with which no other disagrees.')]
    disagreement = np.array([maps.disagreement(i) for i in range(len(maps.crops))])
    worst = np.argsort(-disagreement, kind='stable')[:number].tolist()
    mean = f'On average over the {len(maps.crops)} crops, not all maps agree on {100 * disagreement.mean():.1f} %.'
    text = Text(f'Where the networks contradict one another most, at least one is wrong. {mean}')
    return [*sections, Section(worst_title, [text, legend, Grid([maps.pictures(i) for i in worst])])]


def _confusion(groups: Sequence[Group]) -> Section:
    title = 'Confusion matrices'
    matrices, lacking = [], []
    for group in groups:
        found = _metrics(group.first)
        if found is None:
            lacking.append(group.name)
            continue
        about = f'{group.name}, mIoU {found["mIoU"]:.1f}'
        matrices.append(Matrix(about, list(found['classes']), np.array(found['confusion_matrix'])))
    sentence = 'tools/test.py CONFIG CHECKPOINT --work-dir RUN writes the metrics.json that is needed, for {}.'
    if not matrices:
        return Section(title, absent=sentence.format('each run'))
    lead = 'All images of the test set: rows have the labelled pixels of a class in percent, by the class in the map.'
    more = [Text(f'Some are left out: {sentence.format(", ".join(lacking))}')] if lacking else []
    return Section(title, [Text(lead), *more, Grid(matrices)])


def _metrics(run: Run) -> dict[str, Any] | None:
    """The latest scores of the run's network as it is, on whole images of the test set."""
    for file in sorted(run.folder.glob('*/metrics.json'), reverse=True):
        try:
            found = json.loads(file.read_text(encoding='utf-8'))
            plain = not found['tta'] and 'class_prior' not in found and {'confusion_matrix', 'mIoU'} <= found.keys()
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f'{file} is no metrics.json that tools/test.py wrote ({error!r})') from error
        if plain and run.checkpoint is not None and Path(found['checkpoint']).name == run.checkpoint.name:
            # A training that was begun anew has written another checkpoint of that name.
            return found if file.stat().st_mtime >= run.checkpoint.stat().st_mtime else None
    return None


def _gap(groups: Sequence[Group]) -> Section:
    title = 'Domain gap'
    for group in groups:
        dataset = (group.first.config.get('train_dataloader') or {}).get('dataset')
        if dataset and domain_leaves(dataset).keys() >= {'source', 'target'}:
            break
    else:
        return Section(title, absent='no run trains on a source and a target.')
    try:
        domains = domain_statistics([group.first.config.filename])
    except UserError as error:
        return Section(title, absent=f'the training images cannot be read ({describe(error)}).')
    source, target = domains['source'], domains['target']
    shifts = wasserstein_shift(source, target)
    rows, charts = [], []
    for band, shift in enumerate(shifts):
        cells = [f'{own.mean[band]:.4g} ± {own.std[band]:.3g}' for own in (source, target)]
        rows.append([f'{band + 1}', *cells, f'{shift:.2f}'])
        if all(own.count[band] for own in (source, target)):
            edges = histogram_edges([source, target], band)
            centres = (edges[1:] + edges[:-1]) / 2
            share = {name: 100 * own.histogram(band, edges) / own.count[band] for name, own in domains.items()}
            series = {name: (centres, values) for name, values in share.items()}
            charts.append(Lines(f'Band {band + 1}: % of the pixels by value', list(domains), series, 'value'))
    text = (
        f'Training images of {group.name}, without labels. The shift is the Wasserstein distance of the values of a '
        'band over their standard deviation: 0, the domains are alike; 1, they are a standard deviation apart.'
    )
    table = Table('Mean ± standard deviation of the values', ['band', 'source', 'target', 'shift'], rows)
    return Section(title, [Text(text), table, Grid(charts)])


def _cost(groups: Sequence[Group]) -> Section:
    title = 'Time and memory'
    rows = []
    for name, run in ((group.name, run) for group in groups for run in group.runs):
        records = training_records(run.folder) if run.logged else []
        if not records:
            continue
        time, loading, memory = ([r[key] for r in records if key in r] for key in ('time', 'data_time', 'memory'))
        seconds = sum(map(_seconds, run.log))
        rows.append(
            [
                f'{name}, seed {run.seed}',
                f'{records[-1]["step"]}',
                f'{np.median(time):.3f}' if time else '–',
                f'{np.median(loading):.3f}' if loading else '–',
                duration(seconds) if seconds else '–',
                f'{max(memory) / 1024:.2f}' if memory else '–',
                run.noted('GPU 0') or 'CPU',
            ]
        )
    if not rows:
        return Section(title, absent='no run has logged its training.')
    header = ['run', 'iterations', 's per iteration', 'of which loading', 'time in all', 'GPU memory, GiB', 'device']
    note = 'Medians over the log; the time in all goes to the last iteration, with validations. GPU memory is the peak.'
    return Section(title, [Table(note, header, rows)])


def _seconds(log: Sequence[str]) -> float:
    """From the first line of a log to its last iteration; 0 where there is none."""
    form = re.compile(r'\d{4}/\d\d/\d\d \d\d:\d\d:\d\d')
    timed = [(match[0], 'Iter(' in line) for line in log if (match := form.match(line))]
    if not any(iteration for _, iteration in timed):
        return 0.0
    ends = timed[0][0], [time for time, iteration in timed if iteration][-1]
    first, last = (datetime.strptime(time, '%Y/%m/%d %H:%M:%S') for time in ends)
    return (last - first).total_seconds()


def _reproduce(groups: Sequence[Group], options: Mapping[str, Any]) -> Section:
    runs = [(group, run) for group in groups for run in group.runs]
    rows, lines = [], []
    for group, run in runs:
        versions = [(run.noted(key) or '–').split()[0] for key in ('Python', 'PyTorch', 'MMEngine')]
        weights = f'{run.checkpoint.name} {pooch.file_hash(str(run.checkpoint))[:12]}' if run.checkpoint else '–'
        rows.append([f'{group.name}, seed {run.seed}', *versions, weights])
        out = f'work_dirs/again/{group.name}/seed_{run.seed}'
        seed = [] if (run.config.get('randomness') or {}).get('seed') is not None else [f'randomness.seed={run.seed}']
        command = ['python', 'tools/train.py', str(run.config.filename), '--work-dir', out]
        lines.append(shlex.join([*command, *(['--cfg-options', *seed] if seed else [])]))
    report = ['python', 'tools/analysis_tools/report.py', *(str(run.folder) for _, run in runs), '-o', 'report.html']
    for name, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        report += [] if value is None else [f'--{name}', *map(str, values)]
    header = ['run', 'Python', 'PyTorch', 'MMEngine', 'checkpoint, SHA-256']
    text = 'The configuration in a work dir is whole; a run that began with weights (load_from) needs that file too.'
    table = Table(f'Versions that the runs were made with; this page is by mmrs {__version__}', header, rows)
    return Section('How to reproduce', [Text(text), Code([*lines, shlex.join(report)]), table])


# The page ------------------------------------------------------------------------------------------------------------


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    selection: str | Path | None = None,
    names: Sequence[str] | None = None,
    tiles: int = 4,
    number: int = 40,
    size: int = 512,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> dict[str, str]:
    """Write a page about runs: one HTML file that needs no other and no network.

    Args:
        runs: Work dirs, or checkpoints in them. The first is the reference; those that differ in their seed alone are
            shown together.
        out: The page.
        selection: A ``selection.json`` that `tools/analysis_tools/select_checkpoint.py` wrote.
        names: Of the groups, in the order of their first runs.
        tiles: Pictures of places drawn by the seed, and as many where the maps disagree most.
        number: Crops of the target that are mapped.
        size: Largest side of a crop in pixels.
        seed: Which images of the target, and where in them.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.
        overwrite: Replace the page where it exists.

    Returns:
        Sections that are left out, with the reason.

    Raises:
        ConfigError: A number makes no sense, or a run's configuration cannot work.
        CheckpointError: A checkpoint cannot be read or does not fit.
        DataError: There is no such run, or its logs or `selection` are broken.
        OutputError: `out` exists, or cannot be written.
    """
    install()
    require_number('tiles', tiles, at_least=0)
    require_number('number', number, at_least=1)
    require_number('size', size, at_least=1)
    with atomic_path(out, overwrite) as temporary:
        groups = group_runs(find_runs(runs), names)
        scores, gains = _scores(groups)
        choice, verdict = _choice(None if selection is None else Path(selection))
        options = dict(selection=selection, names=names, tiles=tiles, number=number, size=size, seed=seed)
        maps = _predict(groups, number, size, seed, device)
        about = ''
        if not isinstance(maps, str):
            of = ', '.join(f'{group.name} (seed {group.first.seed})' for group in groups if group.name in maps.labels)
            about = f'{len(maps.crops)} images of the target, drawn by the seed {seed} and at most {size} px a side, '
            about += f'as the last checkpoints map them: {of}.'
        sections = [
            scores,
            choice,
            *_tiles(maps, tiles, seed, about),
            _areas(maps, about),
            _confusion(groups),
            _curves(groups),
            _gap(groups),
            _settings(groups),
            _cost(groups),
            _reproduce(groups, options),
        ]
        title = f'Report: {", ".join(group.name for group in groups)}'
        with writing(out):
            temporary.write_text(render(title, [*gains, *verdict], sections), encoding='utf-8')
    return {section.title: section.absent for section in sections if section.absent}
