"""The class prior of a prediction: shares of the classes that a trained model did not learn from."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmrs.apis.class_shares import source_shares as counted_shares
from mmrs.geo.classes import read_yaml
from mmrs.models.class_prior import shift_logits
from mmrs.models.data_preprocessor import DOMAINS
from mmrs.models.segmentors.dual_student import per_domain
from mmrs.registry import MODELS
from mmrs.utils.composition import is_prior_neutral
from mmrs.utils.config import look_up
from mmrs.utils.errors import ConfigError, DataError, require, require_file, require_number, some

__all__ = ['STRENGTH', 'ClassPrior', 'PriorOptions', 'read_shares']

#: Half of the whole correction: where shares differ it gains nearly as much, and where they do not it loses little.
STRENGTH = 0.5
#: How far from 1, or from 100, the shares of a table may add up to.
_TOLERANCE = 0.01
_SUFFIXES = ('.yaml', '.yml', '.json', '.csv')
#: Columns of a table of areas, the first one that is there counts.
_AMOUNTS = ('m2', 'pixels', 'percent')


@dataclass(frozen=True)
class ClassPrior:
    """What is added to a model's logits: ``strength * (log wanted - log trained)``.

    Attributes:
        name: ``uniform``, ``source`` or the name of a table.
        strength: 0 to 1.
        classes: Names, in the order of the class indices.
        trained: The prior that the network has learned: a share for each class, their sum is 1.
        wanted: The prior in its place, likewise.

    Reference:
        Menon et al., Long-tail learning via logit adjustment, arXiv 2007.07314, section 4.
    """

    name: str
    strength: float
    classes: tuple[str, ...]
    trained: tuple[float, ...]
    wanted: tuple[float, ...]

    @property
    def offsets(self) -> list[float]:
        """The number for each class."""
        return (self.strength * (np.log(self.wanted) - np.log(self.trained))).tolist()

    def record(self) -> dict[str, Any]:
        """What is written beside predictions, in six digits."""
        columns = dict(trained=self.trained, wanted=self.wanted, offsets=self.offsets)
        by_class = {
            key: {name: float(f'{value:.6g}') for name, value in zip(self.classes, values)}
            for key, values in columns.items()
        }
        return dict(prior=self.name, strength=self.strength, **by_class)


@dataclass(frozen=True)
class PriorOptions:
    """How the class prior of a prediction is asked for.

    Attributes:
        class_prior: ``uniform``: equal shares; ``source``: those of the source's training labels; or a table, see
            :func:`read_shares`. None: the model predicts with the prior that it has learned.
        prior_strength: Share of the correction, 0 to 1; by default `STRENGTH`.
        source_shares: Table of the source's shares, instead of those that the configuration has or leads to.

    Raises:
        ConfigError: An option makes no sense, or not without `class_prior`.
        DataError: A table is missing.
    """

    class_prior: str | os.PathLike | None = None
    prior_strength: float | None = None
    source_shares: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if self.class_prior is None:
            for name in ('prior_strength', 'source_shares'):
                value = getattr(self, name)
                require(value is None, name, value, 'nothing, as there is no class_prior that it could be of,')
        if self.prior_strength is not None:
            require_number('prior_strength', self.prior_strength, at_least=0, at_most=1)
        if self.class_prior not in (None, 'uniform', 'source'):
            _require_table('class_prior', self.class_prior, 'uniform, source or a table of shares')
        if self.source_shares is not None:
            _require_table('source_shares', self.source_shares, 'a table of shares')

    def __bool__(self) -> bool:
        """Whether there is another prior than the model's own."""
        return self.class_prior is not None

    def resolve(self, config: Config, classes: Sequence[str]) -> ClassPrior:
        """The prior that a model has learned, and the wanted one.

        The network's own is ``p_s / q ** tau * class_weight`` for the shares `p_s` that training saw and `q` in a
        :class:`PriorNeutralLoss`, which are the same unless `source_shares` says otherwise: a cross entropy with class
        weights learns the posterior under shares that are weighted likewise. Where several heads' logits are
        averaged, so are the logarithms.

        Args:
            config: The model's, filled.
            classes: Names, in the order of the class indices.

        Raises:
            ConfigError: A table is not as it should be, the shares cannot be found out, or one has no logarithm.
            DataError: A file is missing or cannot be read.
        """
        heads = list(_head_losses(config.model))
        if not getattr(look_up(MODELS, config.model.get('type')), 'learns_from_labels', True):
            require(
                self.source_shares is not None,
                'source_shares',
                None,
                f'a table of the shares that the reference of {config.model.type} has learned (equal ones, if it was '
                'trained with class_prior.tau=1), for the configuration does not say them,',
            )
            heads = [_HeadLoss(0.0, None, [])]
        given = None if self.source_shares is None else read_shares(self.source_shares, classes)
        known = next((own.shares for own in heads if own.shares is not None), None)
        source = np.array(given if given is not None else known or self._counted(config, classes))
        require(len(source) == len(classes), 'shares', source.tolist(), f'a share for each of {", ".join(classes)}')
        logs = [
            np.log(source)
            - own.tau * np.log(source if own.shares is None else own.shares)
            + np.log(own.weights(len(classes)))
            for own in heads
        ]
        trained = np.exp(np.mean(logs, axis=0))
        name = os.fspath(self.class_prior or '')
        if name == 'uniform':
            wanted = [1 / len(classes)] * len(classes)
        else:
            wanted = source.tolist() if name == 'source' else read_shares(name, classes)
        strength = STRENGTH if self.prior_strength is None else float(self.prior_strength)
        prior = ClassPrior(
            name if name in ('uniform', 'source') else Path(name).name,
            strength,
            tuple(classes),
            tuple((trained / trained.sum()).tolist()),
            tuple(wanted),
        )
        rows = zip(prior.classes, prior.trained, prior.wanted, prior.offsets)
        print_log(
            f'class prior {prior.name}, strength {strength:g}: '
            + '; '.join(f'{own} {100 * p:.3g} % -> {100 * q:.3g} %, {z:+.3f}' for own, p, q, z in rows),
            logger='current',
        )
        return prior

    def apply(self, model: nn.Module, config: Config, classes: Sequence[str]) -> ClassPrior:
        """Change the prior of a model that has its weights, in place; see :meth:`resolve` and :func:`shift_logits`."""
        prior = self.resolve(config, classes)
        shift_logits(model, prior.offsets)
        return prior

    def _counted(self, config: Config, classes: Sequence[str]) -> list[float]:
        try:
            return counted_shares(config, classes)
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f'--class-prior {self.class_prior} needs the shares of the classes in the labels that the model was '
                f'trained on, and they cannot be counted ({error}). Give them with --source-shares TABLE.yaml'
            ) from error


# What a configuration says of the prior that was learned -------------------------------------------------------------


@dataclass(frozen=True)
class _HeadLoss:
    """What the loss of a head makes of the source's shares."""

    tau: float
    shares: Sequence[float] | None
    terms: list[Mapping[str, Any]]

    def weights(self, number: int) -> np.ndarray:
        """Class weights ``(number,)`` of its cross entropies together."""
        total = np.zeros(number)
        for term in self.terms:
            own = term.get('class_weight')
            own = own if own is not None and len(own) == number else 1.0  # one output for two classes has no use for it
            total += term.get('loss_weight', 1.0) * np.asarray(own, float)
        if not self.terms:
            return np.ones(number)
        require(bool((total > 0).all()), 'class_weight', total.tolist(), 'weights above 0 (they have logarithms) were')
        return total


def _head_losses(model: Mapping[str, Any]) -> Iterator[_HeadLoss]:
    """The losses of the heads that predict."""
    head: Any = model.get('decode_head') or {}
    if isinstance(head, (list, tuple)):
        head = head[-1]
    for own in per_domain(head).values() if any(domain in head for domain in DOMAINS) else [head]:
        terms = list(_terms(own.get('loss_decode')))
        neutral = [(tau, shares) for _, tau, shares in terms if tau is not None]
        require(
            all(other == neutral[0] for other in neutral),
            'model.decode_head.loss_decode: tau and shares of PriorNeutralLoss',
            neutral,
            'the same in all terms',
        )
        tau, shares = neutral[0] if neutral else (0.0, None)
        kept = [term for term, own_tau, _ in terms if bool(neutral) == (own_tau is not None)]
        if sigmoids := [term['type'] for term in kept if own.get('out_channels') != 1 and _has_sigmoids(term)]:
            raise ConfigError(
                f'model.decode_head.loss_decode has {sigmoids[0]} with a sigmoid for each class: a class prior is of '
                'classes that exclude each other. Train with a loss on the softmax'
            )
        kept = [term for term in kept if 'CrossEntropy' in str(term.get('type'))]
        yield _HeadLoss(float(tau), None if isinstance(shares, str) else shares, kept)


def _has_sigmoids(term: Mapping[str, Any]) -> bool:
    return bool(term.get('use_sigmoid', str(term.get('type')).endswith('FocalLoss')))


def _terms(loss: Any, tau: float | None = None, shares: Any = None) -> Iterator[tuple[Mapping[str, Any], Any, Any]]:
    """The terms of a loss, each with tau and shares of the `PriorNeutralLoss` around it."""
    if isinstance(loss, (list, tuple)):
        for part in loss:
            yield from _terms(part, tau, shares)
    elif isinstance(loss, Mapping) and is_prior_neutral(loss):
        yield from _terms(loss.get('loss'), loss.get('tau', 1.0), loss.get('shares'))
    elif isinstance(loss, Mapping):
        yield loss, tau, shares


# Tables --------------------------------------------------------------------------------------------------------------


def _require_table(name: str, path: Any, expected: str) -> None:
    known = Path(path).suffix.lower() in _SUFFIXES
    require(known, name, os.fspath(path), f'{expected} ({", ".join(_SUFFIXES)})')
    require_file(path, 'a table of shares of the classes')


def read_shares(path: str | os.PathLike, classes: Sequence[str]) -> list[float]:
    """Shares of the classes, from a table.

    Args:
        path: YAML or JSON, a mapping from the name of each class to its share, which add up to 1 or to 100 within 1 %;
            or CSV with a column `class` and one of `m2`, `pixels` and `percent`, as ``predict.py --areas`` writes it:
            rows of one class are added up, whatever they add up to.
        classes: Names, in the order of the class indices.

    Returns:
        The shares in the order of `classes`; their sum is 1.

    Raises:
        ConfigError: A class is missing or unknown, a share is none or not above 0, or the sum is another one.
        DataError: There is no such file, or it cannot be read.
    """
    require_file(path, 'a table of shares of the classes')
    where = os.fspath(path)
    is_areas = Path(path).suffix.lower() == '.csv'
    table = _read_areas(where) if is_areas else _read_mapping(where)
    if unknown := [str(name) for name in table if name not in classes]:
        raise ConfigError(f'{where}: {some(unknown)} is no class of the model; it has {", ".join(classes)}')
    if missing := [name for name in classes if name not in table]:
        raise ConfigError(f'{where}: no share of {some(missing)}; one for each of {", ".join(classes)} was expected')
    for name in classes:
        value = table[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        advice = ' (0 has no logarithm: give a class that is rare a small share)' if value == 0 else ''
        require(number and value > 0, f'{where}: the share of {name}', value, f'a number above 0{advice}')
    total = math.fsum(table[name] for name in classes)
    whole = any(abs(total - sum_) <= _TOLERANCE * sum_ for sum_ in (1, 100))
    require(is_areas or whole, f'{where}: the sum of the shares', total, '1, or 100 for percent,')
    return [table[name] / total for name in classes]


def _read_mapping(path: str) -> dict[Any, Any]:
    if path.lower().endswith('.json'):
        try:
            content = json.loads(Path(path).read_text(encoding='utf-8'))
        except ValueError as error:
            raise ConfigError(f'{path} is not JSON: {error}') from error
    else:
        content = read_yaml(path)
    require(isinstance(content, dict) and bool(content), path, content, 'a mapping CLASS: SHARE')
    return content


def _read_areas(path: str) -> dict[str, float]:
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path} cannot be read as a table of areas (CSV): {error}') from error
    amounts = [name for name in _AMOUNTS if name in columns and all((row[name] or '').strip() for row in rows)]
    if 'class' not in columns or not amounts or not rows:
        raise ConfigError(
            f'{path} has the columns {", ".join(columns) or "none"} and {len(rows)} rows; class and one of '
            f'{", ".join(_AMOUNTS)}, with a number in each row, were expected, as predict.py --areas writes them'
        )
    column = amounts[0]
    total: dict[str, float] = defaultdict(float)
    for line, row in enumerate(rows, 2):
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        valid = math.isfinite(value) and value >= 0
        require(valid, f'{path}, line {line}: {column} of {row["class"]}', row[column], 'a number of at least 0')
        twice = column == 'percent' and row['class'] in total
        require(not twice, f'{path}, line {line}: class', row['class'], 'another class, as percent cannot be added up,')
        total[row['class']] += value
    return dict(total)
