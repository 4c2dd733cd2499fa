import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmrs.models.losses import GANLoss
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests import parity
from tests.conformance import AUXILIARY, Trainer
from tests.recordings import enlarged

GOLDEN = Path(__file__).resolve().parents[2] / 'data' / 'golden'


# Whole steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['uda_advent_steps.pt', 'uda_adaptsegnet_steps.pt'])
def test_training_matches_the_releases(name, capsys):
    assert parity.main([str(GOLDEN / name)]) == 0, capsys.readouterr().out


class Alternating:
    """The published order of passes: source, target, discriminator; each with a backward pass, and one step each.

    One level, least squares, in float64, with widths other than the recordings'.
    """

    def __init__(self, generator):
        self.network = nn.ModuleDict(dict(b1=nn.Conv2d(3, 5, 3, 2, 1), b2=nn.Conv2d(5, 7, 3, 2, 1)))
        self.network.update(dict(head1=nn.Conv2d(5, 4, 1), head2=nn.Conv2d(7, 4, 1)))
        layers = [nn.Conv2d(a, b, 4, 2, 1) for a, b in ((4, 2), (2, 4), (4, 8), (8, 16), (16, 1))]
        self.layers = nn.ModuleList(layers)
        for p in (*self.network.parameters(), *self.layers.parameters()):
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / math.sqrt(p[0].numel() + 1)
        heads = [*self.network.head1.parameters(), *self.network.head2.parameters()]
        trunk = [*self.network.b1.parameters(), *self.network.b2.parameters()]
        groups = [dict(params=trunk), dict(params=heads, lr=2.5e-3)]
        self.sgd = torch.optim.SGD(groups, lr=2.5e-4, momentum=0.9, weight_decay=5e-4)
        self.adam = torch.optim.Adam(self.layers.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def state(self):
        return {name: value.float().clone() for name, value in self.network.state_dict().items()}

    def own(self):
        return {name: value.float().clone() for name, value in self.layers.state_dict().items()}

    def predict(self, images):
        net = self.network
        logits = net.head2(net.b2(net.b1(images).relu()).relu())
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=True)

    def score(self, logits):
        score = logits.softmax(1)
        for layer in self.layers[:-1]:
            score = F.leaky_relu(layer(score), 0.2)
        return self.layers[-1](score)

    def step(self, source, label, target, gradients):
        self.sgd.zero_grad(), self.adam.zero_grad()
        of_source = self.predict(source)
        seg = F.cross_entropy(of_source, label, ignore_index=255)
        seg.backward()
        of_target = self.predict(target)
        adversarial = self.score(of_target).square().mean()
        (0.01 * adversarial).backward()
        gradients.update({n: p.grad.float() for n, p in self.network.named_parameters() if p.grad is not None})
        self.adam.zero_grad()
        halves = self.score(of_source.detach()).square().mean(), (self.score(of_target.detach()) - 1).square().mean()
        (halves[0] / 2).backward(), (halves[1] / 2).backward()
        self.sgd.step(), self.adam.step()
        return dict(loss_seg2=seg, loss_adv2=adversarial, loss_D2=(halves[0] + halves[1]) / 2)


def test_a_recording_of_other_widths_on_one_level(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    released, factor = Alternating(generator), 4
    inputs = dict(source_u8=[], label_u8=[], target_u8=[])
    for _ in range(3):
        inputs['source_u8'].append(torch.randint(0, 256, (2, 3, 12, 9), generator=generator, dtype=torch.uint8))
        label = torch.randint(0, 5, (2, 12, 9), generator=generator, dtype=torch.uint8)
        inputs['label_u8'].append(label.masked_fill(label == 4, 255))
        inputs['target_u8'].append(torch.randint(0, 256, (2, 3, 10, 11), generator=generator, dtype=torch.uint8))
    start, own, first, losses = released.state(), released.own(), {}, []
    for i, (source, label, target) in enumerate(zip(*inputs.values())):
        images = (enlarged(source, factor).double() - 128) / 64, (enlarged(target, factor).double() - 110) / 64
        gradients = first if i == 0 else {}
        found = released.step(images[0], enlarged(label, factor).long(), images[1], gradients)
        losses.append({name: round(value.item(), 3) for name, value in found.items()})
    case = dict(
        losses_rounded_to_3_digits=losses,
        first_step=dict(grad=first, lr=[2.5e-4, 2.5e-3], d_grad=[{}, {}]),
        params_final=released.state(),
        d_final=[own, released.own()],
    )
    whole = dict(model_initial=start, d_initial=[own, own], inputs=inputs, sizes=dict(repeat=factor))
    torch.save(dict(whole, cases=dict(single_ls=case)), tmp_path / 'steps.pt')
    assert parity.main([str(tmp_path / 'steps.pt')]) == 0, capsys.readouterr().out
    case['d_final'] = [own, own]  # as if the discriminator had not learnt
    torch.save(dict(whole, cases=dict(single_ls=case)), tmp_path / 'steps.pt')
    assert parity.main([str(tmp_path / 'steps.pt')]) == 1
    assert 'discriminator.decode_head' in capsys.readouterr().out


# Pixels without data, levels, arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['adaptsegnet', 'advent two levels'])
@pytest.mark.parametrize('domain', ['source', 'target'])
def test_discriminators_see_no_class_where_there_are_no_data(name, domain):
    """Of K equally probable classes each has the probability 1/K, and adds 1/K to an entropy of 1."""
    trainer, seen = Trainer(name), []
    trainer.model.discriminator.decode_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    batch = trainer.batch(0, valid=domain)
    trainer.losses(batch)
    valid = torch.cat([sample.valid_map.data for sample in batch[domain]['data_samples']])
    fooled, told = seen
    of_domain = dict(source=told[:2], target=told[2:])
    assert torch.equal(of_domain['target'], fooled)
    empty = of_domain[domain].movedim(1, -1)[~valid]
    torch.testing.assert_close(empty, torch.full_like(empty, 1 / 6))
    elsewhere = of_domain[domain].movedim(1, -1)[valid]
    assert ((elsewhere - 1 / 6).abs().amax(1) > 1e-4).float().mean() > 0.99


def test_entropy_by_hand():
    trainer = Trainer('minent', {'model.decode_head.dropout_ratio': 0.0, 'model.backbone.drop_path_rate': 0.0})
    batch = trainer.batch(0, valid='target')
    found = trainer.losses(batch)
    model = trainer.model
    prepared = model.data_preprocessor(batch, True)
    with torch.no_grad():
        logits = model.decode_head(model.extract_feat(prepared['inputs']['target'])).double()
    # Before the softmax to the size of the images: probabilities in between are others.
    z = F.interpolate(logits, (64, 64), mode='bilinear', align_corners=False).numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    valid = torch.cat([sample.valid_map.data for sample in prepared['data_samples']['target']]).numpy()
    expected = (-p * np.log2(p) / math.log2(6)).sum(1)[valid].mean()
    assert found['share_entropy_decode_head'].item() == pytest.approx(expected, rel=1e-5)
    assert found['loss_entropy_decode_head'].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_a_level_without_weight_does_not_run():
    weights = {'model.weights': dict(decode_head=0.5, auxiliary_head=0.0)}
    trainer = Trainer('advent two levels', weights)
    assert list(trainer.model.discriminator._modules) == ['decode_head', 'gan_loss']
    losses = trainer.losses(trainer.batch(0))
    assert 'loss_aux' in losses  # whose labels it still learns
    assert not any('auxiliary' in name for name in losses)
    off = {**AUXILIARY, 'loss_decode': dict(type='PixelMeanCrossEntropyLoss', loss_weight=0.0)}
    trainer = Trainer('advent two levels', {**weights, 'model.auxiliary_head': off})
    assert not any('auxiliary' in name for name in trainer.model.state_dict())
    assert 'loss_aux' not in trainer.losses(trainer.batch(0))


def test_one_output_for_two_classes():
    two = {
        f'model.decode_head.{key}': value for key, value in dict(num_classes=2, out_channels=1, threshold=0.5).items()
    }
    trainer = Trainer('adaptsegnet', two)
    assert trainer.model.discriminator.decode_head.layers[0].in_channels == 2
    batch = trainer.batch(0)
    for sample in batch['source']['data_samples']:
        label = sample.gt_sem_seg.data
        sample.gt_sem_seg.data = torch.where(label == 255, label, label % 2)
    assert all(value.isfinite() for value in trainer.losses(batch).values())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights=dict(decode_head=0.0)), 'weights'),
        (dict(weights=dict(decode_head=-0.1)), r'weights\.decode_head'),
        (dict(weights=dict(decode_head=0.1, auxiliary_head=0.1)), 'auxiliary_head=0.1.*decode_head'),
        (dict(weights=dict(neck=0.1)), 'neck=0.1'),
        (dict(auxiliary_head=[AUXILIARY, AUXILIARY]), 'list of 2'),
        (dict(input_map='entropy'), 'entropy'),
    ],
)
def test_settings_that_cannot_work(options, message):
    config = Trainer('adaptsegnet').config.model
    with pytest.raises(ConfigError, match=message):
        MODELS.build({**config, **options})


def test_crops_below_the_discriminators_size():
    trainer = Trainer('adaptsegnet')
    with pytest.raises(ConfigError, match=r'24 x 24 px.* 32 px'):
        trainer.losses(trainer.batch(0, size=24))


@pytest.mark.parametrize('kind', ['vanilla', 'lsgan', 'hinge'])
def test_either_side_of_the_labels_may_be_real(kind):
    scores = torch.tensor([-2.0, 0.4, 0.6, 3.0])
    above = torch.tensor([False, kind != 'lsgan', True, True])
    assert torch.equal(GANLoss(kind).looks_real(scores), above)
    exchanged = GANLoss(kind, real_label_val=0.0, fake_label_val=1.0).looks_real(scores)
    assert torch.equal(exchanged, above if kind == 'hinge' else ~above)  # which knows no labels
