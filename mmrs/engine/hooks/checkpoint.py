from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from mmrs.evaluation.label_free import CRITERIA
from mmrs.registry import HOOKS


class _RemovesLater:
    """A storage that notes what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.removed.append(path)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, for runs that may be killed at any time.

    It removes an old checkpoint only once the new one is there. A resumed run that repeats the validation which the
    killed one did not end notes the best scores in the same checkpoint.
    """

    _default_greater_keys = [*MMEngineCheckpointHook._default_greater_keys, *CRITERIA]

    file_backend: Any

    def before_train(self, runner: Runner) -> None:
        """Find out where checkpoints go, and what a resumed run has there."""
        super().before_train(runner)
        # The folder may have moved since, or be another run's, whose checkpoints are not to be removed.
        self.last_ckpt = self._here(runner.message_hub.runtime_info.get('last_ckpt'))
        if self.save_best is not None:
            self.best_ckpt_path = self._here(getattr(self, 'best_ckpt_path', None))
            best = getattr(self, 'best_ckpt_path_dict', {})
            self.best_ckpt_path_dict = {key: self._here(path) for key, path in best.items()}

    def _here(self, path: str | None) -> Any:
        return None if path is None else self.file_backend.join_path(self.out_dir, os.path.basename(path))

    @contextmanager
    def _removing_later(self) -> Iterator[None]:
        backend, self.file_backend = self.file_backend, _RemovesLater(self.file_backend)
        try:
            yield
            later = self.file_backend.removed
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
        for path in later:
            if path not in best:
                backend.remove(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_later():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_later():
            super()._save_best_checkpoint(runner, metrics)
