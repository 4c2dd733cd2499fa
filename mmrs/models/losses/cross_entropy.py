from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..binary import two_logits
from .class_weight import read_class_weight


@MODELS.register_module()
class PixelMeanCrossEntropyLoss(nn.Module):
    r"""Cross entropy averaged over *all* pixels, ignored ones included.

    .. math:: L = \frac{1}{N H W} \sum_{i} v_i \, w_{y_i} \, (-\log p_i(y_i))

    with the class weight :math:`w` and the pixel weight :math:`v`; ignored pixels add nothing to the sum. The divisor
    is neither the number of valid pixels nor the sum of the weights: ST-DASegNet was published with this loss, whereas
    mmseg's divides by the sum of the class weights.

    Args:
        class_weight: One weight per class, or a file with them (see :func:`read_class_weight`); None weighs them
            equally.
        loss_weight: Factor on the result.
        loss_name: Key in mmseg's loss dict; has to start with ``loss_``.

    Shape:
        - logits: ``(N, K, H, W)``; with K = 1 the logits of the second of two classes
        - label: ``(N, H, W)``, integers in ``[0, K)`` or ``ignore_index``
        - weight: ``(N, H, W)``, non-negative; optional
        - output: scalar

    Reference:
        Zhao et al., arXiv 2301.05526, eq. of the segmentation and self-training losses.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Sequence[float] | str | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        weights = read_class_weight(class_weight)
        weight = None if weights is None else torch.tensor(weights)
        # Not part of the checkpoint: class weights stand in the config alone.
        self.register_buffer('class_weight', weight, persistent=False)

    def forward(
        self, logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **_: object
    ) -> Tensor:
        """Compute the loss; see the class for shapes.

        Raises:
            ConfigError: If ``class_weight`` does not have one entry per class.
        """
        logits = two_logits(logits)
        if self.class_weight is not None and len(self.class_weight) != logits.shape[1]:
            raise ConfigError(
                f'class_weight has {len(self.class_weight)} entries, but the logits have {logits.shape[1]} classes: '
                'give one weight per class in loss_decode'
            )
        class_weight = None if self.class_weight is None else self.class_weight.to(logits.dtype)
        if weight is None:
            loss = F.cross_entropy(logits, label, class_weight, ignore_index=ignore_index, reduction='sum')
        else:
            loss = F.cross_entropy(logits, label, class_weight, ignore_index=ignore_index, reduction='none')
            loss = (loss * weight).sum()
        return self.loss_weight * loss / label.numel()
