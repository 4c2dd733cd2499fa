"""Validations that look at images without their labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from mmengine.evaluator import Evaluator

from mmrs.utils.errors import require_number

from .loops import ValLoop

__all__ = ['UnlabelledValLoop']


class _Evaluator(Evaluator):
    """What the metrics say, if there are any, and what the loop says of images without labels."""

    def __init__(self, metrics: Any, loop: UnlabelledValLoop) -> None:
        super().__init__(metrics)
        self._loop = loop

    def evaluate(self, size: int) -> dict:
        """Scores; of one image in a trial before training."""
        scores = super().evaluate(size) if self.metrics else {}
        return {**scores, **self._loop.unlabelled_scores(size)}


class UnlabelledValLoop(ValLoop):
    """Scores some images without labels, beside the metrics of `evaluator`, which may be empty.

    All processes look at the same images.

    Args:
        runner: The runner.
        dataloader: Images of the target; labels are for `evaluator` alone.
        evaluator: Metrics with labels.
        number: Images that are looked at, drawn once for all runs.
        **kwargs: As of MMEngine's `ValLoop`.

    Raises:
        ConfigError: The number makes no sense.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any, number: int, **kwargs: Any) -> None:
        require_number('val_cfg.number', number, whole=True, at_least=1)
        super().__init__(runner, dataloader, _Evaluator(evaluator, self), **kwargs)
        self.number = number

    def validate(self) -> dict:
        """All of the validation: the scores. Without metrics, nothing but the images that are looked at is loaded."""
        if self.evaluator.metrics:
            return super().validate()
        for point in ('before_val', 'before_val_epoch'):
            self.runner.call_hook(point)
        self.runner.model.eval()
        scores = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook('after_val_epoch', metrics=scores)
        self.runner.call_hook('after_val')
        return scores

    @abstractmethod
    def unlabelled_scores(self, size: int) -> dict[str, float]:
        """The scores of as many images, or of `number`, if that is less."""

    def _chosen(self, size: int) -> list[int]:
        """Indices of these images."""
        order = np.random.default_rng(0).permutation(len(self.dataloader.dataset))
        return sorted(order[: min(size, self.number)].tolist())
