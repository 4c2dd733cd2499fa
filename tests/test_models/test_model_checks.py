import pytest
import torch
from torch import nn

from mmrs.models import checks
from mmrs.models.checks import check_losses, check_model
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests.test_models.test_adaptors.test_st_dasegnet import AUXILIARY, DICE, LOVASZ, OWN, resnet_config
from tests.test_models.test_adaptors.test_st_dasegnet import config as st_dasegnet


def source_only(**changes):
    """A plain encoder-decoder with the same parts and an auxiliary head."""
    cfg = st_dasegnet()
    keep = {key: cfg[key] for key in ('data_preprocessor', 'backbone', 'decode_head', 'test_cfg')}
    cfg = dict(type='EncoderDecoder', auxiliary_head=dict(AUXILIARY), **keep)
    cfg['decode_head'] = dict(cfg['decode_head'], in_channels=[8, 16, 16, 32])
    for key, value in changes.items():
        cfg[key] = {**cfg.get(key, {}), **value} if isinstance(value, dict) else value
    return cfg


def regression(**changes):
    cfg = source_only(**changes)
    return dict(cfg, type='FeatureRegression', features=dict(stage4=1.0, decode_head=1.0))


def with_fpn(**changes):
    neck = dict(type='mmseg.FPN', in_channels=[8, 16, 16, 32], out_channels=12, num_outs=4)
    head = dict(in_channels=[12] * 4)
    return source_only(neck=dict(neck, **changes), decode_head=head, auxiliary_head=None)


def refusal(cfg):
    with pytest.raises(ConfigError) as caught:
        check_model(MODELS.build(cfg))
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_one_output_is_for_two_classes():
    loss = dict(type='PixelMeanCrossEntropyLoss')
    head = dict(num_classes=3, out_channels=1, threshold=0.5, loss_decode=loss)
    assert 'model.decode_head.out_channels is 1, which is for num_classes=2, but num_classes is 3' in refusal(
        source_only(decode_head=head, auxiliary_head=None)
    )


def test_models_that_fit_are_left_as_they_are():
    for cfg in (st_dasegnet(), resnet_config(), source_only(), regression(), with_fpn()):
        model = MODELS.build(cfg)
        model.backbone.eval() if hasattr(model, 'backbone') else model.segmentor.neck.eval()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        modes, numbers = [module.training for module in model.modules()], torch.get_rng_state()
        check_model(model)
        check_losses(model)
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), numbers)
        assert all(parameter.grad is None for parameter in model.parameters())
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name


ONE = dict(num_classes=1)


@pytest.mark.parametrize('channels', [None, 1])
@pytest.mark.parametrize('make', [st_dasegnet, source_only, regression])
def test_one_class(make, channels):
    message = refusal(make(decode_head=dict(num_classes=1, out_channels=channels), **_without_self_training(make)))
    assert 'num_classes is 1' in message
    assert 'set num_classes to 2' in message
    assert 'out_channels=1' in message


def _without_self_training(make):
    return dict(self_training=None) if make is st_dasegnet else {}


def test_one_class_of_an_auxiliary_head():
    assert 'model.auxiliary_head.num_classes is 1' in refusal(source_only(auxiliary_head=ONE))


@pytest.mark.parametrize(
    ('make', 'changes', 'key', 'numbers'),
    [
        (st_dasegnet, dict(decode_head=dict(in_channels=[8, 16, 16, 32])), 'decode_head.source.in_channels', '40]'),
        (st_dasegnet, dict(neck=dict(in_channels=[8, 16, 32, 32])), 'neck.in_channels', '[8, 16, 16, 32]'),
        (st_dasegnet, dict(neck=dict(in_channels=[8, 16, 16])), 'decode_head.in_index', '3'),
        (st_dasegnet, dict(discriminator=dict(in_channels=64)), 'discriminator.source.layers.0.conv', '64'),
        (st_dasegnet, dict(backbone=dict(in_channels=4)), 'backbone.source', '4 channels, but gets 3'),
        (source_only, dict(backbone=dict(in_channels=4)), 'backbone.in_channels', '4 channels, but gets 3'),
        (
            source_only,
            dict(decode_head=dict(in_channels=[8, 16, 16, 64])),
            'decode_head.in_channels',
            '[8, 16, 16, 32]',
        ),
        (source_only, dict(decode_head=dict(in_index=[0, 1, 2, 4])), 'decode_head.in_index', '4 feature maps, 0 to 3'),
        (source_only, dict(auxiliary_head=dict(in_channels=8)), 'auxiliary_head.in_channels', '16'),
        (source_only, dict(auxiliary_head=dict(in_index=-5)), 'auxiliary_head.in_index', '-5'),
        (
            source_only,
            dict(auxiliary_head=dict(in_index=[1, 2], in_channels=[16, 8], input_transform='resize_concat')),
            'auxiliary_head.in_channels is 24',
            '[16, 16]',
        ),
        (regression, dict(decode_head=dict(in_channels=[8, 16, 16, 64])), 'decode_head.in_channels', '[8, 16, 16, 32]'),
        (regression, dict(backbone=dict(in_channels=4)), 'backbone.in_channels', '4 channels, but gets 3'),
        (with_fpn, dict(in_channels=[8, 16, 32, 32]), 'neck', '32 channels, but gets 16'),
        (with_fpn, dict(out_channels=20), 'decode_head.in_channels', '[20, 20, 20, 20]'),
    ],
)
def test_widths_that_do_not_fit(make, changes, key, numbers):
    message = refusal(make(**changes))
    assert f'model.{key}' in message
    assert numbers in message


def test_widths_of_auxiliary_heads_of_st_dasegnet():
    cfg = {**st_dasegnet(), 'auxiliary_head': [AUXILIARY, dict(AUXILIARY, in_channels=8)]}
    assert 'model.auxiliary_head.source.in_channels is 8' in refusal(cfg)


def test_a_width_inside_of_a_head():
    cfg = resnet_config()
    cfg['decode_head'].update(c1_in_channels=12)
    message = refusal(cfg)
    assert 'model.decode_head.source.c1_bottleneck' in message
    assert '12 channels, but gets 4' in message


def test_a_network_that_rejects_the_image_is_not_judged(monkeypatch):
    """What is no matter of widths is left to the first batch."""
    model = MODELS.build(source_only())
    said = []
    monkeypatch.setattr(checks, 'print_log', lambda message, *_: said.append(message))

    class Picky(nn.Module):
        def forward(self, x):
            raise ValueError('only images of 7 px')

    model.backbone = Picky()
    check_model(model)
    assert 'ValueError: only images of 7 px' in said[0]


@pytest.mark.parametrize('make', [st_dasegnet, source_only])
def test_losses_are_tried_before_training(make):
    for loss, message in (
        (dict(type='mmseg.FocalLoss'), r'loss_decode \(FocalLoss\) cannot be computed'),
        ([OWN, dict(type='mmseg.OhemCrossEntropy')], r'loss_decode\.1 \(OhemCrossEntropy\) cannot be computed'),
        (dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0]), 'has 1 entries, but the logits have 4'),
    ):
        model = MODELS.build(make(decode_head=dict(loss_decode=loss)))
        check_model(model)  # which is all that a prediction needs
        with pytest.raises(ConfigError, match=message):
            check_losses(model)


def test_auxiliary_losses_are_tried_too():
    model = MODELS.build(source_only(auxiliary_head=dict(loss_decode=dict(type='mmseg.FocalLoss'))))
    with pytest.raises(ConfigError, match=r'model\.auxiliary_head\.loss_decode \(FocalLoss\) cannot'):
        check_losses(model)


def test_pseudo_label_terms_are_settled_before_training():
    with pytest.raises(ConfigError, match=r'LovaszLoss.*self_training'):
        check_losses(MODELS.build(st_dasegnet(decode_head=dict(loss_decode=LOVASZ))))
    check_losses(MODELS.build(source_only(decode_head=dict(loss_decode=LOVASZ))))


def test_a_regression_does_not_use_the_losses_of_its_head():
    check_losses(MODELS.build(regression(decode_head=dict(loss_decode=dict(type='mmseg.FocalLoss')))))


def test_losses_that_see_pixels_without_label_are_mentioned(monkeypatch):
    said = []
    monkeypatch.setattr(checks, 'print_log', lambda message, *_, **__: said.append(message))
    check_losses(MODELS.build(source_only(decode_head=dict(loss_decode=[OWN, DICE]))))
    assert len(said) == 1
    assert 'model.decode_head.loss_decode.1 (DiceLoss)' in said[0]
