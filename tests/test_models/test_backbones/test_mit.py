import pytest
import torch
from mmseg.models.backbones import MixVisionTransformer

from mmrs.registry import MODELS

# embed_dims and num_layers of MiT-B0 and MiT-B5 (SegFormer, Table 6).
VARIANTS = {'b0': (32, [2, 2, 2, 2]), 'b5': (64, [3, 6, 40, 3])}


def build_pair(dtype: torch.dtype = torch.float64, **kwargs: object) -> tuple:
    """The stock backbone with random weights and biases, and ours with the same."""
    config = dict(embed_dims=16, num_layers=[2, 1, 1, 1], num_heads=[1, 2, 5, 8], **kwargs)
    torch.manual_seed(0)
    stock = MixVisionTransformer(**config)
    stock.init_weights()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = MODELS.build(dict(type='EfficientMiT', **config))
    ours.load_state_dict(stock.state_dict())
    return stock.to(dtype), ours.to(dtype)


def run(model: torch.nn.Module, images: torch.Tensor) -> tuple[list, list]:
    """Outputs, and gradients of the input and of every parameter, under one seed of drop path and dropout."""
    torch.manual_seed(1)
    images = images.clone().requires_grad_()
    outputs = model(images)
    loss = sum(
        (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum() for output in outputs
    )
    model.zero_grad()
    loss.backward()
    return outputs, [images.grad, *(parameter.grad for parameter in model.parameters())]


def assert_same(model: torch.nn.Module, reference: torch.nn.Module, images: torch.Tensor, tolerance: float) -> None:
    """Outputs agree to `tolerance` absolutely, gradients relative to the norm of each."""
    (outputs, gradients), (expected, expected_gradients) = run(model, images), run(reference, images)
    for output, other in zip(outputs, expected):
        torch.testing.assert_close(output, other, rtol=0, atol=tolerance)
    names = ['input', *dict(reference.named_parameters())]
    scale = max(gradient.norm() for gradient in expected_gradients)
    for name, gradient, other in zip(names, gradients, expected_gradients):
        # A key's bias has no gradient but rounding (softmax ignores it), hence the floor under its norm.
        error = (gradient - other).norm() / max(other.norm(), 1e-3 * scale)
        assert error < tolerance, f'gradient of {name}: {error}'


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('size', [(1, 64, 64), (2, 47, 61), (4, 33, 32)], ids=str)
def test_equals_mixvisiontransformer(size, training):
    stock, ours = build_pair(drop_path_rate=0.3)
    batch, height, width = size
    images = torch.randn(batch, 3, height, width, dtype=torch.float64)
    assert_same(ours.train(training), stock.train(training), images, 1e-12)


def test_equals_mixvisiontransformer_in_float32():
    stock, ours = build_pair(torch.float32, drop_path_rate=0.1)
    assert_same(ours, stock, torch.randn(2, 3, 96, 70), 1e-5)


@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')  # the stock backbone's call of it
@pytest.mark.parametrize(
    'options',
    [
        dict(sr_ratios=[1, 1, 1, 1]),
        dict(sr_ratios=[3, 2, 2, 2]),
        dict(qkv_bias=False),
        dict(in_channels=5),
        dict(out_indices=(1, 3)),
        dict(with_cp=True, drop_path_rate=0.3),
        dict(norm_cfg=dict(type='LN', eps=1e-3), act_cfg=dict(type='ReLU')),
    ],
    ids=lambda options: '-'.join(options),
)
def test_options_equal_mixvisiontransformer(options):
    stock, ours = build_pair(**options)
    assert_same(ours, stock, torch.randn(2, options.get('in_channels', 3), 64, 48, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize('option', ['attn_drop_rate', 'drop_rate'])
def test_dropout_is_applied_in_training_only(option):
    _, ours = build_pair(**{option: 0.5})
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert not torch.equal(ours(images)[0], ours(images)[0])
    ours.eval()
    torch.testing.assert_close(ours(images)[0], ours(images)[0], rtol=0, atol=0)


@pytest.mark.parametrize('variant', VARIANTS)
def test_published_variants_equal_mixvisiontransformer(variant):
    embed_dims, num_layers = VARIANTS[variant]
    config = dict(embed_dims=embed_dims, num_layers=num_layers, num_heads=[1, 2, 5, 8])
    stock, ours = MixVisionTransformer(**config).eval(), MODELS.build(dict(type='EfficientMiT', **config)).eval()
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for output, other in zip(ours(images), stock(images)):
            assert output.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(output, other, rtol=0, atol=1e-5)


def test_pretrained_weights_load_through_init_cfg(tmp_path):
    stock, _ = build_pair(torch.float32)
    torch.save({'state_dict': stock.state_dict()}, tmp_path / 'mit.pth')
    ours = MODELS.build(
        dict(
            type='EfficientMiT',
            embed_dims=16,
            num_layers=[2, 1, 1, 1],
            num_heads=[1, 2, 5, 8],
            init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'mit.pth')),
        )
    )
    ours.init_weights()
    for name, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_initialises_like_mixvisiontransformer():
    config = dict(embed_dims=16, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 5, 8])
    states = []
    for build in (MixVisionTransformer, MODELS.get('EfficientMiT')):
        torch.manual_seed(3)
        model = build(**config)
        model.init_weights()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_keeps_less_for_the_backward_pass():
    def kept_bytes(model):
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model(torch.randn(1, 3, 64, 64))
        return outputs, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    stock, ours = build_pair(torch.float32)
    weights = sum(parameter.nbytes for parameter in ours.parameters())
    assert kept_bytes(ours)[1] - weights < 0.8 * (kept_bytes(stock)[1] - weights)


def test_weights_can_be_frozen():
    stock, ours = build_pair()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (stock, ours):
        model.layers[:2].requires_grad_(False)
        sum(output.square().sum() for output in model(images)).backward()
    for (name, parameter), other in zip(ours.named_parameters(), stock.parameters()):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-8, atol=1e-8, msg=name)


def test_runs_under_autocast():
    stock, ours = build_pair(torch.float32, drop_path_rate=0.3)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (outputs, gradients), (expected, _) = run(ours, images), run(stock, images)
    for output, other in zip(outputs, expected):
        assert output.dtype == other.dtype
        assert (output - other).abs().mean() < 0.02 * other.abs().mean()
    assert all(gradient.isfinite().all() for gradient in gradients)
