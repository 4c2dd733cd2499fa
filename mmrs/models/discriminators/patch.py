from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils import ConfigError


def _block(in_channels: int, out_channels: int, stride: int, norm: bool) -> nn.Sequential:
    # Instance normalisation removes the convolution's bias again; it is there because published weights have one.
    block = nn.Sequential()
    block.add_module('conv', nn.Conv2d(in_channels, out_channels, 4, stride, 1))
    if norm:
        block.add_module('norm', nn.InstanceNorm2d(out_channels))
    block.add_module('activation', nn.LeakyReLU(0.2))
    return block


def strided_convolutions(side: float) -> int:
    """The most that leave something to normalise of a map of this many pixels, up to the usual three.

    Raises:
        ConfigError: Not even one does.
    """
    if side < 6:
        raise ConfigError(f'a discriminator takes maps of at least 6 x 6, but this one has {side:g} pixels a side')
    return max(number for number in (1, 2, 3) if 3 * 2**number <= side)


@MODELS.register_module()
class PatchDiscriminator(BaseModule):
    """PatchGAN discriminator on a feature map.

    A strided 4x4 convolution, ``num_conv - 1`` strided blocks that double the channels (up to eight times
    ``base_channels``), one block of stride 1 and a 4x4 convolution to one score per patch. Blocks are convolution,
    instance normalisation without affine parameters and LeakyReLU(0.2).

    Args:
        in_channels: Channels of the feature map; None in a configuration asks for those of the backbone's last one.
        num_conv: Number of strided convolutions; None likewise for :func:`strided_convolutions` of a crop's map.
        base_channels: Channels behind the first one.
        init_cfg: As everywhere in MMEngine; normal with a standard deviation of 0.02 unless given.

    Reference:
        Isola et al., CVPR 2017; Zhao et al., arXiv 2301.05526, section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        num_conv: int = 2,
        base_channels: int = 64,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Normal', layer='Conv2d', mean=0.0, std=0.02))
        if num_conv < 1:
            raise ConfigError(f'num_conv is {num_conv}: a discriminator has at least 1 strided convolution')
        layers = [_block(in_channels, base_channels, stride=2, norm=False)]
        channels = base_channels
        for i in range(1, num_conv + 1):
            out_channels = base_channels * min(2**i, 8)
            layers.append(_block(channels, out_channels, stride=2 if i < num_conv else 1, norm=True))
            channels = out_channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))
        self.min_size = 3 * 2**num_conv

    def forward(self, features: Tensor) -> Tensor:
        """Score ``(N, C, H, W)`` features.

        Returns:
            Logits ``(N, 1, h, w)``, high where a patch looks real.

        Raises:
            ConfigError: If the map is so small that nothing is left to normalise.
        """
        if min(features.shape[2:]) < self.min_size:
            raise ConfigError(
                f'the feature map is {features.shape[2]} x {features.shape[3]}, but a discriminator with this num_conv '
                f'needs at least {self.min_size} x {self.min_size}'
            )
        return self.layers(features)
