"""The random numbers of Python, numpy and torch, which transforms and models draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ['capture', 'restore', 'seeded']


def capture() -> tuple[Any, ...]:
    """States of the global generators on the CPU; they can be compared, and stored in a checkpoint."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (the one that mmcv and mmseg use)
    return random.getstate(), (kind, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


def restore(states: tuple[Any, ...]) -> None:
    """Go back to what :func:`capture` returned."""
    own, (kind, keys, *rest), torchs = states
    random.setstate(own)
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(torchs), dtype=torch.uint8))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators by some numbers of at least 0; afterwards they are as they were before."""
    before = capture()
    own, numpys, torchs = np.random.SeedSequence(key).generate_state(3, np.uint64).tolist()
    random.seed(own)
    np.random.seed([numpys >> 32, numpys & 0xFFFFFFFF])  # noqa: NPY002
    torch.default_generator.manual_seed(torchs)  # torch.manual_seed would seed the devices too
    try:
        yield
    finally:
        restore(before)
