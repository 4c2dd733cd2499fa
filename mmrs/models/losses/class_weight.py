from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmrs.utils import ConfigError

__all__ = ['read_class_weight']


def read_class_weight(value: Any, key: str = 'class_weight', number: int | None = None) -> list[float] | None:
    """Class weights, which mmseg's losses take as numbers or from a file.

    Args:
        value: A list of numbers, a file with one (``.npy``, ``.json``, ``.yaml``), or None.
        key: Name of the value in messages.
        number: Number of weights that is expected; None for any.

    Raises:
        ConfigError: The file cannot be read, or the value is no list of finite numbers of at least 0.
    """
    if value is None:
        return None
    where = f'{key}, file {value},' if isinstance(value, (str, Path)) else key
    weights = _read(Path(value), key) if isinstance(value, (str, Path)) else value
    if isinstance(weights, np.ndarray) or hasattr(weights, 'tolist'):
        weights = weights.tolist()
    numbers = isinstance(weights, Sequence) and bool(weights) and not isinstance(weights, str)
    if not numbers or not all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in weights):
        raise ConfigError(f'{where} is {str(weights)[:100]}; a list with a number for each class was expected')
    if bad := [w for w in weights if not (math.isfinite(w) and w >= 0)]:
        raise ConfigError(f'{where} has {bad[0]} in {weights}; finite numbers of at least 0 were expected')
    if number is not None and len(weights) != number:
        raise ConfigError(f'{where} has {len(weights)} entries for {number} classes; one for each was expected')
    return [float(w) for w in weights]


def _read(file: Path, key: str) -> Any:
    file = file.expanduser()
    if file.suffix in ('.pkl', '.pickle'):
        raise ConfigError(
            f'{key} is {file}: a pickle can run foreign code and is not read. Save the weights with numpy.save '
            '(.npy), as .json or as .yaml'
        )
    try:
        if file.suffix == '.npy':
            return np.load(file, allow_pickle=False)
        if file.suffix == '.json':
            return json.loads(file.read_text(encoding='utf-8'))
        if file.suffix in ('.yaml', '.yml'):
            return yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, EOFError, yaml.YAMLError) as error:
        raise ConfigError(f'{key} is {file}, which cannot be read: {str(error) or type(error).__name__}') from error
    raise ConfigError(f'{key} is {str(file)!r}; numbers, or a file that ends in .npy, .json or .yaml, were expected')
