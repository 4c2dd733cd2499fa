"""What a configuration leaves open and its data and its network say: numbers for `None` and `'auto'` in the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from mmrs.apis.class_shares import source_shares
from mmrs.apis.class_weights import fill_class_weights
from mmrs.apis.statistics import domain_leaves, fill_statistics
from mmrs.install import install
from mmrs.models.discriminators import strided_convolutions
from mmrs.models.widths import fill_channels, last_stride, parts_of_model
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.composition import is_prior_neutral
from mmrs.utils.config import look_up, walk
from mmrs.utils.errors import ConfigError, DataError

__all__ = ['configured_meta', 'fill_model']


def fill_model(config: Config, classes: Any = None) -> None:
    """Put numbers where the model of a configuration leaves them open, in place, so that the written one is whole.

    Statistics, class weights and shares of the classes as :func:`fill_statistics`, :func:`fill_class_weights` and
    :func:`source_shares` say; `num_classes` are the data set's, channels what the network has, see
    :func:`fill_channels`; and a discriminator's `num_conv` follows from its map.

    Args:
        config: The configuration.
        classes: Names of the classes, where they are known, instead of the data set's.

    Raises:
        ConfigError: Something cannot be found out.
        DataError: The images have different bands, or one that is constant.
        UnreadableError: A file cannot be read.
    """
    install()
    init_default_scope(config.get('default_scope', 'mmrs'))
    fill_statistics(config)
    _fill_classes(config, classes)
    if isinstance(config.get('model'), Mapping):
        fill_channels(config.model)
        _fill_discriminator(config)
    fill_class_weights(config)
    _fill_shares(config)


def configured_meta(dataset: Mapping[str, Any]) -> Mapping[str, Any]:
    """Classes and palette of a data set's configuration; of its files, `classes_file` alone is read."""
    kind = look_up(DATASETS, dataset['type'])
    if isinstance(kind, type) and issubclass(kind, BaseDataset):
        return DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True}).metainfo
    return {**getattr(kind, 'METAINFO', {}), **dataset.get('metainfo', {})}


def _fill_classes(config: Config, classes: Any) -> None:
    model = config.get('model') or {}
    heads = [own for kind in ('decode_head', 'auxiliary_head') for own in parts_of_model(model, kind)]
    asking = {key: head for key, head in heads if 'num_classes' in head and head['num_classes'] is None}
    if not asking:
        return
    missing: Exception | None = None
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (config.get(key) or {}).get('dataset')
        if dataset and not classes:
            try:
                classes = configured_meta(next(iter(domain_leaves(dataset).values()))[0]).get('classes')
            except (OSError, DataError) as error:  # a test needs no training data
                missing = missing or error
    if not classes and missing is not None:
        raise missing
    if not classes:
        raise ConfigError(
            f'config {config.filename}: {next(iter(asking))}.num_classes is None, and no data set says its classes: '
            'set it, or classes_file or metainfo of the data set'
        )
    for head in asking.values():
        head['num_classes'] = len(classes)


def _fill_shares(config: Config) -> None:
    losses = [node for _, node in walk(config.get('model'), 'model') if is_prior_neutral(node)]
    if losses and not getattr(look_up(MODELS, config.model.get('type')), 'learns_from_labels', True):
        raise ConfigError(
            f'config {config.filename}: class_prior is set, but {config.model.type} learns from no labels, so that it '
            'would have no effect: set it for the reference'
        )
    asking = [node for node in losses if node.get('shares', 'auto') == 'auto']
    if asking:
        shares = source_shares(config)
        for node in asking:
            node['shares'] = shares  # type: ignore[index]


def _fill_discriminator(config: Config) -> None:
    for key, discriminator in parts_of_model(config.model, 'discriminator'):
        if 'num_conv' not in discriminator or discriminator['num_conv'] is not None:
            continue
        crops = list(_crops(config))
        if not crops:
            raise ConfigError(
                f'config {config.filename}: {key}.num_conv is None, and no RandomCrop, Resize or windows of the '
                'training images say the size of a crop: set num_conv to 1, 2 or 3'
            )
        stride = last_stride(config.model.backbone)
        try:
            discriminator['num_conv'] = strided_convolutions(math.ceil(min(crops) / stride))
        except ConfigError as error:
            raise ConfigError(
                f'config {config.filename}: {key}: crops of {min(crops)} px give a last map of '
                f'{min(crops) / stride:g} px ({error}): use larger crops'
            ) from error


def _crops(config: Config) -> Iterator[int]:
    """The smaller side of the crops that each training data set yields, where its configuration says it."""
    for parts in domain_leaves((config.get('train_dataloader') or {}).get('dataset') or {}).values():
        for part in parts:
            sizes = [step.get('crop_size') or step.get('scale') for step in part.get('pipeline') or ()]
            sizes = [(part.get('windows') or {}).get('size'), *sizes]
            if known := [size for size in sizes if size]:
                yield min(known[-1]) if isinstance(known[-1], (list, tuple)) else known[-1]
