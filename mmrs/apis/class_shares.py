"""How the labels of a training's source are shared out among the classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmrs.datasets.class_names import difference, same_names
from mmrs.geo.statistics import class_statistics, default_workers
from mmrs.install import install
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError

__all__ = ['label_shares', 'source_shares']


def source_shares(config: Config, classes: Sequence[str] | None = None) -> list[float]:
    """Shares of the classes in the labelled pixels of the source's training images, of which logarithms can be taken.

    See :func:`label_shares`. A sampler that prefers some images is not taken into account, with a warning.

    Returns:
        One share above 0 for each class.

    Raises:
        ConfigError: As there; or a class has no pixel.
        DataError: As there.
    """
    sampler = ((config.get('train_dataloader') or {}).get('sampler') or {}).get('type')
    if str(sampler).endswith('RareClassSampler'):
        print_log(
            'class shares are those of the labels, but the training draws images with rare classes more often '
            '(RareClassSampler), so that it saw other shares: give those as class_prior.shares or --source-shares, or '
            'set rare_class_sampling=None',
            logger='current',
            level=logging.WARNING,
        )
    described, counts = _counted(config, classes)
    if absent := [name for name, number in counts.items() if not number]:
        raise ConfigError(
            f'{described}: its training labels have no pixel of {", ".join(absent)} ({sum(counts.values()):,} of '
            f'{", ".join(name for name in counts if name not in absent) or "any class"}); the share of a class must '
            'be above 0. Leave the class out with class_map, or give shares of your own'
        )
    return list(_shares(counts).values())


def label_shares(config: Config, classes: Sequence[str] | None = None) -> dict[str, float]:
    """Shares of the classes in the labelled pixels of the source's training images.

    Where the training has one domain, that is the source. Label maps count as often as they are drawn in an epoch: all
    of a `ConcatDataset`, `times` over in a `RepeatDataset`. Pixels are counted once, by the cache that rare-class
    sampling uses too.

    Args:
        config: A configuration with `train_dataloader`.
        classes: Names in the order that is wanted; by default the data set's.

    Returns:
        A share for each class by its name, in this order; their sum is 1.

    Raises:
        ConfigError: There is no training data set, or its classes are others.
        DataError: A file is missing or cannot be read, or the source has no labels.
    """
    return _shares(_counted(config, classes)[1])


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = max(sum(counts.values()), 1)
    return {name: number / total for name, number in counts.items()}


def _counted(config: Config, classes: Sequence[str] | None) -> tuple[str, dict[str, int]]:
    """What the source's training data are, and their labelled pixels by class."""
    install()
    init_default_scope(config.get('default_scope', 'mmrs'))
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if not dataset:
        raise ConfigError(
            f'config {config.filename}: there is no train_dataloader.dataset, in whose labels classes could be counted'
        )
    built = DATASETS.build(_source_of(dataset))
    own = built.metainfo['classes']
    if classes is not None and not same_names(own, classes):
        raise ConfigError(
            f'{_described(built)} has the classes {", ".join(own)}, but the model has {", ".join(classes)} '
            f'({difference(own, classes)})'
        )
    counts = dict(zip(own, _pixels(built).tolist()))
    return _described(built), {name: int(counts[name]) for name in (own if classes is None else classes)}


def _source_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's configuration with the source in place of two domains, wrappers kept."""
    if 'source' in dataset and 'target' in dataset:
        return _source_of(dataset['source'] or dataset.get('labelled') or dataset['target'])
    own = dict(dataset)
    if 'dataset' in own:
        own['dataset'] = _source_of(own['dataset'])
    elif 'datasets' in own:
        own['datasets'] = [_source_of(part) for part in own['datasets']]
    return own


def _pixels(dataset: Any) -> np.ndarray:
    """Labelled pixels of each class, ``(K,)``, through wrappers of data sets."""
    if (parts := getattr(dataset, 'datasets', None)) is not None:
        return np.sum([_pixels(part) for part in parts], axis=0)
    if (inner := getattr(dataset, 'dataset', None)) is not None:
        return getattr(dataset, 'times', 1) * _pixels(inner)
    dataset.full_init()
    return class_statistics(dataset, default_workers()).sum(axis=0)


def _described(dataset: Any) -> str:
    roots: Sequence[Any] = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', dataset)]
    return ', '.join(f'{type(part).__name__} {getattr(part, "data_root", None) or ""}'.strip() for part in roots)
