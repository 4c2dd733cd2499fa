"""The reference of a transfer: the network, trained on the source, that feature regression starts from."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import load_config, look_up
from mmrs.utils.errors import CheckpointError, ConfigError, OutputError
from mmrs.utils.records import Record, shown
from mmrs.weights import load_checkpoint, state_dict_of

__all__ = ['ReferenceTraining', 'check_reference', 'check_transfer', 'reference_config', 'takes_reference']

#: In the reference's work dir: what decides its result.
RECORD = 'settings.json'
# Keys of a configuration that do not.
_CIRCUMSTANCES = ('work_dir', 'launcher', 'resume', 'runner_type')


def takes_reference(config: Config) -> bool:
    """Whether the model of a configuration has an argument `reference`."""
    model = look_up(MODELS, config.model.type)
    return model is not None and 'reference' in inspect.signature(model).parameters


def check_reference(file: str | Path) -> None:
    """Read a reference, so that a wrong file is found before the data sets are read.

    Raises:
        CheckpointError: It is missing, cannot be read or holds no weights of a backbone.
    """
    if Path(file).expanduser().is_dir():
        raise CheckpointError(f'the reference is {str(file)!r}, a folder; a checkpoint is expected: FOLDER/iter_N.pth')
    weights = state_dict_of(load_checkpoint(file), file)
    if not any(name.startswith('backbone.') for name in weights):
        raise CheckpointError(
            f'the reference {file} has no weight backbone.*; it has {", ".join(list(weights)[:3])}. The checkpoint of '
            'a plain network is expected, backbone and decode head, that was trained on the source'
        )


def check_transfer(transfer: Config, reference: Config) -> None:
    """Build model and pairs of a transfer: a mistake in them shall not show after hours of the reference's training.

    Args:
        transfer: Its configuration, ready to be trained.
        reference: That of its reference, likewise.

    Raises:
        ConfigError: The networks of both differ, or something in the transfer's model or data sets cannot work.
        DataError: A file of its data sets cannot be used.
    """
    init_default_scope(transfer.get('default_scope', 'mmrs'))
    student, trained = (_shapes(config) for config in (transfer, reference))
    if differing := sorted(name for name in student.keys() | trained.keys() if student.get(name) != trained.get(name)):
        name = differing[0]
        raise ConfigError(
            f'config {transfer.filename} and its reference_config {reference.filename} have different networks: '
            f'{name} is {student.get(name, "not there")} in the first and {trained.get(name, "not there")} in the '
            f'second (and {len(differing) - 1} more). Give both the same backbone, neck and decode_head'
        )
    own, other = (config.model.get('data_preprocessor') or {} for config in (transfer, reference))
    for key in ('mean', 'std'):
        normalised = own.get(key) if own.get(f'source_{key}') is None else own[f'source_{key}']
        if normalised != other.get(key):
            print_log(
                f'The reference will be trained with data_preprocessor.{key}={other.get(key)}, but in the transfer it '
                f'sees the source with {normalised}: set model.data_preprocessor.source_{key} to the first',
                logger='current',
                level=logging.WARNING,
            )
    for split in ('train', 'val'):
        if transfer.get(f'{split}_dataloader') is not None:
            DATASETS.build(copy.deepcopy(transfer[f'{split}_dataloader'].dataset))


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    weights = MODELS.build(copy.deepcopy(config.model)).state_dict()
    parts = ('backbone.', 'neck.', 'decode_head.')
    return {name: tuple(weight.shape) for name, weight in weights.items() if name.startswith(parts)}


def reference_config(transfer: Config, options: Mapping[str, Any] | None = None) -> Config:
    """The configuration of the reference of a transfer, with the transfer's seed and a folder in its work dir.

    Args:
        transfer: The transfer's configuration, with work dir and launcher.
        options: Dotted keys and values that override the reference's.

    Raises:
        ConfigError: The transfer names none, or it cannot be read or does not count iterations.
    """
    if not transfer.get('reference_config'):
        raise ConfigError(
            f'config {transfer.filename}: {transfer.model.type} starts from a trained network. Pass its checkpoint '
            'with --reference, or name the configuration that trains it in reference_config'
        )
    try:
        config = load_config(transfer.reference_config, options)
    except ConfigError as error:
        text = str(error).replace('--cfg-options', '--reference-options')
        raise ConfigError(f'reference_config of {transfer.filename}: {text}') from error
    if not (config.get('train_cfg') or {}).get('max_iters'):
        raise ConfigError(f'config {config.filename} has no train_cfg.max_iters; a reference must count iterations')
    for key, value in (transfer.get('randomness') or {}).items():
        if f'randomness.{key}' not in (options or {}):
            config.setdefault('randomness', {})[key] = value
    config.launcher = transfer.launcher
    config.work_dir = str(Path(transfer.work_dir) / 'reference')
    return config


@dataclass
class ReferenceTraining:
    """The training of a reference.

    Args:
        config: Its configuration, ready to be trained.
        processes: How many train it together.

    Attributes:
        settings: What decides the result.
    """

    config: Config
    processes: int = 1
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        decisive = {key: value for key, value in self.config.to_dict().items() if key not in _CIRCUMSTANCES}
        self.settings = dict(processes=self.processes, **decisive)

    @property
    def folder(self) -> Path:
        """Its work dir."""
        return Path(self.config.work_dir)

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, once there is one."""
        return self.folder / f'iter_{self.config.train_cfg.max_iters}.pth'

    def changes(self) -> list[str]:
        """In what the reference in the folder, finished or not, differs from this one; empty if there is none."""
        return self._record.differences(self.settings) if self._checkpoints() else []

    def refuse(self, changes: list[str]) -> NoReturn:
        """Raise the :class:`OutputError` about a reference of other settings."""
        raise OutputError(
            f'{self.folder} holds a reference of other settings ({shown(changes)}). Use one of its checkpoints '
            'with --reference, choose another --work-dir, or train it anew with --overwrite'
        )

    def begin(self) -> None:
        """Write down the settings; checkpoints of others go, lest they pass for this training's."""
        if self.changes():
            for path in [self.folder / 'last_checkpoint', *self._checkpoints()]:
                path.unlink(missing_ok=True)
        self._record.write(self.settings)

    @property
    def _record(self) -> Record:
        return Record(self.folder / RECORD)

    def _checkpoints(self) -> list[Path]:
        return list(self.folder.glob('iter_*.pth'))
