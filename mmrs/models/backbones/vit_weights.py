"""Names of a vision transformer's weights in the files of others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrs.utils.errors import CheckpointError, some

__all__ = ['own_weights']

#: Parts of names, and what stands for them in :class:`PlainViT`: Hugging Face's, timm's, the authors'. Applied in turn.
_NAMES = (
    (r'^embeddings\.', ''),
    (r'^(?:encoder\.|model\.)?layer\.', 'blocks.'),
    (r'^(?:reg_token|storage_tokens)$', 'register_tokens'),
    (r'^position_embeddings$', 'pos_embed'),
    (r'^layernorm\.', 'norm.'),
    (r'^patch_embed(?:dings)?\.(?:proj\.|projection\.)?(weight|bias)$', r'patch_embed.\1'),
    (r'\.attention\.attention\.(q|k|v)[a-z]+\.', r'.attn.\1.'),
    (r'\.att(?:ention|n)\.(q|k|v)_proj\.', r'.attn.\1.'),
    (r'\.attention\.(?:output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.attn\.(q|k|v)_bias$', r'.attn.\1.bias'),
    (r'\.(?:layer_scale|ls)([12])\.(?:lambda1|gamma)$', r'.scale\1'),
    (r'\.gamma_([12])$', r'.scale\1'),
    (r'\.mlp\.(?:gate_proj|fc1_g|w1)\.', '.mlp.gate.'),
    (r'\.mlp\.(?:up_proj|fc1_x|w2)\.', '.mlp.fc1.'),
    (r'\.mlp\.(?:down_proj|weights_out|w3)\.', '.mlp.fc2.'),
    (r'\.mlp\.(?:weights_in|w12)\.', '.mlp.gate_fc1.'),
)
#: How the names of the transformer's weights begin; a file may hold more, a classifier or a decoder for example.
_OURS = ('blocks.', 'cls_token', 'register_tokens', 'pos_embed', 'patch_embed.', 'norm.', 'pyramid.')
#: Parts of the model that files of others do not have.
_NEW = re.compile(r'pyramid\.|.*\.lora_(a|b|scale)$')


def own_weights(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Weights of a file under the names of a :class:`PlainViT`, if they are those of its very architecture.

    Known are the names of timm (`vit_*`, DINOv2 and DINOv3 among them), of Hugging Face's `Dinov2Model`,
    `Dinov2WithRegistersModel` and `DINOv3ViTModel`, in their files and in memory, of the files of the authors of DINOv2
    and DINOv3, and of masked autoencoders (MAE, SatMAE without groups of bands, Prithvi). A patch embedding
    ``(C, bands, 1, p, p)``, for several dates, becomes that of a single date, with the positions of the first. What
    belongs to no encoder is left out, and so are blocks that the model has no use for. Pyramid and low-rank parts are
    not asked for.

    Args:
        weights: Tensors by the names in the file.
        model: The state of the model.
        source: Name of the file, for messages.

    Returns:
        Tensors by the model's names; the patch embedding may be one for three bands, whatever the model has.

    Raises:
        CheckpointError: The file is of another architecture; the message names the arguments that differ.
    """
    named: dict[str, Tensor] = {}
    for name, value in weights.items():
        key = name
        for pattern, ours in _NAMES:
            key = re.sub(pattern, ours, key)
        if key.startswith(_OURS):
            named[key] = value
    if groups := [key for key in named if re.match(r'patch_embed\.\d+\.', key)]:
        raise CheckpointError(
            f'{source} has a patch embedding for each of several groups of bands ({some(groups, 2)}), as SatMAE for '
            'Sentinel-2 has it; this backbone has a single one, over all bands'
        )
    _split_attention(named, model)
    _split_gates(named, model)
    _choose_positions(named, model)
    depth = _depth(model)
    named = {key: value for key, value in named.items() if _block(key) < depth}
    if 'norm.weight' not in model:
        named = {key: value for key, value in named.items() if not key.startswith('norm.')}
    _require_fit(named, model, source, list(weights))
    return named


def _block(key: str) -> int:
    """Number of the block that a weight is in; -1 for what is in none."""
    match = re.match(r'blocks\.(\d+)\.', key)
    return int(match[1]) if match else -1


def _depth(weights: Mapping[str, Any]) -> int:
    return 1 + max(map(_block, weights), default=-1)


def _split_attention(named: dict[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Make three layers of one for queries, keys and values, each with its bias, in place."""
    for key in [key for key in named if '.attn.qkv.' in key]:
        weight = named.pop(key)
        if key.endswith('bias_mask'):
            continue
        parts = {key.replace('.qkv.', f'.{name}.'): part for name, part in zip('qkv', weight.chunk(3))}
        bias = key.replace('.qkv.bias', '.k.bias')
        # DINOv3's keys have no bias; its files keep a place for it, and say so by a mask.
        if bias in parts and bias not in model and (f'{key}_mask' in named or not parts[bias].any()):
            del parts[bias]
        named.update(parts)
    for key in model:  # timm's DINOv3 leaves out biases that are all zero
        if key.endswith(('.attn.q.bias', '.attn.v.bias')) and key not in named and key[:-4] + 'weight' in named:
            named[key] = model[key].new_zeros(model[key].shape)


def _split_gates(named: dict[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Make two layers of one that holds both factors of a SwiGLU, in place."""
    for key in list(named):
        if '.mlp.gate_fc1.' in key:
            gate, first = key.replace('gate_fc1', 'gate'), key.replace('gate_fc1', 'fc1')
        elif '.mlp.fc1.' in key:  # timm's name for it
            gate, first = key.replace('fc1', 'gate'), key
            if gate not in model or len(named[key]) != 2 * len(model[first]):
                continue
        else:
            continue
        named[gate], named[first] = named.pop(key).chunk(2)


def _choose_positions(named: dict[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Add the class token's position embedding to the token; of several dates leave the first, in place."""
    patch, positions, dated = named.get('patch_embed.weight'), named.get('pos_embed'), False
    if patch is not None and patch.dim() == 5 and patch.shape[2] == 1:
        named['patch_embed.weight'], dated = patch[:, :, 0], True
    if positions is None or positions.dim() != 3 or 'cls_token' not in named:
        return
    if dated or math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        named['cls_token'] = named['cls_token'] + positions[:, :1]
        positions = positions[:, 1:]
    if dated and 'pos_embed' in model and positions.shape[1] % model['pos_embed'].shape[1] == 0:
        positions = positions[:, : model['pos_embed'].shape[1]]
    named['pos_embed'] = positions


def _settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the :class:`PlainViT` that some weights are of, as far as they show."""
    found: dict[str, Any] = {}
    if (patch := state.get('patch_embed.weight')) is not None and patch.dim() == 4:
        found = dict(embed_dims=patch.shape[0], in_channels=patch.shape[1], patch_size=patch.shape[-1])
    if (hidden := state.get('blocks.0.mlp.fc1.weight')) is not None:
        found['mlp_channels'] = len(hidden)
        found.update(swiglu='blocks.0.mlp.gate.weight' in state, key_bias='blocks.0.attn.k.bias' in state)
        found['layer_scale'] = 'on' if 'blocks.0.scale1' in state else None
    registers, positions = state.get('register_tokens'), state.get('pos_embed')
    found['num_registers'] = 0 if registers is None else registers.shape[1]
    found['pos_grid'] = None if positions is None else math.sqrt(positions.shape[1])
    if found['pos_grid'] is not None and found['pos_grid'].is_integer():
        found['pos_grid'] = int(found['pos_grid'])
    return found


def _require_fit(
    named: Mapping[str, Tensor], model: Mapping[str, Tensor], source: str | Path, names: list[str]
) -> None:
    """Raise CheckpointError unless the weights of a file are those that a model needs."""
    if not _depth(named):
        raise CheckpointError(
            f'{source} has no blocks of a vision transformer: its {len(names)} weights are {some(names, 3)}. Where '
            "their names begin with one prefix, name it: init_cfg=dict(..., prefix='PREFIX')"
        )
    theirs, ours = _settings(named), _settings(model)
    if theirs.get('in_channels') == 3:  # these are expanded
        theirs['in_channels'] = ours['in_channels']
    theirs['depth'], ours['depth'] = _depth(named), _depth(model)
    wrong = [f'{key} is {theirs[key]}, not {ours[key]}' for key in theirs if theirs[key] != ours[key]]
    if not wrong:
        missing = [key for key in model if key not in named and not _NEW.match(key)]
        unknown = [key for key in named if key not in model and not key.startswith('pyramid.')]
        bands = 'patch_embed.weight'
        shapes = [key for key in named if key in model and key != bands and named[key].shape != model[key].shape]
        parts = dict(zip(('it lacks', 'the model has no', 'of another shape are'), (missing, unknown, shapes)))
        wrong = [f'{what} {some(keys, 3)}' for what, keys in parts.items() if keys]
    if wrong:
        raise CheckpointError(
            f'{source} is of another network than model.backbone: {"; ".join(wrong)}. Set the arguments of the '
            'backbone to those that the weights are of'
        )
