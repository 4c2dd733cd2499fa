"""Runs by what they left in their work dirs, those of one configuration with several seeds together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrs.engine.saved_runs import newest_checkpoint
from mmrs.utils.config import load_config
from mmrs.utils.config_checks import read_keys
from mmrs.utils.errors import ConfigError, DataError, require_file, require_folder
from mmrs.visualization.curves import scalar_files

__all__ = ['Group', 'Run', 'find_runs', 'group_runs']

#: Settings that each run has for itself.
_OWN = ('work_dir', 'resume', 'launcher', 'randomness')


@dataclass(frozen=True)
class Run:
    """A run, by what it left.

    Attributes:
        folder: Its work dir.
        config: The configuration in it.
        checkpoint: The one that counts: the last one, unless another was asked for; None if there is none.
    """

    folder: Path
    config: Config
    checkpoint: Path | None

    @cached_property
    def logged(self) -> list[Path]:
        """What training has logged values to, see :func:`scalar_files`; nothing if it has not."""
        try:
            return scalar_files(self.folder)
        except DataError:
            return []

    @cached_property
    def log(self) -> list[list[str]]:
        """Lines of its logs, one log for each time that it was begun or resumed."""
        folders = [file.parents[1] for file in self.logged]
        logs = [folder / f'{folder.name}.log' for folder in folders]
        return [log.read_text(encoding='utf-8', errors='replace').splitlines() for log in logs if log.is_file()]

    def noted(self, key: str) -> str | None:
        """What the log says of the machine or the run under a key."""
        lines = (line.strip() for log in self.log for line in log)
        return next((line.partition(': ')[2] for line in lines if line.startswith(f'{key}: ')), None)

    @property
    def seed(self) -> int | None:
        """The configuration's, else the one that was drawn."""
        seed = (self.config.get('randomness') or {}).get('seed')
        noted = self.noted('seed') if seed is None else None
        return int(noted) if noted and noted.isdigit() else seed

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result, but for seeds and where files lie."""
        known = read_keys()
        settings = {key: value for key, value in self.config.to_dict().items() if key in known and key not in _OWN}
        (settings.get('default_hooks') or {}).pop('checkpoint', None)
        return settings


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with several seeds.

    Attributes:
        name: What the page calls it.
        runs: The runs; maps are those of the first.
    """

    name: str
    runs: Sequence[Run] = field(repr=False)

    @property
    def first(self) -> Run:
        """The run whose maps and settings are shown."""
        return self.runs[0]


def find_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs by their work dirs, or by checkpoints in them.

    Raises:
        DataError: There is no such folder or file.
        ConfigError: A folder has not exactly one configuration, or that cannot be read.
        CheckpointError: A run has checkpoints, and none is whole.
    """
    runs = []
    for path in map(Path, paths):
        given = path if path.suffix == '.pth' else None
        if given is not None:
            require_file(given, 'a checkpoint')
        folder = path if given is None else path.parent
        require_folder(folder, 'the work dir of a run')
        configs = sorted(folder.glob('*.py'))
        if len(configs) != 1:
            raise ConfigError(f'{folder} has {len(configs)} configurations (*.py); the one of the run was expected')
        runs.append(Run(folder, load_config(configs[0]), given or newest_checkpoint(folder)))
    return runs


def group_runs(runs: Sequence[Run], names: Sequence[str] | None = None) -> list[Group]:
    """Put runs together that lie in one folder and differ in their seeds alone.

    Args:
        runs: The runs.
        names: For the groups, in the order of their first runs; by default their folders' names.

    Raises:
        ConfigError: A run is there twice, or there are other names than groups.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        settings = run.settings
        settings['load_from'] = Path(settings.get('load_from') or '').name  # each seed has its own file to start from
        key = json.dumps([str(run.folder.absolute().parent), settings], sort_keys=True, default=str)
        found.setdefault(key, []).append(run)
    for own in found.values():
        seeds = [run.seed for run in own]
        if len(set(seeds)) < len(seeds):
            listed = ', '.join(f'{run.folder} (seed {run.seed})' for run in own)
            raise ConfigError(f'runs of one configuration and seed: {listed}; name each run once')
    names = names or _names([own[0].folder for own in found.values()], [len(own) > 1 for own in found.values()])
    if len(names) != len(found) or len(set(names)) != len(names):
        raise ConfigError(f'names are {", ".join(names)}; {len(found)} different ones were expected')
    return [Group(name, own) for name, own in zip(names, found.values())]


def _names(folders: Sequence[Path], several: Sequence[bool]) -> list[str]:
    """What distinguishes the folders of groups, without the seed where that leaves them different."""
    paths = [folder.absolute() for folder in folders]
    short = [
        path.parent if re.fullmatch(r'seed_\d+', path.name) or many else path for path, many in zip(paths, several)
    ]
    paths = short if len(set(short)) == len(short) else paths
    common = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, common) for path in paths]
