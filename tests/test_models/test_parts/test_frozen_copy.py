import copy

import pytest
import torch
from torch import nn

from mmrs.models.parts import FrozenCopy


class Backbone(nn.Module):
    """Two stages."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))

    def forward(self, x):
        first = self.first(x)
        return first, self.second(first)


class Head(nn.Module):
    """A classifier on the last stage."""

    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(5, 2, 1)

    def forward(self, stages):
        return self.conv_seg(2 * stages[-1])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone, model.decode_head = Backbone(), Head()
    model.reference = FrozenCopy(dict(backbone=model.backbone), shared=dict(decode_head=model.decode_head))
    return model.train()


def test_it_never_trains(model):
    images, before = torch.randn(2, 3, 4, 4), copy.deepcopy(model.reference.state_dict())
    first = model.reference.features(images, ['stage2', 'decode_head'])
    assert not any(module.training for module in model.reference.modules())
    assert not any(maps.requires_grad for maps in first.values())
    assert not any(parameter.requires_grad for parameter in model.reference.parameters())
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    model.backbone(images)
    second = model.reference.features(images, ['stage2', 'decode_head'])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in model.reference.state_dict().items())


def test_feature_maps_are_those_of_the_parts(model):
    images = torch.randn(2, 3, 4, 4)
    found = model.reference.features(images, ['decode_head', 'stage1'])
    stages = copy.deepcopy(model.backbone).eval()(images)
    assert list(found) == ['decode_head', 'stage1']
    torch.testing.assert_close(found['stage1'], stages[0])
    torch.testing.assert_close(found['decode_head'], 2 * stages[1])


def test_what_it_shares_stays_where_it_is(model):
    assert {name.split('.')[0] for name in model.reference.state_dict()} == {'backbone'}
    copied = copy.deepcopy(model)
    assert copied.reference.network.decode_head is copied.decode_head


def test_it_takes_over_other_weights(model):
    other = Backbone()
    model.reference.load(dict(backbone=other, decode_head=Head()))
    for name, value in other.state_dict().items():
        assert torch.equal(model.reference.backbone.state_dict()[name], value), name
