from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from mmengine.optim import build_optim_wrapper
from mmseg.models.utils import resize
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.models.adaptors.base import Domain
from mmrs.models.adaptors.dacs import DACS
from mmrs.models.decode_heads.daformer_head import DAFormerHead
from mmrs.models.losses.head_loss import head_loss
from mmrs.models.parts.strong_augmentation import AugmentationDraws, StrongAugmentation
from mmrs.registry import MODELS


class DACSReleaseStep:
    """A training step of :class:`DACS` as the releases of DACS, DAFormer, HRDA and MIC compute it.

    The losses and their gradients are those of ``DACS.losses``. The way to them is the releases': a backward pass for
    each loss, whose activations are held while the next images are made; images are mixed, augmented and stacked one
    by one; the share of confident pixels goes through the host; the teacher moves tensor by tensor; every loss is
    copied to the host.

    Args:
        model: The model, without a feature distance, built of whichever backbones and heads.
        optim_wrapper: Config of its optimizer wrapper.
    """

    def __init__(self, model: DACS, optim_wrapper: dict) -> None:
        self.model: Any = model
        self.optimizer = build_optim_wrapper(model, optim_wrapper)

    @staticmethod
    def serves(model: nn.Module) -> bool:
        """Whether a model is a DACS without neck, feature distance, thresholds and weights of classes."""
        if not isinstance(model, DACS) or model.with_neck or model.out_channels == 1:
            return False
        teacher = model.teacher
        return model.feature_distance is None and teacher.thresholds is None and teacher.class_weight is None

    def __call__(self, batch: dict, alpha: float) -> dict[str, float]:
        """Train on a two-domain batch; see :meth:`ReleaseStep.__call__`."""
        model = self.model
        self._update_teacher(alpha)
        data = model.data_preprocessor(batch, True)
        source, target = model.domains(data['inputs'], data['data_samples'])
        self.optimizer.zero_grad()
        supervised = model.supervised_losses(model.extract_feat(source.images), source.labels)
        torch.stack(list(supervised.values())).sum().backward()
        losses = {name: loss.item() for name, loss in supervised.items()}

        label, weight = self._pseudo_label(target)
        chosen = model.mixing.draw(source.labels)
        mixed = []
        for i, (image, values) in enumerate(zip(source.images, source.labels)):
            pasted = torch.isin(values, chosen[i].nonzero()[:, 0])
            own = pasted * image + ~pasted * target.images[i]
            mixed.append((own, torch.where(pasted, values, label[i]), torch.where(pasted, 1.0, weight[i]), pasted))
        images, *labels = (torch.stack(part) for part in zip(*mixed))
        images = self._augmented(model.mixing.augmentation, images)
        losses['loss_mixed'] = self._learn(model.mixing.weight, images, *labels)

        consistency = model.masked_consistency
        if consistency is not None:
            images = consistency.mask(self._augmented(consistency.augmentation, target.images))
            losses['loss_masked'] = self._learn(consistency.weight, images, label, weight, False)
        self.optimizer.step()
        return losses

    @torch.no_grad()
    def _update_teacher(self, alpha: float) -> None:
        for name, student in self.model.taught().items():
            for own, other in zip(self.model.teacher.get_submodule(name).parameters(), student.parameters()):
                own.copy_(alpha * own + (1 - alpha) * other)

    @torch.no_grad()
    def _pseudo_label(self, target: Domain) -> tuple[Tensor, Tensor]:
        model, teacher = self.model, self.model.teacher
        logits = teacher.decode_head(teacher.backbone(target.images))
        size = target.images.shape[-2:]
        probability = F.interpolate(logits, size, mode='bilinear', align_corners=model.align_corners).softmax(1)
        confidence, label = probability.max(1)
        share = (confidence >= teacher.threshold).sum().item() / label.cpu().numpy().size
        return label, torch.full_like(confidence, share)

    def _learn(self, factor: float, images: Tensor, label: Tensor, weight: Tensor, from_source: Tensor | bool) -> float:
        head, (terms,) = self.model.decode_head, self.model.pseudo_terms
        logits = head(self.model.extract_feat(images))
        loss = factor * head_loss(head, logits, label, weight, terms, from_source=from_source)
        loss.backward()
        return loss.item()

    def _augmented(self, augmentation: StrongAugmentation | None, images: Tensor) -> Tensor:
        if augmentation is None:
            return images
        order, factors, sigma = augmentation.draw(len(images))
        preprocessor, found = self.model.data_preprocessor, []
        for i in range(len(images)):
            own = AugmentationDraws(order, factors[:, i : i + 1], None if sigma is None else sigma[i : i + 1])
            found.append(augmentation(images[i : i + 1], preprocessor, 'target', own))
        return torch.cat(found)


@MODELS.register_module()
class DAFormerReleaseHead(DAFormerHead):
    """:class:`DAFormerHead` as the release computes it: all levels are resized and concatenated before the branches,
    and every activation is kept.
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits ``(N, K, H_0, W_0)`` of feature maps ``(N, C_i, H_i, W_i)``."""
        maps = self._transform_inputs(inputs)
        levels = []
        for level, layer in zip(maps, self.embed_layers):
            embedded = layer(level.flatten(2).transpose(1, 2)).transpose(1, 2).contiguous()
            embedded = embedded.unflatten(2, level.shape[2:])
            levels.append(resize(embedded, maps[0].shape[2:], mode='bilinear', align_corners=self.align_corners))
        together, fuse = torch.cat(levels, dim=1), cast(Any, self.fuse_layer)
        if hasattr(fuse, 'aspp_modules'):
            together = torch.cat([branch(together) for branch in fuse.aspp_modules], dim=1)
            fuse = fuse.bottleneck
        return self.cls_seg(fuse(together))
