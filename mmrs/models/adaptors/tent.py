from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number

from .base import Domain
from .source_free import SourceFree, information_losses

#: Layers whose scales and shifts are trained.
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def normalisation_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The scales and shifts of all normalisation layers.

    Raises:
        ConfigError: There are none.
    """
    found = [p for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)]
    if not found:
        raise ConfigError(
            'TENT trains scales and shifts of normalisation layers, and the network has none: take another method'
        )
    return found


@MODELS.register_module()
class TENT(SourceFree):
    """Entropy minimisation: the scales and shifts of all normalisation layers make predictions on the target surer.

    All else is frozen. A map of one class has no entropy: without `diversity` few steps at a low rate are all that this
    loss is good for. With it, mean predictions of equal shares are rewarded, which a target need not have.

    Args:
        diversity: Factor on the negative entropy of the mean prediction; 0: as published.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: The network has no normalisation with scales and shifts.

    Reference:
        Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, arXiv 2006.10726, section 3; `diversity`
        as in arXiv 2002.08546, equation 2.
    """

    def __init__(self, diversity: float = 0.0, **network: Any) -> None:
        super().__init__(**network)
        require_number('model.diversity', diversity, at_least=0)
        self.diversity = diversity
        self.requires_grad_(False)
        for parameter in normalisation_parameters(self):
            parameter.requires_grad = True

    def losses(self, source: Any, target: Domain) -> dict[str, Tensor]:
        """``loss_entropy``, ``loss_diversity`` and ``share_entropy``; see :func:`information_losses`."""
        return information_losses(target, self.decode_head(self.extract_feat(target.images)), 1.0, self.diversity)
