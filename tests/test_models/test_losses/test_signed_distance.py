import math

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrs.models.losses.probing import LossProbe
from mmrs.models.losses.signed_distance import SignedDistanceLoss, signed_distances
from mmrs.registry import MODELS
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY


def patches(seed, shape, classes=3, void=0.05, size=5):
    """Labels of a few rectangles, with pixels of none."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (shape[0] // size + 1, shape[1] // size + 1))
    label = small.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]
    label[rng.random(shape) < void] = 255
    return torch.from_numpy(label)


def by_definition(label, classes, truncation):
    """Distances and what is known of them, pixel by pixel in float64."""
    label, (height, width) = label.numpy(), label.shape
    distances, known = np.zeros((classes, height, width)), np.zeros((classes, height, width), bool)
    ring = [(y, x) for y in (-1, height) for x in range(-1, width + 1)]
    ring += [(y, x) for y in range(height) for x in (-1, width)]
    unknown = np.array([*np.argwhere(label == 255), *ring])
    for y, x in np.argwhere(label != 255):
        to_unknown = np.hypot(*(unknown - (y, x)).T).min() - 0.5
        for k in range(classes):
            mine = label[y, x] == k
            other = np.argwhere((label != k) & (label != 255) if mine else label == k)
            far = np.hypot(*(other - (y, x)).T).min() - 0.5 if len(other) else math.inf
            far = min(far, truncation)
            distances[k, y, x], known[k, y, x] = far if mine else -far, far <= to_unknown
    return distances, known


@pytest.mark.parametrize('truncation', [1, 3.5, 6])
def test_distances_are_those_of_the_definition(truncation):
    for seed in range(3):
        label = patches(seed, (19, 23), void=0.02 * seed)
        distances, known = signed_distances(label[None], 4, truncation)  # the last class is nowhere
        expected, expected_known = by_definition(label, 4, truncation)
        assert (known[0].numpy() == expected_known).all()
        assert expected_known.mean() > 0.2
        np.testing.assert_allclose(distances[0].numpy()[expected_known], expected[expected_known], atol=1e-5)


def test_what_is_known_is_the_same_in_crops_and_flips():
    label = patches(0, (60, 64), void=0.004, size=16)[None]
    whole, known = signed_distances(label, 3, 8)
    flipped, known_flipped = signed_distances(label.flip(-1), 3, 8)
    assert torch.equal(flipped.flip(-1)[known], whole[known])
    assert torch.equal(known_flipped.flip(-1), known)
    crop, known_crop = signed_distances(label[:, 13:50, 20:60], 3, 8)
    there, known_there = whole[..., 13:50, 20:60], known[..., 13:50, 20:60]
    assert known_there[known_crop].all()
    assert torch.equal(crop[known_crop], there[known_crop])
    assert 0.2 < known_crop.sum() / known_there.sum() < 1


def test_loss_and_gradient_by_hand():
    label, (n, k, h, w) = torch.stack([patches(i, (18, 20), void=0.03) for i in range(2)]), (2, 3, 18, 20)
    logits = torch.randn(n, k, h, w, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(n, h, w, dtype=torch.float64)
    loss = SignedDistanceLoss(truncation=4, loss_weight=0.3)(logits, label, weight=weight)
    loss.backward()
    parts = [by_definition(own, 3, 4) for own in label]
    target, known = (np.stack([part[i] for part in parts]) for i in range(2))
    rest = logits.detach().numpy() - target / 4
    factor = 0.3 * known * weight.numpy()[:, None] / (n * k * h * w)
    assert loss.item() == pytest.approx((factor * abs(rest)).sum(), rel=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), factor * np.sign(rest), atol=1e-12)
    assert not logits.grad.movedim(1, -1)[label == 255].any()


def test_two_halves_of_a_batch_are_the_batch():
    label, logits = torch.stack([patches(i, (18, 20), void=0.2 * i) for i in range(2)]), torch.randn(2, 3, 18, 20)
    loss = SignedDistanceLoss(truncation=4)
    halves = [loss(logits[i : i + 1], label[i : i + 1]) for i in range(2)]
    assert loss(logits, label).item() == pytest.approx(torch.stack(halves).mean().item(), rel=1e-6)


def test_one_channel_is_the_second_of_two_classes():
    label, logits = patches(2, (18, 20), classes=2)[None], torch.randn(1, 2, 18, 20)
    loss = SignedDistanceLoss(truncation=4)
    other = logits.clone()
    other[:, 0] = signed_distances(label, 2, 4)[0][:, 0] / 4  # no error in the first
    assert loss(logits[:, 1:], label).item() == pytest.approx(2 * loss(other, label).item(), rel=1e-6)


def test_images_without_labels_or_boundaries():
    loss = SignedDistanceLoss(truncation=4)
    logits = torch.randn(1, 3, 18, 20, requires_grad=True)
    assert loss(logits, torch.full((1, 18, 20), 255)).item() == 0
    distances, known = signed_distances(torch.ones(1, 18, 20, dtype=torch.long), 3, 4)
    inner = torch.zeros(18, 20, dtype=torch.bool)
    inner[4:-4, 4:-4] = True  # centres at least 4.5 px from the nearest pixel outside
    assert (known == inner).all()
    assert (distances[:, 1] == 4).all()
    assert (distances[:, [0, 2]] == -4).all()


@pytest.mark.parametrize('channels', [1, 2, 6])
def test_it_is_a_loss_that_heads_can_have(channels):
    probe = LossProbe(SignedDistanceLoss(), max(channels, 2), channels, 255, 'loss_decode')
    probe.require_sense()
    assert probe.honours_ignored()
    assert probe.honours_weights()


@pytest.mark.parametrize('options', [dict(truncation=0.5), dict(truncation=1000), dict(loss_weight=-1)])
def test_numbers_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        SignedDistanceLoss(**options)


def test_class_prior_leaves_it_alone(tmp_path):
    (tmp_path / 'leaf.py').write_text(
        f"_base_ = ['{REPOSITORY}/configs/_base_/tasks/synthetic.py', "
        f"'{REPOSITORY}/configs/_base_/networks/segformer_r18_distance.py', "
        f"'{REPOSITORY}/configs/source_only/method.py', '{REPOSITORY}/configs/_base_/schedules/adamw_600.py']\n"
        'class_prior = dict(tau=1.0)\n'
    )
    model = load_config(tmp_path / 'leaf.py').model
    assert model.decode_head.loss_decode.type == 'PriorNeutralLoss'
    assert model.auxiliary_head.loss_decode.type == 'SignedDistanceLoss'


def network(auxiliary):
    """A small network, with the head of the configuration or without it."""
    model = load_config(
        REPOSITORY / 'configs/source_only/method.py', task='synthetic', network='segformer_r18_distance'
    ).model.to_dict()
    backbone = dict(model['backbone'], in_channels=3, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'))
    head = dict(in_channels=[8, 16, 32, 64], num_classes=3, norm_cfg=dict(type='BN'), channels=8)
    heads = dict(decode_head=dict(model['decode_head'], loss_decode=dict(type='PixelMeanCrossEntropyLoss'), **head))
    if auxiliary:
        heads['auxiliary_head'] = model['auxiliary_head'] | head
    return MODELS.build(dict(model, backbone=backbone, **{'auxiliary_head': None, **heads}))


def test_it_learns_and_prediction_does_without_it():
    torch.manual_seed(0)
    model = network(True)
    labels = torch.stack([patches(i, (64, 64), void=0.01, size=16) for i in range(2)])
    images = torch.stack([labels == k for k in range(3)], 1).float() + 0.1 * torch.randn(2, 3, 64, 64)
    samples = pseudo_collate([SegDataSample(gt_sem_seg=PixelData(data=own[None])) for own in labels])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    values = []
    for _ in range(30):
        losses = model.loss(images, samples)
        values.append(losses['aux.loss_distance'].item())
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    assert values[-1] < 0.6 * values[0]
    assert all(parameter.grad.any() for parameter in model.auxiliary_head.parameters())
    plain = network(False)
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert {key.split('.')[0] for key in missing.unexpected_keys} == {'auxiliary_head'}
    model.eval(), plain.eval()
    model.auxiliary_head.forward = None  # it would fail
    with torch.no_grad():
        metas = [dict(img_shape=(64, 64))] * 2
        assert torch.equal(model.encode_decode(images, metas), plain.encode_decode(images, metas))
