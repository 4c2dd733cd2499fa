"""Validation of a pre-training, by what it makes of images that it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.nn import functional as F

from mmrs.models.adaptors.base import domain_of
from mmrs.models.losses.contrast import spread
from mmrs.registry import LOOPS
from mmrs.utils.errors import require_number
from mmrs.utils.random_states import seeded
from mmrs.utils.wrappers import unwrapped

from .loops import ValLoop

__all__ = ['ViewValLoop', 'effective_rank', 'view_recall']


class _Evaluator(Evaluator):
    """Has no metrics: scores are the loop's."""

    def __init__(self, loop: ViewValLoop) -> None:
        super().__init__([])
        self._loop = loop

    def evaluate(self, size: int) -> dict:
        """Scores; of one image in a trial before training."""
        return self._loop.view_scores(size)


@LOOPS.register_module()
class ViewValLoop(ValLoop):
    """A validation of a pre-training, without labels: it looks at two views of each of some images.

    The views are the same at each validation. Of the means of the backbone's last map, ``view/recall`` is how often the
    right counterpart is the most similar one, 0 to 1; ``view/spread`` how far they are spread, 0, they are all one, to
    1; and ``view/rank`` in how many directions they are, about. ``view/recall_cells`` is the recall of cells, where
    these are learnt. All processes look at the same images.

    Args:
        runner: The runner.
        dataloader: Images of the target, or pairs.
        evaluator: Unused: metrics take labels.
        number: Images that are looked at, drawn once for all runs.
        **kwargs: As of MMEngine's `ValLoop`.

    Raises:
        ConfigError: A number makes no sense.
    """

    def __init__(self, runner: Any, dataloader: Any, evaluator: Any = None, number: int = 64, **kwargs: Any) -> None:
        require_number('val_cfg.number', number, whole=True, at_least=1)
        super().__init__(runner, dataloader, _Evaluator(self), **kwargs)
        self.number = number

    def validate(self) -> dict:
        """The scores."""
        for point in ('before_val', 'before_val_epoch'):
            self.runner.call_hook(point)
        self.runner.model.eval()
        scores = self.evaluator.evaluate(len(self.dataloader.dataset))
        self.runner.call_hook('after_val_epoch', metrics=scores)
        self.runner.call_hook('after_val')
        return scores

    @torch.no_grad()
    def view_scores(self, size: int) -> dict[str, float]:
        """The scores of as many images, or of `number`, if that is less."""
        model: Any = unwrapped(self.runner.model)
        dataset: Any = self.dataloader.dataset
        chosen = np.random.default_rng(0).permutation(len(dataset))[: min(size, self.number)]
        found = []
        for i in sorted(chosen.tolist()):
            with seeded(0, i):
                batch = model.data_preprocessor(pseudo_collate([dataset[i]]), False)
                inputs, samples = batch['inputs'], batch['data_samples']
                if isinstance(inputs, Tensor):
                    inputs, samples = dict(target=inputs), dict(target=samples)
                domains = {name: domain_of(inputs[name], samples[name], labelled=False) for name in inputs}
                found.append(model.see(domains.get('source'), domains['target']))
        features = torch.cat([own.features for own in found], 1).double().cpu()
        scores = {
            'view/recall': view_recall(features),
            'view/spread': float(spread(F.normalize(features.flatten(0, 1), dim=1))),
            'view/rank': effective_rank(features.flatten(0, 1)),
        }
        cells = [own.recall_cells for own in found if own.recall_cells is not None]
        return {**scores, **({'view/recall_cells': float(torch.stack(cells).mean())} if cells else {})}


def view_recall(features: Tensor) -> float:
    """How often the right counterpart is the most similar of all, for features ``(2, N, C)``, around their mean."""
    first, second = F.normalize(features - features.mean((0, 1)), dim=-1)
    cosines = first @ second.mT
    right = cosines.diagonal()
    return float(torch.cat([right >= cosines.amax(0), right >= cosines.amax(1)]).double().mean())


def effective_rank(features: Tensor) -> float:
    """In how many directions features ``(N, C)`` are, around their mean: the exponential of the entropy of their
    singular values.

    Reference:
        Roy and Vetterli, The effective rank, EUSIPCO 2007, section 2.
    """
    values = torch.linalg.svdvals(features - features.mean(0))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())
