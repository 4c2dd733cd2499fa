"""Class weights that a configuration names by a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrs.models.losses.class_weight import read_class_weight
from mmrs.utils.config import walk

__all__ = ['fill_class_weights']


def fill_class_weights(config: Config) -> None:
    """Put numbers for the files that `class_weight` names in the model of a configuration, in place.

    mmseg's own reading would unpickle them. The configuration that a run writes down then needs no file.

    Raises:
        ConfigError: A file cannot be read, numbers are none, or there is not one for each class of the decode head.
    """
    nodes = dict(walk(config.get('model'), 'model'))
    for key, node in nodes.items():
        if (value := node.get('class_weight')) is None:
            continue
        number = None
        if '.loss_decode' in key:
            number = _classes(nodes, key)
        elif key == 'model.self_training':
            number = nodes.get('model.decode_head', {}).get('num_classes')
        weights = read_class_weight(value, f'{key}.class_weight', number)
        if isinstance(value, (str, Path)):
            node['class_weight'] = weights  # type: ignore[index]


def _classes(nodes: Mapping[str, Mapping[str, Any]], key: str) -> int | None:
    """Classes of the head around a part; None where that is unknown, or where the head has one output for two."""
    while key and 'num_classes' not in nodes.get(key, {}):
        key = key.rpartition('.')[0]
    head = nodes.get(key, {})
    return None if head.get('out_channels') == 1 else head.get('num_classes')
