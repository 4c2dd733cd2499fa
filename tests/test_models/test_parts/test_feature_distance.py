from pathlib import Path

import pytest
import torch

from mmrs.models.parts.feature_distance import FeatureDistance, downscaled_label, feature_distance
from mmrs.utils import ConfigError

GOLDEN = torch.load(Path(__file__).resolve().parents[2] / 'data/golden/uda_feature_distance.pt', weights_only=True)
BACKBONE = dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type='BN'))
PRETRAINED = dict(init_cfg=dict(type='Pretrained', checkpoint='somewhere.pth'))


@pytest.mark.parametrize('name', GOLDEN['cases'])
def test_equals_the_release(name):
    """But where no cell counts, of which the release makes NaN."""
    case = GOLDEN['cases'][name]
    maps = GOLDEN['features'][case['features']]
    features = maps['source'].clone().requires_grad_()
    labels, mask = GOLDEN['label_u8'][:, 0].long(), None
    if case['classes'] is not None:
        cells = downscaled_label(labels, features.shape[-2:], GOLDEN['num_classes'], case['min_ratio'])
        assert torch.equal(cells[:, None], case['rescaled_label'])
        mask = torch.isin(cells, torch.tensor(case['classes']))
        assert torch.equal(mask[:, None], case['mask'])
    loss = case['lam'] * feature_distance(features, maps['imagenet'], mask)
    loss.backward()
    tolerance = 1e-12 if features.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(loss.detach(), case['loss'].nan_to_num(0), rtol=0, atol=tolerance)
    if case['grad'] is not None:
        torch.testing.assert_close(features.grad, case['grad'], rtol=0, atol=tolerance)
    assert features.grad.abs().sum().item() == pytest.approx(case['grad_abs_sum'], rel=1e-5, abs=1e-9)


def build(**options):
    return FeatureDistance(**{**dict(backbone={**BACKBONE, **PRETRAINED}, bands=3, num_classes=6), **options})


def test_the_reference_is_another_backbone_that_never_trains():
    part = build(classes=[1, 3], weight=0.1).train()
    assert not any(parameter.requires_grad for parameter in part.parameters())
    assert not any(module.training for module in part.modules())
    images, labels = torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.long)
    labels[1] = 2
    features = part.backbone(images)[-1] + torch.tensor([3.0, 100.0]).view(2, 1, 1, 1)
    found = part(features.requires_grad_(), images, labels)
    assert found.item() == pytest.approx(0.1 * 3 * features.shape[1] ** 0.5, rel=1e-5)
    assert build(classes=[4])(features, images, labels).item() == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(bands=4), 'feature_distance.* bands is 4; 3'),
        (dict(classes=[1, 6]), r'feature_distance.classes is \[1, 6\]; .* 0 to 5'),
        (dict(min_ratio=2), 'feature_distance.min_ratio'),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_random_weights_are_no_reference():
    with pytest.raises(ConfigError, match=r'feature_distance is set, but model\.backbone has no pretrained weights'):
        build(backbone=BACKBONE).init_weights()
