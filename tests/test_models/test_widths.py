import copy

import pytest
import torch

from mmrs.models.widths import fill_channels, last_stride, widths
from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError

MIT = dict(type='EfficientMiT', embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 5, 8])
RESNET = dict(type='ResNetV1c', depth=18, stem_channels=8, base_channels=4, norm_cfg=dict(type='SyncBN'))
DILATED = dict(RESNET, depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
PARTIAL = dict(RESNET, out_indices=(1, 3))
STOCK = dict(MIT, type='mmseg.MixVisionTransformer', out_indices=(0, 2))
SWIN = dict(type='mmseg.SwinTransformer', embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2)
BANDS = dict(MIT, in_channels=5)
HEAD = dict(type='SegformerHead', in_channels=None, in_index=[0, 1, 2, 3], channels=8, num_classes=3)


@pytest.mark.parametrize('backbone', [MIT, RESNET, DILATED, PARTIAL, STOCK, SWIN, BANDS])
def test_widths_are_those_of_a_run(backbone):
    config = copy.deepcopy(backbone)
    config.pop('norm_cfg', None)
    built = MODELS.build(config)
    built.eval()
    maps = built(torch.zeros(1, backbone.get('in_channels', 3), 64, 64))
    before = torch.get_rng_state()
    assert widths(backbone) == [stage.shape[1] for stage in maps]
    assert last_stride(backbone) == 64 / maps[-1].shape[-1]
    assert torch.equal(torch.get_rng_state(), before)


def filled(**parts):
    model = copy.deepcopy(dict(type='EncoderDecoder', backbone=MIT, **parts))
    fill_channels(model)
    return model


def test_heads_read_the_maps_at_their_index():
    model = filled(
        decode_head=HEAD,
        auxiliary_head=[dict(HEAD, in_index=2), dict(HEAD, in_index=[-1, 0]), dict(type='FCNHead', in_channels=None)],
    )
    assert model['decode_head']['in_channels'] == [8, 16, 40, 64]
    assert [head['in_channels'] for head in model['auxiliary_head']] == [40, [64, 8], 64]


def test_the_low_level_map_of_deeplab():
    head = dict(type='DepthwiseSeparableASPPHead', in_channels=None, in_index=3, c1_in_channels=None)
    assert filled(decode_head=head)['decode_head'] == dict(head, in_channels=64, c1_in_channels=8)
    assert filled(decode_head=dict(head, c1_in_channels=0))['decode_head']['c1_in_channels'] == 0


def test_numbers_stay_and_nothing_is_built_for_them():
    head = dict(HEAD, in_channels=[1, 2, 3, 4])
    model = dict(type='EncoderDecoder', backbone=dict(type='NoSuchBackbone'), decode_head=head)
    fill_channels(model)
    assert model['decode_head'] == head


def test_heads_behind_a_neck_read_what_it_returns():
    neck = dict(type='FPN', in_channels=None, out_channels=6, num_outs=4)
    model = filled(neck=neck, decode_head=HEAD, auxiliary_head=dict(HEAD, in_index=0))
    assert model['neck']['in_channels'] == [8, 16, 40, 64]
    assert model['decode_head']['in_channels'] == [6, 6, 6, 6]
    assert model['auxiliary_head']['in_channels'] == 6


def test_two_students():
    neck = dict(type='DomainDisentangledNeck', in_channels=None, variant='ds2', reduction=8, min_channels=2)
    model = copy.deepcopy(
        dict(
            type='STDASegNet',
            backbone=dict(MIT, source=dict(drop_path_rate=0.3)),
            neck=neck,
            decode_head=dict(HEAD, source=dict(channels=4), target=dict(in_index=[1, 3])),
            auxiliary_head=dict(type='FCNHead', in_channels=None, in_index=3),
            discriminator=dict(type='PatchDiscriminator', in_channels=None, num_conv=1),
        )
    )
    fill_channels(model)
    assert model['neck']['in_channels'] == [8, 16, 40, 64]
    assert model['decode_head']['in_channels'] == [8, 16, 40, 64 + 64 // 8]  # the neck widens the last stage
    assert model['decode_head']['source'] == dict(channels=4)
    assert model['decode_head']['target']['in_channels'] == [16, 72]
    assert model['auxiliary_head']['in_channels'] == 64  # on a student's own backbone
    assert model['discriminator']['in_channels'] == 64


@pytest.mark.parametrize(
    ('backbone', 'mean', 'expected'),
    [
        (dict(MIT, in_channels=None), [0.0] * 6, 6),
        (dict(RESNET, in_channels=None), (0.0,), 1),
        (dict(MIT, in_channels=None), None, 'default'),
        (dict(MIT, in_channels=4), [0.0] * 6, 4),
        (MIT, [0.0] * 6, 'default'),
    ],
)
def test_bands_are_those_that_are_normalised(backbone, mean, expected):
    model = copy.deepcopy(dict(backbone=backbone, data_preprocessor=dict(mean=mean)))
    fill_channels(model)
    assert model['backbone'].get('in_channels', 'default') == expected


def test_maps_that_are_not_there():
    with pytest.raises(ConfigError, match=r'model\.decode_head\.in_index has 4'):
        filled(decode_head=dict(HEAD, in_index=[0, 4]))


def test_backbones_that_cannot_be_run():
    model = dict(type='EncoderDecoder', backbone=dict(MIT, no_such_argument=1), decode_head=dict(HEAD))
    with pytest.raises(ConfigError, match=r'model\.decode_head\.in_channels is None.*EfficientMiT.*no_such_argument'):
        fill_channels(model)
