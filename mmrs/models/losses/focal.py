from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from .class_weight import read_class_weight


@MODELS.register_module()
class FocalLoss(nn.Module):
    r"""Focal loss on the sigmoid of each class, with mmseg's arguments and values.

    .. math:: L = \frac{1}{N K H W} \sum_{i, k} v_i \, w_k \, \alpha_{ik} (1 - q_{ik})^\gamma (-\log q_{ik})

    where :math:`q_{ik}` is the probability of the right answer to "is pixel i of class k?", :math:`\alpha_{ik}` is
    ``alpha`` where the answer is yes and ``1 - alpha`` where it is no, :math:`w` the class weight and :math:`v` the
    pixel weight; ignored pixels add nothing. mmseg's loss needs mmcv's operators on a GPU, fails on a CPU for several
    classes, and takes no pixel weights of the shape that decode heads have.

    Args:
        use_sigmoid: Only True, as in mmseg.
        gamma: How little easy pixels count.
        alpha: From 0 to 1, one number or one per channel of the logits.
        reduction: Only ``'mean'``.
        class_weight: One weight per channel of the logits, or a file with them; None weighs them equally.
        loss_weight: Factor on the result.
        loss_name: Key in mmseg's loss dict; has to start with ``loss_``.

    Shape:
        - logits: ``(N, K, H, W)``; with K = 1 the logits of the second of two classes
        - label: ``(N, H, W)``, class indices or ``ignore_index``
        - weight: ``(N, H, W)``, non-negative; optional
        - output: scalar

    Reference:
        Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002.
    """

    class_weight: Tensor
    alpha: Tensor

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float | Sequence[float] = 0.5,
        reduction: str = 'mean',
        class_weight: Sequence[float] | str | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_focal',
    ) -> None:
        super().__init__()
        if use_sigmoid is not True or reduction != 'mean':
            raise ConfigError(
                f'FocalLoss: use_sigmoid is {use_sigmoid!r} and reduction {reduction!r}; only True and '
                "'mean' were expected"
            )
        self.gamma, self.loss_weight, self.loss_name = gamma, loss_weight, loss_name
        weight = read_class_weight(class_weight) or [1.0]
        for name, values in (('alpha', alpha), ('class_weight', weight)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float).view(-1, 1, 1), persistent=False)

    def forward(
        self, logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = 255, **_: object
    ) -> Tensor:
        """Compute the loss; see the class for shapes."""
        valid = label != ignore_index
        classes = torch.arange(logits.shape[1], device=label.device)[:, None, None] + (logits.shape[1] == 1)
        target = (label[:, None] == classes).to(logits.dtype)
        right = torch.where(target > 0, logits, -logits)  # the logit of the right answer
        alpha = torch.where(target > 0, self.alpha, 1 - self.alpha)
        easy = (self.gamma * F.logsigmoid(-right)).exp()  # (1 - q) ** gamma may have no derivative at q = 1
        loss = alpha * self.class_weight * easy * -F.logsigmoid(right)
        return self.loss_weight * (loss * (valid if weight is None else valid * weight)[:, None]).mean()
