from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import require

from ..binary import two_logits
from ..decode_heads.hrda_head import classifying
from ..losses.head_loss import FusedLogits, head_loss
from ..parts import PUBLISHED, ClassMixing, Mixed, PixelContrast, SelfTraining
from .base import Adaptor, Domain


@MODELS.register_module()
class FewLabels(Adaptor):
    """Learns from a few labelled images of the target, from the source where there is one, and from the other images.

    All images pass the network together; labels of either domain count equally. A teacher, the moving average of the
    student, labels the other images of the target, on which classes of labelled images of either domain are pasted.
    Pixels of a class become alike in all images.

    Args:
        self_training: Options of :class:`SelfTraining`, the teacher; None: labelled images alone are looked at.
        mixing: Options of :class:`ClassMixing`, with a teacher.
        contrast: Options of :class:`PixelContrast`; None: without.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: An option cannot work.

    Reference:
        You et al., ACTION, arXiv 2206.02307, stage 3; Tranheden et al., DACS, arXiv 2007.08702.
    """

    takes_labelled = True
    teacher: Any  # the SelfTraining

    def __init__(
        self,
        self_training: Mapping[str, Any] | None = None,
        mixing: Mapping[str, Any] | None = None,
        contrast: Mapping[str, Any] | None = None,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        if self_training is None:
            require(mixing is None, 'model.mixing', mixing, 'None, as without model.self_training nothing is mixed,')
        else:
            self.teacher = SelfTraining(self.taught(), self.num_classes, **{**PUBLISHED, **self_training})
            self.mixing = ClassMixing(**(mixing or {}))
        self.contrast = None
        if contrast is not None:
            channels = classifying(self.decode_head).conv_seg.in_channels
            self.contrast = PixelContrast(channels, self.num_classes, **contrast)

    @property
    def adapts(self) -> bool:
        """Whether unlabelled images of the target are looked at."""
        return self.teacher is not None

    def losses(self, source: Domain | None, labelled: Domain, target: Domain | None) -> dict[str, Tensor]:  # type: ignore[override]
        """``loss_seg`` on the labels of the source, ``loss_labelled`` on those of the target, ``loss_aux`` and
        ``loss_aux_labelled`` where there are auxiliary heads; ``loss_mixed``, ``loss_contrast``, ``confident_share``.
        """
        known = dict(labelled=labelled) if source is None else dict(source=source, labelled=labelled)
        images, labels = ([getattr(own, key) for own in known.values()] for key in ('images', 'labels'))
        found: dict[str, Tensor] = {}
        if target is not None:
            mixed, sure, found['confident_share'] = self._mixed(torch.cat(images), torch.cat(labels), target)
            images, labels = [*images, mixed.images], [*labels, sure]
        stages = self.extract_feat(torch.cat(images))
        logits, features = self._classified(stages)
        ends = list(accumulate(map(len, images)))
        parts = [slice(start, end) for start, end in zip([0, *ends], ends)]
        rows = [logits.rows(part) if isinstance(logits, FusedLogits) else logits[part] for part in parts]
        for (name, domain), part, own in zip(known.items(), parts, rows):
            losses = self.supervised_losses([stage[part] for stage in stages], domain.labels, own)
            names = dict(loss_seg='loss_labelled', loss_aux='loss_aux_labelled') if name == 'labelled' else {}
            found.update({names.get(key, key): loss / len(known) for key, loss in losses.items()})
        if target is not None:
            (terms,), head = self.pseudo_terms, self.decode_head
            loss = head_loss(head, rows[-1], mixed.label, mixed.weight, terms, from_source=mixed.from_source)
            found['loss_mixed'] = self.mixing.weight * loss
        if self.contrast is not None:
            label, size = torch.cat(labels)[:, None], features.shape[-2:]
            label = label.masked_fill(label == self.decode_head.ignore_index, 255)
            label = F.interpolate(label.float(), size, mode='nearest-exact')[:, 0].long()
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=self.align_corners)
            found['loss_contrast'] = self.contrast(features, logits, label)
        return found

    def _classified(self, stages: Any) -> tuple[Tensor, Tensor]:
        """Logits, and the input of the classifier; of several resolutions, that of the whole image."""
        inputs: list[Tensor] = []
        classifier = classifying(self.decode_head).conv_seg
        handle = classifier.register_forward_pre_hook(lambda _module, given: inputs.append(given[0]))
        try:
            return self.decode_head(stages), inputs[0]
        finally:
            handle.remove()

    def _mixed(self, images: Tensor, labels: Tensor, target: Domain) -> tuple[Mixed, Tensor, Tensor]:
        """Target images on which labelled ones are pasted, their labels where these are sure, and the share of that."""
        logits = self.teacher.logits(target.images)
        pseudo = self.teacher.pseudo_label(logits, target.valid)
        chosen = torch.randperm(len(images))[: len(target.images)].to(images.device)
        mixed = self.mixing(Domain(images[chosen], None, labels[chosen], ()), target, pseudo, self)
        if self.contrast is None:
            return mixed, mixed.label, pseudo.confident_share
        sure = two_logits(logits).float().softmax(1).amax(1) >= self.contrast.confident
        if target.valid is not None:
            sure = sure & target.valid
        return mixed, mixed.label.masked_fill(~(sure | mixed.from_source), 255), pseudo.confident_share
