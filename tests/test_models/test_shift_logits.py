import copy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from mmrs.install import install
from mmrs.models.class_prior import shift_logits
from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError

MIT = dict(
    type='EfficientMiT',
    embed_dims=4,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 1, 1, 1],
    mlp_ratio=2,
    sr_ratios=[8, 4, 2, 1],
)
HEAD = dict(
    type='EfficientSegformerHead',
    in_channels=[4, 4, 4, 4],
    in_index=[0, 1, 2, 3],
    channels=8,
    num_classes=3,
    align_corners=False,
    loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
)
COARSE = dict(in_channels=4, channels=8, num_classes=3, align_corners=False)
PREPROCESSOR = dict(type='DomainAdaptationDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3)
OFFSETS = [0.7, -1.3, 0.25]


def built(kind: str = 'EncoderDecoder', head: Any = HEAD, **settings: Any) -> Any:
    install()
    torch.manual_seed(0)
    config = dict(
        type=kind, data_preprocessor=PREPROCESSOR, backbone=MIT, decode_head=head, test_cfg=dict(mode='whole')
    )
    with DefaultScope.overwrite_default_scope('mmrs'):
        model = MODELS.build(ConfigDict(copy.deepcopy({**config, **settings})))
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels in (1, 3):
            nn.init.normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model.eval()


@torch.no_grad()
def logits(model: EncoderDecoder, images: Tensor) -> Tensor:
    return model.inference(images, [dict(img_shape=images.shape[2:], ori_shape=images.shape[2:])] * len(images))


NECK = dict(type='DomainDisentangledNeck', in_channels=[4] * 4, variant='dsk', reduction=2, min_channels=2)
SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(40, 40))
MODELS_THAT_PREDICT = {
    'whole': dict(),
    'slide': dict(test_cfg=SLIDE),
    'two students': dict(kind='STDASegNet', neck=NECK),
    'cascade': dict(
        kind='mmseg.CascadeEncoderDecoder',
        num_stages=2,
        head=[
            dict(type='mmseg.FCNHead', in_index=0, num_convs=1, **COARSE),
            dict(type='mmseg.OCRHead', in_index=0, ocr_channels=4, **COARSE),
        ],
    ),
}


@pytest.mark.parametrize('settings', MODELS_THAT_PREDICT.values(), ids=MODELS_THAT_PREDICT)
def test_logits_differ_by_the_constants_everywhere_and_nothing_else_does(settings):
    model = built(**settings)
    images = torch.randn(2, 3, 88, 120)
    before, state = logits(model, images), {name: value.clone() for name, value in model.state_dict().items()}
    shift_logits(model, OFFSETS)
    after = logits(model, images)
    np.testing.assert_allclose(after - before, np.tile(np.array(OFFSETS)[:, None, None], (2, 1, 88, 120)), atol=1e-5)
    labels = (before.double().numpy() + np.array(OFFSETS)[:, None, None]).argmax(1)
    assert (labels != before.numpy().argmax(1)).mean() > 0.05
    assert (labels == after.numpy().argmax(1)).mean() > 0.999  # but ties within rounding errors
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    expected = 2 if settings.get('kind') == 'STDASegNet' else 1
    assert len(changed) == expected
    assert all(name.endswith('conv_seg.bias') and 'decode_head.0' not in name for name in changed)


def test_one_output_for_two_classes_has_the_difference():
    model = built(head={**HEAD, 'num_classes': 2, 'out_channels': 1, 'threshold': 0.5})
    images = torch.randn(1, 3, 64, 64)
    before = logits(model, images).double()
    posterior = torch.cat((1 - before.sigmoid(), before.sigmoid()), 1).numpy()
    trained, wanted = np.array([0.9, 0.1]), np.array([0.4, 0.6])
    shift_logits(model, np.log(wanted / trained).tolist())
    bayes = posterior * (wanted / trained)[:, None, None]
    np.testing.assert_allclose(logits(model, images).sigmoid(), (bayes / bayes.sum(1, keepdims=True))[:, 1:], atol=1e-5)


class ThroughTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


def test_models_whose_logits_no_bias_moves_are_refused_and_left_as_they_are():
    model = built()
    own = model.decode_head.conv_seg
    for last, found in (
        (nn.Sequential(own, ThroughTanh()), 'Sequential'),
        (nn.Identity(), 'Identity'),
        (nn.Conv2d(8, 4, 1), '4 outputs, and there are 3 classes'),
    ):
        model.decode_head.conv_seg = last
        with pytest.raises(ConfigError, match=f'EfficientSegformerHead.*{found}'):
            shift_logits(model, OFFSETS)
    model.decode_head.conv_seg = own
    before, bias = model.decode_head.forward, own.bias.clone()
    model.decode_head.forward = lambda inputs: before(inputs).tanh()
    with pytest.raises(ConfigError, match=r'EfficientSegformerHead.*conv_seg'):
        shift_logits(model, OFFSETS)
    assert torch.equal(model.decode_head.conv_seg.bias, bias)
    with pytest.raises(ConfigError, match='Linear has no decode_head'):
        shift_logits(nn.Linear(1, 1), OFFSETS)
    model.decode_head.forward = before
    own.bias = None  # it gets a bias
    images = torch.randn(1, 3, 64, 64)
    plain = logits(model, images)
    shift_logits(model, OFFSETS)
    np.testing.assert_allclose((logits(model, images) - plain).mean((0, 2, 3)), OFFSETS, atol=1e-5)
