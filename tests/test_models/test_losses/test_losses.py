import math

import numpy as np
import pytest
import torch

from mmrs.models.losses import FocalLoss, GANLoss, PixelMeanCrossEntropyLoss, make_pseudo_label
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


def test_pseudo_labels_match_the_release(golden):
    cases = {name: case for name, case in golden('pseudo.pt').items() if not name.startswith('bug_')}
    assert len(cases) >= 5
    for name, case in cases.items():
        weights = case['class_weight'] and torch.tensor(case['class_weight'])
        pseudo = make_pseudo_label(case['logits'], case['threshold'], case['rare_threshold'], weights)
        assert torch.equal(pseudo.label, case['label'].squeeze(1)), name
        torch.testing.assert_close(pseudo.weight, case['weight'], rtol=1e-6, atol=0, msg=name)
        assert pseudo.confident_share.item() == pytest.approx(case['ratio'], rel=1e-6), name


@pytest.mark.parametrize('class_weight', [[1.0, 2.0, 3.0, 4.0, 5.0, 2.0], [1.01, 0.0, 1.51, 1.51, 2.01, 2.01]])
def test_pseudo_label_weights_are_a_table_look_up(golden, class_weight):
    """Integer and zero class weights, which the release confuses with class ids and with 'not confident'."""
    logits = golden('pseudo.pt')['config']['logits']
    pseudo = make_pseudo_label(logits, 0.975, 0.8, torch.tensor(class_weight))
    probability = np.exp(logits.double().numpy())
    probability /= probability.sum(1, keepdims=True)
    confidence = probability.max(1)
    share = (confidence >= 0.975).mean()
    expected = share * np.where(confidence >= 0.8, np.asarray(class_weight)[probability.argmax(1)], 0.5)
    np.testing.assert_allclose(pseudo.weight.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('class_weight', [None, torch.tensor([1.0, 1.5, 1.0, 2.0, 1.0, 3.0])])
def test_pixels_without_data_have_no_part_in_pseudo_labels(golden, class_weight):
    """As if only the valid pixels were there: their weights, and the share over them."""
    logits = golden('pseudo.pt')['config']['logits']
    valid = torch.rand(logits.shape[0], *logits.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.6
    pseudo = make_pseudo_label(logits, 0.975, 0.8, class_weight, valid)
    alone = make_pseudo_label(logits.movedim(1, 0)[None, :, valid][..., None], 0.975, 0.8, class_weight)
    assert 0 < alone.confident_share < 1
    assert pseudo.confident_share.item() == pytest.approx(alone.confident_share.item(), rel=1e-6)
    torch.testing.assert_close(pseudo.weight[valid], alone.weight[0, :, 0])
    assert not pseudo.weight[~valid].any()


def test_pseudo_labels_of_an_image_without_data(golden):
    logits = golden('pseudo.pt')['config']['logits']
    pseudo = make_pseudo_label(logits, valid=torch.zeros(logits.shape[0], *logits.shape[-2:], dtype=torch.bool))
    assert pseudo.confident_share == 0
    assert not pseudo.weight.any()


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


@pytest.mark.parametrize('class_weight', [None, [1.5, 3.0]])
def test_pseudo_labels_of_one_channel_are_those_of_two(class_weight):
    """By the definition in float64, on the logits (0, z) and their softmax."""
    z = torch.linspace(-6, 6, 2 * 9 * 7).view(2, 1, 9, 7).flip(0)
    two = np.stack((np.zeros_like(z[:, 0].double().numpy()), z[:, 0].double().numpy()), 1)
    probability = np.exp(two) / np.exp(two).sum(1, keepdims=True)
    confidence, label = probability.max(1), probability.argmax(1)
    share = (confidence >= 0.975).mean()
    assert 0 < share < 1
    table = class_weight and torch.tensor(class_weight)
    pseudo = make_pseudo_label(z, 0.975, 0.8, table)
    np.testing.assert_array_equal(pseudo.label.numpy(), label)
    assert set(label.ravel()) == {0, 1}
    assert pseudo.confident_share.item() == pytest.approx(share, rel=1e-6)
    weight = share * np.where(confidence >= 0.8, np.asarray(class_weight or [1.0, 1.0])[label], 0.5)
    np.testing.assert_allclose(pseudo.weight.numpy(), weight if class_weight else share, rtol=1e-5)


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
