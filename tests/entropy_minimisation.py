"""A whole adaptation method, outside of the package: entropy minimisation on the target, labels on the source."""

from typing import Any

from torch import Tensor

from mmrs.models.adaptors import Adaptor, Domain
from mmrs.models.parts import self_information
from mmrs.registry import MODELS


@MODELS.register_module()
class EntropyMinimisation(Adaptor):
    """MinEnt without its adversarial twin: predictions on the target are pushed to be sure.

    Args:
        weight: Factor on the entropy, 0 to 1.
        **network: As of mmseg's encoder-decoder.

    Reference:
        Vu et al., ADVENT, CVPR 2019, equation 3.
    """

    def __init__(self, weight: float = 0.01, **network: Any) -> None:
        super().__init__(**network)
        self.weight = weight

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_seg`` on the source, ``loss_entropy`` and its unweighted ``share_entropy`` on the target."""
        losses = self.supervised_losses(self.extract_feat(source.images), source.labels)
        entropy = target.mean(self_information(self.decode_head(self.extract_feat(target.images))).sum(1))
        return {**losses, 'loss_entropy': self.weight * entropy, 'share_entropy': entropy.detach()}
