from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor
from torch.nn import functional as F

from ..binary import two_logits
from .base import Adaptor, Domain, domain_of

__all__ = ['SourceFree', 'information_losses', 'wide_logits']


class SourceFree(Adaptor):
    """The base of methods that start from a trained network and see images of the target alone.

    The network trains in evaluation mode: without dropout and drop path, and batch normalisation takes its running
    statistics, which stay as they are. So what trains is what predicts later, and the size of batches matters little.
    The publications of these methods take the statistics of each batch instead; those of the whole target are to be
    put into the weights before, see :func:`adapt_batch_statistics`, as ``tools/adapt.py`` does.

    Labels are not read, nor is a source, where a batch has any. Auxiliary heads, which nothing would train, are left
    out.
    """

    learns_from_labels = False

    def __init__(self, *, auxiliary_head: Any = None, **network: Any) -> None:
        super().__init__(**network)

    def domains(self, inputs: Any, data_samples: Any) -> tuple[Any, Domain]:
        """No source, and the target: a plain batch, or that of a batch of two domains."""
        if not isinstance(inputs, Tensor):
            inputs, data_samples = inputs['target'], data_samples['target']
        return None, domain_of(inputs, data_samples, labelled=False)

    def train(self, mode: bool = True) -> SourceFree:
        """Stay in evaluation mode."""
        super().train(False)
        self.training = mode
        return self


def wide_logits(logits: Tensor) -> Tensor:
    """Logits ``(N, K, h, w)`` with a channel for each class, in float32 at least."""
    return two_logits(logits).to(torch.promote_types(logits.dtype, torch.float32))


def information_losses(target: Domain, logits: Tensor, entropy: float, diversity: float) -> dict[str, Tensor]:
    """How unsure predictions are, and how far the mean prediction is from equal shares of the classes.

    Args:
        target: The images.
        logits: ``(N, K, h, w)``, at any resolution.
        entropy: Factor on the mean entropy of the pixels that have data, in nats.
        diversity: Factor on the negative entropy of their mean prediction, that of all processes together; 0: without.

    Returns:
        ``loss_entropy`` and, where its factor is above 0, ``loss_diversity``; and ``share_entropy``, the mean entropy
        as a share of the greatest.

    Reference:
        Liang et al., arXiv 2002.08546, equation 2; the first term alone is Wang et al., arXiv 2006.10726, section 3.1.
    """
    log_p = F.log_softmax(wide_logits(logits), 1)
    mean = target.mean(-(log_p.exp() * log_p).sum(1))
    most = math.log(log_p.shape[1])
    losses = dict(loss_entropy=entropy * mean, share_entropy=mean.detach() / most)
    if diversity:
        classes = [target.mean(own) for own in log_p.exp().unbind(1)]
        marginal = _of_all(torch.stack(classes))
        marginal = marginal + (1 - marginal.detach().sum()) / len(marginal)  # equal shares where nothing has data
        # The gradient of the entropy itself is infinite at a probability of 0.
        log_marginal = marginal.clamp(min=torch.finfo(marginal.dtype).tiny).log()
        losses['loss_diversity'] = diversity * (marginal * log_marginal).sum()
    return losses


def _of_all(values: Tensor) -> Tensor:
    """The mean over all processes, whose gradient is that of the own part: their mean is the gradient of the whole."""
    total = values.detach().clone()
    all_reduce(total, 'mean')
    return values + (total - values.detach())
