"""The card of a checkpoint: what it was trained on, how it scored and who may use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from mmrs.apis.report_runs import find_runs
from mmrs.apis.statistics import build_images, domain_statistics, training_domains
from mmrs.engine.saved_runs import number_of
from mmrs.geo.headers import read_headers
from mmrs.install import install
from mmrs.prediction.card import Card, Domain, card_beside
from mmrs.utils.config import pretrained_files
from mmrs.utils.errors import CheckpointError, DataError, require_file
from mmrs.utils.files import write_text
from mmrs.version import __version__
from mmrs.weights import read_checkpoint

__all__ = ['write_card']

#: Files of each domain whose headers are read for the size of pixels.
_HEADERS = 64
_NOT_SAID = 'not stated'


def write_card(
    run: str | Path,
    scores: Sequence[str | Path] = (),
    rule: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    note: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the card of a checkpoint beside it, as ``NAME.card.md``.

    Args:
        run: The work dir of a run, whose last checkpoint counts, or a checkpoint in it. Its training images must be
            there: their statistics are taken.
        scores: Files that `tools/test.py` wrote (``metrics.json``).
        rule: How this checkpoint was chosen among those of its run; must be said where there are scores.
        licence: Of the weights.
        data_licence: Of the images and labels.
        note: What else there is to know.
        overwrite: Whether a card may be replaced.

    Returns:
        The card.

    Raises:
        ConfigError: The run has no configuration or no training images.
        CheckpointError: It has no checkpoint.
        DataError: Training images or scores cannot be read, or scores are of another checkpoint or without a rule.
        OutputError: The card exists.
    """
    install()
    (found,) = find_runs([run])
    if found.checkpoint is None:
        raise CheckpointError(f'{found.folder} has no checkpoint, of which a card could be')
    if scores and not rule:
        raise DataError('scores say little without the rule by which the checkpoint was chosen: "last iteration", say')
    checkpoint, config = found.checkpoint, found.config
    statistics = domain_statistics([next(found.folder.glob('*.py'))])
    domains = {}
    for name, parts in training_domains(config).items():
        paths = [path for part in parts for path in _paths(part)]
        own = statistics[name]
        figures = {key: _rounded(values) for key, values in dict(
            mean=own.mean, std=own.std, high=own.quantile(0.98)).items()}  # fmt: skip
        domains[name] = Domain(len(paths), list(own.dtypes), **figures, metres=_metres(paths))
    meta = read_checkpoint(checkpoint).get('meta') or {}
    about: dict[str, Any] = dict(
        mmrs=__version__,
        config=Path(config.filename).name,
        method=config.model.type,
        backbone=(config.model.get('backbone') or {}).get('type'),
        start=sorted(set(pretrained_files(config.model).values())),
        seed=found.seed,
        iterations=number_of(checkpoint),
        licence=dict(weights=licence or _NOT_SAID, data=data_licence or _NOT_SAID),
        rule=rule,
        scores=[_scores(path, checkpoint) for path in scores],
        note=note,
    )
    about = {key: value for key, value in about.items() if value not in (None, [], '')}
    classes = list((meta.get('dataset_meta') or {}).get('classes') or ())
    card = Card(checkpoint.name, pooch.file_hash(str(checkpoint)), about, classes, domains)
    target = card_beside(checkpoint)
    write_text(f'---\n{card.head()}---\n\n{_body(card)}', target, overwrite)
    return target


def _paths(part: Mapping[str, Any]) -> list[str]:
    images = build_images(part)
    return list(dict.fromkeys(images.get_data_info(i)['img_path'] for i in range(len(images))))


def _metres(paths: Sequence[str]) -> list[float] | None:
    """Smallest and largest pixel of some of the files."""
    some = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, _HEADERS).astype(int))]
    known = [max(own) for header in read_headers(some, find_empty=False) if (own := header.pixel_metres)]
    return _rounded([min(known), max(known)]) if known else None


def _scores(path: str | Path, checkpoint: Path) -> dict[str, Any]:
    require_file(Path(path), 'scores of tools/test.py')
    try:
        found = json.loads(Path(path).read_text(encoding='utf-8'))
        of = Path(found['checkpoint']).name
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path} has no scores, as tools/test.py writes them ({error})') from error
    if of != checkpoint.name:
        raise DataError(f'{path} has the scores of {of}; those of {checkpoint.name} were expected')
    figures = {key: round(value, 2) for key, value in found.items() if isinstance(value, float)}
    return dict(images=found.get('images'), of=Path(found.get('config') or '').name, **figures)


def _rounded(values: Any) -> list[float]:
    return [float(f'{value:.5g}') for value in values]


def _body(card: Card) -> str:
    """The card for people."""
    about, lines = dict(card.about), [f'# {card.checkpoint}', '']
    if note := about.pop('note', None):
        lines += [note, '']
    classes = f'{len(card.classes)} classes: {", ".join(card.classes)}'
    lines += [f'{about["method"]} with {about.get("backbone")}, {classes}.', '']
    lines += ['| trained on | images | type | metres per pixel | band | mean | deviation | 98 % are below |',
              '|---|---:|---|---|---:|---:|---:|---:|']  # fmt: skip
    for name, own in card.domains.items():
        metres = 'unknown' if own.metres is None else ' to '.join(f'{value:g}' for value in dict.fromkeys(own.metres))
        first: Sequence[Any] = (name, own.images, '/'.join(own.dtypes), metres)
        for band, figures in enumerate(zip(own.mean, own.std, own.high), 1):
            cells = (*first, band, *(f'{value:g}' for value in figures))
            lines.append(f'| {" | ".join(map(str, cells))} |')
            first = ('', '', '', '')
    lines += ['', f'Licence of the weights: {about["licence"]["weights"]}. Of the data: {about["licence"]["data"]}.']
    if start := about.get('start'):
        lines.append(f'Training began with {", ".join(start)}.')
    for scores in about.get('scores', ()):
        shown = ', '.join(f'{key} {value:g}' for key, value in scores.items() if isinstance(value, float))
        lines += ['', f'On {scores["images"]} images of {scores["of"]}: {shown}. Chosen by: {about["rule"]}.']
    lines += ['', f'`mmrs predict` compares rasters with this card while it lies beside {card.checkpoint}.']
    return '\n'.join(lines) + '\n'
