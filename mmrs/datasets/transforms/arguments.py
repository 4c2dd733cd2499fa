"""Checks of the arguments of transforms, and the random numbers that a seed stands for."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from mmrs.utils.errors import require, require_number


def number(owner: object, name: str, value: Any, **bounds: Any) -> Any:
    """The value of an argument as a float, with `whole` as it is.

    Args:
        owner: The transform whose argument it is.
        name: Of the argument.
        value: Its value.
        **bounds: As of `mmrs.utils.errors.require_number`; 0 or more by default.

    Raises:
        ConfigError: It is no number, or out of bounds.
    """
    require_number(f'{type(owner).__name__}: {name}', value, **bounds or dict(at_least=0))
    return value if bounds.get('whole') else float(value)


def is_text(value: Any, several: bool = False) -> bool:
    """Whether a value is a text, or with `several` one or more of them."""
    texts = [value] if isinstance(value, str) or not several else value
    return isinstance(texts, Sequence) and bool(texts) and all(isinstance(text, str) for text in texts)


def require_text(owner: object, name: str, value: Any, several: bool = False) -> None:
    """Checks that an argument is a text, or with `several` one or more of them, or None.

    Raises:
        ConfigError: It is not.
    """
    wanted = 'a text, or a list of texts,' if several else 'a text'
    require(value is None or is_text(value, several), f'{type(owner).__name__}: {name}', value, wanted)


def require_seed(owner: object, seed: Any) -> int | None:
    """The seed itself.

    Raises:
        ConfigError: The seed is neither a whole number nor None.
    """
    valid = seed is None or (isinstance(seed, int) and not isinstance(seed, bool))
    require(valid, f'{type(owner).__name__}: seed', seed, 'a whole number, or None,')
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
