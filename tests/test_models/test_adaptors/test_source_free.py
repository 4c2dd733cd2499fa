"""Methods that see the target alone: each loss by a formula of its own, and what holds for all of them."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn import functional as F

from mmrs.models.adaptors import source_free
from mmrs.models.adaptors.base import Domain
from mmrs.utils.errors import ConfigError
from tests.test_models.test_shift_logits import HEAD, MIT, built

METHODS = {
    'TENT': dict(),
    'TENT diverse': dict(diversity=0.7),
    'SHOT': dict(entropy=0.6, diversity=0.7, memory=0.0),
    'CoTTA': dict(scales=(0.5, 1.0), confidence=0.5),
}


def method(name, **options):
    model = built(name.split()[0], dict(HEAD, norm_cfg=dict(type='BN')), **METHODS[name], **options).double()
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.weight, 0.5, 2)
    if model.teacher is not None:
        model.update_teacher(0.0)
    return model.train()


def batch(number=2, labelled=False):
    """Images, and samples in which some pixels have no data."""
    images = torch.randn(number, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    samples = []
    for i in range(number):
        valid = torch.ones(1, 64, 96, dtype=torch.bool)
        valid[..., : 16 * (i + 1)] = False
        sample = SegDataSample(valid_map=PixelData(data=valid))
        if labelled:
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, 64, 96, dtype=torch.long))
        samples.append(sample)
    return images, samples


@torch.no_grad()
def predicted(model, images):
    """Probabilities ``(M, K)`` of a numpy softmax, features ``(M, D)``, at the size of the head."""
    found = []
    hook = model.decode_head.conv_seg.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    logits = model.decode_head(model.extract_feat(images)).movedim(1, -1).flatten(0, 2).numpy()
    hook.remove()
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), found[0].movedim(1, -1).flatten(0, 2).numpy()


def valid_share(samples, stride=4):
    valid = np.stack([sample.valid_map.data[0].numpy() for sample in samples]).astype(float)
    n, h, w = valid.shape
    return valid.reshape(n, h // stride, stride, w // stride, stride).mean((2, 4)).ravel()


@pytest.mark.parametrize('name', ['TENT', 'TENT diverse', 'SHOT'])
def test_entropy_and_diversity_by_hand(name):
    model, (images, samples) = method(name), batch()
    losses = model.loss(images, samples)
    p, weight = predicted(model, images)[0], valid_share(samples)
    weight = weight / weight.sum()
    entropy = -(p * np.log(p)).sum(1) @ weight
    marginal = weight @ p
    options = METHODS[name]
    assert losses['loss_entropy'].item() == pytest.approx(options.get('entropy', 1.0) * entropy)
    assert losses['share_entropy'].item() == pytest.approx(entropy / np.log(3))
    if 'diversity' in options:
        expected = options['diversity'] * (marginal * np.log(marginal)).sum()
        assert losses['loss_diversity'].item() == pytest.approx(expected)
    else:
        assert 'loss_diversity' not in losses


def test_pseudo_labels_are_of_the_nearest_prototype_and_their_loss_is_a_cross_entropy():
    model, (images, samples) = method('SHOT'), batch()
    losses = model.loss(images, samples)
    (p, features), weight = predicted(model, images), valid_share(samples)
    member = p
    for _ in range(2):
        prototypes = np.stack([(member[:, k] * weight) @ features / (member[:, k] * weight).sum() for k in range(3)])
        cosine = features @ prototypes.T / np.linalg.norm(prototypes, axis=1)
        label = cosine.argmax(1)
        member = np.eye(3)[label]
    assert len(set(label)) > 1
    expected = -np.log(p[np.arange(len(p)), label]) @ weight / weight.sum()
    assert losses['loss_pseudo'].item() == pytest.approx(0.3 * expected)
    assert losses['share_relabelled'].item() == pytest.approx((p.argmax(1) != label) @ weight / weight.sum())


def test_prototypes_are_remembered_and_a_class_without_one_is_no_label():
    model, (images, samples) = method('SHOT'), batch()
    model.memory = 0.5
    sums = []
    for shift in (0.0, 1.0):
        p, features = predicted(model, images + shift)
        sums.append((p * valid_share(samples)[:, None]).T @ features)
        model.loss(images + shift, samples)
    np.testing.assert_allclose(model.soft_sums, 0.5 * sums[0] + sums[1], rtol=1e-9)
    logits = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    logits[:, 2] = -1e9  # no pixel has any of the last class
    model.soft_sums.zero_(), model.hard_sums.zero_()
    label = model._pseudo_labels(-torch.rand(1, 8, 2, 2).double(), logits, Domain(images, None, None, []))
    assert 2 not in label


def test_a_student_learns_the_mean_over_scales_and_mirror_images_of_unsure_images_alone():
    model, (images, samples) = method('CoTTA'), batch(3)
    with torch.no_grad():
        for parameter in model.parameters():  # student, teacher and anchor are three networks
            parameter += 0.02 * torch.randn_like(parameter)

    @torch.no_grad()
    def probability(network, images, size):
        logits = F.interpolate(
            network.decode_head(network.backbone(images)), images.shape[2:], mode='bilinear', align_corners=False
        )
        return F.interpolate(logits.softmax(1), size, mode='bilinear', align_corners=False)

    weight = np.stack([sample.valid_map.data.numpy() for sample in samples]).astype(float)
    share = valid_share(samples).reshape(3, -1)
    anchor = model.anchor.network.decode_head(model.anchor.network.backbone(images)).softmax(1).amax(1).flatten(1)
    sureness = (anchor.detach().numpy() * share).sum(1) / share.sum(1)
    model.confidence = float(np.sort(sureness)[1:].mean())  # one of three is sure
    losses = model.loss(images, samples)
    taught = probability(model.teacher, images, (64, 96))
    for i in np.flatnonzero(sureness < model.confidence):
        versions = [
            probability(
                model.teacher,
                F.interpolate(images[i, None], size, mode='bilinear', align_corners=False).flip(axes),
                (64, 96),
            ).flip(axes)
            for size, axes in product(((32, 48), (64, 96)), ((), (-1,)))
        ]
        taught[i] = torch.cat(versions).mean(0)
    student = F.interpolate(model.decode_head(model.backbone(images)), (64, 96), mode='bilinear', align_corners=False)
    entropy = -(taught.numpy() * student.detach().log_softmax(1).numpy()).sum(1)
    assert losses['loss_consistency'].item() == pytest.approx((entropy * weight[:, 0]).sum() / weight.sum(), rel=1e-6)
    assert losses['share_sure'].item() == pytest.approx(1 / 3)


def test_some_weights_are_restored_in_each_step_and_no_others():
    model = method('CoTTA')
    before = {key: value.clone() for key, value in model.anchor.state_dict().items()}
    with torch.no_grad():
        for parameter in (p for part in model.taught().values() for p in part.parameters()):
            parameter += 1
    for restore, low, high in ((0.0, 0, 0), (0.2, 0.17, 0.23), (1.0, 1, 1)):
        other = copy.deepcopy(model)
        other.restore = restore
        other.update_teacher(0.999)
        same = [
            (parameter == before[f'{name}.{key}']).flatten()
            for name, part in other.taught().items()
            for key, parameter in part.named_parameters()
        ]
        assert low <= torch.cat(same).double().mean() <= high
        assert all(torch.equal(value, before[key]) for key, value in other.anchor.state_dict().items())


@pytest.mark.parametrize('name', METHODS)
def test_gradients_are_those_of_finite_differences_and_what_is_frozen_has_none(name):
    model, (images, samples) = method(name), batch()
    total = sum(value for key, value in model.loss(images, samples).items() if key.startswith('loss'))
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    gradients = dict(zip(trained, torch.autograd.grad(total, list(trained.values()))))
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    if name.startswith('TENT'):
        norms = [key for key, m in model.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))]
        assert set(trained) == {f'{key}.{own}' for key, own in product(norms, ('weight', 'bias'))}
    elif name == 'SHOT':
        assert frozen == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
    else:
        assert all(key.startswith(('teacher.', 'anchor.')) for key in frozen)
    for key in ('decode_head.fusion_conv.bn.weight', 'decode_head.convs.1.bn.bias'):
        at, found = trained[key], []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                at[1] += step
                losses = model.loss(images, samples)
                found.append(sum(value.item() for name, value in losses.items() if name.startswith('loss')))
                at[1] -= step
        assert gradients[key][1].item() == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize('name', METHODS)
def test_labels_a_source_and_pixels_without_data_have_no_part(name):
    (images, samples), (_, labelled) = batch(), batch(labelled=True)
    pair = dict(source=images + 1, target=images), dict(source=samples, target=samples)
    expected, *others, alone = (
        method(name).loss(*own) for own in ((images, samples), (images, labelled), pair, (images[:1], samples[:1]))
    )
    for other in others:
        assert all(torch.equal(other[key], value) for key, value in expected.items())
    assert all(value.isfinite() for value in alone.values())
    everywhere = method(name).loss(images, [SegDataSample(), SegDataSample()])
    assert any(not torch.equal(everywhere[key], value) for key, value in expected.items())


def test_maps_where_there_are_no_data_have_no_part_in_a_loss():
    (images, samples), maps = batch(), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    valid = torch.cat([sample.valid_map.data for sample in samples])
    seen = F.interpolate(valid[:, None].double(), maps.shape[2:], mode='area')
    target = Domain(images, valid, None, [])
    found = [
        source_free.information_losses(target, own, 1.0, 1.0)
        for own in (maps, torch.where(seen == 0, 50 * torch.randn_like(maps), maps))
    ]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize('name', METHODS)
def test_images_of_one_class_and_without_data_train_nothing_that_is_not_finite(name):
    model, (images, samples) = method(name), batch()
    with torch.no_grad():
        model.decode_head.conv_seg.bias[0] += 1e4
    for sample in (samples, [SegDataSample(valid_map=PixelData(data=torch.zeros(1, 64, 96, dtype=torch.bool)))] * 2):
        losses = model.loss(images, sample)
        total = sum(value for key, value in losses.items() if key.startswith('loss'))
        trained = [p for p in model.parameters() if p.requires_grad]
        assert all(g.isfinite().all() for g in torch.autograd.grad(total, trained))
        assert all(value.isfinite() for value in losses.values())


def test_the_mean_prediction_is_that_of_all_processes_and_its_gradient_one_processs_part(monkeypatch):
    other = torch.tensor([0.9, 0.1], dtype=torch.float64)
    monkeypatch.setattr(source_free, 'all_reduce', lambda value, _: value.copy_((value + other) / 2))
    own = torch.tensor([0.2, 0.8], dtype=torch.float64, requires_grad=True)
    mean = source_free._of_all(own)
    (gradient,) = torch.autograd.grad(-torch.special.entr(mean).sum(), own)
    together = torch.stack([own.detach(), other]).requires_grad_()
    (whole,) = torch.autograd.grad(-torch.special.entr(together.mean(0)).sum(), together)
    torch.testing.assert_close(gradient / 2, whole[0])  # data-parallel training takes the mean of two
    torch.testing.assert_close(mean.detach(), together.mean(0).detach())


def test_networks_without_what_a_method_trains_are_refused():
    hrda = dict(HEAD, type='HRDAHead', base='EfficientSegformerHead', attention=dict(channels=4))
    with pytest.raises(ConfigError, match='conv_seg'):
        built('SHOT', hrda, backbone=dict(MIT, type='MultiResolution', base='EfficientMiT'))
    for name, options in (('TENT', dict(diversity=-1)), ('SHOT', dict(memory=2)), ('CoTTA', dict(restore=1.5))):
        with pytest.raises(ConfigError, match=next(iter(options))):
            built(name, **options)
