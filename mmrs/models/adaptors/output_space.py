from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number

from ..losses.head_loss import head_loss
from ..losses.probing import loss_terms
from ..parts import PUBLISHED, Adversary, MaskedConsistency, SelfTraining, self_information
from .base import Adaptor, Domain

#: Names of the losses on labels, by the head.
_SUPERVISED = dict(decode_head='loss_seg', auxiliary_head='loss_aux')


@MODELS.register_module()
class OutputSpaceAlignment(Adaptor):
    """MinEnt, AdvEnt and AdaptSegNet: predictions on the target become as sure, or as structured, as on the source.

    Without a discriminator the entropy of the target's predictions is minimised (MinEnt). With it, predictions of both
    domains are told apart, at the size of the images, and the network learns to mislead: of their self-information
    (AdvEnt) or of the probabilities themselves (AdaptSegNet). Pixels without data are shown to the discriminator as
    equally probable classes, in both domains, so that it does not learn their shapes.

    Args:
        weights: Factor on the loss of the target's predictions, for each head that is aligned: ``decode_head``, and for
            two levels ``auxiliary_head``, whose factor on the labels is its ``loss_decode.loss_weight``. A head with
            neither factor does not run.
        discriminator: Config of each head's, without its `in_channels`, which are the classes; None: MinEnt.
        input_map: What discriminators see of logits: ``self_information`` or ``softmax``.
        gan_loss: Config of the :class:`GANLoss`, in which the source is real; `weights` multiply its `loss_weight`.
            None: as published, binary cross entropy with 0 for the source and 1 for the target, and for the
            discriminator the mean over both.
        masked_consistency: Options of :class:`MaskedConsistency`, and as `self_training` those of its teacher, which
            the `TeacherEMAHook` moves; None: without.
        **network: As of mmseg's encoder-decoder, with one auxiliary head at most.

    Raises:
        ConfigError: A factor is not a number of at least 0, its head does not exist, or all are 0.

    Reference:
        Vu et al., ADVENT, arXiv 1811.12833, equations 3 and 6 to 8; Tsai et al., arXiv 1802.10349, equations 1 to 5.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        discriminator: dict | None = None,
        input_map: str = 'self_information',
        gan_loss: dict | None = None,
        masked_consistency: Mapping[str, Any] | None = None,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._check_heads(weights)
        self.discriminator: Adversary | None = None
        if discriminator is not None:
            own = {**discriminator, 'in_channels': self.num_classes}
            published = dict(type='GANLoss', real_label_val=0.0, fake_label_val=1.0, discriminator_weight=0.5)
            self.discriminator = Adversary(dict.fromkeys(self.weights, own), gan_loss or published, input_map)
        self.masked_consistency: MaskedConsistency | None = None
        if masked_consistency is not None:
            own = {'self_training': {}, **masked_consistency}
            self.teacher = SelfTraining(self.taught(), self.num_classes, **{**PUBLISHED, **own.pop('self_training')})
            self.masked_consistency = MaskedConsistency(**own)

    def _check_heads(self, weights: Mapping[str, float]) -> None:
        auxiliary: Any = self.auxiliary_head if self.with_auxiliary_head else None
        if isinstance(auxiliary, nn.ModuleList):
            found = f'a list of {len(auxiliary)}'
            raise ConfigError(f'model.auxiliary_head is {found}: give the dict of one head, for one at most is aligned')
        for name, weight in weights.items():
            require_number(f'model.weights.{name}', weight, at_least=0)
            if name not in _SUPERVISED or (weight and name == 'auxiliary_head' and auxiliary is None):
                heads = 'decode_head' + ' and auxiliary_head' * (auxiliary is not None)
                raise ConfigError(f'model.weights has {name}={weight:g}, but the heads of the network are {heads}')
        if not self.weights:
            raise ConfigError('model.weights are all 0: nothing would be aligned; train source only instead')
        taught = auxiliary is not None and any(getattr(term, 'loss_weight', 1) for term in loss_terms(auxiliary))
        if auxiliary is not None and not taught and 'auxiliary_head' not in self.weights:
            del self.auxiliary_head

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_seg`` and ``loss_aux`` on the labels of the source, and for each aligned head either
        ``loss_entropy_HEAD`` and its unweighted ``share_entropy_HEAD``, or what :meth:`Adversary.losses` returns; and
        those of :class:`MaskedConsistency`.
        """
        labels: Any = source.labels
        features = [self.extract_feat(domain.images) for domain in (source, target)]
        losses: dict[str, Tensor] = {}
        heads = [(name, head) for name in _SUPERVISED if (head := getattr(self, name, None)) is not None]
        for name, head in heads:
            logits = head(features[0])
            losses[_SUPERVISED[name]] = head_loss(head, logits, labels)
            if name in self.weights:
                on_target = _of_images(head, head(features[1]), target)
                if self.discriminator is None:
                    losses.update(self._entropy(name, on_target, target))
                else:
                    losses.update(self.discriminator.losses(name, _of_images(head, logits.detach(), source), on_target))
                    losses[f'loss_adv_{name}'] = self.weights[name] * losses[f'loss_adv_{name}']
        if self.masked_consistency is not None:
            losses.update(self.masked_consistency.losses(self, target))
        return losses

    def _entropy(self, name: str, logits: Tensor, target: Domain) -> dict[str, Tensor]:
        entropy = target.mean(self_information(logits).sum(1))
        return {f'loss_entropy_{name}': self.weights[name] * entropy, f'share_entropy_{name}': entropy.detach()}


def _of_images(head: Any, logits: Tensor, domain: Domain) -> Tensor:
    """Logits at the images' size, which are all alike where there are no data."""
    logits = F.interpolate(logits, domain.images.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    return logits if domain.valid is None else logits.masked_fill(~domain.valid[:, None], 0)
