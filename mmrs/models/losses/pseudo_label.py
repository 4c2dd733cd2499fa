from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from ..binary import two_logits


class PseudoLabel(NamedTuple):
    """Pseudo-labels of a batch: ``label`` and ``weight`` are ``(N, H, W)``, ``confident_share`` a scalar in [0, 1]."""

    label: Tensor
    weight: Tensor
    confident_share: Tensor


def make_pseudo_label(
    logits: Tensor,
    threshold: float = 0.975,
    rare_threshold: float | None = 0.8,
    class_weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> PseudoLabel:
    """Turn a teacher's logits into labels with a weight per pixel.

    The share q of pixels whose confidence reaches ``threshold`` weighs the whole batch (as in DACS). With class
    weights, a pixel of at least ``rare_threshold`` gets ``q * class_weight[label]`` and any other ``q / 2``: nothing
    is ignored, rare classes count more. Without class weights or ``rare_threshold`` every pixel weighs q. The batch is
    that of all processes together, which therefore have to call this function at the same time.

    Args:
        logits: ``(N, K, H, W)``; with K = 1 the logits of the second of two classes, whose probability is the sigmoid.
        threshold: Confidence (maximum of the softmax) that counts towards q.
        rare_threshold: Confidence from which a pixel has its class's weight.
        class_weight: ``(K,)``.
        valid: ``(N, H, W)``, bool. Pixels without data (False) do not count towards q and weigh nothing.

    Reference:
        Zhao et al., arXiv 2301.05526, section 3.4 (cross-domain separated self-training).
    """
    # Half precision is too coarse for confidences near 1.
    logits = two_logits(logits).to(torch.promote_types(logits.dtype, torch.float32))
    top, label = logits.max(1)
    confidence = (top - logits.logsumexp(1)).exp()  # the softmax's maximum, without the softmax of the other classes
    confident = confidence >= threshold
    if valid is None:
        counts = torch.stack((confident.sum(), label.new_full((), label.numel())))
    else:
        counts = torch.stack(((confident & valid).sum(), valid.sum()))
    all_reduce(counts)
    counted, number = counts.to(logits.dtype)
    share = counted / number.clamp(min=1)
    if class_weight is None or rare_threshold is None:
        weight = share.expand_as(confidence)
    else:
        weight = share * torch.where(confidence >= rare_threshold, class_weight.to(logits.dtype)[label], 0.5)
    if valid is not None:
        weight = weight * valid
    return PseudoLabel(label, weight, share)
