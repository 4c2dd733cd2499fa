"""The backbone that is a network of timm: with a stand-in for it, for timm needs torchvision, and with timm itself."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmrs.models.backbones.timm_backbone import TimmBackbone
from mmrs.models.widths import fill_channels
from mmrs.registry import MODELS
from mmrs.utils.errors import CheckpointError, ConfigError

WIDTHS = (4, 8, 8)


class Features(nn.Module):
    """Maps of strides 1, 2, 4, channels last where the network's are."""

    def __init__(self, in_chans, out_indices=(0, 1, 2), channels_last=False, drop_path_rate=0.0):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in zip((in_chans, *WIDTHS), WIDTHS))
        self.out_indices, self.channels_last, self.drop_path_rate = out_indices, channels_last, drop_path_rate
        if channels_last:
            self.output_fmt = 'NHWC'
        self.feature_info = SimpleNamespace(channels=lambda: [WIDTHS[i] for i in out_indices])

    def forward(self, x):
        maps = []
        for conv in self.convs:
            maps.append(conv(x))
            x = nn.functional.avg_pool2d(maps[-1], 2)
        return [maps[i].permute(0, 2, 3, 1) if self.channels_last else maps[i] for i in self.out_indices]


class FeatureGetterNet(Features):
    """As timm calls what brings all maps to channels first."""

    def forward(self, x):
        return [m.permute(0, 3, 1, 2) for m in super().forward(x)]


@pytest.fixture
def timm(monkeypatch):
    """What the backbone asks of timm; `reachable` says whether weights can be had."""
    stand_in = SimpleNamespace(reachable=True, list_models=lambda: ['first', 'last', 'converted'])

    def create_model(name, pretrained=False, features_only=False, **options):
        if name == 'first' and options.pop('flat', False) and features_only:
            raise RuntimeError('features_only not implemented')
        network = (FeatureGetterNet if name == 'converted' and features_only else Features)(
            channels_last=name != 'first', **options
        )
        if pretrained:
            if not stand_in.reachable:
                raise OSError('no route to host')
            for parameter in network.parameters():
                nn.init.constant_(parameter, 3.0)
        return network

    stand_in.create_model = create_model
    stand_in.is_model = lambda name: name in stand_in.list_models()
    monkeypatch.setitem(sys.modules, 'timm', stand_in)
    return stand_in


@pytest.mark.parametrize('name', ['first', 'last', 'converted'])
def test_maps_have_their_channels_first(timm, name):
    torch.manual_seed(0)
    backbone = copy.deepcopy(TimmBackbone(name, in_channels=5, out_indices=[1, 2], drop_path_rate=0.2))  # as a teacher
    assert backbone.out_channels == (8, 8)
    assert backbone.network.drop_path_rate == 0.2
    images = torch.randn(2, 5, 16, 16)  # of the second map, channels, height and width are the same number
    x, expected = images, []
    for conv in backbone.network.convs:
        expected.append(torch.einsum('nchw,dc->ndhw', x, conv.weight[..., 0, 0]) + conv.bias[:, None, None])
        x = expected[-1].unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert [tuple(m.shape) for m in backbone(images)] == [(2, 8, 8, 8), (2, 8, 4, 4)]
    for found, other in zip(backbone(images), expected[1:]):
        torch.testing.assert_close(found, other, rtol=0, atol=1e-5)


def test_heads_ask_for_its_widths(timm):
    model = dict(
        backbone=dict(type='TimmBackbone', model_name='first', in_channels=None, pretrained=True),
        decode_head=dict(type='EfficientSegformerHead', in_channels=None, in_index=[0, 2]),
        data_preprocessor=dict(mean=[0.0] * 6),
    )
    timm.reachable = False  # building a model fetches nothing
    fill_channels(model)
    assert model['backbone']['in_channels'] == 6
    assert model['decode_head']['in_channels'] == [4, 8]
    MODELS.build(model['backbone'])


def test_weights_are_loaded_where_weights_are_initialised(timm):
    backbone = TimmBackbone('first', pretrained=True)
    assert not (backbone.network.convs[0].weight == 3).any()
    backbone.init_weights()
    assert all((parameter == 3).all() for parameter in backbone.parameters())
    for without in (False, None):  # the latter is what --no-pretrained sets
        backbone = TimmBackbone('first', pretrained=without)
        backbone.init_weights()
        assert not (backbone.network.convs[0].weight == 3).any()
    timm.reachable = False
    with pytest.raises(CheckpointError, match=r'(?s)first.*no route to host.*--no-pretrained'):
        TimmBackbone('first', pretrained=True).init_weights()


def test_what_timm_does_not_have(timm, monkeypatch):
    with pytest.raises(ConfigError, match='timm has no frist; did you mean first'):
        TimmBackbone('frist')
    with pytest.raises(ConfigError, match='first: features_only not implemented'):
        TimmBackbone('first', flat=True)
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ConfigError, match='pip install timm torchvision'):
        TimmBackbone('first')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224'])
def test_networks_of_timm(name):
    pytest.importorskip('timm', reason='pip install timm torchvision', exc_type=ImportError)
    size = {} if name == 'resnet18' else dict(img_size=384)  # at which the first map of Swin has 96 of everything
    backbone = TimmBackbone(name, in_channels=4, **size)
    strides = backbone.network.feature_info.reduction()
    maps = backbone(torch.zeros(1, 4, 384, 384))
    expected = [(1, width, 384 // s, 384 // s) for width, s in zip(backbone.out_channels, strides)]
    assert [tuple(m.shape) for m in maps] == expected
