from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number

from .feature_pyramid import SimpleFeaturePyramid
from .lora import add_lora
from .vit_weights import own_weights

__all__ = ['PlainViT']

#: Cosine and sine of the angles by which each token's queries and keys are turned, ``(tokens, channels of a head)``.
Rotation = tuple[Tensor, Tensor]


class _Attention(nn.Module):
    """Self-attention of tokens ``(N, L, C)``."""

    def __init__(self, embed_dims: int, num_heads: int, key_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims, bias=key_bias)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if rotation is not None:
            q, k = (_rotated(part, rotation).to(v.dtype) for part in (q, k))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair of channels, one of either half, of ``(N, heads, L, C)``."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class _MLP(nn.Module):
    """Two linear layers around GELU; or SwiGLU: around the product of one, through SiLU, and another."""

    def __init__(self, embed_dims: int, channels: int, swiglu: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(embed_dims, channels) if swiglu else None
        self.fc1 = nn.Linear(embed_dims, channels)
        self.fc2 = nn.Linear(channels, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(F.gelu(hidden) if self.gate is None else F.silu(self.gate(x)) * hidden)


class _Block(nn.Module):
    """A transformer block with normalisation first, LayerScale and stochastic depth."""

    scale1: nn.Parameter | None
    scale2: nn.Parameter | None

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        mlp_channels: int,
        swiglu: bool,
        key_bias: bool,
        layer_scale: float | None,
        norm_eps: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, norm_eps)
        self.attn = _Attention(embed_dims, num_heads, key_bias)
        self.norm2 = nn.LayerNorm(embed_dims, norm_eps)
        self.mlp = _MLP(embed_dims, mlp_channels, swiglu)
        for name in ('scale1', 'scale2'):
            scale = None if layer_scale is None else nn.Parameter(torch.full((embed_dims,), float(layer_scale)))
            self.register_parameter(name, scale)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        x = self._add(x, self.attn(self.norm1(x), rotation), self.scale1)
        return self._add(x, self.mlp(self.norm2(x)), self.scale2)

    def _add(self, x: Tensor, residual: Tensor, scale: Tensor | None) -> Tensor:
        if scale is not None:
            residual = residual * scale
        if self.training and self.drop_path_rate:
            keep = 1 - self.drop_path_rate
            residual = residual * ((keep + torch.rand(len(x), 1, 1, device=x.device)).floor() / keep).to(residual.dtype)
        return x + residual


@MODELS.register_module()
class PlainViT(BaseModule):
    """A plain vision transformer for weights of the kind of DINOv2 and DINOv3.

    One resolution throughout: the maps of the blocks in `out_indices` have a pixel for each patch. With a `pyramid`
    they become maps of strides ``patch_size / 4`` to ``2 * patch_size``: 4, 8, 16, 32 for patches of 16 pixels, and
    3.5, 7, 14, 28 for patches of 14.

    Images may have any size. They are padded with zeros, the mean colour, at the right and at the bottom to whole
    patches, and what the maps show beyond the image is cut off again as far as whole pixels of them allow.

    `init_cfg=dict(type='Pretrained', checkpoint=...)` takes files of timm, of Hugging Face (`Dinov2Model`,
    `Dinov2WithRegistersModel`, `DINOv3ViTModel`) and of the authors, see :func:`own_weights`.

    Args:
        in_channels: Bands of the images.
        patch_size: Side of a patch, in pixels.
        embed_dims: Channels of a token.
        depth: Number of blocks of the whole transformer. Those behind the last of `out_indices` are not built.
        num_heads: Attention heads of a block.
        mlp_channels: Width of the MLP's hidden layer; by default ``4 * embed_dims``.
        swiglu: Whether the MLP is a SwiGLU.
        num_registers: Register tokens beside the class token.
        pos_grid: Side of the square grid of learned position embeddings, in patches. They are resized to the grid of
            the image. None: rotary embeddings of queries and keys, which know no size.
        pos_antialias: Whether that resizing, bicubic, filters where it makes the grid smaller, as DINOv2 with registers
            does and DINOv2 without does not.
        rope_base: Of rotary embeddings: ratio of the longest to the shortest period, about.
        key_bias: Whether the keys have a bias.
        layer_scale: Start of LayerScale's factors; None: without.
        norm_eps: Of layer normalisation.
        out_indices: Blocks whose output is returned, counted from 0; by default the last.
        final_norm: Whether each output passes the transformer's last layer normalisation.
        pyramid: Arguments of a :class:`SimpleFeaturePyramid`, ``dict(channels=256)`` for example; None: the blocks'
            outputs as they are. With a single one of `out_indices` all its levels are made of that, as in the paper;
            with as many as it has scales each level is made of its own.
        frozen: The transformer does not train and stays in evaluation mode; the pyramid does train.
        lora: Arguments of :func:`add_lora`, ``dict(rank=8, alpha=16, projections=('q', 'v'))`` for example: beside the
            pyramid only these parts train. The names of the layers are q, k, v, proj, fc1, fc2 and, of a SwiGLU, gate.
        drop_path_rate: Stochastic depth's rate in the last block of `depth`; it grows from 0 with the depth.
        with_cp: Compute activations again in the backward pass instead of keeping them.
        init_cfg: As everywhere in MMEngine.

    Raises:
        ConfigError: Arguments that do not fit each other.

    Reference:
        Dosovitskiy et al., arXiv 2010.11929; Oquab et al., DINOv2, arXiv 2304.07193; Darcet et al., registers,
        arXiv 2309.16588; Siméoni et al., DINOv3, arXiv 2508.10104.
    """

    def __init__(
        self,
        in_channels: int = 3,
        patch_size: int = 16,
        embed_dims: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_channels: int | None = None,
        swiglu: bool = False,
        num_registers: int = 0,
        pos_grid: int | None = None,
        pos_antialias: bool = False,
        rope_base: float = 100.0,
        key_bias: bool = True,
        layer_scale: float | None = 1e-5,
        norm_eps: float = 1e-6,
        out_indices: Sequence[int] | None = None,
        final_norm: bool = True,
        pyramid: Mapping[str, Any] | None = None,
        frozen: bool = False,
        lora: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = (depth - 1,) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not all(0 <= i < depth for i in self.out_indices):
            raise ConfigError(f'backbone.out_indices is {out_indices}; there are blocks 0 to {depth - 1}')
        if list(self.out_indices) != sorted(set(self.out_indices)):
            raise ConfigError(f'backbone.out_indices is {out_indices}; rising numbers are expected')
        if embed_dims % num_heads or (pos_grid is None and embed_dims // num_heads % 4):
            what = 'num_heads, and by 4 again for rotary embeddings' if pos_grid is None else 'num_heads'
            raise ConfigError(f'backbone.embed_dims is {embed_dims}, num_heads {num_heads}: not divisible by {what}')
        if frozen and lora is not None:
            raise ConfigError('backbone.frozen is on, but backbone.lora has parts that train: set one of them')
        require_number('backbone.drop_path_rate', drop_path_rate, at_least=0, below=1)
        self.patch_size, self.embed_dims, self.depth = patch_size, embed_dims, depth
        self.num_prefix, self.pos_antialias, self.rope_base = 1 + num_registers, pos_antialias, rope_base
        self.head_channels, self.frozen, self.with_cp = embed_dims // num_heads, frozen, with_cp

        self.patch_embed = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        #: With the class token's position embedding, where there are learned ones.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, embed_dims)) if num_registers else None
        self.pos_embed = None if pos_grid is None else nn.Parameter(torch.zeros(1, pos_grid**2, embed_dims))
        self.blocks = nn.ModuleList(
            _Block(
                embed_dims,
                num_heads,
                mlp_channels or 4 * embed_dims,
                swiglu,
                key_bias,
                layer_scale,
                norm_eps,
                drop_path_rate * i / max(depth - 1, 1),
            )
            for i in range(self.out_indices[-1] + 1)
        )
        self.norm = nn.LayerNorm(embed_dims, norm_eps) if final_norm else nn.Identity()
        self._draw()

        if frozen:
            self.requires_grad_(False)
        elif lora is not None:
            add_lora(self, **lora)
        self.pyramid = None if pyramid is None else SimpleFeaturePyramid(embed_dims, **pyramid)
        if self.pyramid is not None and len(self.out_indices) not in (1, len(self.pyramid.scales)):
            raise ConfigError(
                f'backbone.out_indices has {len(self.out_indices)} blocks and backbone.pyramid {self.pyramid.scales} '
                'as scales: one block is expected, or one for each scale'
            )
        self.train()

    def _draw(self) -> None:
        for token in (self.cls_token, self.register_tokens, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that it returns."""
        return (self.embed_dims,) * len(self.out_indices) if self.pyramid is None else self.pyramid.out_channels

    def own_weights(self, weights: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
        """Weights of a file under the names that they have here; see :func:`own_weights`."""
        return own_weights(weights, self.state_dict(), source)

    def train(self, mode: bool = True) -> PlainViT:
        """Set the mode; a frozen transformer stays in evaluation mode."""
        super().train(mode and not self.frozen)
        self.training = mode
        if self.pyramid is not None:
            self.pyramid.train(mode)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            x: ``(N, in_channels, H, W)``, of any size.

        Returns:
            The maps of `out_indices`, ``(N, embed_dims, ceil(H / patch_size), ceil(W / patch_size))`` each; with a
            pyramid its maps.
        """
        height, width = x.shape[-2:]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self._encode(x)
        return maps if self.pyramid is None else self.pyramid(maps, height, width, self.patch_size)

    def _encode(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        x = self.patch_embed(F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size)))
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            x = x + self._positions(self.pos_embed, rows, columns)
        tokens = [token for token in (self.cls_token, self.register_tokens) if token is not None]
        # `len` would fix the number of images in an exported graph.
        x = torch.cat((*(token.expand(x.shape[0], -1, -1) for token in tokens), x), dim=1)
        rotation = self._rotation(rows, columns, x) if self.pos_embed is None else None
        maps = []
        for i, block in enumerate(self.blocks):
            if self.with_cp and torch.is_grad_enabled() and x.requires_grad:
                x = checkpoint(block, x, rotation, use_reentrant=False)
            else:
                x = block(x, rotation)
            if i in self.out_indices:
                patches = self.norm(x[:, self.num_prefix :])
                maps.append(patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 2))
        return maps

    def _positions(self, learned: Tensor, rows: int, columns: int) -> Tensor:
        """Learned position embeddings ``(1, rows * columns, C)`` for a grid of any size."""
        side = math.isqrt(learned.shape[1])
        grid = learned.transpose(1, 2).unflatten(2, (side, side))
        if self.pos_antialias:
            vertical, horizontal = (_antialiased_bicubic(n, side, grid) for n in (rows, columns))
            grid = vertical @ grid @ horizontal.T
        else:
            grid = F.interpolate(grid, (rows, columns), mode='bicubic')
        return grid.flatten(2).transpose(1, 2)

    def _rotation(self, rows: int, columns: int, x: Tensor) -> Rotation:
        """DINOv3's rotary embeddings: centres of the patches, from -1 to 1 in either axis, times some frequencies."""
        options: dict[str, Any] = dict(device=x.device, dtype=torch.float32)
        frequencies = 2 * math.pi * self.rope_base ** -torch.arange(0, 1, 4 / self.head_channels, **options)
        centres = [2 * (torch.arange(n, **options) + 0.5) / n - 1 for n in (rows, columns)]
        grid = torch.stack(torch.meshgrid(*centres, indexing='ij'), dim=-1)
        angles = (grid[..., None] * frequencies).flatten(2).flatten(0, 1).repeat(1, 2)
        angles = F.pad(angles, (0, 0, self.num_prefix, 0))  # class and registers have no place: they are not turned
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _antialiased_bicubic(number: int, side: int, like: Tensor) -> Tensor:
    """The matrix ``(number, side)`` that resizes an axis as torch's ``antialias=True`` does, which ONNX does not know.

    Keys' cubic convolution with a = -0.5, as wide as a pixel of the coarser of both grids.
    """
    options: dict[str, Any] = dict(device=like.device, dtype=like.dtype)
    centres = (torch.arange(number, **options) + 0.5) * (side / number)
    width = (torch.ones(1, **options) * (side / number)).clamp(min=1)
    x = ((torch.arange(side, **options) + 0.5 - centres[:, None]) / width).abs()
    weights = torch.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2) * (x < 2)
    return weights / weights.sum(1, keepdim=True)
