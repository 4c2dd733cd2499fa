from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.models.adaptors.st_dasegnet import STDASegNet
from mmrs.models.data_preprocessor import DOMAINS
from mmrs.models.parts.adversary import spatial_softmax

Features = list[list[Tensor]]


class ReleaseStep:
    """A training step of :class:`STDASegNet` as its authors' release computes it: the yardstick of the benchmark.

    The losses and their gradients are those of ``STDASegNet.loss``. The way to them is the release's: either backbone
    sees one domain at a time; the teachers run in training mode with a graph; in the generators' step the
    discriminators also score two maps whose scores nobody reads; generators and discriminators have a backward pass
    each; the teacher moves tensor by tensor; every loss is copied to the host.

    Args:
        model: The model, with discriminators and a teacher, built of whichever backbones and heads.
        optim_wrapper: Config of one optimizer wrapper per part, ``segmentor`` and ``discriminator``.
    """

    def __init__(self, model: STDASegNet, optim_wrapper: dict) -> None:
        self.model: Any = model
        self.optimizers = {
            part: build_optim_wrapper(getattr(model, part), dict(optim_wrapper[part]))
            for part in ('segmentor', 'discriminator')
        }

    @staticmethod
    def serves(model: nn.Module) -> bool:
        """Whether a model is an ST-DASegNet with discriminators and a teacher."""
        return isinstance(model, STDASegNet) and None not in (model.discriminator, model.teacher)

    def __call__(self, batch: dict, alpha: float) -> dict[str, float]:
        """Train on a two-domain batch.

        Args:
            batch: What a data loader yields.
            alpha: The teacher keeps this share of its past.

        Returns:
            The losses, by the names of ``STDASegNet.loss``.
        """
        model, neck = self.model, self.model.segmentor.neck
        self._update_teacher(alpha)
        data = model.data_preprocessor(batch, True)
        images = [data['inputs'][domain] for domain in DOMAINS]
        label = torch.stack([sample.gt_sem_seg.data for sample in data['data_samples']['source']]).squeeze(1).long()

        model.discriminator.requires_grad_(False)
        features = [[model.segmentor.backbone[student](image) for student in DOMAINS] for image in images]
        disentangled = [neck(*pair) for pair in features]
        losses = self._cross_entropy('loss_seg_s2', disentangled[0], label)
        pseudo_label, weight = self._pseudo_label(images[1], features[1], disentangled[1])
        pseudo = self._cross_entropy('loss_pseudo_t2', disentangled[1], pseudo_label, weight)
        losses.update({name: model.pseudo_weight * loss for name, loss in pseudo.items()})
        # `x2y` is the map of an image of domain x seen by student y; each is scored, `t2s` and `s2t` are used.
        maps = {f'{x}2{y}': features[i][j][-1] for j, y in enumerate('st') for i, x in enumerate('st')}
        scores = {name: self._score(name, feature, images) for name, feature in maps.items()}
        for name in ('t2s', 's2t'):
            losses[f'loss_adv_{name}'] = model.discriminator.gan_loss(scores[name], target_is_real=True)
        self.optimizers['segmentor'].update_params(torch.stack(list(losses.values())).sum())

        model.discriminator.requires_grad_(True)
        own = {}
        for name, feature in maps.items():
            is_real = name[0] == name[2]
            key = f'loss_disc_{"source" if name[2] == "s" else "target"}_{"real" if is_real else "fake"}'
            own[key] = model.discriminator.gan_loss(
                self._score(name, feature.detach(), images), is_real, is_discriminator=True
            )
        self.optimizers['discriminator'].update_params(torch.stack(list(own.values())).sum())
        return {name: loss.item() for name, loss in {**losses, **own}.items()}

    @torch.no_grad()
    def _update_teacher(self, alpha: float) -> None:
        for name, student in self.model.taught().items():
            for own, other in zip(self.model.teacher.get_submodule(name).parameters(), student.parameters()):
                own.copy_(alpha * own + (1 - alpha) * other)

    def _cross_entropy(
        self, prefix: str, features: Features, label: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        losses = {}
        for student, head, inputs in zip('st', self.model.segmentor.heads, features):
            logits = self._resize(head(inputs), label)
            losses[prefix + student] = head.loss_decode(logits, label, weight=weight, ignore_index=head.ignore_index)
        return losses

    def _pseudo_label(self, images: Tensor, features: Features, disentangled: Features) -> tuple[Tensor, Tensor]:
        model, teacher = self.model, self.model.teacher
        for module in teacher.modules():
            module.training = True
        if model.teacher_type == 'decoder_only':
            logits = teacher.source(disentangled[0]) + teacher.target(disentangled[1])
        else:
            again = model.segmentor.backbone['source'](images)
            for_source, for_target = model.segmentor.neck(again, teacher.backbone(images))
            logits = model.segmentor.heads[0](for_source) + teacher.decode_head(for_target)
        probability = self._resize(logits / 2, images).detach().softmax(1)
        confidence, label = probability.amax(1), probability.argmax(1)
        share = (confidence >= teacher.threshold).sum().item() / label.numel()
        weight = torch.full_like(confidence, share)
        if teacher.class_weight is not None and teacher.rare_threshold is not None:
            weight *= 0.5
            for category, class_weight in enumerate(teacher.class_weight.tolist()):
                weight[(label == category) & (confidence >= teacher.rare_threshold)] = share * class_weight
        return label, weight

    def _score(self, name: str, feature: Tensor, images: list[Tensor]) -> Tensor:
        domain, student = (DOMAINS['st'.index(letter)] for letter in (name[0], name[2]))
        score = self.model.discriminator.get_submodule(student)(spatial_softmax(feature))
        return self._resize(score, images[DOMAINS.index(domain)])

    def _resize(self, logits: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(logits, like.shape[-2:], mode='bilinear', align_corners=self.model.align_corners)
