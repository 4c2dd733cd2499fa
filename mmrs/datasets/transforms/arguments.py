"""Checks of the arguments of transforms, and the random numbers that a seed stands for."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from mmrs.utils.errors import ConfigError


def require_number(owner: object, name: str, value: Any, low: float = 0, high: float = math.inf) -> float:
    """The value of an argument as a float.

    Raises:
        ConfigError: The value is no finite number from `low` to `high`.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        limits = f'from {low:g} to {high:g}' if math.isfinite(high) else f'of {low:g} or more'
        wanted = f'a number {limits}' if math.isfinite(low) else 'a number'
        raise ConfigError(f'{type(owner).__name__}: {name} is {value!r}; {wanted} was expected')
    return float(value)


def require_positive(owner: object, name: str, value: Any) -> float:
    """The value of an argument as a float.

    Raises:
        ConfigError: The value is no finite number above 0.
    """
    if require_number(owner, name, value) == 0:
        raise ConfigError(f'{type(owner).__name__}: {name} is 0; a number above 0 was expected')
    return float(value)


def require_whole(owner: object, name: str, value: Any) -> int:
    """The value itself.

    Raises:
        ConfigError: The value is no whole number above 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f'{type(owner).__name__}: {name} is {value!r}; a whole number above 0 was expected')
    return value


def require_text(owner: object, name: str, value: Any, several: bool = False) -> None:
    """Checks that a value is a text, with `several` a text or a list of texts, or None.

    Raises:
        ConfigError: The value is something else.
    """
    texts = [value] if isinstance(value, str) or not several else value
    if value is None or (isinstance(texts, Sequence) and texts and all(isinstance(text, str) for text in texts)):
        return
    wanted = 'a text, or a list of texts,' if several else 'a text'
    raise ConfigError(f'{type(owner).__name__}: {name} is {value!r}; {wanted} was expected')


def require_seed(owner: object, seed: Any) -> int | None:
    """The seed itself.

    Raises:
        ConfigError: The seed is neither a whole number nor None.
    """
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ConfigError(f'{type(owner).__name__}: seed is {seed!r}; a whole number, or None, was expected')
    return seed


def generator(owner: object, seed: int | None, sample: Mapping | None = None) -> np.random.Generator:
    """Random numbers that are the same in every process and run, or, without a seed, new ones.

    Args:
        owner: The transform; another kind of transform gets other numbers for the same seed.
        seed: The seed. For None, numpy's global generator, which MMEngine seeds, gives one.
        sample: What the numbers are for, if they differ from image to image: the file's name without its folder and
            suffix, and the window.
    """
    if seed is None:
        return np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))  # noqa: NPY002
    parts = [type(owner).__name__, str(seed)]
    if sample is not None:
        parts.append(PurePath(sample.get('img_path') or '').stem)
        parts += [str([int(value) for value in sample.get(key) or ()]) for key in ('window', 'grid_shape')]
    # Python's own hash of a text differs from process to process.
    return np.random.default_rng(int.from_bytes(hashlib.sha256('\n'.join(parts).encode()).digest(), 'little'))
