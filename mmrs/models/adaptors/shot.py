from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number

from ..decode_heads.hrda_head import HRDAHead
from .base import Domain
from .source_free import SourceFree, information_losses, wide_logits


@MODELS.register_module()
class SHOT(SourceFree):
    """Hypothesis transfer: a frozen classifier, and features of the target that are made to fit it.

    The classifier is the last convolution of the decode head. Predictions become sure and diverse, and pixels learn the
    class whose prototype their features, the input of the classifier, are most alike. Prototypes of rare classes weigh
    as much as those of others.

    The publication computes prototypes of the whole target before each epoch; here they are running sums over batches,
    of which the cosine takes the direction alone.

    Args:
        entropy: Factor on the mean entropy.
        diversity: Factor on the negative entropy of the mean prediction: equal shares are rewarded.
        pseudo: Factor on the cross entropy with pseudo-labels; 0.3 as published (section 4.2).
        memory: Share of a sum that stays when a batch is added, 0 to 1.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: A number makes no sense, or the head does not end in `conv_seg` at one resolution.

    Reference:
        Liang et al., Do We Really Need to Access the Source Data?, arXiv 2002.08546, section 3.2 and equations 2 to 7.
    """

    soft_sums: Tensor
    hard_sums: Tensor

    def __init__(
        self, entropy: float = 1.0, diversity: float = 1.0, pseudo: float = 0.3, memory: float = 0.99, **network: Any
    ) -> None:
        super().__init__(**network)
        for name, value in dict(entropy=entropy, diversity=diversity, pseudo=pseudo, memory=memory).items():
            require_number(f'model.{name}', value, at_least=0)
        require_number('model.memory', memory, at_most=1)
        self.weights, self.pseudo, self.memory = (entropy, diversity), pseudo, memory
        classifier: Any = getattr(self.decode_head, 'conv_seg', None)
        if isinstance(self.decode_head, HRDAHead) or not hasattr(classifier, 'in_channels'):
            raise ConfigError(
                f'SHOT freezes conv_seg, the last layer of a decode head that runs at one resolution; '
                f'{type(self.decode_head).__name__} is none: take another method'
            )
        classifier.requires_grad_(False)
        for name in ('soft_sums', 'hard_sums'):
            self.register_buffer(name, torch.zeros(self.num_classes, classifier.in_channels))

    def losses(self, source: Any, target: Domain) -> dict[str, Tensor]:
        """Those of :func:`information_losses`, ``loss_pseudo``, and ``share_relabelled``: of pixels whose pseudo-label
        is not the class that is predicted.
        """
        found: list[Tensor] = []
        hook = self.decode_head.conv_seg.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            logits = wide_logits(self.decode_head(self.extract_feat(target.images)))
        finally:
            hook.remove()
        losses = information_losses(target, logits, *self.weights)
        label = self._pseudo_labels(found[0].detach(), logits.detach(), target)
        cross_entropy = F.cross_entropy(logits, label, reduction='none')
        losses['loss_pseudo'] = self.pseudo * target.mean(cross_entropy)
        losses['share_relabelled'] = target.mean((logits.argmax(1) != label).to(logits)).detach()
        return losses

    @torch.no_grad()
    def _pseudo_labels(self, features: Tensor, logits: Tensor, target: Domain) -> Tensor:
        """Classes ``(N, h, w)``: two rounds of prototypes, of probabilities and of the labels of the first round."""
        shape = logits.shape[0], *logits.shape[2:]
        pixels = features.to(logits).movedim(1, -1).flatten(0, 2)
        weight = target.valid_share(logits).flatten()[:, None]
        member = logits.softmax(1).movedim(1, -1).flatten(0, 2)
        for sums in (self.soft_sums, self.hard_sums):
            found = (member * weight).T @ pixels
            all_reduce(found, 'sum')
            sums.mul_(self.memory).add_(found)
            alike = F.normalize(pixels, dim=1) @ F.normalize(sums, dim=1).T
            label = alike.masked_fill(~sums.any(1), -torch.inf).argmax(1)
            member = F.one_hot(label, len(sums)).to(pixels)
        return label.view(shape)
