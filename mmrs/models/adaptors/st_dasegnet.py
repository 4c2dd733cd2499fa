from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleDict, ModuleList
from mmseg.models.segmentors import BaseSegmentor, EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..data_preprocessor import valid_pixels
from ..discriminators import spatial_softmax
from ..losses import PseudoLabel, make_pseudo_label
from ..losses.class_weight import read_class_weight
from ..losses.probing import loss_probes, loss_terms
from ..teacher import EMATeacher, borrowed_as_teacher
from ..widths import require_stages

DOMAINS = ('source', 'target')
Features = list[Tensor]


def _merge(base: dict, override: dict) -> dict:
    """``base`` with the leaves of ``override``, level by level."""
    merged = dict(base)
    for key, value in override.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def _build_pair(cfg: dict) -> ModuleDict:
    """Build one module per domain: what ``cfg`` says for both, with what its keys ``source`` and ``target`` change."""
    shared = {key: value for key, value in cfg.items() if key not in DOMAINS}
    return ModuleDict({domain: MODELS.build(_merge(shared, cfg.get(domain, {}))) for domain in DOMAINS})


def _stages_read_by(head: nn.Module) -> set[int]:
    index: Any = head.in_index
    stages = {index} if isinstance(index, int) else set(index)
    # mmseg's DeepLabV3+ head also reads the first stage, without listing it.
    return stages | {0} if getattr(head, 'c1_bottleneck', None) is not None else stages


class DualStudent(BaseModule):
    """Two students, source and target, around one shared neck: the part of ST-DASegNet that predicts.

    Args:
        backbone: Config of both backbones; its keys ``source`` and ``target``, if any, change it for one of them.
        neck: Config of a neck that takes both students' stages of the same images.
        decode_head: Config of both decode heads (mmseg's), likewise.
        auxiliary_head: Config, or a list of them, of heads on each student's backbone, likewise.
    """

    def __init__(
        self, backbone: dict, neck: dict, decode_head: dict, auxiliary_head: dict | Sequence[dict] | None = None
    ) -> None:
        super().__init__()
        self.backbone = _build_pair(backbone)
        self.decode_head = _build_pair(decode_head)
        # Batch normalisation keeps the domains' statistics apart; without it one pass serves all batches.
        self.normalized_by_batch = {
            domain for domain in DOMAINS if any(isinstance(m, _BatchNorm) for m in self.backbone[domain].modules())
        }
        self.neck = MODELS.build({**neck, 'used_stages': sorted(set().union(*map(_stages_read_by, self.heads)))})
        auxiliary = [auxiliary_head] if isinstance(auxiliary_head, Mapping) else auxiliary_head or ()
        self.auxiliary_head = ModuleList(_build_pair(cfg) for cfg in auxiliary)
        for name in ('num_classes', 'out_channels', 'threshold'):  # their logits are averaged
            values = [getattr(head, name) for head in self.heads]
            if values[0] != values[1]:
                raise ConfigError(f'decode_head.{name} is {values[0]} for the source head, {values[1]} for the target')

    @property
    def heads(self) -> tuple[nn.Module, nn.Module]:
        """The source and the target head."""
        return self.decode_head['source'], self.decode_head['target']

    def extract(self, images: Sequence[Tensor]) -> list[tuple[Features, Features]]:
        """Run both backbones on several batches.

        Args:
            images: Batches ``(N, C, H, W)``.

        Returns:
            For each batch, the stages of the source student and those of the target student.
        """
        by_student = []
        for domain in DOMAINS:
            backbone = self.backbone[domain]
            # One batch alone has nothing to join, and in an exported graph its size must not be fixed.
            same_size = len(images) > 1 and len({batch.shape[1:] for batch in images}) == 1
            if same_size and domain not in self.normalized_by_batch:
                stages = [stage.split([len(b) for b in images]) for stage in backbone(torch.cat(list(images)))]
                by_student.append([list(features) for features in zip(*stages)])
            else:
                by_student.append([list(backbone(batch)) for batch in images])
        return list(zip(*by_student))

    def decode(self, features: tuple[Features, Features]) -> tuple[Tensor, Tensor]:
        """Logits ``(N, K, h, w)`` of either head on its half of the disentangled features."""
        source, target = self.heads
        return source(features[0]), target(features[1])

    def forward(self, images: Tensor) -> Tensor:
        """Mean of both heads' logits ``(N, K, h, w)``, at the resolution of the head."""
        logits = self.decode(self.neck(*self.extract([images])[0]))
        return (logits[0] + logits[1]) / 2


@MODELS.register_module()
class STDASegNet(EncoderDecoder):
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
            - ``threshold``, ``rare_threshold``, ``class_weight``: See :func:`make_pseudo_label`.
            - ``batch_statistics``, ``buffers``: See :class:`EMATeacher`.
        train_cfg: Unused; kept for mmseg's tools.
        test_cfg: ``dict(mode='whole')`` or ``dict(mode='slide', crop_size=..., stride=...)``.
        data_preprocessor: Config of the :class:`DomainAdaptationDataPreprocessor`.
        init_cfg: As everywhere in MMEngine.

    Reference:
        Zhao et al., Self-Training Guided Disentangled Adaptation for Cross-Domain Remote Sensing Image Semantic
        Segmentation, arXiv 2301.05526.
    """

    align_corners: bool

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        decode_head: dict,
        auxiliary_head: dict | Sequence[dict] | None = None,
        discriminator: dict | None = None,
        gan_loss: dict | None = None,
        self_training: dict | None = None,
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

        self.discriminator: ModuleDict | None = None if discriminator is None else _build_pair(discriminator)
        self.gan_loss = (
            None if discriminator is None else MODELS.build(gan_loss or dict(type='GANLoss', loss_weight=0.005))
        )
        self.teacher: EMATeacher | None = None
        if self_training is not None:
            self._init_self_training(**self_training)

    @property
    def decode_head(self) -> nn.Module:
        """The source head; mmseg asks it what both have in common, such as the threshold of binary segmentation."""
        return self.segmentor.heads[0]

    def _init_self_training(
        self,
        teacher: str = 'decoder_only',
        weight: float = 0.25,
        threshold: float = 0.975,
        rare_threshold: float | None = 0.8,
        class_weight: Sequence[float] | str | None = None,
        batch_statistics: bool = True,
        buffers: str = 'student',
    ) -> None:
        if teacher not in ('decoder_only', 'single_target'):
            raise ConfigError(f"unknown teacher {teacher!r}: expected 'decoder_only' or 'single_target'")
        weights = read_class_weight(class_weight, 'self_training.class_weight', self.num_classes)
        self.teacher_type = teacher
        self.pseudo_weight = weight
        self.pseudo_thresholds: dict[str, Any] = dict(threshold=threshold, rare_threshold=rare_threshold)
        self.teacher = EMATeacher(self._taught(), batch_statistics, buffers)
        table = None if weights is None else torch.tensor(weights)
        self.register_buffer('pseudo_class_weight', table, persistent=False)

    def _taught(self) -> Mapping[str, nn.Module]:
        """The students that the teacher follows, by the name of the copy."""
        if self.teacher_type == 'decoder_only':
            return dict(self.segmentor.decode_head.items())
        return dict(backbone=self.segmentor.backbone['target'], decode_head=self.segmentor.decode_head['target'])

    def update_teacher(self, alpha: float) -> None:
        """Move the teacher towards the students; see :meth:`EMATeacher.update`.

        Raises:
            ConfigError: If the model has no teacher.
        """
        if self.teacher is None:
            raise ConfigError('the model has no teacher: set model.self_training, or drop the TeacherEMAHook')
        self.teacher.update(self._taught(), alpha)

    # Prediction ------------------------------------------------------------------------------------------------------

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits ``(N, K, H, W)`` of ``(N, C, H, W)`` images; the teachers take no part."""
        return self._resize(self.segmentor(inputs), inputs)

    def extract_feat(self, inputs: Tensor) -> tuple[Features, Features]:
        """The disentangled features for the source head and the target head."""
        return self.segmentor.neck(*self.segmentor.extract([inputs])[0])

    def run_all(self, image: Tensor) -> None:
        """Run every part once, to see whether they fit each other; see :func:`run_once`."""
        features, neck = self.segmentor.extract([image])[0], self.segmentor.neck
        for domain, stages in zip(DOMAINS, features):
            found = [stage.shape[1] for stage in stages]
            if list(getattr(neck, 'in_channels', found)) != found:
                raise ConfigError(
                    f'model.neck.in_channels is {list(neck.in_channels)}, but the stages of the {domain} backbone have '
                    f'{found} channels'
                )
        for i, (domain, stages) in enumerate(zip(DOMAINS, neck(*features))):
            heads = [(f'decode_head.{domain}', self.segmentor.heads[i], stages)]
            heads += [(f'auxiliary_head.{domain}', pair[domain], features[i]) for pair in self.segmentor.auxiliary_head]
            for name, head, maps in heads:
                require_stages(f'model.{name}', head, maps)
                head(maps)
            if self.discriminator is not None:
                side = self.discriminator[domain].min_size
                self.discriminator[domain](features[i][-1].new_empty(1, features[i][-1].shape[1], side, side))

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Tensor:
        return self.segmentor(inputs)

    # Training --------------------------------------------------------------------------------------------------------

    def loss(self, inputs: dict[str, Tensor] | Tensor, data_samples: dict[str, list] | list) -> dict[str, Tensor]:
        """All losses of one step.

        Args:
            inputs: ``dict(source, target)`` of ``(N, C, H, W)`` images; or the source's alone, if the model has
                neither discriminators nor a teacher.
            data_samples: ``dict(source, target)`` of samples, or the source's alone. The source's have ``gt_sem_seg``;
                of the target's only ``valid_map`` is looked at, where they have one.

        Returns:
            Scalars. What starts with ``loss`` is summed up for the backward pass, the rest only logged. In ``x2y`` x
            is the domain of the image and y the student: ``loss_seg_s2s``, ``loss_seg_s2t`` (source labels),
            ``loss_aux_s2s``, ``loss_aux_s2t`` (auxiliary heads, where there are any),
            ``loss_pseudo_t2s``, ``loss_pseudo_t2t`` (pseudo-labels), ``loss_adv_t2s``, ``loss_adv_s2t`` (generators),
            ``loss_disc_{source,target}_{real,fake}``, ``confident_share`` (target pixels over the threshold) and
            ``disc_accuracy_{source,target}`` (1.0: the discriminator tells the domains apart; 0.5: it guesses).
        """
        adapts = self.discriminator is not None or self.teacher is not None
        if isinstance(inputs, Tensor):
            if adapts:
                raise ConfigError(
                    'the model adapts to a target domain, but the batch has none: use a DomainAdaptationDataset, or '
                    'set model.discriminator and model.self_training to None'
                )
            images = [inputs]
            labelled: Any = data_samples
        else:
            images = [inputs[domain] for domain in (DOMAINS if adapts else DOMAINS[:1])]
            labelled = cast(dict, data_samples)['source']
        self._check_batch(images)
        label = torch.stack([sample.gt_sem_seg.data for sample in labelled]).squeeze(1).long()

        features = self.segmentor.extract(images)
        losses = self._segmentation_loss('loss_seg_s2', self.segmentor.neck(*features[0]), label)
        losses.update(self._auxiliary_loss(features[0], label))
        if self.teacher is not None:
            valid = valid_pixels(cast(dict, data_samples)['target'], images[1])
            losses.update(self._self_training_loss(images[1], features[1], valid))
        if self.discriminator is not None:
            # For either student, the images of its own domain are real and those of the other one fake.
            for i, name in enumerate(('loss_adv_t2s', 'loss_adv_s2t')):
                losses.update(self._adversarial_loss(i, name, features[i][i][-1], features[1 - i][i][-1], images))
        return losses

    def _segmentation_loss(
        self, prefix: str, features: tuple[Features, Features], label: Tensor, pseudo_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        losses = {}
        for i, (head, logits) in enumerate(zip(self.segmentor.heads, self.segmentor.decode(features))):
            terms = loss_terms(head)
            if pseudo_weight is not None:
                terms = [terms[n] for n in self.pseudo_terms[i]]
            losses[prefix + 'st'[i]] = self._head_loss(head, terms, logits, label, pseudo_weight)
        return losses

    def _auxiliary_loss(self, features: tuple[Features, Features], label: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for heads in self.segmentor.auxiliary_head:
            for head, student, stages in zip(heads.values(), 'st', features):
                loss = self._head_loss(head, loss_terms(head), head(stages), label)
                name = f'loss_aux_s2{student}'
                losses[name] = losses[name] + loss if name in losses else loss
        return losses

    def _head_loss(
        self, head: Any, terms: Sequence[Any], logits: Tensor, label: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The sum of the terms, each called, and averaged if it is a map, as mmseg does."""
        logits = self._resize(logits, label)
        if weight is None and head.sampler is not None:
            weight = head.sampler.sample(logits, label[:, None])
        values = [term(logits, label, weight=weight, ignore_index=head.ignore_index).mean() for term in terms]
        return torch.stack(values).sum()

    @functools.cached_property
    def pseudo_terms(self) -> list[list[int]]:
        """For either head the indices of the terms of its loss that pseudo-labels are learnt by.

        The others would count pixels in full that the teacher is not sure of, or nothing when it is sure of all.

        Raises:
            ConfigError: There are none.
        """
        found, left = [], []
        for head in self.segmentor.heads:
            probes = loss_probes(head, 'model.decode_head')
            honours = [probe.honours_weights() for probe in probes]
            others = [probe.title for probe, honoured in zip(probes, honours) if not honoured]
            if not any(honours):
                raise ConfigError(
                    f'{", ".join(others)}: no term multiplies the loss of each pixel by its weight, so that pixels '
                    'the teacher is not sure of would count in full in self-training. Add one that does, such as '
                    "dict(type='PixelMeanCrossEntropyLoss'), to decode_head.loss_decode, or set model.self_training to "
                    'None'
                )
            found.append([n for n, honoured in enumerate(honours) if honoured])
            left += others
        if left:
            print_log(
                f'{", ".join(dict.fromkeys(left))}: learnt from the labels of the source only, not from pseudo-labels, '
                'whose weights it does not apply to each pixel',
                logger='current',
                level=logging.WARNING,
            )
        return found

    def _self_training_loss(
        self, images: Tensor, features: tuple[Features, Features], valid: Tensor | None
    ) -> dict[str, Tensor]:
        disentangled = self.segmentor.neck(*features)
        pseudo = self.make_pseudo_label(images, features, disentangled, valid)
        losses = self._segmentation_loss('loss_pseudo_t2', disentangled, pseudo.label, pseudo.weight)
        losses = {name: self.pseudo_weight * value for name, value in losses.items()}
        return {**losses, 'confident_share': pseudo.confident_share}

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
            student = self.segmentor.heads[0]
            for_source, for_target = self.segmentor.neck(features[0], teacher.backbone(images))
            with borrowed_as_teacher(student, teacher.batch_statistics):
                logits = student(for_source) + teacher.decode_head(for_target)
        logits = self._resize(logits / 2, images)
        return make_pseudo_label(logits, class_weight=self.pseudo_class_weight, valid=valid, **self.pseudo_thresholds)

    def _adversarial_loss(
        self, student: int, name: str, real: Tensor, fake: Tensor, images: list[Tensor]
    ) -> dict[str, Tensor]:
        """The generator's loss ``name`` and the discriminator's own, on the last maps of one student's backbone."""
        domain = DOMAINS[student]
        gan_loss: Any = self.gan_loss
        discriminator = cast(ModuleDict, self.discriminator)[domain]
        size_real, size_fake = images[student], images[1 - student]
        for features, size in ((real, size_real), (fake, size_fake)):
            self._check_crop(features, size, discriminator.min_size)
        real, fake = spatial_softmax(real.detach()), spatial_softmax(fake)

        frozen = {key: value.detach() for key, value in discriminator.named_parameters()}
        fooled = self._resize(torch.func.functional_call(discriminator, frozen, (fake,)), size_fake)
        losses = {name: gan_loss(fooled, target_is_real=True)}

        fake = fake.detach()
        if real.shape == fake.shape:  # instance normalisation sees each image alone, so one pass is exact
            scores = discriminator(torch.cat((real, fake))).split((len(real), len(fake)))
        else:
            scores = discriminator(real), discriminator(fake)
        right = []
        for kind, score, size in zip(('real', 'fake'), scores, (size_real, size_fake)):
            is_real = kind == 'real'
            loss = gan_loss(self._resize(score, size), target_is_real=is_real, is_discriminator=True)
            losses[f'loss_disc_{domain}_{kind}'] = loss
            right.append(((score.detach() > gan_loss.boundary) == is_real).float().mean())
        return {**losses, f'disc_accuracy_{domain}': (right[0] + right[1]) / 2}

    def _resize(self, logits: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(logits, like.shape[-2:], mode='bilinear', align_corners=self.align_corners)

    @staticmethod
    def _check_crop(features: Tensor, images: Tensor, needed: int) -> None:
        height, width = features.shape[-2:]
        if min(height, width) < needed:
            stride = round(images.shape[-2] / height)
            raise ConfigError(
                f'a crop of {images.shape[-2]} x {images.shape[-1]} px gives a last feature map of {height} x {width}, '
                f'but the discriminator needs at least {needed} x {needed}: use crops of at least {needed * stride} px '
                'or a smaller discriminator.num_conv'
            )

    def _check_batch(self, images: list[Tensor]) -> None:
        pools = [
            m
            for head in self.segmentor.heads
            for m in getattr(head, 'image_pool', nn.Identity()).modules()
            if isinstance(m, _BatchNorm)
        ]
        alone = not is_distributed() or not all(isinstance(m, nn.SyncBatchNorm) for m in pools)
        if pools and alone and min(map(len, images)) < 2:
            raise ConfigError(
                'the batch holds 1 image, but the ASPP head pools each image to one pixel and batch normalisation '
                'needs at least 2 of them: set train_dataloader.batch_size to 2 or more, or use several GPUs with '
                'SyncBN'
            )
