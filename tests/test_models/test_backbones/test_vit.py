"""The plain vision transformer beside `transformers` and timm, and its weights under the names that others have."""

import functools
import inspect
import io
import math
import warnings

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn import functional as F

from mmrs.models.backbones.vit import PlainViT
from mmrs.registry import MODELS
from mmrs.utils.errors import CheckpointError, ConfigError

# Small networks, in the arguments of `transformers` and in ours.
_DINOV2 = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14)
_DINOV3 = dict(hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_register_tokens=4)
_TINY = dict(embed_dims=32, depth=3, num_heads=4)
_GRID = dict(patch_size=14, pos_grid=4)
_ROTARY = dict(num_registers=4, mlp_channels=80, key_bias=False, norm_eps=1e-5)
CASES = {
    'dinov2': ('Dinov2', _DINOV2, _GRID),
    'dinov2 giant': ('Dinov2', dict(_DINOV2, use_swiglu_ffn=True), dict(_GRID, swiglu=True, mlp_channels=88)),
    'dinov2 registers': (
        'Dinov2WithRegisters',
        dict(_DINOV2, num_register_tokens=3),
        dict(_GRID, num_registers=3, pos_antialias=True),
    ),
    'dinov3': ('DINOv3ViT', _DINOV3, _ROTARY),
    'dinov3 plus': ('DINOv3ViT', dict(_DINOV3, use_gated_mlp=True, hidden_act='silu'), dict(_ROTARY, swiglu=True)),
}
# Rows and columns of patches: those of the learned positions, not square, more, fewer.
SIZES = [(4, 4), (2, 6), (8, 5), (3, 3)]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """With weights further from zero than initialisation has them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def build(**options: object) -> PlainViT:
    init_default_scope('mmrs')
    return MODELS.build(dict(type='PlainViT', **{**_TINY, **options})).eval()


def loaded(file, weights: dict, **options: object) -> PlainViT:
    torch.save(weights, file)
    model = build(**options, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    return model


@torch.no_grad()
def assert_equal(model: torch.nn.Module, expected: torch.nn.Module, images: torch.Tensor) -> None:
    for found, other in zip(model(images), expected(images), strict=True):
        torch.testing.assert_close(found, other, rtol=0, atol=1e-5)


# Others' forward pass --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', CASES)
def test_equals_transformers(case, tmp_path):
    transformers = pytest.importorskip('transformers', reason='pip install transformers')
    if not transformers.is_torch_available():
        pytest.skip('this transformers needs a newer torch')
    kind, theirs, ours = CASES[case]
    reference = randomised(getattr(transformers, f'{kind}Model')(getattr(transformers, f'{kind}Config')(**theirs)))
    reference.save_pretrained(tmp_path)
    torch.save(reference.state_dict(), tmp_path / 'memory.pth')  # in memory it may have other names
    for file in ('model.safetensors', 'memory.pth'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / file))
        model = build(**ours, out_indices=(0, 2), init_cfg=init_cfg)
        model.init_weights()
        assert model.out_channels == (32, 32)
        for rows, columns in SIZES:
            images = torch.randn(2, 3, rows * model.patch_size, columns * model.patch_size)
            with torch.no_grad():
                found, expected = model(images), reference(images, output_hidden_states=True)
                norm = reference.layernorm if hasattr(reference, 'layernorm') else reference.norm
                for output, hidden in zip(found, (norm(expected.hidden_states[1]), expected.last_hidden_state)):
                    patches = hidden[:, model.num_prefix :].reshape(2, rows, columns, 32).permute(0, 3, 1, 2)
                    assert patches.abs().max() > 1
                    torch.testing.assert_close(output, patches, rtol=0, atol=1e-5)


_TIMM_GRID = dict(img_size=56, patch_size=14)
_TIMM_ROTARY = dict(
    img_size=64, patch_size=16, init_values=1.0, num_reg_tokens=4, rope_type='dinov3', rope_temperature=100.0,
    rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False, use_fc_norm=False,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
)  # fmt: skip
_OURS_ROTARY = dict(_ROTARY, mlp_channels=None)
TIMM = {
    'dinov2': ('VisionTransformer', dict(_TIMM_GRID, init_values=1e-5), _GRID),
    'dinov2 registers': (
        'VisionTransformer',
        dict(_TIMM_GRID, init_values=1e-5, reg_tokens=3, no_embed_class=True),
        dict(_GRID, num_registers=3),
    ),
    'plain': ('VisionTransformer', _TIMM_GRID, dict(_GRID, layer_scale=None)),
    'dinov3': ('Eva', dict(_TIMM_ROTARY, qkv_bias=False), _OURS_ROTARY),
    'dinov3 with biases': ('Eva', dict(_TIMM_ROTARY, qkv_bias=True), _OURS_ROTARY),
    'dinov3 plus': (
        'Eva',
        dict(_TIMM_ROTARY, qkv_bias=True, swiglu_mlp=True, swiglu_align_to=8),
        dict(_OURS_ROTARY, swiglu=True),
    ),
}


@pytest.mark.parametrize('case', TIMM)
def test_equals_timm(case, tmp_path):
    timm = pytest.importorskip('timm', reason='pip install timm torchvision', exc_type=ImportError)
    kind, theirs, ours = TIMM[case]
    module = timm.models.eva if kind == 'Eva' else timm.models.vision_transformer
    reference = randomised(getattr(module, kind)(embed_dim=32, depth=3, num_heads=4, num_classes=0, **theirs))
    model = loaded(tmp_path / 'timm.pth', reference.state_dict(), **ours)
    images = torch.randn(2, 3, theirs['img_size'], theirs['img_size'])
    with torch.no_grad():
        patches = reference.forward_features(images)[:, model.num_prefix :]
        expected = patches.reshape(2, 4, 4, 32).permute(0, 3, 1, 2)
        torch.testing.assert_close(model(images)[0], expected, rtol=0, atol=1e-5)


# Others' names ---------------------------------------------------------------------------------------------------

_BLOCK = {
    'norm1.weight': 'norm1.weight', 'norm1.bias': 'norm1.bias', 'norm2.weight': 'norm2.weight',
    'norm2.bias': 'norm2.bias', 'attn.proj.weight': 'attn.proj.weight', 'attn.proj.bias': 'attn.proj.bias',
    'mlp.fc1.weight': 'mlp.fc1.weight', 'mlp.fc1.bias': 'mlp.fc1.bias', 'mlp.fc2.weight': 'mlp.fc2.weight',
    'mlp.fc2.bias': 'mlp.fc2.bias',
}  # fmt: skip
_FUSED = {f'attn.qkv.{kind}': tuple(f'attn.{name}.{kind}' for name in 'qkv') for kind in ('weight', 'bias')}


def gated(first: str, second: str, third: str) -> dict:
    """Names of the layers of a SwiGLU: that of the gate, that it is multiplied with, and the last."""
    layers = {first: 'gate', second: 'fc1', third: 'fc2'}
    return {f'mlp.{name}.{kind}': f'mlp.{own}.{kind}' for name, own in layers.items() for kind in ('weight', 'bias')}


def packed(first: str, second: str) -> dict:
    """Names where gate and what it is multiplied with are one layer."""
    both = {f'mlp.{first}.{kind}': (f'mlp.gate.{kind}', f'mlp.fc1.{kind}') for kind in ('weight', 'bias')}
    return {**both, **{f'mlp.{second}.{kind}': f'mlp.fc2.{kind}' for kind in ('weight', 'bias')}}


_LAYER_SCALE = {'ls1.gamma': 'scale1', 'ls2.gamma': 'scale2'}
_HUB = {
    'norm1.weight': 'norm1.weight', 'norm1.bias': 'norm1.bias', 'norm2.weight': 'norm2.weight',
    'norm2.bias': 'norm2.bias', 'layer_scale1.lambda1': 'scale1', 'layer_scale2.lambda1': 'scale2',
}  # fmt: skip
_SWIGLU = dict(swiglu=True, mlp_channels=88)
_DINO3 = dict(patch_size=16, key_bias=False, num_registers=4)
# For each kind of file: the blocks, a name in the file for one or several of ours, which are stacked; how the block's
# names begin; names of all else; arguments of the backbone.
FILES = {
    'timm and authors, DINOv2': (
        {**_BLOCK, **_FUSED, **_LAYER_SCALE}, 'blocks', {'patch_embed.proj': 'patch_embed', 'norm': 'norm'}, _GRID,
    ),
    'timm, DINOv2 giant': (
        {**_BLOCK, **_FUSED, **_LAYER_SCALE, **packed('fc1', 'fc2')}, 'blocks',
        {'patch_embed.proj': 'patch_embed', 'norm': 'norm'}, dict(_GRID, **_SWIGLU),
    ),
    'authors, DINOv2 giant': (
        {**{k: v for k, v in _BLOCK.items() if 'mlp' not in k}, **_FUSED, **_LAYER_SCALE, **packed('w12', 'w3')},
        'blocks', {'patch_embed.proj': 'patch_embed', 'norm': 'norm', 'register_tokens': 'register_tokens'},
        dict(_GRID, **_SWIGLU, num_registers=2),
    ),
    'timm, DINOv3': (
        {**_BLOCK, 'attn.qkv.weight': _FUSED['attn.qkv.weight'], 'attn.q_bias': 'attn.q.bias',
         'attn.v_bias': 'attn.v.bias', 'gamma_1': 'scale1', 'gamma_2': 'scale2'},
        'blocks', {'patch_embed.proj': 'patch_embed', 'norm': 'norm', 'reg_token': 'register_tokens'}, _DINO3,
    ),
    'authors, DINOv3 plus': (
        {**{k: v for k, v in _BLOCK.items() if 'mlp' not in k}, **_FUSED, **_LAYER_SCALE, **gated('w1', 'w2', 'w3')},
        'blocks', {'patch_embed.proj': 'patch_embed', 'norm': 'norm', 'storage_tokens': 'register_tokens'},
        dict(_DINO3, **_SWIGLU),
    ),
    'hub, DINOv2 giant': (
        {**_HUB, **packed('weights_in', 'weights_out'),
         **{f'attention.attention.{name}.{kind}': f'attn.{name[0]}.{kind}'
            for name in ('query', 'key', 'value') for kind in ('weight', 'bias')},
         **{f'attention.output.dense.{kind}': f'attn.proj.{kind}' for kind in ('weight', 'bias')}},
        'encoder.layer', {'embeddings.patch_embeddings.projection': 'patch_embed', 'layernorm': 'norm'},
        dict(_GRID, **_SWIGLU),
    ),
    'hub, DINOv3': (
        {**_HUB,
         **{f'attention.{name}_proj.{kind}': f'attn.{name}.{kind}'
            for name in 'qkv' for kind in ('weight', 'bias') if (name, kind) != ('k', 'bias')},
         **{f'attention.o_proj.{kind}': f'attn.proj.{kind}' for kind in ('weight', 'bias')},
         **{f'mlp.{name}.{kind}': f'mlp.{own}.{kind}'
            for name, own in (('up_proj', 'fc1'), ('down_proj', 'fc2')) for kind in ('weight', 'bias')}},
        'layer',
        {'embeddings.patch_embeddings': 'patch_embed', 'norm': 'norm', 'embeddings.register_tokens': 'register_tokens'},
        _DINO3,
    ),
}  # fmt: skip


def written(model: PlainViT, case: str) -> dict:
    """The weights of a model as another's file has them."""
    blocks, beginning, rest, _ = FILES[case]
    own, file = model.state_dict(), {}
    for i in range(3):
        for name, ours in blocks.items():
            parts = [ours] if isinstance(ours, str) else ours
            tensors = [
                own.get(f'blocks.{i}.{part}', torch.zeros(32)) for part in parts
            ]  # DINOv3's keys have no bias, for which there is a place
            file[f'{beginning}.{i}.{name}'] = torch.cat(tensors)
    for name, ours in rest.items():
        if ours == 'register_tokens':
            file[name] = own[ours]
        else:
            file.update({f'{name}.{kind}': own[f'{ours}.{kind}'] for kind in ('weight', 'bias')})
    hub = 'embeddings.' if 'hub' in case else ''
    file[f'{hub}mask_token'] = torch.zeros(1, 32)
    file[f'{hub}cls_token'] = own['cls_token']
    if 'pos_embed' in own:
        of_class = torch.randn(1, 1, 32)
        file[f'{hub}cls_token'] = own['cls_token'] - of_class
        file[f'{hub}position_embeddings' if hub else 'pos_embed'] = torch.cat((of_class, own['pos_embed']), dim=1)
    return file


@pytest.mark.parametrize('case', FILES)
def test_names_of_others(case, tmp_path):
    options = FILES[case][-1]
    expected = randomised(build(**options))
    model = loaded(tmp_path / 'file.pth', {**written(expected, case), 'head.weight': torch.zeros(5, 32)}, **options)
    assert_equal(model, expected, torch.randn(1, 3, 64, 80))


def test_timm_registers_have_no_positions_and_no_class_has(tmp_path):
    options = dict(_GRID, num_registers=3)
    expected = randomised(build(**options))
    file = written(expected, 'timm and authors, DINOv2')
    file['pos_embed'], file['cls_token'] = expected.pos_embed.data, expected.cls_token.data
    file['reg_token'] = expected.register_tokens.data
    assert_equal(loaded(tmp_path / 'a.pth', file, **options), expected, torch.randn(1, 3, 64, 80))


def test_a_key_bias_that_a_mask_hides_and_biases_of_zero_that_are_left_out(tmp_path):
    expected = randomised(build(**_DINO3, **_SWIGLU))
    file = written(expected, 'authors, DINOv3 plus')
    for i in range(3):
        file[f'blocks.{i}.attn.qkv.bias'][32:64] = math.nan
        file[f'blocks.{i}.attn.qkv.bias_mask'] = torch.ones(96)
    images = torch.randn(1, 3, 64, 80)
    assert_equal(loaded(tmp_path / 'a.pth', file, **_DINO3, **_SWIGLU), expected, images)

    expected = randomised(build(**_DINO3))
    file = {
        key: value
        for key, value in written(expected, 'timm, DINOv3').items()
        if 'attn.' not in key or '_bias' not in key
    }
    for block in expected.blocks:
        block.attn.q.bias.data.zero_(), block.attn.v.bias.data.zero_()
    assert_equal(loaded(tmp_path / 'b.pth', file, **_DINO3), expected, images)


def test_more_bands_blocks_that_are_not_needed_and_our_own_names(tmp_path):
    whole = randomised(build(**_GRID))
    file = written(whole, 'timm and authors, DINOv2')
    model = loaded(tmp_path / 'a.pth', file, **_GRID, in_channels=6, out_indices=(0, 1))
    assert len(model.blocks) == 2
    expected = build(**_GRID, out_indices=(0, 1))
    expected.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith('blocks.2')})
    image = torch.randn(1, 3, 64, 80)
    assert_equal(lambda x: model(x.repeat(1, 2, 1, 1)), expected, image)
    assert_equal(loaded(tmp_path / 'b.pth', whole.state_dict(), **_GRID), whole, image)


def test_patch_embeddings_of_several_dates_become_one(tmp_path):
    """As Prithvi's: a convolution over dates, too, and positions of the dates one after the other."""
    options = dict(_GRID, in_channels=6)
    expected = randomised(build(**options))
    file = written(expected, 'timm and authors, DINOv2')
    file['patch_embed.proj.weight'] = expected.patch_embed.weight.data[:, :, None]
    file['pos_embed'] = torch.cat((file['pos_embed'], torch.randn(1, 32, 32)), dim=1)
    assert_equal(loaded(tmp_path / 'a.pth', file, **options), expected, torch.randn(1, 6, 64, 80))
    file['patch_embed.proj.weight'] = file['patch_embed.proj.weight'].repeat(1, 1, 2, 1, 1)
    with pytest.raises(CheckpointError, match='patch_embed'):
        loaded(tmp_path / 'b.pth', file, **options)


# What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(pos_grid=5), ['pos_grid is 4, not 5']),
        (dict(pos_grid=None), ['pos_grid is 4, not None']),
        (dict(num_registers=2), ['num_registers is 0, not 2']),
        (dict(patch_size=16), ['patch_size is 14, not 16']),
        (dict(embed_dims=64), ['embed_dims is 32, not 64']),
        (dict(mlp_channels=64), ['mlp_channels is 128, not 64']),
        (dict(swiglu=True), ['swiglu is False, not True']),
        (dict(key_bias=False), ['key_bias is True, not False']),
        (dict(layer_scale=None), ['layer_scale is on, not None']),
        (dict(depth=4), ['depth is 3, not 4']),
    ],
)  # fmt: skip
def test_another_architecture_is_named(options, named, tmp_path):
    file = written(randomised(build(**_GRID)), 'timm and authors, DINOv2')
    with pytest.raises(CheckpointError) as error:
        loaded(tmp_path / 'vit.pth', file, **{**_GRID, **options})
    assert all(part in str(error.value) for part in [*named, 'vit.pth'])


def test_files_that_fit_in_no_way(tmp_path):
    file = written(randomised(build(**_GRID)), 'timm and authors, DINOv2')
    four = {**file, 'patch_embed.proj.weight': torch.zeros(32, 4, 14, 14)}
    with pytest.raises(CheckpointError, match='in_channels is 4, not 6'):
        loaded(tmp_path / 'a.pth', four, **_GRID, in_channels=6)
    groups = {k.replace('patch_embed.proj', 'patch_embed.0.proj'): v for k, v in file.items()}
    with pytest.raises(CheckpointError, match=r'several groups of bands \(patch_embed\.0\.proj'):
        loaded(tmp_path / 'b.pth', groups, **_GRID)
    with pytest.raises(CheckpointError, match=r'no blocks.*layer1\.conv'):
        loaded(tmp_path / 'c.pth', {'layer1.conv.weight': torch.zeros(1)}, **_GRID)
    with pytest.raises(CheckpointError, match=r'the model has no blocks\.0\.attn\.q\.lora_a'):
        loaded(tmp_path / 'd.pth', {**file, 'blocks.0.attn.q.lora_a': torch.zeros(1)}, **_GRID)
    del file['blocks.1.norm1.bias']
    with pytest.raises(CheckpointError, match=r'it lacks blocks\.1\.norm1\.bias'):
        loaded(tmp_path / 'e.pth', file, **_GRID)


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(out_indices=(0, 3)), 'out_indices'),
        (dict(out_indices=(1, 0)), 'out_indices'),
        (dict(out_indices=()), 'out_indices'),
        (dict(num_heads=5), 'num_heads'),
        (dict(embed_dims=24), 'rotary'),
        (dict(frozen=True, lora={}), 'lora'),
        (dict(drop_path_rate=1.0), 'drop_path_rate'),
        (dict(pyramid=dict(scales=(3,))), 'scales'),
        (dict(pyramid={}, out_indices=(0, 1)), 'scales'),
        (dict(lora=dict(projections=('w',))), "'w'; the linear layers are fc1, fc2, k, proj, q, v"),
        (dict(lora=dict(projections=())), 'projections'),
        (dict(lora=dict(rank=0)), 'rank'),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(options, named):
    with pytest.raises(ConfigError, match=named):
        build(**options)


# Images of any size, and the pyramid --------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(70, 50), (14, 1), (57, 56)])
def test_images_are_padded_to_whole_patches(size):
    model = randomised(build(**_GRID))
    image = torch.randn(1, 3, *size)
    rows, columns = (math.ceil(side / 14) for side in size)
    padded = torch.zeros(1, 3, 14 * rows, 14 * columns)
    padded[..., : size[0], : size[1]] = image
    (found,), (expected,) = model(image), model(padded)
    assert found.shape == (1, 32, rows, columns)
    assert torch.equal(found, expected)


@pytest.mark.parametrize('antialias', [False, True])
def test_learned_positions_are_exported_for_any_size(antialias):
    onnxruntime = pytest.importorskip('onnxruntime', reason='pip install onnx onnxruntime')
    model, file = randomised(build(**_GRID, pos_antialias=antialias)), io.BytesIO()
    axes = {0: 'N', 2: 'H', 3: 'W'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter's age, and of constants
        new = {'dynamo': False} if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
        names = dict(input_names=['x'], dynamic_axes={'x': axes}, opset_version=17)
        torch.onnx.export(model, (torch.randn(2, 3, 96, 128),), file, **names, **new)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for size in ((1, 3, 30, 97), (2, 3, 131, 70)):
        images = torch.randn(*size)
        with torch.no_grad():
            (expected,) = model(images)
        assert session.run(None, {'x': images.numpy()})[0] == pytest.approx(expected.numpy(), abs=1e-4)


def level_by_hand(level, x: torch.Tensor, scale: float) -> torch.Tensor:
    def normalised(x, norm):
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]

    def doubled(x, layer):
        """Each pixel becomes a square of four."""
        found = torch.einsum('nchw,cdij->ndhiwj', x, layer.weight)
        return found.reshape(len(x), -1, 2 * x.shape[2], 2 * x.shape[3]) + layer.bias[:, None, None]

    if scale == 4:
        first, norm, _, second = level.resize
        x = normalised(doubled(x, first), norm)
        x = doubled(x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), second)
    elif scale == 2:
        x = doubled(x, level.resize)
    elif scale == 0.5:
        rows, columns = (math.ceil(side / 2) for side in x.shape[2:])
        filled = torch.full((*x.shape[:2], 2 * rows, 2 * columns), -math.inf, dtype=x.dtype)
        filled[..., : x.shape[2], : x.shape[3]] = x
        x = filled.reshape(*x.shape[:2], rows, 2, columns, 2).amax((3, 5))
    x = normalised(torch.einsum('nchw,dc->ndhw', x, level.reduce.weight[..., 0, 0]), level.norm1)
    height, width = x.shape[2:]
    x = F.pad(x, (1, 1, 1, 1))
    weight = level.smooth.weight
    x = sum(
        torch.einsum('nchw,dc->ndhw', x[..., i : i + height, j : j + width], weight[..., i, j])
        for i in range(3)
        for j in range(3)
    )
    return normalised(x, level.norm2)


@pytest.mark.parametrize('own', [False, True], ids=['one map', 'a map for each level'])
@pytest.mark.parametrize(('patch_size', 'size'), [(16, (96, 64)), (16, (97, 131)), (14, (97, 131))])
def test_pyramid(patch_size, size, own):
    scales, options = (4, 2, 1, 0.5), dict(depth=4, patch_size=patch_size)
    indices = (0, 1, 2, 3) if own else (3,)
    model = randomised(build(**options, out_indices=indices, pyramid=dict(channels=6, scales=scales))).double()
    plain = build(**options, out_indices=indices).double()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('pyramid')})
    assert model.out_channels == (6, 6, 6, 6)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        maps, found = plain(images), model(images)
        for i, scale in enumerate(scales):
            # A map has a pixel for each stride that has begun within the image.
            shape = [math.ceil(side * scale / patch_size) for side in size]
            expected = level_by_hand(model.pyramid.levels[i], maps[i if own else 0], scale)
            expected = expected[..., : shape[0], : shape[1]]
            assert list(found[i].shape) == [2, 6, *shape]
            torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-9)


# Training ------------------------------------------------------------------------------------------------------------


def test_stochastic_depth_grows_with_the_depth_and_keeps_the_mean():
    model = randomised(build(depth=3, drop_path_rate=0.6)).train()
    assert [block.drop_path_rate for block in model.blocks] == pytest.approx([0.0, 0.3, 0.6])
    block, x = model.blocks[2], torch.randn(1, 5, 32).repeat(4000, 1, 1)
    torch.manual_seed(0)
    residual = torch.randn(1, 5, 32).repeat(4000, 1, 1)
    with torch.no_grad():
        added = block._add(x, residual, None) - x
    kept = added[:, 0, 0] != 0
    assert kept.double().mean().item() == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(added[kept], residual[kept] / 0.4, rtol=1e-4, atol=1e-5)
    assert np.isclose(added.mean(0).norm() / residual[0].norm(), 1, atol=0.1)


def test_frozen_trains_its_pyramid_alone():
    model = build(**_GRID, frozen=True, drop_path_rate=0.5, pyramid=dict(channels=8)).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith('pyramid')] == []
    assert not any(module.training for module in model.blocks.modules())
    assert model.pyramid.training
    maps = model(torch.randn(1, 3, 56, 56))
    sum(m.sum() for m in maps).backward()
    assert all((p.grad is not None) == name.startswith('pyramid') for name, p in model.named_parameters())
    model.eval()
    assert not model.pyramid.training
    (alone,) = build(**_GRID, frozen=True).train()(torch.randn(1, 3, 56, 56))
    assert not alone.requires_grad
