"""The checkpoints that a run leaves in its folder."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmrs.utils.errors import CheckpointError, some

__all__ = ['damage', 'newest_checkpoint', 'number_of', 'own_checkpoints', 'remove_unfinished', 'require_resumable']


def number_of(path: Path) -> int | None:
    """The iteration or epoch in a checkpoint's name ``iter_N.pth`` or ``epoch_N.pth``."""
    match = re.fullmatch(r'(?:iter|epoch)_(\d+)\.pth', path.name)
    return int(match[1]) if match else None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None for a whole one.

    A checkpoint is a zip archive: each tensor in it carries a checksum (CRC-32) and the end of the file the list of
    what there must be. ``torch.load`` looks at the list only.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # garbage can break the reading of an archive in any way
        return str(error) or type(error).__name__
    return None if broken is None else f'the checksum of {broken} is wrong'


def own_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of a run by their number, the newest first; not those of its best scores."""
    found = [(number, path) for path in Path(folder).glob('*.pth') if (number := number_of(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that is whole; a warning names those that are not. None if there is none yet.

    Raises:
        CheckpointError: There are checkpoints, and none of them is whole; or the one that ``last_checkpoint`` names is
            not there.
    """
    damaged = []
    for path in own_checkpoints(folder) or _named(Path(folder) / 'last_checkpoint'):
        reason = damage(path)
        if reason is None:
            return path
        print_log(f'checkpoint {path} is damaged ({reason}); the one before it is taken', logger='current', level=30)
        damaged.append(path.name)
    if damaged:
        raise CheckpointError(
            f'no checkpoint in {folder} is whole: {some(damaged)} are damaged. Start anew with --overwrite'
        )
    return None


def _named(pointer: Path) -> list[Path]:
    """The checkpoint that MMEngine's pointer names, of a run that calls its checkpoints otherwise."""
    name = Path(pointer.read_text(encoding='utf-8').strip()).name if pointer.is_file() else ''
    if not name:
        return []
    path = pointer.with_name(name)
    if not path.is_file():
        raise CheckpointError(f'{pointer} names {name}, which is not there: name a checkpoint, or start anew')
    return [path]


def remove_unfinished(folder: str | Path) -> None:
    """Remove what a run that was killed while it saved a checkpoint left of it."""
    for path in Path(folder).glob('.*.part.pth'):
        path.unlink()


def require_resumable(checkpoint: Mapping[str, Any], source: str | Path) -> None:
    """Check that a checkpoint holds the state of a run, not its weights only.

    Raises:
        CheckpointError: Optimizer, iteration or log state is not there.
    """
    keys = ('meta', 'state_dict', 'optimizer', 'message_hub')
    lacking = [key for key in keys if not isinstance(checkpoint.get(key), Mapping)]
    if not lacking and not isinstance(checkpoint['meta'].get('iter'), int):
        lacking = ['meta.iter']
    if lacking:
        raise CheckpointError(
            f'cannot resume from {source}: it has no {", ".join(lacking)}, so it is not the state of a training run '
            f'(its keys are {some(list(map(str, checkpoint)), 6)}). To start a new run from its weights: '
            f'--cfg-options load_from={source}'
        )
