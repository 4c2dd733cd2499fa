from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require, require_number

from ..binary import channel_offsets

__all__ = ['PriorNeutralLoss']


@MODELS.register_module()
class PriorNeutralLoss(nn.Module):
    r"""Any decode loss, made to learn what the classes look like and not how frequent the source has them.

    .. math:: L(z + \tau \log p_s, y)

    The loss sees the logits :math:`z` with the source's shares :math:`p_s` of the classes added, so that the network
    need not learn these: at tau = 1 its own :math:`z` is the posterior under equal shares. Only pixels with a label of
    the source are changed, not those with a pseudo-label. The configuration key ``class_prior=dict(tau=1.0)`` puts it
    around each decode loss.

    Args:
        loss: Config of the loss.
        tau: Strength, at least 0; 0 leaves the loss as it is.
        shares: K numbers that sum up to 1; ``'auto'`` in a configuration: those of the source's labels.

    Shape:
        - logits: ``(N, K, H, W)``; with K = 1 the logits of the second of two classes
        - label: ``(N, H, W)``, integers in ``[0, K)`` or ``ignore_index``
        - from_source: ``(N, H, W)``, bool: whose label is the source's; True: all, False: none
        - output: what the loss returns

    Raises:
        ConfigError: Shares that are none, or not one for each class.

    Reference:
        Menon et al., Long-tail learning via logit adjustment, arXiv 2007.07314; Ren et al., Balanced meta-softmax,
        arXiv 2007.10740.
    """

    log_shares: Tensor

    def __init__(self, loss: dict[str, Any], tau: float = 1.0, shares: Sequence[float] | str = 'auto') -> None:
        super().__init__()
        self.loss = MODELS.build(loss)
        self.loss_name, self.loss_weight = self.loss.loss_name, getattr(self.loss, 'loss_weight', 1.0)
        require_number('class_prior.tau', tau, at_least=0)
        listed: Any = shares if isinstance(shares, Sequence) and not isinstance(shares, str) else ['none']
        numbers = all(isinstance(s, (int, float)) and 0 < s < 1 for s in listed)
        require(
            numbers and math.isclose(sum(map(float, shares)), 1, abs_tol=1e-3),
            'class_prior.shares',
            shares,
            'a share above 0 for each class, which sum up to 1,',
        )
        self.tau = tau
        # Not part of the checkpoint: shares stand in the configuration alone.
        self.register_buffer('log_shares', torch.tensor(shares, dtype=torch.float64).log().float(), persistent=False)

    def forward(self, logits: Tensor, label: Tensor, *, from_source: Tensor | bool = True, **options: Any) -> Tensor:
        """Compute the loss; see the class for shapes."""
        if from_source is not False and self.tau:
            added = self.tau * self._added(logits.shape[1]).to(logits.dtype)[:, None, None]
            logits = logits + (added * from_source[:, None] if isinstance(from_source, Tensor) else added)
        return self.loss(logits, label, **options)

    def _added(self, channels: int) -> Tensor:
        """What tau = 1 adds to each channel, ``(K,)``."""
        log_shares = channel_offsets(self.log_shares, channels)
        if channels != len(log_shares):
            raise ConfigError(
                f'class_prior.shares has {len(self.log_shares)} entries, but the logits have {channels} classes: give '
                'one share per class'
            )
        if channels > 1 and getattr(self.loss, 'use_sigmoid', False):  # each class against the rest
            return log_shares - torch.log1p(-log_shares.exp())
        return log_shares
