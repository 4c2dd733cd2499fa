from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import require, require_number

from ..parts import FrozenCopy, SelfTraining
from .base import Domain
from .source_free import SourceFree, wide_logits


@MODELS.register_module()
class CoTTA(SourceFree):
    """Consistency training: a student learns what its teacher says of the target, averaged over augmentations.

    The teacher is the moving average of the student, by a `TeacherEMAHook`, and is what predicts in the end. Images
    that the network, as it came, is sure of are taught by one pass; of others, the mean over scales and mirror images
    is. Before each step some of the student's weights become what they were, so that it does not drift away.

    Args:
        confidence: Mean probability of the predicted class from which one pass teaches; 0.69 for street scenes
            (section 4.1).
        scales: Of the image, for the mean; as published (section 4.1).
        restore: Share of the weights that are restored in each step; 0.01 as published.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: A number makes no sense.

    Reference:
        Wang et al., Continual Test-Time Domain Adaptation, arXiv 2203.13591, section 3 and equations 1 to 8.
    """

    teacher: Any  # the SelfTraining

    def __init__(
        self,
        confidence: float = 0.69,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
        restore: float = 0.01,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        require_number('model.confidence', confidence, at_least=0, at_most=1)
        require_number('model.restore', restore, at_least=0, at_most=1)
        require(bool(scales) and all(scale > 0 for scale in scales), 'model.scales', scales, 'numbers above 0 were')
        self.confidence, self.scales, self.restore = confidence, tuple(scales), restore
        self.teacher = SelfTraining(self.taught(), self.num_classes, rare_threshold=None, batch_statistics=False)
        self.anchor = FrozenCopy(self.taught())

    def losses(self, source: Any, target: Domain) -> dict[str, Tensor]:
        """``loss_consistency``, and ``share_sure``: of images that are taught by one pass."""
        taught, sure = self._taught(target)
        logits = self.decode_head(self.extract_feat(target.images))
        logits = F.interpolate(
            logits, target.images.shape[-2:], mode='bilinear', align_corners=self.decode_head.align_corners
        )
        log_p = F.log_softmax(wide_logits(logits), 1)
        return dict(loss_consistency=target.mean(-(taught * log_p).sum(1)), share_sure=sure.float().mean())

    def update_teacher(self, alpha: float) -> None:
        """Move the teacher, then restore some of the student; 0 starts anew from the network as it is."""
        super().update_teacher(alpha)
        if alpha == 0:
            self.anchor.load(self.taught())
        else:
            self._restore()

    @torch.no_grad()
    def _taught(self, target: Domain) -> tuple[Tensor, Tensor]:
        """Probabilities ``(N, K, H, W)``, and whether they are of one pass, ``(N,)``."""
        taught = wide_logits(self.teacher.logits(target.images)).softmax(1)
        network: Any = self.anchor.network
        stages = network.backbone(target.images)
        logits = network.decode_head(network.neck(stages) if hasattr(network, 'neck') else stages)
        top = wide_logits(logits).softmax(1).amax(1)
        weight = target.valid_share(top[:, None])
        sure = (top * weight).sum((1, 2)) >= self.confidence * weight.sum((1, 2))
        if not sure.all():
            taught[~sure] = self._averaged(target.images[~sure])
        return taught, sure

    def _averaged(self, images: Tensor) -> Tensor:
        """Mean of the teacher's probabilities over scales and mirror images, ``(N, K, H, W)``."""
        height, width = images.shape[-2:]
        total: Any = 0
        for scale in self.scales:
            size = [max(1, round(side * scale)) for side in (height, width)]
            scaled = F.interpolate(images, size, mode='bilinear', align_corners=False)
            for axes in ((), (-1,)):
                probability = wide_logits(self.teacher.logits(scaled.flip(axes)).flip(axes)).softmax(1)
                total = total + F.interpolate(probability, (height, width), mode='bilinear', align_corners=False)
        return total / (2 * len(self.scales))

    @torch.no_grad()
    def _restore(self) -> None:
        """Give some weights, drawn alike in all processes, the values that they came with."""
        seed = torch.randint(2**31, (1,))
        broadcast(seed)
        device = next(self.parameters()).device
        generator = torch.Generator(device).manual_seed(int(seed))
        kept = dict(self.anchor.named_parameters())
        for name, part in self.taught().items():
            for key, parameter in part.named_parameters():
                chosen = torch.rand(parameter.shape, generator=generator, device=device) < self.restore
                parameter.copy_(torch.where(chosen, kept[f'{name}.{key}'], parameter))
