from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

_LAYERS = 5


@MODELS.register_module()
class OutputDiscriminator(BaseModule):
    """Discriminator on predictions of the images' own size: five convolutions, 4x4, of stride 2, without normalisation.

    Widths are 1, 2, 4 and 8 times `base_channels`, with LeakyReLU(0.2) behind each, and then 1. Initialised as torch
    does.

    Args:
        in_channels: Channels of the predictions, one for each class.
        base_channels: Channels behind the first convolution.
        init_cfg: As everywhere in MMEngine.

    Reference:
        Tsai et al., Learning to Adapt Structured Output Space for Semantic Segmentation, arXiv 1802.10349,
        section 4.1.
    """

    #: Pixels of a side that leave one score.
    min_size = 2**_LAYERS

    def __init__(self, in_channels: int, base_channels: int = 64, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.layers, channels = nn.Sequential(), in_channels
        for i in range(_LAYERS - 1):
            self.layers.append(nn.Conv2d(channels, base_channels * 2**i, 4, 2, 1))
            self.layers.append(nn.LeakyReLU(0.2))
            channels = base_channels * 2**i
        self.layers.append(nn.Conv2d(channels, 1, 4, 2, 1))

    def forward(self, predictions: Tensor) -> Tensor:
        """Score ``(N, C, H, W)`` predictions.

        Returns:
            Logits ``(N, 1, H / 32, W / 32)``, rounded down.

        Raises:
            ConfigError: A side is below 32 pixels, of which nothing would be left.
        """
        height, width = predictions.shape[2:]
        if min(height, width) < self.min_size:
            raise ConfigError(
                f'the images are {height} x {width} px, but {type(self).__name__} needs at least {self.min_size} px '
                'a side: use larger crops'
            )
        return self.layers(predictions)
