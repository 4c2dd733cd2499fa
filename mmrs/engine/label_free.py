"""Validation that takes no labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator

from mmrs.evaluation.label_free import CRITERIA, dead_classes, observe
from mmrs.evaluation.label_free.criterion import look
from mmrs.registry import LOOPS
from mmrs.utils.errors import ConfigError, require_number, require_one_of
from mmrs.utils.wrappers import unwrapped

from .loops import ValLoop

__all__ = ['LabelFreeValLoop']


class _Evaluator(Evaluator):
    """What the metrics say, if there are any, and what criteria say of images without labels."""

    def __init__(self, metrics: Any, loop: LabelFreeValLoop) -> None:
        super().__init__(metrics)
        self._loop = loop

    def evaluate(self, size: int) -> dict:
        """Scores; of one image in a trial before training."""
        scores = super().evaluate(size) if self.metrics else {}
        return {**scores, **self._loop.label_free_scores(size)}


@LOOPS.register_module()
class LabelFreeValLoop(ValLoop):
    """A validation whose scores take no labels of the target, beside those of `val_evaluator`, which may be empty.

    ``NAME`` of each criterion, ``NAME/PART`` of what it is made of, and the number of ``dead_classes``. All processes
    look at the same images.

    Args:
        runner: The runner.
        dataloader: Images of the target; labels are for `evaluator` alone.
        evaluator: Metrics with labels.
        criteria: Names of `CRITERIA`.
        number: Images that criteria look at, drawn once for all runs.
        expected: Shares of the classes in the source's labels, by which it is known which classes to expect in the
            target; None: those that are predicted. ``auto`` is for configurations, which `tools/train.py` puts numbers
            into.
        **kwargs: As of MMEngine's `ValLoop`.

    Raises:
        ConfigError: There is no such criterion, or a number makes no sense.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        criteria: Sequence[str] = ('consistency',),
        number: int = 40,
        expected: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in criteria:
            require_one_of('val_cfg.criteria', name, CRITERIA)
        require_number('val_cfg.number', number, at_least=1)
        super().__init__(runner, dataloader, _Evaluator(evaluator, self), **kwargs)
        self.criteria, self.number = criteria, number
        self.expected = None if expected is None else torch.tensor(expected)

    def validate(self) -> dict:
        """All of the validation: the scores. Without metrics, nothing but what criteria look at is loaded."""
        if self.evaluator.metrics:
            return super().validate()
        for point in ('before_val', 'before_val_epoch'):
            self.runner.call_hook(point)
        self.runner.model.eval()
        scores = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook('after_val_epoch', metrics=scores)
        self.runner.call_hook('after_val')
        return scores

    @torch.no_grad()
    def label_free_scores(self, size: int) -> dict[str, float]:
        """The scores of as many images, or of `number`, if that is less."""
        model = unwrapped(self.runner.model)
        number, classes = min(size, self.number), _classes(model)
        criteria = [CRITERIA[name](classes) for name in self.criteria]
        if self.expected is not None and len(self.expected) != classes:
            raise ConfigError(f'val_cfg.expected has {len(self.expected)} shares, but the model has {classes} classes')
        (shares,) = look(observe(model, self._samples(number)), [criteria], classes)
        scores = {}
        if self.expected is not None:
            scores['dead_classes'] = float(dead_classes(shares, self.expected).sum())
        for criterion in criteria:
            score = criterion.compute(self.expected)
            scores[criterion.name] = score.value
            scores |= {f'{criterion.name}/{part}': value for part, value in score.parts.items()}
        return scores

    def _samples(self, number: int) -> Iterator[Mapping[str, Any]]:
        dataset: Any = self.dataloader.dataset
        chosen = np.random.default_rng(0).permutation(len(dataset))[:number]
        for i in sorted(chosen):
            sample = dataset[int(i)]
            if 'inputs' not in sample:
                raise ConfigError(
                    f'a validation without labels looks at images, but val_dataloader has a {type(dataset).__name__}, '
                    'which gives pairs: set val_dataloader=None val_evaluator=None for those of the target in training'
                )
            yield sample


def _classes(model: Any) -> int:
    return 2 if model.out_channels == 1 else model.num_classes
