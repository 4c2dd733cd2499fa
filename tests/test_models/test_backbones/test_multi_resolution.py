import copy

import pytest
import torch
import torch.nn.functional as F

from mmrs.models.backbones.multi_resolution import Box, sliding_boxes
from mmrs.registry import MODELS
from mmrs.utils import ConfigError

TINY = dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 5, 8], drop_path_rate=0.0)


def build(**options):
    """A backbone of several resolutions, and the plain one with its weights."""
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type='MultiResolution', base='EfficientMiT', **TINY, **options))
    plain = MODELS.build(dict(type='EfficientMiT', **TINY))
    plain.load_state_dict(backbone.state_dict())  # by the same names
    return backbone, plain


def test_boxes_are_the_releases_but_for_the_end_that_it_never_reached(golden):
    for name, case in golden('uda_hrda_parts.pt')['crop_boxes'].items():
        if case['divisible'] == 1:
            continue  # finer than logits
        backbone, drawn = build()[0], iter(case['randint_calls'])

        def draw(number, drawn=drawn):
            low, high, found = next(drawn)
            assert (low, number) in ((0, high), (0, high + 1))
            return found

        if case['randint_calls']:
            backbone.draw = draw
        boxes = [list(backbone._draw_box(case['size'], case['crop'])) for _ in case['boxes']]
        assert boxes == case['boxes'], name


def test_all_boxes_on_the_grid_are_drawn_by_torch_and_one_for_all_images():
    backbone = build(detail_size=64)[0]
    images = torch.randn(3, 3, 80, 72)
    torch.manual_seed(1)
    found = [backbone(images).boxes for _ in range(60)]
    torch.manual_seed(1)
    assert backbone(images).boxes == found[0]
    assert {len(boxes) for boxes in found} == {1}
    assert {boxes[0] for boxes in found} == {Box(t, t + 64, x, x + 64) for t in (0, 8, 16) for x in (0, 8)}


def test_windows_are_the_releases(golden):
    for name, case in golden('uda_hrda_parts.pt')['slide']['boxes'].items():
        if case['overlapping']:
            assert [list(box) for box in sliding_boxes(case['size'], case['crop'])] == case['boxes'], name


@pytest.mark.parametrize('training', [True, False])
def test_stages_are_those_of_the_plain_backbone_on_half_the_image_and_on_its_parts(training):
    backbone, plain = build(detail_size=64)
    images = torch.randn(2, 3, 96, 128)
    features = backbone.train(training)(images)
    half = F.interpolate(images, scale_factor=0.5, mode='bilinear', align_corners=False)
    parts = torch.cat([images[..., b.top : b.bottom, b.left : b.right] for b in features.boxes])
    assert len(features.boxes) == (1 if training else 6)
    for found, expected in ((features, plain(half)), (features.detail, plain(parts))):
        assert len(found) == len(expected) == 4
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_who_asks_for_no_detail_does_not_pay_for_it():
    backbone = build()[0]
    passes = []
    backbone.layers[0][0].projection.register_forward_hook(lambda *_: passes.append(1))
    features = backbone(torch.randn(1, 3, 64, 64))
    assert [stage.shape[-1] for stage in features] == [8, 4, 2, 1]
    assert len(passes) == 1
    assert features.detail is features.detail
    assert len(passes) == 2


@pytest.mark.parametrize(('detail_size', 'size', 'windows'), [(None, (112, 144), 9), (104, (104, 136), 2)])
def test_odd_images_are_padded_but_no_label_is_asked_for_what_was(detail_size, size, windows):
    backbone = build(detail_size=detail_size)[0]
    images = torch.randn(1, 3, 97, 131)
    features = backbone.eval()(images)
    assert (features.size, features.image_size, len(features.boxes)) == (size, (97, 131), windows)
    assert (max(b.bottom for b in features.boxes), max(b.right for b in features.boxes)) == size
    backbone.train()
    for _ in range(20):
        top, bottom, left, right = backbone(images).boxes[0]
        assert 0 <= top < bottom <= 97
        assert 0 <= left < right <= 131
        assert (bottom - top) % 8 == (right - left) % 8 == 0


def test_a_copy_is_a_backbone_of_its_own():
    backbone = build()[0]
    twin = copy.deepcopy(backbone).eval()
    assert backbone.training
    assert twin(torch.randn(1, 3, 64, 64)).slide
    assert twin.out_channels == (8, 16, 40, 64)


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(base='Nothing'), 'Nothing'),
        (dict(base='EfficientMiT', detail_size=100), r'detail_size is 100.*8 px'),
        (dict(base='EfficientMiT', stride=0), 'stride'),
    ],
)
def test_what_makes_no_sense_is_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        MODELS.build(dict(type='MultiResolution', **options))


def test_a_detail_that_was_asked_for_without_gradients_has_them():
    """A teacher may be the first to ask for what a student learns from."""
    backbone = build()[0].train()
    features = backbone(torch.rand(1, 3, 64, 64))
    with torch.no_grad():
        assert features.detail[0].requires_grad
    assert features.detail[0].requires_grad
    with torch.no_grad():
        assert not backbone(torch.rand(1, 3, 64, 64)).detail[0].requires_grad
