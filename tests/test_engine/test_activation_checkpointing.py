"""Activations that are computed again in the backward pass change no number."""

import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.autograd.graph import saved_tensors_hooks

from mmrs.models.backbones import ResNetV1c
from mmrs.registry import MODELS

BACKBONES = dict(
    mit=dict(
        type='EfficientMiT', embed_dims=8, num_layers=[2, 1, 1, 1], num_heads=[1, 2, 2, 4], drop_rate=0.2,
        attn_drop_rate=0.2, drop_path_rate=0.3,
    ),
    resnet18=dict(type='ResNetV1c', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')),
    resnet50=dict(
        type='ResNetV1c', depth=50, stem_channels=4, base_channels=4, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),
        norm_cfg=dict(type='BN'), contract_dilation=True,
    ),
)  # fmt: skip


def build(name, with_cp, **changes):
    init_default_scope('mmrs')
    torch.manual_seed(0)
    model = MODELS.build({**BACKBONES[name], 'with_cp': with_cp, **changes})
    model.train()
    return model


def steps(model, number=2):
    """Losses, gradients and the state after some steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(1)
    found = []
    for _ in range(number):
        loss = sum(stage.square().mean() for stage in model(torch.randn(2, 3, 64, 64)))
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in model.parameters())]
        optimizer.step()
        optimizer.zero_grad()
    return [*found, *model.state_dict().values()]


def saved_bytes(model, images):
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images)
    return total


@pytest.mark.parametrize('name', BACKBONES)
def test_losses_gradients_and_running_statistics_are_bitwise_the_same(name):
    plain, recomputed = steps(build(name, False)), steps(build(name, True))
    assert len(plain) == len(recomputed) > 100
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed))


@pytest.mark.parametrize('name', BACKBONES)
def test_it_keeps_less(name):
    images = torch.randn(2, 3, 64, 64)
    assert saved_bytes(build(name, True), images) < 0.6 * saved_bytes(build(name, False), images)


def test_copies_recompute_themselves():
    original = build('resnet18', True)
    copied = copy.deepcopy(original)
    torch.nn.init.zeros_(original.layer1[0].conv1.weight)
    plain = build('resnet18', False)
    assert all(torch.equal(a, b) for a, b in zip(steps(copied), steps(plain)))


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_it_is_mmsegs_network(name):
    own = build(name, False)
    stock = build(name, False, type='mmseg.ResNetV1c')
    stock.load_state_dict(own.state_dict())
    assert isinstance(own, ResNetV1c)
    assert not isinstance(stock, ResNetV1c)
    assert all(torch.equal(a, b) for a, b in zip(steps(own, 1), steps(stock, 1)))


def test_norms_in_evaluation_mode_stay_in_it():
    model = build('resnet18', True, norm_eval=True)
    before = copy.deepcopy(dict(model.named_buffers()))
    sum(stage.sum() for stage in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_nothing_is_recomputed_without_a_graph():
    model = build('resnet18', True)
    with torch.no_grad():
        assert saved_bytes(model, torch.randn(1, 3, 64, 64)) == 0
