from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mmrs.utils.errors import ConfigError

__all__ = ['SimpleFeaturePyramid']


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _double(channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, out_channels, 2, stride=2)


class _Level(nn.Module):
    """One map of the pyramid: resized, then a 1x1 and a 3x3 convolution, each normalised."""

    def __init__(self, in_channels: int, channels: int, scale: float) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        width = {4: quarter, 2: half}.get(int(scale), in_channels)
        self.resize: nn.Module = nn.Identity()
        if scale == 4:
            self.resize = nn.Sequential(
                _double(in_channels, half), _ChannelNorm(half), nn.GELU(), _double(half, quarter)
            )
        elif scale == 2:
            self.resize = _double(in_channels, half)
        elif scale == 0.5:
            self.resize = nn.MaxPool2d(2, ceil_mode=True)
        self.reduce = nn.Conv2d(width, channels, 1, bias=False)
        self.norm1 = _ChannelNorm(channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.smooth(self.norm1(self.reduce(self.resize(x)))))


class SimpleFeaturePyramid(nn.Module):
    """Maps of several resolutions, made of those of a plain transformer, which have one.

    Args:
        in_channels: Channels of the transformer's maps.
        channels: Channels of each map that it returns.
        scales: Resolution of each, as a multiple of the transformer's: 4, 2, 1 or 0.5. Name those alone that a head
            reads: parameters of the others get no gradient, at which data-parallel training stops.

    Raises:
        ConfigError: A scale is none of these, or there is none.

    Reference:
        Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, arXiv 2203.16527, section 3 and
        appendix A.2.
    """

    def __init__(self, in_channels: int, channels: int = 256, scales: Sequence[float] = (4, 2, 1, 0.5)) -> None:
        super().__init__()
        if not scales or any(scale not in (4, 2, 1, 0.5) for scale in scales):
            raise ConfigError(f'pyramid.scales is {scales}; some of 4, 2, 1 and 0.5 are expected')
        self.scales = tuple(scales)
        self.out_channels = (channels,) * len(self.scales)
        self.levels = nn.ModuleList(_Level(in_channels, channels, scale) for scale in self.scales)

    def forward(self, maps: Sequence[Tensor], height: int, width: int, patch_size: int) -> list[Tensor]:
        """Make the pyramid.

        Args:
            maps: ``(N, in_channels, h, w)``: one that all levels are made of, or one for each level.
            height: Of the image, before it was padded to whole patches, in pixels.
            width: Likewise.
            patch_size: Pixels of the image for each of the maps.

        Returns:
            For each scale a map ``(N, channels, ceil(height * scale / patch_size), ceil(width * scale / patch_size))``:
            what lies beyond the image is cut off.
        """
        outputs = []
        for i, (level, scale) in enumerate(zip(self.levels, self.scales)):
            # Rounded up in whole numbers above 0, which an exported graph divides as Python does.
            rows, columns = (
                (side * int(2 * scale) + 2 * patch_size - 1) // (2 * patch_size) for side in (height, width)
            )
            outputs.append(level(maps[i % len(maps)])[..., :rows, :columns])
        return outputs
