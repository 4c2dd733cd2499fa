"""Labelled images of the target in training, kept apart from those that are scored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmrs.install import install
from mmrs.registry import DATASETS
from mmrs.utils.config import where_in
from mmrs.utils.errors import ConfigError, DataError, some

__all__ = ['check_labelled']


def check_labelled(config: Config) -> None:
    """Refuse a training that learns labels of images on which it is scored.

    Raises:
        ConfigError: Validation or test has them.
        DataError: The labelled images or those of the validation cannot be listed.
    """
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    if not dataset.get('labelled'):
        return
    install()
    init_default_scope(config.get('default_scope', 'mmrs'))
    learnt = _images_with_labels(dataset['labelled'])
    for key in ('val_dataloader', 'test_dataloader'):
        scored = (config.get(key) or {}).get('dataset')
        if not scored or (key == 'test_dataloader' and scored == (config.get('val_dataloader') or {}).get('dataset')):
            continue
        try:
            images = _images_with_labels(scored)
        except DataError:
            if key == 'test_dataloader':  # which is not there yet
                continue
            raise
        if common := sorted(images[path] for path in learnt.keys() & images.keys()):
            raise ConfigError(
                f'{where_in(config)}{len(common)} of the {len(learnt)} labelled images of the target are scored by '
                f'{key}, too: {some(common)}. Scores on what was learnt say nothing: label other images, or set '
                f'{key}.dataset.leave_out to the names of these'
            )


def _images_with_labels(dataset: Mapping[str, Any]) -> dict[str, str]:
    """The images of a data set that have labels, as they are named, by their real paths."""
    built: Any = DATASETS.build(dict(dataset))
    built.full_init()
    infos = [built.get_data_info(i) for i in range(len(built))]
    paths = [info['img_path'] for info in infos if info.get('seg_map_path')]  # pairs have none
    return {os.path.realpath(path): path for path in paths}
