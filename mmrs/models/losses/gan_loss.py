from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError


def _to_constant(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """A distance between a score map and one value that stands for 'real' or 'fake'."""
    return lambda score, value: distance(score, score.new_full((), value).expand_as(score))


_DISTANCES = {
    'vanilla': _to_constant(F.binary_cross_entropy_with_logits),
    'lsgan': _to_constant(F.mse_loss),
    'l1': _to_constant(F.l1_loss),
}
_SIGNED = {
    'wgan': lambda score: score.mean(),
    'wgan-logistic-ns': lambda score: F.softplus(score).mean(),
}
GAN_TYPES = (*_DISTANCES, *_SIGNED, 'hinge')


@MODELS.register_module()
class GANLoss(nn.Module):
    """Adversarial loss on a discriminator's score map.

    Args:
        gan_type: ``vanilla`` (binary cross entropy on logits), ``lsgan`` (mean square), ``l1``, ``hinge``, ``wgan``
            or ``wgan-logistic-ns`` (non-saturating logistic).
        real_label_val: Target of real scores; used by ``vanilla``, ``lsgan`` and ``l1``.
        fake_label_val: Target of fake scores; likewise.
        loss_weight: Factor on the generator's loss.
        discriminator_weight: Factor on the discriminator's own loss. None takes ``loss_weight``, as the published
            ST-DASegNet does; 1.0 gives the discriminator its full gradient.

    Reference:
        Goodfellow et al. 2014 (vanilla); Mao et al. 2017 (lsgan); Lim and Ye 2017 (hinge); Arjovsky et al. 2017
        (wgan); Karras et al. 2019 (wgan-logistic-ns).
    """

    def __init__(
        self,
        gan_type: str = 'vanilla',
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
        loss_weight: float = 1.0,
        discriminator_weight: float | None = None,
    ) -> None:
        super().__init__()
        gan_type = gan_type.lower()  # the release writes `L1`
        if gan_type not in GAN_TYPES:
            raise ConfigError(f'unknown gan_type {gan_type!r}: expected one of {", ".join(GAN_TYPES)}')
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight
        self.discriminator_weight = loss_weight if discriminator_weight is None else discriminator_weight

    @property
    def boundary(self) -> float:
        """The score between those that count as real and those that count as fake."""
        has_labels = self.gan_type in ('lsgan', 'l1')
        return (self.real_label_val + self.fake_label_val) / 2 if has_labels else 0.0

    def looks_real(self, score: Tensor) -> Tensor:
        """For each score whether it is nearer to 'real' than to 'fake'."""
        above = score > self.boundary
        exchanged = self.gan_type in _DISTANCES and self.real_label_val < self.fake_label_val
        return ~above if exchanged else above

    def forward(self, score: Tensor, target_is_real: bool, is_discriminator: bool = False) -> Tensor:
        """Average loss of a score map.

        Args:
            score: Discriminator output (logits) of any shape.
            target_is_real: Whether the scores are pulled towards 'real'.
            is_discriminator: Whether the discriminator learns from the loss (else the generator does).

        Returns:
            Scalar, multiplied by ``loss_weight`` or, for the discriminator, ``discriminator_weight``.
        """
        weight = self.discriminator_weight if is_discriminator else self.loss_weight
        if self.gan_type in _DISTANCES:
            value = self.real_label_val if target_is_real else self.fake_label_val
            return weight * _DISTANCES[self.gan_type](score, value)
        signed = -score if target_is_real else score
        if self.gan_type == 'hinge':
            # Only the discriminator has the margin; the generator just raises the score.
            return weight * (F.relu(1 + signed) if is_discriminator else -score).mean()
        return weight * _SIGNED[self.gan_type](signed)
