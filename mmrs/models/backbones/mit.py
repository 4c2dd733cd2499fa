import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmseg.models.backbones import MixVisionTransformer
from mmseg.models.backbones.mit import EfficientMultiheadAttention, MixFFN, TransformerEncoderLayer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmrs.registry import MODELS


@MODELS.register_module()
class EfficientMiT(MixVisionTransformer):
    """MMSegmentation's Mix Transformer, the SegFormer encoder, computed in less time and memory.

    Arguments, parameters, their names, initialisation and results are those of `MixVisionTransformer`: weights move
    between the two freely. What differs is the path through the layers. A map stays (N, H, W, C) in memory from the
    image to the last stage; this is a channels_last (N, C, H, W) tensor to a convolution and a set of tokens to a
    linear layer, in either case without a copy. Attention runs through `scaled_dot_product_attention`, without the
    averaged attention weights that `nn.MultiheadAttention` returns and nobody reads. The output of each GELU is
    computed again in the backward pass instead of kept.

    Reference: SegFormer, https://arxiv.org/abs/2105.15203, section 3.1.
    """

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that it returns."""
        return tuple(self.embed_dims * self.num_heads[stage] for stage in sorted(self.out_indices))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode images.

        Args:
            x: Images (N, in_channels, H, W) of any size.

        Returns:
            The maps of the stages in `out_indices`, each (N, C, H / s, W / s) in channels_last memory, with s = 4,
            8, 16, 32 for the default strides.
        """
        outputs = []
        x = x.contiguous(memory_format=torch.channels_last)
        for stage, (patch_embed, blocks, norm) in enumerate(self.layers):
            x = patch_embed.norm(patch_embed.projection(x).permute(0, 2, 3, 1))
            for block in blocks:
                if block.with_cp and x.requires_grad:
                    x = checkpoint(_encoder_layer, block, x, use_reentrant=False)
                else:
                    x = _encoder_layer(block, x)
            x = norm(x).permute(0, 3, 1, 2)
            if stage in self.out_indices:
                outputs.append(x)
        return outputs


def _encoder_layer(block: TransformerEncoderLayer, x: Tensor) -> Tensor:
    """Apply a transformer encoder layer to a map (N, H, W, C)."""
    x = _add_residual(x, _attention(block.attn, block.norm1(x)), block.attn.dropout_layer)
    return _add_residual(x, _mix_ffn(block.ffn, block.norm2(x)), block.ffn.dropout_layer)


def _attention(attention: EfficientMultiheadAttention, x: Tensor) -> Tensor:
    """Self-attention of a map (N, H, W, C) over a version of itself that is reduced by `sr_ratio` (Eq. 1 and 2)."""
    N, H, W, C = x.shape
    mha = attention.attn
    weight, bias = mha.in_proj_weight, mha.in_proj_bias
    if attention.sr_ratio > 1:
        reduced = attention.norm(attention.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        query = F.linear(x, weight[:C], None if bias is None else bias[:C])
        key, value = F.linear(reduced, weight[C:], None if bias is None else bias[C:]).chunk(2, dim=-1)
    else:
        query, key, value = F.linear(x, weight, bias).chunk(3, dim=-1)
    query, key, value = (t.reshape(N, -1, mha.num_heads, mha.head_dim).transpose(1, 2) for t in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=mha.dropout if mha.training else 0.0)
    return attention.proj_drop(mha.out_proj(out.transpose(1, 2).reshape(N, H, W, C)))


def _mix_ffn(ffn: MixFFN, x: Tensor) -> Tensor:
    """Two 1x1 convolutions of a map (N, H, W, C), between them a depthwise 3x3 convolution and GELU (Eq. 3)."""
    expand, depthwise, activation, dropout, reduce, _ = ffn.layers

    def project(hidden: Tensor) -> Tensor:
        return dropout(reduce(dropout(activation(hidden))))

    hidden = depthwise(expand(x.permute(0, 3, 1, 2)))
    if torch.is_grad_enabled() and hidden.requires_grad:
        # The activation is as wide as `hidden` and cheaper to compute again in the backward pass than to keep.
        drops = dropout.training and dropout.p > 0
        out = checkpoint(project, hidden, use_reentrant=False, preserve_rng_state=drops)
    else:
        out = project(hidden)
    return out.permute(0, 2, 3, 1)


def _add_residual(x: Tensor, residual: Tensor, drop_path: DropPath) -> Tensor:
    """Add a residual branch under stochastic depth: MMCV's `DropPath` with its draws, in one pass over the maps."""
    if drop_path.drop_prob == 0 or not drop_path.training:
        return x + residual
    keep = 1 - drop_path.drop_prob
    scale = (keep + torch.rand((len(x), 1, 1, 1), dtype=residual.dtype, device=x.device)).floor() / keep
    return torch.addcmul(x, residual, scale)
