from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require, require_number

__all__ = ['FeatureDistance', 'downscaled_label', 'feature_distance']


def downscaled_label(
    labels: Tensor, size: Sequence[int], num_classes: int, min_ratio: float, ignore_index: int = 255
) -> Tensor:
    """The class that fills each cell of a coarse map; `ignore_index` where none does, or the ignored pixels do.

    Args:
        labels: ``(N, H, W)``.
        size: Height and width of the map.
        num_classes: K.
        min_ratio: Share of a cell that its class fills at least, 0 to 1. Of two classes with the same share, the first
            counts.
        ignore_index: Pixels without a label.

    Returns:
        ``(N, h, w)``.
    """
    known = torch.where(labels == ignore_index, num_classes, labels)
    planes = F.one_hot(known, num_classes + 1).movedim(-1, 1).float()
    share, found = F.adaptive_avg_pool2d(planes, (size[0], size[1])).max(1)
    return torch.where((found == num_classes) | (share < min_ratio), ignore_index, found)


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over cells of the distance between two features.

    Args:
        features: ``(N, C, h, w)``.
        reference: Likewise.
        mask: ``(N, h, w)``, bool: the cells that count; None: all. Where none counts, the distance is 0.
    """
    distance = (features - reference).norm(dim=1)
    if mask is None:
        return distance.mean()
    return (distance * mask).sum() / mask.sum().clamp(min=1)


class FeatureDistance(BaseModule):
    """Keeps a backbone's last features near those that it had from ImageNet, where the source shows some classes.

    The reference is a backbone of its own, which is built and gets its weights as the student's does, and never trains.
    Its weights are ``backbone.*`` of this module.

    Args:
        backbone: Configuration of the student's backbone.
        bands: Bands of the images.
        num_classes: K.
        classes: Indices of the classes; None: all pixels count, labelled or not. The paper takes objects that can be
            counted, whose kinds ImageNet knows too.
        weight: Factor on the distance.
        min_ratio: Share of a cell of the last map that such a class must fill.

    Raises:
        ConfigError: Images have other bands than red, green and blue; a class is not there; the backbone has no
            pretrained weights.

    Reference:
        Hoyer et al., DAFormer, arXiv 2111.14887, section 3.4.
    """

    counts: Tensor | None

    def __init__(
        self,
        backbone: Mapping[str, Any],
        bands: int | None,
        num_classes: int,
        classes: Sequence[int] | None = None,
        weight: float = 0.005,
        min_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        require(
            bands in (3, None), 'feature_distance is set, and bands', bands, '3, red, green and blue, as in ImageNet,'
        )
        require_number('feature_distance.weight', weight, at_least=0)
        require_number('feature_distance.min_ratio', min_ratio, at_least=0, at_most=1)
        if classes is not None:
            known = all(isinstance(c, int) and 0 <= c < num_classes for c in classes)
            require(known, 'feature_distance.classes', classes, f'a list of numbers from 0 to {num_classes - 1}')
        self.pretrained = _is_pretrained(backbone)
        self.num_classes, self.weight, self.min_ratio = num_classes, weight, min_ratio
        self.backbone = MODELS.build(backbone).requires_grad_(False)
        counts = (
            None if classes is None else torch.zeros(256, dtype=torch.bool).index_fill_(0, torch.tensor(classes), True)
        )
        self.register_buffer('counts', counts, persistent=False)
        self.train()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stay in evaluation mode, whatever the mode of the model around it."""
        return super().train(False)

    def init_weights(self) -> None:
        """Load the weights of the reference."""
        if not self.pretrained:
            raise ConfigError(
                'feature_distance is set, but model.backbone has no pretrained weights to stay near: give it '
                "init_cfg=dict(type='Pretrained', checkpoint=...), or set model.feature_distance to None"
            )
        super().init_weights()
        self.requires_grad_(False)

    def forward(self, features: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The weighted distance, a scalar.

        Args:
            features: The student's last map, ``(N, C, h, w)``.
            images: Of the source, ``(N, 3, H, W)``, normalised.
            labels: ``(N, H, W)``.
        """
        with torch.no_grad():
            reference = self.backbone(images)[-1]
        mask = None
        if self.counts is not None:
            cells = downscaled_label(labels, features.shape[-2:], self.num_classes, self.min_ratio)
            mask = self.counts[cells]
        return self.weight * feature_distance(features.float(), reference.float(), mask)


def _is_pretrained(backbone: Mapping[str, Any]) -> bool:
    given = backbone.get('init_cfg')
    entries = given if isinstance(given, (list, tuple)) else [given]
    return bool(backbone.get('pretrained')) or any((entry or {}).get('type') == 'Pretrained' for entry in entries)
