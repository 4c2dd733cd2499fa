from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import require_number

from ..binary import two_logits
from ..losses.head_loss import FusedLogits
from ..parts.adversary import with_frozen
from .base import Adaptor, Domain


@MODELS.register_module()
class FADA(Adaptor):
    """FADA: features of the target become like those that the source has of the same class.

    A discriminator says of each pixel of the backbone's last map which class of which domain it is of. It learns that
    from the domain and from the decode head's probabilities; the backbone learns to have the target's features taken
    for those of the same classes in the source.

    Args:
        discriminator: Config of the :class:`ClassDiscriminator`, without its `num_classes`.
        weight: Factor on the backbone's loss.
        temperature: Divides the decode head's logits in training, for the labels and for the probabilities.
        most: Probabilities above it are cut to it.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: An argument is out of range.

    Reference:
        Wang et al., Classes Matter, arXiv 2007.09222, equations 3 to 8.
    """

    def __init__(
        self, discriminator: dict, weight: float = 0.001, temperature: float = 1.8, most: float = 0.9, **network: Any
    ) -> None:
        super().__init__(**network)
        require_number('model.weight', weight, at_least=0)
        require_number('model.temperature', temperature, above=0)
        require_number('model.most', most, above=0, at_most=1)
        self.weight, self.temperature, self.most = weight, temperature, most
        self.discriminator = MODELS.build({**discriminator, 'num_classes': self.num_classes})

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_seg`` and, of auxiliary heads, ``loss_aux`` on the labels of the source; ``loss_adv`` of the backbone,
        ``loss_disc_source`` and ``loss_disc_target`` of the discriminator, and its ``disc_accuracy_features``.
        """
        stages = [self.backbone(domain.images) for domain in (source, target)]
        features = [self.neck(maps) if self.with_neck else maps for maps in stages]
        logits = self.decode_head(features[0])
        divided = logits.divided(self.temperature) if isinstance(logits, FusedLogits) else logits / self.temperature
        with torch.no_grad():
            of_target = self.decode_head(features[1]) / self.temperature
        losses = self.supervised_losses(features[0], source.labels, divided)
        return {**losses, **self.alignment((source, target), [maps[-1] for maps in stages], (divided, of_target))}

    def alignment(self, domains: Any, features: Any, logits: Any) -> dict[str, Tensor]:
        """The losses between the domains.

        Args:
            domains: Source and target.
            features: A map ``(N, C, h, w)`` of either.
            logits: The decode head's of either, divided by the temperature.
        """
        source, target = domains
        soft = [self.soft_label(z.detach(), domain) for z, domain in zip(logits, domains)]
        fooled = self._resize(with_frozen(self.discriminator, features[1]), target)
        losses = {'loss_adv': self.weight * _cross_entropy(fooled, soft[1], 0, target)}
        right = []
        for i, (name, domain) in enumerate((('source', source), ('target', target))):
            scores = self._resize(self.discriminator(features[i].detach()), domain)
            losses[f'loss_disc_{name}'] = _cross_entropy(scores, soft[i], i, domain) / 2
            own, other = (scores.detach().chunk(2, 1)[k].logsumexp(1) for k in (i, 1 - i))
            right.append(domain.mean((own > other).to(own.dtype)))
        return {**losses, 'disc_accuracy_features': (right[0] + right[1]) / 2}

    def soft_label(self, logits: Tensor, domain: Domain) -> Tensor:
        """Probabilities ``(N, K, H, W)`` at the images' size, of logits divided by the temperature."""
        return two_logits(self._resize(logits, domain)).softmax(1).clamp(max=self.most)

    def _resize(self, maps: Tensor, domain: Domain) -> Tensor:
        return F.interpolate(maps, domain.images.shape[-2:], mode='bilinear', align_corners=self.align_corners)


def _cross_entropy(scores: Tensor, soft: Tensor, domain_of: int, domain: Domain) -> Tensor:
    """Cross entropy of scores ``(N, 2 K, H, W)`` with soft labels of the source's (0) or the target's (1) classes."""
    log_p = scores.log_softmax(1, torch.promote_types(scores.dtype, torch.float32)).chunk(2, 1)[domain_of]
    return domain.mean(-(soft * log_p).sum(1))
