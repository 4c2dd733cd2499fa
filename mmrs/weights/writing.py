"""Writing checkpoints that were made of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrs.utils.errors import CheckpointError
from mmrs.utils.files import atomic_path
from mmrs.weights.reading import read_checkpoint, state_dict_of

__all__ = ['save_changed']


def save_changed(
    source: str | Path, changes: Mapping[str, Tensor], path: str | Path, overwrite: bool = False, **meta: Any
) -> None:
    """Write a checkpoint with other weights, and without the state of its training.

    Args:
        source: The checkpoint.
        changes: Weights by name, in place of the checkpoint's.
        path: File to write.
        overwrite: Replace it.
        **meta: What the file says of itself beside what the checkpoint does.

    Raises:
        CheckpointError: The checkpoint cannot be read, or has no weight of such a name.
        OutputError: The file exists or cannot be written.
    """
    read = read_checkpoint(source)
    state = state_dict_of(read, source)
    if unknown := sorted(set(changes) - set(state)):
        raise CheckpointError(f'{source} has no {unknown[0]}, which was to be changed')
    known = {key: value for key, value in (read.get('meta') or {}).items() if key != 'random_states'}
    state = {key: changes.get(key, value).detach().cpu() for key, value in state.items()}
    with atomic_path(path, overwrite) as temporary:
        torch.save(dict(meta={**known, **meta}, state_dict=state), temporary)
