from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..data_preprocessor import DOMAINS
from ..losses.head_loss import head_loss
from ..parts import Adversary, ClassMixing, MaskedConsistency, PseudoLabel, SelfTraining
from ..segmentors.dual_student import DualStudent, Features, per_domain
from ..teacher import borrowed_as_teacher
from .base import Adaptor, Domain


@MODELS.register_module()
class STDASegNet(Adaptor):
    """ST-DASegNet: self-training guided disentangled adaptation.

    Two students (source, target) see the images of both domains. A neck disentangles what each of them has to say of
    an image; discriminators align, per student, the features of the two domains; teachers give the target images
    pseudo-labels. Without ``discriminator`` and ``self_training`` it is the two-branch network trained on the source
    alone, which then takes plain single-domain batches.

    ``forward(mode='loss')`` returns all losses of a step, for one backward pass: the generators' adversarial loss goes
    through a discriminator whose parameters are detached, and a discriminator's own loss sees detached features.

    Args:
        backbone: Config of both students' backbone. Here and in the next ones, keys ``source`` and ``target`` change
            the config for one of the two.
        neck: Config of the :class:`DomainDisentangledNeck`.
        decode_head: Config of both students' decode head. Its loss on source labels has all terms of `loss_decode`, the
            one on pseudo-labels those that multiply each pixel's loss by its weight (a cross entropy does, Dice and
            Lovasz do not).
        auxiliary_head: Config, or a list of them, of further heads on the stages of each student's own backbone, which
            learn from source labels and take no part in prediction.
        discriminator: Config of both discriminators; None switches adversarial learning off.
        gan_loss: Config of the :class:`GANLoss`.
        self_training: None switches self-training off; else a dict with

            - ``teacher``: ``decoder_only`` (copies of both heads, on the students' features) or ``single_target``
              (copies of the target backbone and head, averaged with the source student).
            - ``weight``: Factor on the pseudo-label losses.
            - ``threshold``, ``rare_threshold``, ``class_weight``, ``batch_statistics``, ``buffers``, ``thresholds``:
              See :class:`SelfTraining`.
        masked_consistency: Options of :class:`MaskedConsistency`, on the pseudo-labels; None, as published: without.
        mixing: Options of :class:`ClassMixing`; None, as published: without.
        train_cfg: Unused; kept for mmseg's tools.
        test_cfg: ``dict(mode='whole')`` or ``dict(mode='slide', crop_size=..., stride=...)``.
        data_preprocessor: Config of the :class:`DomainAdaptationDataPreprocessor`.
        init_cfg: As everywhere in MMEngine.

    Reference:
        Zhao et al., Self-Training Guided Disentangled Adaptation for Cross-Domain Remote Sensing Image Semantic
        Segmentation, arXiv 2301.05526.
    """

    align_corners: bool
    teacher: SelfTraining | None
    without_target = f'{Adaptor.without_target}, or set model.discriminator and model.self_training to None'
    #: They stand on each student's own backbone.
    auxiliary_heads_read_neck = False

    #: Where a pre-training's backbone goes; its decode head reads other maps.
    pretrained_places: ClassVar[Mapping[str, Sequence[str]]] = {
        'backbone': ('segmentor.backbone.source', 'segmentor.backbone.target')
    }

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        decode_head: dict,
        auxiliary_head: dict | Sequence[dict] | None = None,
        discriminator: dict | None = None,
        gan_loss: dict | None = None,
        self_training: dict | None = None,
        masked_consistency: dict | None = None,
        mixing: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        # mmseg's EncoderDecoder gives whole and sliding inference; its constructor would build a single branch.
        BaseSegmentor.__init__(self, data_preprocessor, init_cfg)
        self.segmentor = DualStudent(backbone, neck, decode_head, auxiliary_head)
        head: Any = self.decode_head
        self.align_corners, self.num_classes, self.out_channels = (
            head.align_corners,
            head.num_classes,
            head.out_channels,
        )
        self.train_cfg, self.test_cfg = train_cfg, test_cfg

        self.discriminator: Adversary | None = None
        if discriminator is not None:
            self.discriminator = Adversary(per_domain(discriminator), gan_loss, align_corners=self.align_corners)
        self.teacher = None
        if self_training is not None:
            self._init_self_training(**self_training)
        for name, options in (('masked_consistency', masked_consistency), ('mixing', mixing)):
            if options is not None and self.teacher is None:
                raise ConfigError(f'model.{name} is set, but model.self_training is None: there are no pseudo-labels')
        self.masked_consistency = None if masked_consistency is None else MaskedConsistency(**masked_consistency)
        self.mixing = None if mixing is None else ClassMixing(**mixing)

    def _init_self_training(self, teacher: str = 'decoder_only', weight: float = 0.25, **options: Any) -> None:
        if teacher not in ('decoder_only', 'single_target'):
            raise ConfigError(f"unknown teacher {teacher!r}: expected 'decoder_only' or 'single_target'")
        self.teacher_type, self.pseudo_weight = teacher, weight
        self.teacher = SelfTraining(self.taught(), self.num_classes, **options)

    @property
    def adapts(self) -> bool:
        """Whether there are discriminators or a teacher."""
        return self.discriminator is not None or self.teacher is not None

    @property
    def decode_head(self) -> nn.Module:
        """The source head; mmseg asks it what both have in common, such as the threshold of binary segmentation."""
        return self.heads[0]

    @property
    def heads(self) -> tuple[nn.Module, nn.Module]:
        """The source and the target head."""
        return self.segmentor.heads

    def taught(self) -> Mapping[str, nn.Module]:
        """The students that the teacher follows, by the name of the copy."""
        if self.teacher_type == 'decoder_only':
            return dict(self.segmentor.decode_head.items())
        return dict(backbone=self.segmentor.backbone['target'], decode_head=self.segmentor.decode_head['target'])

    # Prediction ------------------------------------------------------------------------------------------------------

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``(N, K, H, W)`` of ``(N, C, H, W)`` images; the teachers take no part."""
        return self._resize(self.segmentor(inputs), inputs)

    def extract_feat(self, inputs: Tensor) -> tuple[Features, Features]:
        """The disentangled features for the source head and the target head."""
        return self.segmentor.neck(*self.segmentor.extract([inputs])[0])

    def run_all(self, image: Tensor) -> None:
        """Run every part once, to see whether they fit each other; see :func:`run_once`."""
        for domain, stages in zip(DOMAINS, self.segmentor.run_all(image)):
            if self.discriminator is not None:
                self.discriminator.try_on(domain, stages[-1])

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Tensor:
        return self.segmentor(inputs)

    # Training --------------------------------------------------------------------------------------------------------

    def losses(self, source: Domain, target: Domain | None) -> dict[str, Tensor]:
        """All losses of one step.

        In ``x2y`` x is the domain of the image and y the student: ``loss_seg_s2s``, ``loss_seg_s2t`` (source labels),
        ``loss_aux_s2s``, ``loss_aux_s2t`` (auxiliary heads, where there are any), ``loss_pseudo_t2s``,
        ``loss_pseudo_t2t`` (pseudo-labels), ``loss_mixed_m2s``, ``loss_mixed_m2t`` (images of both domains, mixed),
        ``loss_masked_t2s``, ``loss_masked_t2t`` (images with hidden blocks), ``loss_adv_t2s``, ``loss_adv_s2t``
        (generators), ``loss_disc_{source,target}_{real,fake}``, ``confident_share`` (target pixels over the threshold)
        and ``disc_accuracy_{source,target}``.
        """
        domains = [source] if target is None else [source, target]
        features = self.segmentor.extract([domain.images for domain in domains])
        labels: Any = source.labels
        losses = self._segmentation_losses('loss_seg_s2', self.segmentor.neck(*features[0]), labels)
        losses.update(self._auxiliary_losses(features[0], labels))
        if self.teacher is not None:
            losses.update(self._self_training_losses(source, domains[1], features[1]))
        if self.discriminator is not None:
            # For either student, the images of its own domain are real and those of the other one fake.
            for i, generator in enumerate(('loss_adv_t2s', 'loss_adv_s2t')):
                real, fake = features[i][i][-1], features[1 - i][i][-1]
                sizes = domains[i].images.shape[-2:], domains[1 - i].images.shape[-2:]
                losses.update(self.discriminator.losses(DOMAINS[i], real, fake, sizes, generator))
        return losses

    def _segmentation_losses(
        self,
        prefix: str,
        features: tuple[Features, Features],
        label: Tensor,
        weight: Tensor | None = None,
        from_source: Tensor | bool = True,
    ) -> dict[str, Tensor]:
        """The loss of either head on labels, or on pseudo-labels with the weight of each pixel."""
        terms = [None, None] if weight is None else self.pseudo_terms
        heads = zip('st', self.heads, self.segmentor.decode(features), terms)
        return {
            prefix + student: head_loss(head, logits, label, weight, chosen, from_source)
            for student, head, logits, chosen in heads
        }

    def _auxiliary_losses(self, features: tuple[Features, Features], label: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for heads in self.segmentor.auxiliary_head:
            for head, student, stages in zip(heads.values(), 'st', features):
                loss = head_loss(head, head(stages), label)
                name = f'loss_aux_s2{student}'
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _self_training_losses(
        self, source: Domain, target: Domain, features: tuple[Features, Features]
    ) -> dict[str, Tensor]:
        disentangled = self.segmentor.neck(*features)
        pseudo = self.make_pseudo_label(target.images, features, disentangled, target.valid)
        losses = self._segmentation_losses('loss_pseudo_t2', disentangled, pseudo.label, pseudo.weight, False)
        losses = {name: self.pseudo_weight * value for name, value in losses.items()}
        if self.mixing is not None:
            images, *labels = self.mixing(source, target, pseudo, self)
            losses.update(self._further_losses('loss_mixed_m2', images, labels, self.mixing.weight))
        if self.masked_consistency is not None:
            images = self.masked_consistency(target.images, self.data_preprocessor)
            known = pseudo.label, pseudo.weight, False
            losses.update(self._further_losses('loss_masked_t2', images, known, self.masked_consistency.weight))
        return {**losses, 'confident_share': pseudo.confident_share}

    def _further_losses(self, prefix: str, images: Tensor, labels: Sequence[Any], weight: float) -> dict[str, Tensor]:
        """The losses of either head on images that are made of others, with arguments of the loss behind the logits."""
        features = self.extract_feat(images)
        return {name: weight * value for name, value in self._segmentation_losses(prefix, features, *labels).items()}

    @torch.no_grad()
    def make_pseudo_label(
        self,
        images: Tensor,
        features: tuple[Features, Features],
        disentangled: tuple[Features, Features],
        valid: Tensor | None = None,
    ) -> PseudoLabel:
        """Pseudo-labels of target images.

        Args:
            images: ``(N, C, H, W)``.
            features: Both students' stages of them; read by the ``single_target`` teacher.
            disentangled: The neck's output on those; read by the ``decoder_only`` teachers.
            valid: ``(N, H, W)``, bool; False where an image has no data.
        """
        teacher: Any = self.teacher
        if self.teacher_type == 'decoder_only':
            logits = teacher.source(disentangled[0]) + teacher.target(disentangled[1])
        else:
            student = self.heads[0]
            for_source, for_target = self.segmentor.neck(features[0], teacher.backbone(images))
            with borrowed_as_teacher(student, teacher.batch_statistics):
                logits = student(for_source) + teacher.decode_head(for_target)
        return teacher.pseudo_label(self._resize(logits / 2, images), valid)

    def _resize(self, logits: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(logits, like.shape[-2:], mode='bilinear', align_corners=self.align_corners)
