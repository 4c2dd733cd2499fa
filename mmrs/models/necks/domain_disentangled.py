from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.device import get_device
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..backbones.multi_resolution import per_resolution


class DomainSpecificModule(nn.Module):
    """DSM: splits the channels of one stage between the source student and the target student.

    From the channel means of both maps' sum, a bottleneck computes two logits per channel; their softmax scales the
    channel in the one map and in the other.

    Args:
        channels: Channels C of both maps.
        bottleneck: Width d of the bottleneck.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, bottleneck)
        self.excite = nn.ModuleDict({d: nn.Linear(bottleneck, channels) for d in ('source', 'target')})

    def forward(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Scale two ``(N, C, H, W)`` maps of the same images."""
        squeezed = self.squeeze(x_s.mean((2, 3)) + x_t.mean((2, 3)))
        # The softmax over two logits is a sigmoid of their difference.
        share = (self.excite['source'](squeezed) - self.excite['target'](squeezed)).sigmoid()[..., None, None]
        return share * x_s, (1 - share) * x_t


class DomainUniversalModule(nn.Module):
    """DUM: what both students' maps share, expressed through their channel affinity.

    Args:
        channels: Channels C of both maps.
        out_channels: Channels d of either output.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.universal = ConvModule(channels, channels, 3, padding=1)
        self.project = nn.ModuleDict(
            {d: ConvModule(channels, out_channels, 3, padding=1) for d in ('source', 'target')}
        )

    def forward(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Map two ``(N, C, H, W)`` maps of the same images to two of ``(N, d, H, W)``."""
        universal = self.universal((x_s + x_t) / 2).flatten(2).transpose(1, 2)  # (N, HW, C)
        flat_s, flat_t = x_s.flatten(2), x_t.flatten(2)
        # Exponents that are sums over all pixels: in half precision they are off by whole units, or overflow.
        precision = torch.promote_types(x_s.dtype, torch.float32)
        with torch.autocast(get_device(), enabled=False):
            energy_s, energy_t = (flat.to(precision) @ universal.to(precision) for flat in (flat_s, flat_t))
            # softmax(max - E) is softmax(-E): a softmax does not see what is the same for a whole row.
            affinity = ((-energy_s).softmax(-1) + (-energy_t).softmax(-1)) / 2  # (N, C, C)
        out_s = self.project['source']((affinity @ flat_s).view_as(x_s))
        out_t = self.project['target']((affinity @ flat_t).view_as(x_t))
        return out_s, out_t


class DisentangleStage(nn.Module):
    """DSM of one stage, with the DUM's output concatenated behind the stage's maps where ``universal`` is set."""

    def __init__(self, channels: int, reduction: int, min_channels: int, universal: bool) -> None:
        super().__init__()
        bottleneck = max(channels // reduction, min_channels)
        self.specific = DomainSpecificModule(channels, bottleneck)
        self.universal = DomainUniversalModule(channels, bottleneck) if universal else None
        self.out_channels = channels + bottleneck * universal

    def forward(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Disentangle two ``(N, C, H, W)`` maps; the output has ``out_channels`` channels."""
        out_s, out_t = self.specific(x_s, x_t)
        if self.universal is None:
            return out_s, out_t
        shared_s, shared_t = self.universal(x_s, x_t)
        return torch.cat((out_s, shared_s), 1), torch.cat((out_t, shared_t), 1)


@MODELS.register_module()
class DomainDisentangledNeck(BaseModule):
    """Domain disentangled module of ST-DASegNet: DSM on every stage, DUM on the last.

    Args:
        in_channels: Channels of the backbone's stages; None in a configuration asks for them.
        variant: ``ds2`` (DSM everywhere, DUM on the last stage) or ``dsk`` (DSM only).
        reduction: r; the bottleneck of a stage of C channels has ``max(C // reduction, min_channels)``.
        min_channels: L.
        used_stages: Stages that the decode head reads, negative ones counted from the last. The others are passed
            through untouched and their parameters frozen: no gradient would reach them, at which data-parallel training
            stops. None uses all.
        init_cfg: As everywhere in MMEngine.

    Reference:
        Zhao et al., arXiv 2301.05526, section 3.2; the selection across two branches follows Li et al., SKNet.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        variant: str = 'ds2',
        reduction: int = 8,
        min_channels: int = 8,
        used_stages: Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if variant not in ('ds2', 'dsk'):
            raise ConfigError(f"unknown variant {variant!r} of the domain disentangled neck: expected 'ds2' or 'dsk'")
        self.in_channels, last = tuple(in_channels), len(in_channels) - 1
        self.stages = nn.ModuleList(
            DisentangleStage(channels, reduction, min_channels, universal=variant == 'ds2' and i == last)
            for i, channels in enumerate(in_channels)
        )
        self.out_channels = tuple(stage.out_channels for stage in self.stages)
        count = last + 1
        if unknown := [i for i in used_stages or () if not -count <= i < count]:
            raise ConfigError(
                f'model.decode_head.in_index reads stage {unknown[0]}, but model.neck.in_channels has {count} stages, '
                f'0 to {last}'
            )
        self.used_stages = (
            tuple(range(count)) if used_stages is None else tuple(sorted({i % count for i in used_stages}))
        )
        for i, stage in enumerate(self.stages):
            stage.requires_grad_(i in self.used_stages)

    def forward(self, x_s: Sequence[Tensor], x_t: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Disentangle both students' features of the same images.

        Args:
            x_s: The source student's stages, each ``(N, C_i, H_i, W_i)``.
            x_t: The target student's, of the same shapes.

        Returns:
            The stages for the source head and for the target head, ``(N, out_channels[i], H_i, W_i)``.
        """
        return per_resolution(self._disentangle, x_s, x_t)

    def _disentangle(self, x_s: Sequence[Tensor], x_t: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        out_s, out_t = list(x_s), list(x_t)
        for i in self.used_stages:
            out_s[i], out_t[i] = self.stages[i](x_s[i], x_t[i])
        return out_s, out_t
