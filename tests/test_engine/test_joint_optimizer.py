import copy

import pytest
import torch
from torch.nn import functional as F

from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.utils import ConfigError
from tests.toy_gan import PARTS, ToyGAN, joint


def alternate(model, optimizers, x):
    """The published scheme: a generator step with the discriminator as it was, then the discriminator's own."""
    fake = model.segmentor(x)
    generator_loss = fake.square().mean() + F.softplus(-model.discriminator(fake)).mean()
    discriminator_loss = F.softplus(model.discriminator(fake.detach())).mean()
    gradients = torch.autograd.grad(generator_loss, list(model.segmentor.parameters()))
    disc_gradients = torch.autograd.grad(discriminator_loss, list(model.discriminator.parameters()))
    for p, g in zip(model.parameters(), [*gradients, *disc_gradients]):
        p.grad = g
    for optimizer in optimizers:
        optimizer.step()


def test_one_backward_equals_the_alternating_scheme():
    model = ToyGAN().double()
    reference = copy.deepcopy(model)
    wrapper = joint(model)
    optimizers = [
        torch.optim.SGD(reference.segmentor.parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(reference.discriminator.parameters(), lr=0.01),
    ]
    for seed in range(5):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        model.train_step(dict(x=x), wrapper)
        alternate(reference, optimizers, x)
    for value, expected in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


def test_the_segmentor_may_be_what_no_other_part_has():
    class Flat(ToyGAN):
        """As adaptors are: backbone and heads are the model's own children."""

        def __init__(self):
            super().__init__()
            self.backbone, self.decode_head = self._modules.pop('segmentor'), torch.nn.Linear(2, 2)

    model, keys = Flat(), {'decode_head': dict(lr_mult=10.0)}
    part = dict(optimizer=dict(type='SGD', lr=0.1), paramwise_cfg=dict(custom_keys=keys))
    wrapper = JointOptimWrapperConstructor(dict(PARTS, segmentor=part))(model)
    rates = {id(p): group['lr'] for group in wrapper['segmentor'].optimizer.param_groups for p in group['params']}
    children = [(model.backbone, 0.1), (model.decode_head, 1.0)]
    assert rates == {id(p): rate for child, rate in children for p in child.parameters()}


def test_clipping_applies_per_part():
    model = ToyGAN()
    part = dict(optimizer=dict(type='SGD', lr=1.0), clip_grad=dict(max_norm=1e-3))
    start = copy.deepcopy(list(model.segmentor.parameters()))
    model.train_step(dict(x=torch.randn(4, 3)), joint(model, segmentor=part))
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.segmentor.parameters(), start)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_state_goes_round_and_refuses_another_run():
    model = ToyGAN()
    wrapper = joint(model)
    model.train_step(dict(x=torch.randn(4, 3)), wrapper)
    state = copy.deepcopy(wrapper.state_dict())
    other = joint(model)
    other.load_state_dict(state)
    momentum = next(iter(other['segmentor'].optimizer.state.values()))['momentum_buffer']
    assert momentum.abs().sum() > 0
    state.pop('discriminator')
    with pytest.raises(ConfigError, match=r"optimizer states for \['segmentor'\]"):
        other.load_state_dict(state)


def test_groups_with_the_same_options_are_merged():
    model = ToyGAN()
    keys = dict(bias=dict(decay_mult=0.0))
    part = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.1), paramwise_cfg=dict(custom_keys=keys))
    wrapper = joint(model, segmentor=part, discriminator=part)
    groups = wrapper['segmentor'].optimizer.param_groups
    assert [(group['weight_decay'], len(group['params'])) for group in groups] == [(0.1, 1), (0.0, 1)]


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (dict(PARTS, critic=PARTS['discriminator']), 'ToyGAN has no such submodule'),
        (dict(segmentor=PARTS['segmentor']), 'belong to no part'),
        (dict(PARTS, segmentor=dict(PARTS['segmentor'], accumulative_counts=2)), 'accumulative_counts differ'),
    ],
)
def test_bad_parts(parts, message):
    with pytest.raises(ConfigError, match=message):
        JointOptimWrapperConstructor(parts)(ToyGAN())
