from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmrs.models.losses.cross_entropy import PixelMeanCrossEntropyLoss
from mmrs.models.parts import make_pseudo_label
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests import parity_daformer
from tests.conformance import Trainer

GOLDEN = Path(__file__).resolve().parents[2] / 'data' / 'golden'


def load(name):
    return torch.load(GOLDEN / f'{name}.pt', weights_only=True)


@pytest.mark.parametrize('early', [True, False])
def test_three_steps_equal_the_release(early):
    recorded = load('uda_daformer_steps')
    assert parity_daformer.recognises(recorded)
    result = parity_daformer.compare(recorded, GOLDEN, early_backward=early)
    assert result.passed, str(result)
    assert result.errors['parameters'][0] > 0


@pytest.mark.parametrize(
    'options',
    [
        dict(feature_distance=dict(classes=[1, 3], weight=0.0, min_ratio=0.5)),
        dict(self_training=dict(threshold=0.3, batch_statistics=False, buffers='student')),
        dict(mixing=dict(weight=0.99)),
    ],
    ids=str,
)
def test_another_method_is_told_from_the_release(options):
    result = parity_daformer.compare(load('uda_daformer_steps'), GOLDEN, **options)
    assert result.errors['parameters'][0] > 1e-4


@pytest.mark.parametrize('name', load('uda_pseudo')['cases'])
def test_pseudo_labels_equal_the_release(name):
    case = load('uda_pseudo')['cases'][name]
    found = make_pseudo_label(case['logits'], case['threshold'] or 0, rare_threshold=None)
    assert torch.equal(found.label, case['label'])
    assert found.confident_share.item() == pytest.approx(case['q_batch'], abs=1e-7)
    weight, height = found.weight.clone(), found.weight.shape[1]
    weight[:, : case['ignore_top']] = weight[:, height - case['ignore_bottom'] :] = 0
    if case['valid_mask'] is not None:
        weight *= case['valid_mask'][:, 0]
    torch.testing.assert_close(weight.float(), case['weight'], rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', ['weighted', 'unweighted'])
def test_the_loss_of_weighted_pixels_equals_the_release(name):
    case = load('uda_pseudo')['ce']
    logits, recorded = case['logits'].clone().requires_grad_(), case['results'][name]
    value = PixelMeanCrossEntropyLoss()(logits, case['label'], case['weight'] if name == 'weighted' else None)
    value.backward()
    assert value.item() == pytest.approx(float(recorded['value']), abs=1e-8)
    torch.testing.assert_close(logits.grad, recorded['grad'], rtol=0, atol=1e-8)


def test_a_prior_changes_the_pasted_pixels_alone():
    """The loss of the mixed image by hand: where the target shows, the classes' shares are not added."""
    shares = [0.3, 0.25, 0.2, 0.1, 0.1, 0.05]
    term = dict(type='PixelMeanCrossEntropyLoss')
    loss = dict(type='PriorNeutralLoss', loss=term, tau=1.0, shares=shares)
    quiet = {
        'model.mixing.augmentation': None,
        'model.decode_head.dropout_ratio': 0.0,
        'model.backbone.drop_path_rate': 0.0,
    }
    trainer = Trainer('dacs', {**quiet, 'model.decode_head.loss_decode': dict(_delete_=True, **loss)})
    seen = []
    trainer.model.mixing.register_forward_hook(lambda _module, _inputs, mixed: seen.append(mixed))
    found = trainer.losses(trainer.batch(0))
    (mixed,) = seen
    assert 0.1 < mixed.from_source.float().mean() < 0.9
    with torch.no_grad():
        logits = trainer.model.decode_head(trainer.model.extract_feat(mixed.images))
    logits = F.interpolate(logits, mixed.label.shape[1:], mode='bilinear').double()
    logits = logits + torch.tensor(shares).double().log()[:, None, None] * mixed.from_source[:, None]
    expected = F.cross_entropy(logits, mixed.label, reduction='none', ignore_index=255)
    assert found['loss_mixed'].item() == pytest.approx((expected * mixed.weight).mean().item(), rel=1e-5)


def test_options_that_cannot_work():
    def build(**options):
        model = Trainer('dacs').config.model
        model.update(options)
        return MODELS.build(model)

    with pytest.raises(ConfigError, match='range of values'):
        build(data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3))
    bands = dict(type='DomainAdaptationDataPreprocessor', mean=[0.0] * 4, std=[1.0] * 4)
    with pytest.raises(ConfigError, match='feature_distance'):
        build(data_preprocessor=bands, feature_distance={}, mixing={})
    with pytest.raises(ConfigError, match=r'mixing\.weight'):
        build(mixing=dict(weight=-1))
