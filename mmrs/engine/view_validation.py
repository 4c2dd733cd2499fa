"""Validation of a pre-training, by what it makes of images that it was not trained on."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.nn import functional as F

from mmrs.models.adaptors.base import domain_of
from mmrs.models.losses.contrast import spread
from mmrs.registry import LOOPS
from mmrs.utils.random_states import seeded
from mmrs.utils.wrappers import unwrapped

from .unlabelled import UnlabelledValLoop

__all__ = ['ViewValLoop', 'effective_rank', 'view_recall']


@LOOPS.register_module()
class ViewValLoop(UnlabelledValLoop):
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
        super().__init__(runner, dataloader, [], number, **kwargs)

    @torch.no_grad()
    def unlabelled_scores(self, size: int) -> dict[str, float]:
        """The scores of as many images, or of `number`, if that is less."""
        model: Any = unwrapped(self.runner.model)
        dataset: Any = self.dataloader.dataset
        found = []
        for i in self._chosen(size):
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
