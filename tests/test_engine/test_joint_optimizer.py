import copy

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.utils import ConfigError

PARTS = dict(
    segmentor=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
    discriminator=dict(optimizer=dict(type='Adam', lr=0.01)),
)


class ToyGAN(BaseModel):
    """A generator and a discriminator that detach as an adaptor does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.segmentor = nn.Linear(3, 2)
        self.discriminator = nn.Linear(2, 1)

    def forward(self, x, mode='loss'):
        fake = self.segmentor(x)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        return dict(
            loss_adv=-torch.func.functional_call(self.discriminator, frozen, (fake,)).mean(),
            loss_disc=(self.discriminator(fake.detach()) ** 2).mean(),
        )


def alternate(model, optimizers, x):
    """The published scheme: a generator step with the discriminator as it was, then the discriminator's own."""
    fake = model.segmentor(x)
    generator_loss = -model.discriminator(fake).mean()
    discriminator_loss = (model.discriminator(fake.detach()) ** 2).mean()
    gradients = torch.autograd.grad(generator_loss, list(model.segmentor.parameters()))
    disc_gradients = torch.autograd.grad(discriminator_loss, list(model.discriminator.parameters()))
    for p, g in zip(model.parameters(), [*gradients, *disc_gradients]):
        p.grad = g
    for optimizer in optimizers:
        optimizer.step()


def test_one_backward_equals_the_alternating_scheme():
    model = ToyGAN().double()
    reference = copy.deepcopy(model)
    joint = JointOptimWrapperConstructor(PARTS)(model)
    optimizers = [
        torch.optim.SGD(reference.segmentor.parameters(), lr=0.1, momentum=0.9),
        torch.optim.Adam(reference.discriminator.parameters(), lr=0.01),
    ]
    for seed in range(5):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        model.train_step(dict(x=x), joint)
        alternate(reference, optimizers, x)
    for value, expected in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


def test_accumulation_averages_batches():
    model = ToyGAN().double()
    reference = copy.deepcopy(model)
    parts = {
        name: dict(accumulative_counts=counts, optimizer=dict(type='SGD', lr=0.1))
        for name, counts in (('segmentor', 2), ('discriminator', 2))
    }
    joint = JointOptimWrapperConstructor(parts)(model)
    once = JointOptimWrapperConstructor({name: dict(cfg, accumulative_counts=1) for name, cfg in parts.items()})(
        reference
    )
    x = torch.randn(6, 3, dtype=torch.float64)
    start = copy.deepcopy(model.state_dict())
    model.train_step(dict(x=x[:3]), joint)
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    model.train_step(dict(x=x[3:]), joint)
    reference.train_step(dict(x=x), once)
    for value, expected in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(value, expected)


def test_clipping_applies_per_part():
    model = ToyGAN()
    parts = {**PARTS, 'segmentor': dict(optimizer=dict(type='SGD', lr=1.0), clip_grad=dict(max_norm=1e-3))}
    start = copy.deepcopy(list(model.segmentor.parameters()))
    model.train_step(dict(x=torch.randn(4, 3)), JointOptimWrapperConstructor(parts)(model))
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.segmentor.parameters(), start)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_state_goes_round_and_refuses_another_run():
    model = ToyGAN()
    joint = JointOptimWrapperConstructor(PARTS)(model)
    model.train_step(dict(x=torch.randn(4, 3)), joint)
    state = copy.deepcopy(joint.state_dict())
    other = JointOptimWrapperConstructor(PARTS)(model)
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
    joint = JointOptimWrapperConstructor(dict(segmentor=part, discriminator=part))(model)
    groups = joint['segmentor'].optimizer.param_groups
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
