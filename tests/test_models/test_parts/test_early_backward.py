import gc
import weakref

import pytest
import torch
from torch import nn

from mmrs.models.parts import early_backward


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.ModuleDict(dict(first=nn.Linear(3, 4), second=nn.Linear(4, 2), unused=nn.Linear(2, 2)))


def losses(network, inputs):
    out = network['second'](network['first'](inputs).tanh())
    return dict(loss_a=out.square().mean(), loss_b=network['first'].weight.abs().sum())


def gradients(network, total):
    network.zero_grad()
    total.backward()
    return [parameter.grad for parameter in network.parameters()]


def test_one_backward_pass_of_all_parts_gives_the_same_gradients(network):
    inputs = torch.randn(2, 5, 3)
    network['first'].bias.requires_grad_(False)
    expected = gradients(network, 3 * sum(sum(losses(network, x).values()) for x in inputs))
    parts = [early_backward(losses(network, x), network.parameters()) for x in inputs]
    for part, x in zip(parts, inputs):
        assert {name: value.item() for name, value in part.items()} == pytest.approx(
            {name: value.item() for name, value in losses(network, x).items()}
        )
    found = gradients(network, 3 * sum(sum(part.values()) for part in parts))
    assert [gradient is None for gradient in found] == [gradient is None for gradient in expected]
    assert sum(gradient is None for gradient in found) == 3
    for gradient, other in zip(found, expected):
        if gradient is not None:
            torch.testing.assert_close(gradient, other)


def test_activations_are_freed(network):
    hidden = network['first'](torch.randn(5, 3))
    alive = weakref.ref(hidden)
    part = early_backward(dict(loss_a=network['second'](hidden.tanh()).sum()), network.parameters())
    del hidden
    gc.collect()
    assert alive() is None
    part['loss_a'].backward()


def test_what_is_not_finite_reaches_the_gradients(network):
    part = early_backward(losses(network, torch.randn(5, 3)), network.parameters())
    part['loss_a'].backward(torch.tensor(float('nan')))
    assert network['first'].weight.grad.isnan().all()


@pytest.mark.parametrize(('dtype', 'early'), [(torch.bfloat16, True), (torch.float16, False)])
def test_mixed_precision(network, dtype, early):
    """Scaled gradients need the graph: those of float16, which are too small before they are scaled."""
    if dtype == torch.float16 and not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('float16 on a CPU needs torch 2.3')
    inputs = torch.randn(5, 3)
    with torch.autocast('cpu', dtype):
        given = losses(network, inputs)
        part = early_backward(given, network.parameters())
        assert (part['loss_b'] is not given['loss_b']) == early
        total = sum(part.values())
        expected = sum(losses(network, inputs).values())
    found, expected = gradients(network, total), gradients(network, expected)
    for gradient, other in zip(found[:4], expected):
        torch.testing.assert_close(gradient, other)


def test_without_gradients(network):
    with torch.no_grad():
        given = losses(network, torch.randn(5, 3))
        assert early_backward(given, network.parameters()) == given
