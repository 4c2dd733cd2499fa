from pathlib import Path

import pytest
import torch
from mmcv.cnn import ConvModule
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests.recordings import unpack

GOLDEN = torch.load(Path(__file__).resolve().parents[2] / 'data/golden/uda_daformer_head.pt', weights_only=True)
WIDTHS = [4, 6, 8, 10]


def build(**options):
    norm = dict(type='BN', requires_grad=True)
    config = dict(in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=8, embed_dims=6, num_classes=5, norm_cfg=norm)
    return MODELS.build(dict(type='DAFormerHead', **{**config, 'dropout_ratio': 0.0, **options}))


@pytest.mark.parametrize('fusion', GOLDEN['cases'])
def test_equals_the_release(fusion):
    case, head = unpack(GOLDEN['cases'][fusion]), build(fusion=fusion)
    missing, unexpected = head.load_state_dict(case['state'], strict=False)
    assert not unexpected
    assert all('num_batches_tracked' in name for name in missing)
    inputs = [x.clone().requires_grad_() for x in GOLDEN['inputs']]
    out = head.train()(inputs)
    close = dict(rtol=0, atol=5e-6)
    torch.testing.assert_close(out, case['out_train'], **close)
    loss = out.square().sum()
    torch.testing.assert_close(loss, case['loss_sum_of_squares'], rtol=1e-6, atol=0)
    loss.backward()
    for x, expected in zip(inputs, case['grad_inputs'] or ()):
        torch.testing.assert_close(x.grad, expected, rtol=0, atol=5e-6 * expected.abs().max().clamp(min=1).item())
    for name, expected in case['buffers_after_train'].items():
        torch.testing.assert_close(head.get_buffer(name), expected, **close)
    head.load_state_dict(case['state'], strict=False)
    torch.testing.assert_close(head.eval()(GOLDEN['inputs']), case['out_eval'], **close)


@pytest.mark.parametrize(
    ('fusion', 'shapes'), [('sepaspp', 'shapes_mitb5_19_classes'), ('conv1', 'shapes_hrda_attention')]
)
def test_published_checkpoints_load(fusion, shapes):
    head = build(fusion=fusion, in_channels=[64, 128, 320, 512], channels=256, embed_dims=256, num_classes=19)
    state = head.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == dict(GOLDEN[shapes])
    if fusion == 'sepaspp':
        assert sum(parameter.numel() for parameter in head.parameters()) == GOLDEN['n_parameters']


@pytest.mark.parametrize('fusion', ['sepaspp', 'aspp'])
def test_context_of_the_last_level_alone(fusion):
    """Far from a pixel, only what the last level shows changes its logits."""
    head = build(fusion=fusion, context='last').eval()
    inputs = [torch.randn(1, width, 48, 48) for width in WIDTHS]
    for level, reaches in enumerate((False, False, False, True)):
        changed = [x.clone() for x in inputs]
        changed[level][..., 24 + 18, 24] += 10
        # Sums may run in another order: depending on where a tensor lies in memory.
        difference = F.threshold((head(changed) - head(inputs)).abs().amax(1)[0], 1e-6, 0)
        assert difference[42, 24] > 0
        assert (difference[24, 24] > 0) == reaches
        assert reaches or difference.count_nonzero() == 1


@pytest.mark.parametrize('options', [dict(norm_cfg=None), dict(norm_cfg=None, align_corners=True)])
@pytest.mark.parametrize('fusion', ['sepaspp', 'aspp', 'conv1'])
def test_what_runs_at_each_resolution_equals_what_is_concatenated(fusion, options):
    """The paper's order, written down: embed, resize, concatenate, convolve."""
    head = build(fusion=fusion, **options).double()
    inputs = [torch.randn(2, width, 24 // 2**i, 20 // 2**i).double() for i, width in enumerate(WIDTHS)]
    levels = [torch.einsum('nchw,ec->nehw', x, layer.proj.weight) for x, layer in zip(inputs, head.embed_layers)]
    levels = [level + layer.proj.bias[:, None, None] for level, layer in zip(levels, head.embed_layers)]
    resize = dict(size=(24, 20), mode='bilinear', align_corners=head.align_corners)
    together = torch.cat([F.interpolate(level, **resize) for level in levels], 1)
    if isinstance(head.fuse_layer, ConvModule):
        fused = head.fuse_layer(together)
    else:
        branches = [branch(together) for branch in head.fuse_layer.aspp_modules]
        fused = head.fuse_layer.bottleneck(torch.cat(branches, 1))
    torch.testing.assert_close(head(inputs), head.conv_seg(fused), rtol=0, atol=1e-12)


def test_what_depthwise_convolutions_yield_is_not_kept():
    head, kept = build(norm_cfg=dict(type='BN')), {}
    inputs = [torch.randn(2, width, 32 // 2**i, 32 // 2**i) for i, width in enumerate(WIDTHS)]

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = head(inputs)
    assert out.requires_grad
    assert list(kept.values()).count(2 * 24 * 32 * 32 * 4) == 1  # bytes: all levels together


@pytest.mark.parametrize(('key', 'value'), [('fusion', 'isa'), ('context', 'first')])
def test_unknown(key, value):
    with pytest.raises(ConfigError, match=rf'decode_head.{key} is .{value}'):
        build(**{key: value})
