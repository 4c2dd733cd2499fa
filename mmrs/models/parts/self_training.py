from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS

from ..binary import two_logits
from ..losses.class_weight import read_class_weight
from ..teacher import EMATeacher
from .class_thresholds import ClassThresholds

if TYPE_CHECKING:
    from ..adaptors.base import Domain

__all__ = ['PUBLISHED', 'PseudoLabel', 'SelfTraining', 'confidence_regularisers', 'make_pseudo_label']

#: The teacher of DACS, DAFormer and MIC: it normalises by the target's batches, and keeps its own statistics.
PUBLISHED: Mapping[str, Any] = dict(threshold=0.968, rare_threshold=None, buffers='own')


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
    share = _share(confident, valid, logits.dtype)
    if class_weight is None or rare_threshold is None:
        weight = share.expand_as(confidence)
    else:
        weight = share * torch.where(confidence >= rare_threshold, class_weight.to(logits.dtype)[label], 0.5)
    if valid is not None:
        weight = weight * valid
    return PseudoLabel(label, weight, share)


def _share(confident: Tensor, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The share of pixels that are confident, of the valid ones of all processes."""
    if valid is None:
        counts = torch.stack((confident.sum(), confident.sum().new_full((), confident.numel())))
    else:
        counts = torch.stack(((confident & valid).sum(), valid.sum()))
    all_reduce(counts)
    counted, number = counts.to(dtype)
    return counted / number.clamp(min=1)


def confidence_regularisers(logits: Tensor, labelled: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What keeps a student sure where it has no pseudo-label, and less than sure where it has.

    Args:
        logits: ``(N, K, H, W)`` of the student; with K = 1 those of the second of two classes.
        labelled: ``(N, H, W)``, bool: which pixels have a pseudo-label.
        valid: ``(N, H, W)``, bool; the others take no part.

    Returns:
        The mean entropy in nats of the pixels without, and the mean Kullback-Leibler divergence of the uniform
        distribution from the prediction of those with a pseudo-label; 0 where there are none. The means are over the
        pixels of all processes, as those of a domain are in a method's losses.

    Reference:
        Mei et al., arXiv 2008.12197.
    """
    logits = two_logits(logits)
    log_probabilities = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    divergence = -log_probabilities.mean(1) - math.log(log_probabilities.shape[1])
    ignored = ~labelled if valid is None else valid & ~labelled
    return _mean(entropy, ignored), _mean(divergence, labelled if valid is None else valid & labelled)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    number = chosen.sum().to(values.dtype)
    all_reduce(number, 'mean')
    return (values * chosen).sum() / number.clamp(min=torch.finfo(number.dtype).tiny)


class SelfTraining(EMATeacher):
    """A teacher, and the rule by which its logits become pseudo-labels.

    Its copies are children under their names, so that a model that has it as ``teacher`` keeps their weights as
    ``teacher.NAME.*``.

    Args:
        students: The modules to copy, by the name of the copy.
        num_classes: K.
        threshold: See :func:`make_pseudo_label`, as for the next one.
        rare_threshold: Likewise.
        class_weight: K numbers, or a file with them.
        batch_statistics: See :class:`EMATeacher`, as for the next one.
        buffers: Likewise.
        thresholds: Config of the :class:`ClassThresholds` that take the place of `threshold` and `rare_threshold`,
            without the number of classes: ``dict(type='CBSTThresholds', portion=0.5)`` or
            ``dict(type='IASTThresholds')``. A pixel that passes weighs 1, or its class's weight, and any other nothing.

    Raises:
        ConfigError: Class weights that are none, or not one for each class.
    """

    class_weight: Tensor | None
    thresholds: ClassThresholds | None

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        num_classes: int,
        threshold: float = 0.975,
        rare_threshold: float | None = 0.8,
        class_weight: Sequence[float] | str | None = None,
        batch_statistics: bool = True,
        buffers: str = 'student',
        thresholds: dict[str, Any] | None = None,
    ) -> None:
        weights = read_class_weight(class_weight, 'self_training.class_weight', num_classes)
        super().__init__(students, batch_statistics, buffers)
        if weights is not None and rare_threshold is None and thresholds is None:
            print_log(
                'self_training.class_weight has no effect, as rare_threshold, from which confidence on it counts, is '
                'None: set it (ST-DASegNet has 0.8), or leave the weights out',
                logger='current',
                level=logging.WARNING,
            )
        self.threshold, self.rare_threshold = threshold, rare_threshold
        self.register_buffer('class_weight', None if weights is None else torch.tensor(weights), persistent=False)
        self.thresholds = None if thresholds is None else MODELS.build({**thresholds, 'num_classes': num_classes})

    @torch.no_grad()
    def label(self, target: Domain) -> PseudoLabel:
        """Labels and weights of the pixels of target images, by a teacher that is a whole network."""
        return self.pseudo_label(self.logits(target.images), target.valid)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """What a teacher that is a whole network says of images ``(N, C, H, W)``: ``(N, K, H, W)``."""
        network: Any = self
        stages = network.backbone(images)
        logits = network.decode_head(network.neck(stages) if hasattr(self, 'neck') else stages)
        corners = network.decode_head.align_corners
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=corners)

    @torch.no_grad()
    def pseudo_label(self, logits: Tensor, valid: Tensor | None = None) -> PseudoLabel:
        """Labels and weights of pixels, by the thresholds and class weights; see :func:`make_pseudo_label`.

        With thresholds for each class, the number of pixels that pass takes the place of the weight q: all weights add
        up to the same, but those of pixels that do not pass go to those that do. ``confident_share`` is their share.
        """
        if self.thresholds is None:
            return make_pseudo_label(logits, self.threshold, self.rare_threshold, self.class_weight, valid)
        logits = two_logits(logits)
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
        label, passes = self.thresholds(probabilities, valid)
        if valid is not None:
            passes = passes & valid
        weight = passes.to(probabilities.dtype)
        if self.class_weight is not None:
            weight = weight * self.class_weight.to(weight.dtype)[label]
        return PseudoLabel(label, weight, _share(passes, valid, weight.dtype))
