from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrs.models.backbones.multi_resolution import Box
from mmrs.models.checks import check_losses, check_model, decode_heads
from mmrs.models.class_prior import shift_logits
from mmrs.models.decode_heads.hrda_head import average, fuse
from mmrs.models.losses import PixelMeanCrossEntropyLoss
from mmrs.models.losses.head_loss import FusedLogits, head_loss
from mmrs.models.widths import fill_channels
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests.recordings import enlarged

PIXEL_MEAN = SimpleNamespace(
    align_corners=False, sampler=None, ignore_index=255, loss_decode=PixelMeanCrossEntropyLoss()
)


def build(**options):
    backbone = dict(
        type='MultiResolution', base='EfficientMiT', embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 5, 8],
        drop_path_rate=0.0,
    )  # fmt: skip
    head = dict(
        type='HRDAHead', base='EfficientSegformerHead', attention=dict(channels=4), in_channels=None,
        in_index=[0, 1, 2, 3], channels=8, dropout_ratio=0.0, num_classes=5, norm_cfg=dict(type='BN'),
        loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    )  # fmt: skip
    preprocessor = dict(type='DomainAdaptationDataPreprocessor', mean=[0] * 3, std=[1] * 3)
    config = dict(
        type='EncoderDecoder', backbone=backbone, decode_head={**head, **options}, data_preprocessor=preprocessor
    )
    init_default_scope('mmrs')
    fill_channels(config)
    torch.manual_seed(0)
    model = MODELS.build({**config, 'test_cfg': dict(mode='whole')})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


# Numbers of the release ----------------------------------------------------------------------------------------------


def test_fusion_is_the_releases(golden):
    given = golden('uda_hrda_parts.pt')['fusion']
    for name, case in given['cases'].items():
        inputs = [given[key].clone().requires_grad_() for key in ('lr_logits', case['attention'], case['hr'])]
        context, attention, detail = inputs
        box = case['crop_box'] and Box(*case['crop_box'])
        fused = fuse(context, detail, attention.sigmoid(), box)
        torch.testing.assert_close(fused, case['fused'], rtol=0, atol=1e-6, msg=name)
        gradients = torch.autograd.grad(fused.square().sum(), inputs)
        found = [gradient.abs().sum().item() for gradient in gradients]
        assert found == pytest.approx(case['grad_abs_sum'], rel=1e-6), name
        if case['grad_attention'] is not None:
            torch.testing.assert_close(gradients[1], case['grad_attention'], rtol=0, atol=1e-6)


def test_windows_are_averaged_as_in_the_release(golden):
    case = golden('uda_hrda_parts.pt')['slide']['averaging']
    found = average(case['crop_logits'], [Box(*box) for box in case['boxes']], (56, 64))
    torch.testing.assert_close(found, case['average'], rtol=0, atol=1e-6)


def test_losses_are_the_releases(golden):
    recorded = golden('uda_hrda_parts.pt')
    given, fusion = recorded['losses'], recorded['fusion']
    label, weight = enlarged(given['label_u8_coarse']).long(), enlarged(given['weight_coarse'])
    # Fifteen rows are ignored. What is in the sixteenth is lost where labels are stored coarse: of the 5 ** 8 rows this
    # one alone gives both of the first two losses.
    label[0, 15] = torch.tensor([4, 0, 2, 2, 4, 0, 0, 2]).repeat_interleave(8)
    for name in ('release', 'weighted', 'none'):
        case = given['cases'][name]
        crop = Box(*given['crop_box']).crop
        logits = FusedLogits.of(fusion['cases']['crop']['fused'], fusion['hr_raw'], crop, case['hr_loss_weight'])
        found = head_loss(PIXEL_MEAN, logits, label, weight if case['pixel_weight'] else None)
        expected = case['loss_seg'] + case.get('hr.loss_seg', 0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6), name


# The whole network ---------------------------------------------------------------------------------------------------


def doubled(maps):
    return F.interpolate(maps, scale_factor=2, mode='bilinear', align_corners=False)


def of_parts(model, images, boxes):
    """Logits of the context and of some parts, and the attention, by the network's own backbone and heads."""
    plain = type(model.backbone).__mro__[2].forward  # that of the backbone behind it
    half = F.interpolate(images, scale_factor=0.5, mode='bilinear', align_corners=False)
    context = plain(model.backbone, half)
    details = [model.decode_head.head(plain(model.backbone, images[..., t:b, x:y])) for t, b, x, y in boxes]
    return model.decode_head.head(context), details, model.decode_head.scale_attention(context).sigmoid()


@torch.no_grad()
def test_prediction_joins_context_and_windows():
    model, images = build().eval(), torch.randn(2, 3, 64, 128)
    boxes = [(t, t + 32, x, x + 64) for t in (0, 16, 32) for x in (0, 32, 64)]
    context, details, attention = of_parts(model, images, boxes)
    total, count = np.zeros((2, 5, 16, 32)), np.zeros((16, 32))
    for (top, bottom, left, right), detail in zip(boxes, details):
        total[..., top // 4 : bottom // 4, left // 4 : right // 4] += detail.numpy()
        count[top // 4 : bottom // 4, left // 4 : right // 4] += 1
    expected = doubled((1 - attention) * context) + doubled(attention) * torch.from_numpy(total / count).float()
    found = model.decode_head(model.extract_feat(images))
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_training_sees_the_detail_of_one_part_in_logits_and_in_the_loss():
    model, images = build().eval(), torch.randn(2, 3, 64, 128)
    model.backbone.training = True  # running statistics, so that passes can be compared
    drawn = iter((1, 3))
    model.backbone.draw = lambda number: next(drawn)
    labels = torch.randint(5, (2, 64, 128))
    labels[0, :20] = 255
    weight = torch.rand(2, 64, 128)
    logits = model.decode_head(model.extract_feat(images))
    found = head_loss(model.decode_head, logits, labels, weight)

    context, (detail,), attention = of_parts(model, images, [(8, 40, 24, 88)])
    inside = torch.zeros(8, 16)
    inside[1:5, 3:11] = 1
    inserted = torch.zeros(2, 5, 16, 32)
    inserted[..., 2:10, 6:22] = detail
    expected = doubled((1 - attention * inside) * context) + doubled(attention * inside) * inserted
    torch.testing.assert_close(torch.Tensor(logits), expected, rtol=0, atol=1e-5)

    def cross_entropy(maps, label, weight):
        maps = F.interpolate(maps, label.shape[1:], mode='bilinear')
        return (F.cross_entropy(maps, label, ignore_index=255, reduction='none') * weight).mean()

    whole = cross_entropy(expected, labels, weight)
    part = cross_entropy(detail, labels[:, 8:40, 24:88], weight[:, 8:40, 24:88])
    assert found.item() == pytest.approx((0.9 * whole + 0.1 * part).item(), rel=1e-5)


def test_source_only_training_takes_the_same_loss():
    model = build().train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(5, (2, 1, 64, 64))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    torch.manual_seed(1)
    found = model.loss(images, samples)
    torch.manual_seed(1)
    expected = head_loss(model.decode_head, model.decode_head(model.extract_feat(images)), labels[:, 0])
    assert set(found) == {'decode.loss_seg'}
    assert found['decode.loss_seg'].item() == pytest.approx(expected.item(), rel=1e-5)
    found['decode.loss_seg'].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_logits_of_odd_images_are_as_many_as_those_of_other_networks():
    model = build().eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 97, 131), mode='tensor').shape == (1, 5, 25, 33)


def test_what_is_computed_of_fused_logits_is_plain():
    model = build().train()
    logits = model.decode_head(model.extract_feat(torch.randn(2, 3, 64, 64)))
    assert isinstance(logits, FusedLogits)
    assert type(logits.softmax(1)) is type(F.interpolate(logits, (64, 64))) is type(logits / 2) is torch.Tensor


# What surrounds it ---------------------------------------------------------------------------------------------------


def test_it_is_one_decode_head_to_checks_and_to_the_class_prior():
    model = build().eval()
    assert [name for name, _ in decode_heads(model)] == ['model.decode_head']
    check_model(model)
    check_losses(model)
    images, meta = torch.randn(1, 3, 64, 64), [dict(img_shape=(64, 64))]
    offsets = [0.5, -1.0, 0.0, 2.0, 0.25]
    with torch.no_grad():
        before = model.encode_decode(images, meta)
        shift_logits(model, offsets)
        moved = model.encode_decode(images, meta) - before
    torch.testing.assert_close(moved, torch.tensor(offsets)[:, None, None].expand_as(moved), rtol=0, atol=1e-5)


def test_a_loss_that_cannot_be_learnt_from_is_found_before_training():
    model = build(loss_decode=dict(type='PixelMeanCrossEntropyLoss', loss_weight=-1.0))
    with pytest.raises(ConfigError, match=r'model\.decode_head\.loss_decode'):
        check_losses(model)


def test_a_plain_backbone_and_another_stride_are_refused():
    model = build()
    with pytest.raises(ConfigError, match='MultiResolution'):
        model.decode_head(list(model.extract_feat(torch.randn(1, 3, 64, 64))))
    model.backbone.stride = 8
    with pytest.raises(ConfigError, match=r'32 x 32 px has 8 x 8 logits.*stride is 8'):
        model.decode_head(model.extract_feat(torch.randn(2, 3, 64, 64)))
