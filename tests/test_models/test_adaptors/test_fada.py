import pytest
import torch

from mmrs.models.adaptors import Domain
from mmrs.models.losses.head_loss import FusedLogits, head_loss
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from tests.conformance import Trainer
from tests.recordings import unpack


def build(**changes):
    return MODELS.build({**Trainer('fada').config.model, **changes})


@pytest.fixture
def released(golden):
    """What the release computed, and a model with its discriminator, which resizes as it does."""
    recorded = unpack(golden('uda_fada.pt'))
    discriminator = dict(type='ClassDiscriminator', in_channels=6, base_channels=8)
    cfg = dict(Trainer('fada').config.model)
    head = dict(cfg['decode_head'], num_classes=4, align_corners=True)
    model = MODELS.build({**cfg, 'discriminator': discriminator, 'weight': 1.0, 'decode_head': head}).double()
    state = model.discriminator.state_dict()
    assert [tuple(v.shape) for v in state.values()] == [tuple(v.shape) for v in recorded['state'].values()]
    model.discriminator.load_state_dict(dict(zip(state, recorded['state'].values())))
    return model, recorded


def test_losses_and_their_gradient_match_the_release(released):
    model, recorded = released
    assert (recorded['temperature'], recorded['clip']) == (model.temperature, model.most)
    features, logits = recorded['features'].clone().requires_grad_(), recorded['logits'] / model.temperature
    images = torch.zeros(2, 3, *logits.shape[-2:], dtype=torch.float64)
    domain = Domain(images, None, None, [])
    close = dict(rtol=0, atol=1e-7)
    torch.testing.assert_close(model.discriminator(features), recorded['out'], **close)
    torch.testing.assert_close(model.soft_label(logits, domain), recorded['soft_label'], **close)
    losses = model.alignment((domain, domain), (features, features), (logits, logits))
    for own, name in dict(loss_adv='adversarial', loss_disc_source='d_source', loss_disc_target='d_target').items():
        torch.testing.assert_close(losses[own], recorded['losses'][name], **close, msg=name)
    (gradient,) = torch.autograd.grad(losses['loss_adv'], features)
    torch.testing.assert_close(gradient, recorded['grad_features_of_adversarial'], **close)


def test_accuracy_by_hand(released):
    model, recorded = released
    features, logits = recorded['features'], recorded['logits'] / model.temperature
    domain = Domain(torch.zeros(2, 3, 5, 4, dtype=torch.float64), None, None, [])  # as large as the features
    p = recorded['out'].softmax(1)
    of_source = p[:, :4].sum(1) > p[:, 4:].sum(1)
    found = model.alignment((domain, domain), (features, 0 * features), (logits, logits))['disc_accuracy_features']
    of_nothing = model.discriminator(0 * features).softmax(1)
    of_target = of_nothing[:, 4:].sum(1) > of_nothing[:, :4].sum(1)
    assert found.item() == pytest.approx((of_source.double().mean() + of_target.double().mean()).item() / 2)


def test_labels_are_learnt_at_the_temperature():
    trainer = Trainer('fada', {'model.decode_head.dropout_ratio': 0.0, 'model.backbone.drop_path_rate': 0.0})
    batch, model = trainer.batch(0), trainer.model
    found = trainer.losses(batch)
    prepared = model.data_preprocessor(batch, True)
    labels = torch.cat([sample.gt_sem_seg.data for sample in prepared['data_samples']['source']])
    with torch.no_grad():
        logits = model.decode_head(model.extract_feat(prepared['inputs']['source']))
        warm, cold = (head_loss(model.decode_head, logits / t, labels) for t in (1.8, 1.0))
    assert found['loss_seg'].item() == pytest.approx(warm.item(), rel=1e-5)
    assert abs(warm - cold) > 1e-3


@pytest.mark.parametrize('option', [dict(weight=-1), dict(temperature=0), dict(most=1.5)])
def test_settings_out_of_range(option):
    with pytest.raises(ConfigError, match=f'model.{next(iter(option))}'):
        build(**option)


def test_on_two_resolutions_the_detail_has_its_part_of_the_loss():
    logits, detail = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    divided = FusedLogits.of(logits, detail, lambda maps: maps[:, :2, :2], 0.1).divided(2)
    assert isinstance(divided, FusedLogits)
    assert torch.equal(divided.detail, detail / 2)
    assert torch.equal(divided.as_subclass(torch.Tensor), logits / 2)
