import pytest
import torch
from mmseg.models.decode_heads import SegformerHead

from mmrs.registry import MODELS

CHANNELS = [8, 12, 20, 32]


def build_pair(dtype: torch.dtype = torch.float64, **kwargs: object) -> tuple:
    """The stock head with random weights and statistics, and ours with the same."""
    config = dict(in_channels=CHANNELS, in_index=[0, 1, 2, 3], channels=16, num_classes=6, norm_cfg=dict(type='BN'))
    config.update(kwargs)
    torch.manual_seed(0)
    stock = SegformerHead(**config)
    with torch.no_grad():
        for value in stock.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value), alpha=0.3)
    ours = MODELS.build(dict(type='EfficientSegformerHead', **config))
    assert list(ours.state_dict()) == list(stock.state_dict())
    ours.load_state_dict(stock.state_dict())
    return stock.to(dtype), ours.to(dtype)


def random_features(batch: int, height: int, width: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [
        torch.randn(batch, channels, -(-height // 2**level), -(-width // 2**level), dtype=dtype)
        for level, channels in enumerate(CHANNELS)
    ]


def run(head: torch.nn.Module, features: list) -> tuple:
    """Logits, and gradients of the features and of every parameter, under one seed of the dropout."""
    torch.manual_seed(1)
    features = [feature.clone().requires_grad_() for feature in features]
    logits = head(features)
    loss = (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum()
    head.zero_grad()
    loss.backward()
    return logits, [leaf.grad for leaf in (*features, *head.parameters()) if leaf.grad is not None]


def assert_same(ours: torch.nn.Module, stock: torch.nn.Module, features: list, tolerance: float) -> None:
    """Logits and BatchNorm buffers agree to `tolerance`, gradients relative to the norm of each."""
    (logits, gradients), (expected, expected_gradients) = run(ours, features), run(stock, features)
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
    assert len(gradients) == len(expected_gradients)
    for gradient, other in zip(gradients, expected_gradients):
        assert (gradient - other).norm() <= tolerance * other.norm()
    for (name, value), other in zip(ours.named_buffers(), stock.buffers()):
        torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('size', [(1, 16, 16), (2, 23, 13), (4, 9, 17)], ids=str)
def test_equals_segformer_head(size, memory_format, training):
    stock, ours = build_pair()
    features = [feature.contiguous(memory_format=memory_format) for feature in random_features(*size)]
    assert_same(ours.train(training), stock.train(training), features, 1e-12)


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_cfg=None),  # the fusion convolution has a bias then
        dict(norm_cfg=dict(type='GN', num_groups=4)),
        dict(align_corners=True),
        dict(interpolate_mode='bicubic'),
        dict(dropout_ratio=0),
        dict(dropout_ratio=0.5),
        dict(act_cfg=dict(type='GELU')),
        dict(in_index=[0, 2, 3], in_channels=[8, 20, 32]),
    ],
    ids=lambda options: '-'.join(options),
)
def test_options_equal_segformer_head(options):
    stock, ours = build_pair(**options)
    assert_same(ours, stock, random_features(2, 16, 24), 1e-12)


def test_frozen_norm_in_training_mode():
    stock, ours = build_pair()
    for head in (stock, ours):
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    assert_same(ours, stock, random_features(2, 16, 16), 1e-12)


def test_needs_no_concatenation():
    """What the training graph keeps stays well below the stock head's, the reason for this head."""

    def kept_bytes(head):
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        features = [feature.requires_grad_() for feature in random_features(2, 64, 64, torch.float32)]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = head(features)
        return logits, sum(kept.values())

    stock, ours = build_pair(torch.float32, channels=64)
    (_, ours_bytes), (_, stock_bytes) = kept_bytes(ours), kept_bytes(stock)
    assert ours_bytes < 0.6 * stock_bytes
