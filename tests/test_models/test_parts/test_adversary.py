import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmrs.models.parts import Adversary
from mmrs.models.parts.adversary import self_information, softmax, spatial_softmax
from mmrs.utils import ConfigError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# What discriminators see ---------------------------------------------------------------------------------------------


def test_spatial_softmax_matches_the_release(golden):
    recorded = golden('sw_softmax.pt')
    x = recorded['x'].clone().requires_grad_()
    y = spatial_softmax(x)
    torch.testing.assert_close(y, recorded['y'], rtol=1e-6, atol=1e-8)
    (gradient,) = torch.autograd.grad((y**2).sum(), x)
    torch.testing.assert_close(gradient, recorded['grad_x'], rtol=1e-5, atol=1e-8)


def probabilities(logits):
    """The softmax over the classes, in float64."""
    z = np.asarray(logits, dtype=np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize('classes', [2, 5])
def test_self_information_follows_its_definition(classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, classes, 3, 4))
    p = probabilities(logits)
    expected = -p * np.log2(p) / math.log2(classes)
    np.testing.assert_allclose(self_information(torch.tensor(logits)), expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(softmax(torch.tensor(logits)), p, rtol=1e-10, atol=1e-14)
    # A pixel that might be anything has the entropy 1.
    assert self_information(torch.zeros(1, classes, 1, 1)).sum().item() == pytest.approx(1)


def test_self_information_and_its_gradient_match_the_release(golden):
    for kind, recorded in golden('uda_entropy_maps.pt').items():
        logits = recorded['logits'].clone().requires_grad_()
        information = self_information(logits)
        loss = information.sum(1).mean()
        loss.backward()
        found = dict(probability=softmax(logits), weighted_self_information=information, minent_loss=loss)
        found.update(entropy_map=information.sum(1), minent_grad=logits.grad)
        for name, value in found.items():
            torch.testing.assert_close(value, recorded[name], rtol=0, atol=1e-6, msg=f'{kind}: {name}')
        assert recorded['minent_grad'].abs().max() > 1e-3


def test_gradient_of_self_information_by_finite_differences():
    logits = np.random.default_rng(1).normal(0, 2, (1, 3, 2, 2))
    factor = np.random.default_rng(2).normal(size=logits.shape)
    inputs = torch.tensor(logits, requires_grad=True)
    (self_information(inputs) * torch.tensor(factor)).sum().backward()
    for place in np.ndindex(*logits.shape):
        sides = []
        for step in (1e-6, -1e-6):
            moved = logits.copy()
            moved[place] += step
            p = probabilities(moved)
            sides.append((factor * -p * np.log2(p) / math.log2(3)).sum())
        assert inputs.grad[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_self_information_of_logits_that_are_sure():
    logits = torch.tensor([300.0, -300.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    value = self_information(logits)
    value.sum().backward()
    assert value.abs().max() == 0
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('of', [softmax, self_information])
def test_one_output_is_two_classes(of):
    z = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(of(z), of(torch.cat((torch.zeros_like(z), z), 1)))


# Losses --------------------------------------------------------------------------------------------------------------


def adversary(input_map='spatial_softmax', **gan_loss):
    discriminator = dict(type='PatchDiscriminator', in_channels=3, num_conv=1, base_channels=4)
    gan_loss = dict(type='GANLoss', loss_weight=0.3, **gan_loss)
    return Adversary(dict(output=discriminator), gan_loss, input_map).double()


def maps(*sizes):
    return [torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True) for size in sizes]


@pytest.mark.parametrize(
    ('input_map', 'function'),
    [('spatial_softmax', spatial_softmax), ('softmax', softmax), ('self_information', self_information)],
)
@pytest.mark.parametrize('sizes', [((8, 8), (8, 8)), ((8, 9), (12, 8))])
def test_losses_by_hand(input_map, function, sizes):
    model = adversary(input_map, discriminator_weight=2.0)
    (real, fake), images = maps(*sizes), [(4 * h, 4 * w) for h, w in sizes]
    losses = model.losses('output', real, fake, images)
    assert list(losses) == ['loss_adv_output', 'loss_disc_output_real', 'loss_disc_output_fake', 'disc_accuracy_output']
    scores = [model.output(function(features)).detach() for features in (real, fake)]
    large = [F.interpolate(score, size, mode='bilinear').numpy() for score, size in zip(scores, images)]
    assert losses['loss_adv_output'].item() == pytest.approx(0.3 * np.log1p(np.exp(-large[1])).mean())
    assert losses['loss_disc_output_real'].item() == pytest.approx(2 * np.log1p(np.exp(-large[0])).mean())
    assert losses['loss_disc_output_fake'].item() == pytest.approx(2 * np.log1p(np.exp(large[1])).mean())
    right = [(scores[0].numpy() > 0).mean(), (scores[1].numpy() <= 0).mean()]
    assert losses['disc_accuracy_output'].item() == pytest.approx(np.mean(right))


def test_each_loss_moves_its_own_side():
    model, (real, fake) = adversary(), maps((8, 8), (8, 8))
    losses = model.losses('output', real, fake, [(32, 32)] * 2, generator='loss_adv_t2s')
    parameters = list(model.parameters())

    def moved(name):
        gradients = torch.autograd.grad(losses[name], [real, fake, *parameters], retain_graph=True, allow_unused=True)
        return [g is not None and bool(g.abs().sum() > 0) for g in gradients]

    assert moved('loss_adv_t2s')[:2] == [False, True]
    assert not any(moved('loss_adv_t2s')[2:])
    for name in ('loss_disc_output_real', 'loss_disc_output_fake'):
        assert moved(name)[:2] == [False, False]
        assert any(moved(name)[2:])
    assert not losses['disc_accuracy_output'].requires_grad


def test_weights_are_named_after_the_discriminator():
    assert all(name.startswith('output.layers.') for name in adversary().state_dict())


def test_maps_that_are_too_small():
    real, fake = maps((8, 8), (8, 5))
    with pytest.raises(ConfigError, match=r'a crop of 32 x 20 px .* 8 x 5.* at least 24 px'):
        adversary().losses('output', real, fake, [(32, 32), (32, 20)])


def test_maps_of_another_width():
    adversary().try_on('output', torch.zeros(1, 3, 1, 1, dtype=torch.float64))
    with pytest.raises(RuntimeError):
        adversary().try_on('output', torch.zeros(1, 4, 1, 1, dtype=torch.float64))


def test_unknown_input_map():
    with pytest.raises(ConfigError, match="'entropy'; one of spatial_softmax, softmax, self_information"):
        adversary('entropy')
