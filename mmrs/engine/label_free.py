"""Validation that takes no labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mmrs.evaluation.label_free import CRITERIA, dead_classes, observe
from mmrs.evaluation.label_free.criterion import look
from mmrs.registry import LOOPS
from mmrs.utils.errors import ConfigError, require_one_of
from mmrs.utils.wrappers import unwrapped

from .unlabelled import UnlabelledValLoop

__all__ = ['LabelFreeValLoop']


@LOOPS.register_module()
class LabelFreeValLoop(UnlabelledValLoop):
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
        super().__init__(runner, dataloader, evaluator, number, **kwargs)
        self.criteria = criteria
        self.expected = None if expected is None else torch.tensor(expected)

    @torch.no_grad()
    def unlabelled_scores(self, size: int) -> dict[str, float]:
        """The scores of as many images, or of `number`, if that is less."""
        model = unwrapped(self.runner.model)
        classes = _classes(model)
        criteria = [CRITERIA[name](classes) for name in self.criteria]
        if self.expected is not None and len(self.expected) != classes:
            raise ConfigError(f'val_cfg.expected has {len(self.expected)} shares, but the model has {classes} classes')
        (shares,) = look(observe(model, self._samples(size)), [criteria], classes)
        scores = {}
        if self.expected is not None:
            scores['dead_classes'] = float(dead_classes(shares, self.expected).sum())
        for criterion in criteria:
            score = criterion.compute(self.expected)
            scores[criterion.name] = score.value
            scores |= {f'{criterion.name}/{part}': value for part, value in score.parts.items()}
        return scores

    def _samples(self, size: int) -> Iterator[Mapping[str, Any]]:
        dataset: Any = self.dataloader.dataset
        for i in self._chosen(size):
            sample = dataset[i]
            if 'inputs' not in sample:
                raise ConfigError(
                    f'a validation without labels looks at images, but val_dataloader has a {type(dataset).__name__}, '
                    'which gives pairs: set val_dataloader=None val_evaluator=None for those of the target in training'
                )
            yield sample


def _classes(model: Any) -> int:
    return 2 if model.out_channels == 1 else model.num_classes
