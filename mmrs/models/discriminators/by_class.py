from __future__ import annotations

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmrs.registry import MODELS


@MODELS.register_module()
class ClassDiscriminator(BaseModule):
    """Discriminator on a feature map that says for each of its pixels which domain and class it is of.

    Two 3x3 convolutions with LeakyReLU(0.2), then one for the classes of either domain; all keep the map's size.

    Args:
        in_channels: Channels of the feature map; None in a configuration asks for those of the backbone's last one.
        num_classes: K.
        base_channels: Channels behind the first convolution; the second one has half of them.
        init_cfg: As everywhere in MMEngine.

    Reference:
        Wang et al., Classes Matter: A Fine-grained Adversarial Approach to Cross-domain Semantic Segmentation,
        arXiv 2007.09222, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        base_channels: int = 512,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.layers, channels = nn.Sequential(), in_channels
        for width in (base_channels, base_channels // 2):
            self.layers.extend((nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)))
            channels = width
        self.source = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.target = nn.Conv2d(channels, num_classes, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``(N, 2 K, h, w)`` of ``(N, C, h, w)`` features: the classes of the source, then the target's."""
        features = self.layers(features)
        return torch.cat((self.source(features), self.target(features)), 1)
