from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError

from ..losses.head_loss import head_loss
from ..parts import (
    PUBLISHED,
    ClassMixing,
    FeatureDistance,
    MaskedConsistency,
    PseudoLabel,
    SelfTraining,
    early_backward,
)
from ..widths import bands_of
from .base import Adaptor, Domain


@MODELS.register_module()
class DACS(Adaptor):
    """Self-training on images that mix the domains: DACS, and DAFormer with its head, schedule and sampling.

    A teacher, the moving average of the student, labels the target images. Half of the classes of each source image
    are pasted on a target image, and the student learns the labels of both, those of the teacher weighted by the share
    of pixels that it is sure of. Prediction is the student's.

    Args:
        backbone: Config of the backbone.
        self_training: Options of :class:`SelfTraining`, the teacher.
        mixing: Options of :class:`ClassMixing`.
        feature_distance: Options of :class:`FeatureDistance`; None: the backbone may forget ImageNet.
        masked_consistency: Options of :class:`MaskedConsistency`; None: without, the published DACS and DAFormer.
        early_backward: Whether gradients of the source are computed before the mixed images pass the student, which
            nearly halves the memory; see :func:`early_backward`.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: An option cannot work.

    Reference:
        Tranheden et al., DACS, arXiv 2007.08702; Hoyer et al., DAFormer, arXiv 2111.14887.
    """

    teacher: Any  # the SelfTraining

    def __init__(
        self,
        backbone: dict,
        self_training: Mapping[str, Any] | None = None,
        mixing: Mapping[str, Any] | None = None,
        feature_distance: Mapping[str, Any] | None = None,
        masked_consistency: Mapping[str, Any] | None = None,
        early_backward: bool = True,
        **network: Any,
    ) -> None:
        super().__init__(backbone=backbone, **network)
        self.mixing, self.early_backward = ClassMixing(**(mixing or {})), early_backward
        self.teacher = SelfTraining(self.taught(), self.num_classes, **{**PUBLISHED, **(self_training or {})})
        self.masked_consistency = None if masked_consistency is None else MaskedConsistency(**masked_consistency)
        changed = self.mixing.augmentation is not None or masked_consistency is not None
        if changed and not hasattr(self.data_preprocessor, 'denormalize'):
            raise ConfigError(
                f'model.data_preprocessor is a {type(self.data_preprocessor).__name__}, which cannot say the range of '
                'values that augmentation changes: use a DomainAdaptationDataPreprocessor'
            )
        self.feature_distance = None
        if feature_distance is not None:
            self.feature_distance = FeatureDistance(backbone, bands_of(self), self.num_classes, **feature_distance)

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_seg``, ``loss_aux`` and ``loss_distance`` on the source, ``loss_mixed``, ``loss_masked``, and
        ``confident_share``.
        """
        stages = self.backbone(source.images)
        losses = self.supervised_losses(self.neck(stages) if self.with_neck else stages, source.labels)
        if self.feature_distance is not None:
            losses['loss_distance'] = self.feature_distance(stages[-1], source.images, source.labels)
        del stages  # the last to hold activations
        if self.early_backward:
            losses = early_backward(losses, self.parameters())
        pseudo = self.make_pseudo_label(target)
        mixed = dict(loss_mixed=self.mixing.weight * self._mixed_loss(source, target, pseudo))
        if self.masked_consistency is not None:
            mixed = early_backward(mixed, self.parameters()) if self.early_backward else mixed
            losses.update(self.masked_consistency.losses(self, target, pseudo))
        losses.update(mixed)
        return {**losses, 'confident_share': pseudo.confident_share}

    def make_pseudo_label(self, target: Domain) -> PseudoLabel:
        """The teacher's labels of target images, with a weight for each pixel."""
        return self.teacher.label(target)

    def _mixed_loss(self, source: Domain, target: Domain, pseudo: PseudoLabel) -> Tensor:
        mixed = self.mixing(source, target, pseudo, self)
        logits = self.decode_head(self.extract_feat(mixed.images))
        (terms,) = self.pseudo_terms
        return head_loss(self.decode_head, logits, mixed.label, mixed.weight, terms, from_source=mixed.from_source)
