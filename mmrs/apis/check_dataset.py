"""Checks a configuration's data sets, or folders, before anything is trained on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.apis.checked_sets import config_pairs, config_sets, folder_sets
from mmrs.apis.statistics import statistics_table
from mmrs.checks.findings import check_sets
from mmrs.checks.pairs import check_pairs, pair_summary
from mmrs.checks.report import KINDS, SEVERITIES, Finding, Report
from mmrs.geo.classes import load_classes
from mmrs.geo.statistics import default_workers
from mmrs.install import install
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError, DataError, require_number
from mmrs.utils.files import write_json
from mmrs.visualization.histograms import plot_domains

__all__ = ['check_dataset', 'plot_report', 'print_report', 'save_report']

# Standard deviations between two means, and ratio of two standard deviations: more than another light or place makes.
_FAR_MEAN, _FAR_STD = 3, 5

_COLOURS = {'error': 'red', 'warning': 'yellow', 'info': 'cyan'}


def check_dataset(
    paths: Sequence[str | Path],
    labels: str | Path | None = None,
    classes: str | Path | None = None,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    sample: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    axes: Mapping[str, str | None] | None = None,
) -> Report:
    """Reads every file of data sets, and says what is wrong with them and how they differ.

    Args:
        paths: One configuration; or folders in the standard layout or of images, one for each domain.
        labels: Folder of the label maps or colour masks, for a folder of images.
        classes: Table of classes (see `load_classes`); by default `classes.yaml` in the folder, if it is there.
        image_suffix: Suffix of the images' names, `_image.tif` for instance; by default those of all image formats.
        label_suffix: The same for label maps.
        cfg_options: Dotted keys and values that override the configuration.
        sample: Number of images of each data set to check, drawn at random; all by default.
        seed: Of that draw.
        workers: Number of threads; one per processor by default.
        axes: `task`, `network` and `schedule` for a configuration that is a method's file, see :func:`load_config`.

    Raises:
        ConfigError: The arguments do not fit together, or the configuration has no data sets.
        DataError: There is nothing to check.
    """
    if sample is not None:
        require_number('--sample', sample, at_least=1, whole=True)
    install()
    folders, config = [Path(path) for path in paths], None
    if any(path.suffix == '.py' for path in folders):
        if len(folders) > 1 or labels or classes or image_suffix or label_suffix:
            raise ConfigError('a configuration is checked alone: it names labels, classes and suffixes itself')
        config = load_config(folders[0], cfg_options, **(axes or {}))
        sets = config_sets(config)
    else:
        if labels and len(folders) > 1:
            raise ConfigError(f'--labels belongs to one folder of images; {len(folders)} folders were given')
        if len({path.resolve() for path in folders}) < len(folders):
            raise ConfigError('the same folder was given twice')
        table = load_classes(classes) if classes else None
        sets = [own for path in folders for own in folder_sets(path, labels, table, image_suffix, label_suffix)]
        if len(folders) > 1:
            common = os.path.commonpath([path.resolve().parent for path in folders])
            for own in sets:
                own.domain = os.path.relpath(Path(own.domain).resolve(), common)
                own.rename(f'{own.domain} {own.name}')
    workers = default_workers() if workers is None else workers
    report = check_sets(sets, sample, seed, workers)
    if config is not None:
        for name, dataset in config_pairs(config).items():
            if not isinstance(dataset, str):
                report.pairs.append(pair_summary(dataset, name))
                report.findings += check_pairs(dataset, name, sample, seed, workers)
            elif not any(finding.kind == 'unusable_data_set' for finding in report.findings):
                report.findings.append(Finding('unusable_data_set', name, (), dataset))
        report.findings += _normalisation((config.get('model') or {}).get('data_preprocessor') or {}, report)
    return report


def _normalisation(preprocessor: Mapping[str, Any], report: Report) -> Iterator[Finding]:
    """Findings about means and standard deviations that do not fit the training images of their domain."""
    for group in report.groups:
        if group.name not in ('source', 'target', 'train') or group.statistics is None:
            continue
        prefix = 'source_' if group.name == 'source' else ''
        given = (preprocessor.get(prefix + name) or preprocessor.get(name) for name in ('mean', 'std'))
        own = [list(values) for values in given if isinstance(values, (list, tuple))]
        if len(own) < 2:
            continue  # 'auto', or a preprocessor of another kind
        measured = (group.statistics.mean, group.statistics.std)
        texts = [
            f'mean {[float(f"{x:.4g}") for x in mean]}, std {[float(f"{x:.4g}") for x in std]}'
            for mean, std in (own, measured)
        ]
        if any(len(values) != len(measured[0]) for values in own):
            yield Finding('preprocessor_bands', group.name, (), texts[0], f'{len(measured[0])} bands: {texts[1]}')
        else:
            with np.errstate(divide='ignore', invalid='ignore'):
                offset, ratio = np.abs(np.subtract(own[0], measured[0])) / measured[1], np.divide(own[1], measured[1])
            if (offset > _FAR_MEAN).any() or (np.maximum(ratio, 1 / ratio) > _FAR_STD).any():
                yield Finding('normalisation', group.name, (), texts[0], texts[1])


def save_report(report: Report, path: str, overwrite: bool = False) -> None:
    """Writes a report as JSON, with `-` to the standard output.

    Raises:
        OutputError: The file exists.
    """
    if path != '-':
        write_json(report.as_dict(), path, overwrite)
        return
    with TemporaryDirectory() as folder:
        file = Path(folder) / 'report.json'
        write_json(report.as_dict(), file)
        print(file.read_text(), end='')


def plot_report(report: Report, path: str | Path, overwrite: bool = False) -> None:
    """Draws the histograms of the bands and the class shares of all domains; see `plot_domains`.

    Raises:
        DataError: No image can be read, or the domains have different numbers of bands.
        OutputError: The picture exists.
    """
    known = {group.name: group.statistics for group in report.groups if group.statistics is not None}
    numbers = {name: len(statistics.count) for name, statistics in known.items()}
    if len(set(numbers.values())) != 1:
        found = ', '.join(f'{name}: {number} bands' for name, number in numbers.items()) or 'no readable image'
        raise DataError(f'{path} cannot be drawn ({found}); domains with the same bands were expected')
    labelled = {group.name: group.shares for group in report.groups if group.pixels.any()} if report.classes else {}
    shifts = report.shifts().get(list(known)[-1], {}).get('bands') if len(known) == 2 else None
    plot_domains(known, path, labelled, report.classes, shifts, overwrite)


def print_report(report: Report, console: Console, examples: int | None = 5) -> None:
    """Shows a report: the data sets, bands and classes of each domain, then the findings by kind.

    Args:
        report: The report.
        console: Where to.
        examples: How many findings of a kind are shown; None for all.
    """
    console.print(_sets_table(report))
    for pairs in report.pairs:
        console.print(f'Pairs ({pairs["name"]}): {pairs["text"]}', highlight=False, markup=False, soft_wrap=True)
    shifts = report.shifts()
    known = {group.name: group.statistics for group in report.groups if group.statistics is not None}
    if known:
        console.print(statistics_table(known))
    if report.classes and any(group.pixels.any() for group in report.groups):
        console.print(_class_table(report))
    for name, shift in shifts.items():
        first, parts = report.groups[0].name, []
        if 'bands' in shift:
            parts.append('bands ' + ', '.join(f'{value:.2f}' for value in shift['bands']) + ' standard deviations')
        if 'classes' in shift:
            parts.append(f'classes {100 * shift["classes"]:.1f} % of the pixels')
        if parts:
            console.print(f'Shift from {first} to {name}: {"; ".join(parts)}', highlight=False, markup=False)
    for severity in SEVERITIES:
        kinds = [kind for kind in KINDS if KINDS[kind].severity == severity]
        for kind in kinds:
            found = [finding for finding in report.findings if finding.kind == kind]
            if found:
                _print_findings(console, found, examples)
    parts = [f'{report.number(severity)} {severity}s' for severity in ('error', 'warning')]
    colour = 'red' if report.number('error') else 'green'
    console.print(f'\n[bold {colour}]{", ".join(parts)}[/]', highlight=False)


def _print_findings(console: Console, findings: Sequence[Finding], examples: int | None) -> None:
    kind = KINDS[findings[0].kind]
    colour = _COLOURS[kind.severity]
    head = f'\n[bold {colour}]{kind.severity}[/] [bold]{kind.title}[/] ({len(findings)}). {escape(kind.advice)}'
    console.print(head, highlight=False, soft_wrap=True)
    shown = findings if examples is None else findings[:examples]
    for finding in shown:
        expected = f'expected {finding.expected}' if finding.expected else ''
        about = '; '.join(filter(None, (finding.found, expected)))
        text = f'  {finding.where}: {", ".join(finding.files)}'.rstrip(': ') + (f': {about}' if about else '')
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    if len(shown) < len(findings):
        console.print(f'  and {len(findings) - len(shown)} more (--all shows them)', highlight=False)


def _sets_table(report: Report) -> Table:
    table = Table(title='Data sets', title_justify='left')
    headings = ('', 'images', 'labels', 'width', 'height', 'bands', 'type', 'metres a pixel', 'CRS', 'with data')
    for heading in headings:
        table.add_column(heading, justify='left' if heading in ('', 'type', 'CRS') else 'right')
    for own in report.summaries:
        share = '' if own['valid_share'] is None else f'{100 * own["valid_share"]:.1f} %'
        keys = ('name', 'images', 'labels', 'width', 'height', 'bands', 'dtype', 'pixel_metres', 'crs')
        table.add_row(*(escape(str(own[key])) for key in keys), share)
    return table


def _class_table(report: Report) -> Table:
    table = Table(title='Classes', title_justify='left')
    table.add_column('share of labelled pixels')
    groups = [group for group in report.groups if group.pixels.any()]
    for group in groups:
        labels = '' if group.labels_of == group.name else f' ({group.labels_of})'
        table.add_column(escape(group.name + labels), justify='right')
    for i, name in enumerate(report.classes):
        table.add_row(escape(name), *('-' if np.isnan(g.shares[i]) else f'{100 * g.shares[i]:.2f} %' for g in groups))
    return table
