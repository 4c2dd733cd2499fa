import math

import numpy as np
import pytest
import torch

from mmrs.models.losses import FocalLoss, GANLoss, PixelMeanCrossEntropyLoss
from mmrs.utils import ConfigError


def cross_entropy_reference(logits, label, class_weight, pixel_weight):
    """The definition, in float64, pixel by pixel."""
    logits = np.asarray(logits, dtype=np.float64)
    total = 0.0
    for n, h, w in np.ndindex(*label.shape):
        y = int(label[n, h, w])
        if y != 255:
            z = logits[n, :, h, w]
            total += class_weight[y] * pixel_weight[n, h, w] * (np.log(np.exp(z - z.max()).sum()) + z.max() - z[y])
    return total / label.size


@pytest.mark.parametrize('class_weight', [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize('weighted', [False, True])
def test_cross_entropy_follows_its_definition(class_weight, weighted):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5, 4))
    label = rng.integers(0, 3, (2, 5, 4))
    label[0, :2] = 255
    weight = rng.random((2, 5, 4)) if weighted else np.ones((2, 5, 4))
    expected = cross_entropy_reference(logits, label, class_weight or [1.0] * 3, weight)
    loss = PixelMeanCrossEntropyLoss(class_weight)
    value = loss(torch.tensor(logits), torch.tensor(label), weight=torch.tensor(weight) if weighted else None)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_names_a_wrong_number_of_class_weights():
    with pytest.raises(ConfigError, match='class_weight has 2 entries, but the logits have 3'):
        PixelMeanCrossEntropyLoss([1.0, 1.0])(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))


def test_gan_losses_match_the_release(golden):
    recorded = golden('ganloss.pt')
    types = set()
    for name, case in recorded['cases'].items():
        gan_type, weight, real, discriminator = name.split('|')
        types.add(gan_type)
        loss = GANLoss(gan_type, loss_weight=float(weight[1:]), discriminator_weight=1.0)
        score = recorded['x'].clone().requires_grad_()
        value = loss(score, real == 'real1', discriminator == 'disc1')
        (gradient,) = torch.autograd.grad(value, score)
        torch.testing.assert_close(value, case['value'], rtol=1e-6, atol=1e-7, msg=name)
        torch.testing.assert_close(gradient, case['grad'], rtol=1e-5, atol=1e-8, msg=name)
    assert types == {'vanilla', 'lsgan', 'hinge', 'wgan', 'wgan-logistic-ns', 'L1'}


def test_gan_loss_weighs_both_sides_alike_unless_told():
    score = torch.full((1, 1, 2, 2), 0.3)
    assert GANLoss(loss_weight=0.005)(score, True, is_discriminator=True).item() == pytest.approx(
        0.005 * math.log1p(math.exp(-0.3))
    )


def test_gan_loss_uses_its_label_values():
    loss = GANLoss('lsgan', real_label_val=0.9, fake_label_val=0.2)
    score = torch.zeros(1, 1, 2, 2)
    assert loss(score, True).item() == pytest.approx(0.81)
    assert loss(score, False).item() == pytest.approx(0.04)
    assert loss.boundary == pytest.approx(0.55)


def test_unknown_gan_type_lists_what_exists():
    with pytest.raises(ConfigError, match='wgan-logistic-ns'):
        GANLoss('wgan-gp')


# Binary segmentation by one channel ---------------------------------------------------------------------------------


@pytest.mark.parametrize('class_weight', [None, [0.5, 3.0]])
def test_cross_entropy_of_one_channel_is_that_of_the_sigmoid(class_weight):
    rng = np.random.default_rng(1)
    z, label = rng.normal(0, 4, (2, 5, 4)), rng.integers(0, 2, (2, 5, 4))
    label[0, :2] = 255
    weight = rng.random((2, 5, 4))
    p = 1 / (1 + np.exp(-z))
    by_class = class_weight or [1.0, 1.0]
    terms = -by_class[1] * np.log(p) * (label == 1) - by_class[0] * np.log(1 - p) * (label == 0)
    loss = PixelMeanCrossEntropyLoss(class_weight)
    value = loss(torch.tensor(z)[:, None], torch.tensor(label), weight=torch.tensor(weight))
    assert value.item() == pytest.approx((terms * weight).sum() / label.size, rel=1e-12)


# Focal loss ---------------------------------------------------------------------------------------------------------


def focal_reference(logits, label, gamma, alpha, class_weight, weight):
    """The definition in float64: every pixel and class is a question of its own."""
    total = 0.0
    for n, k, h, w in np.ndindex(*logits.shape):
        if label[n, h, w] == 255:
            continue
        p = 1 / (1 + np.exp(-logits[n, k, h, w]))
        yes = label[n, h, w] == (k if logits.shape[1] > 1 else 1)
        q, a = (p, alpha[k]) if yes else (1 - p, 1 - alpha[k])
        total += weight[n, h, w] * class_weight[k] * a * (1 - q) ** gamma * -np.log(q)
    return total / logits.size


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(
    ('gamma', 'alpha', 'class_weight'), [(2.0, 0.5, None), (0.0, 0.25, None), (1.5, [0.2, 0.5, 0.9], [1.0, 2.0, 0.5])]
)
def test_focal_loss_follows_its_definition(channels, gamma, alpha, class_weight):
    rng = np.random.default_rng(2)
    logits, label = rng.normal(0, 2, (2, channels, 4, 5)), rng.integers(0, max(channels, 2), (2, 4, 5))
    label[1, 2:] = 255
    weight = rng.random((2, 4, 5))
    alphas = alpha[:channels] if isinstance(alpha, list) else [alpha] * channels
    weights = None if class_weight is None else class_weight[:channels]
    loss = FocalLoss(gamma=gamma, alpha=alpha if isinstance(alpha, float) else alphas, class_weight=weights)
    inputs = torch.tensor(logits, requires_grad=True)
    value = loss.double()(inputs, torch.tensor(label), weight=torch.tensor(weight))
    arguments = gamma, np.float32(alphas).astype(float), weights or [1.0] * channels
    assert value.item() == pytest.approx(focal_reference(logits, label, *arguments, weight), rel=1e-9)
    ones = np.ones(label.shape)
    assert loss(inputs, torch.tensor(label)).item() == pytest.approx(
        focal_reference(logits, label, *arguments, ones), rel=1e-9
    )
    # The gradient, by finite differences.
    value.backward()
    step = 1e-6
    for place in [(0, 0, 1, 2), (1, channels - 1, 0, 3), (1, 0, 3, 3)]:
        sides = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[place] += sign * step
            sides.append(focal_reference(moved, label, *arguments, weight))
        assert inputs.grad[place].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-10)


def test_focal_loss_is_finite_for_extreme_logits():
    logits = torch.tensor([[[[200.0, -200.0]], [[-200.0, 200.0]]]], requires_grad=True)
    value = FocalLoss(gamma=0.5)(logits, torch.tensor([[[0, 0]]]))
    value.backward()
    assert value.item() == pytest.approx(0.5 * 2 * 200 / 4)
    assert logits.grad.isfinite().all()
