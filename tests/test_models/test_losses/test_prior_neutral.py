import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F

from mmrs.apis.filling import fill_model
from mmrs.models.losses.head_loss import head_loss
from mmrs.registry import MODELS
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY

SHARES = [0.7, 0.25, 0.05]
CE = dict(type='PixelMeanCrossEntropyLoss')
RNG = np.random.default_rng(0)
LOGITS, LABEL = RNG.normal(size=(2, 3, 5, 4)), RNG.integers(0, 3, (2, 5, 4))


def build(loss=CE, tau=1.0, shares=SHARES):
    return MODELS.build(dict(type='PriorNeutralLoss', loss=loss, tau=tau, shares=shares))


def per_pixel(logits, label):
    """Cross entropy in float64."""
    logits = logits - logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -np.take_along_axis(log_p, label[:, None], 1)[:, 0]


@pytest.mark.parametrize('tau', [0, 0.5, 1.0])
@pytest.mark.parametrize('of_source', [True, False, 'half'])
def test_shares_are_added_where_the_label_is_the_sources(tau, of_source):
    mask = np.zeros(LABEL.shape, bool) if of_source is False else np.ones(LABEL.shape, bool)
    if of_source == 'half':
        mask[:, 2:] = False
    added = tau * np.log(SHARES)[:, None, None]
    expected = np.where(mask, per_pixel(LOGITS + added, LABEL), per_pixel(LOGITS, LABEL)).mean()
    given = torch.tensor(mask) if of_source == 'half' else of_source
    value = build(tau=tau)(torch.tensor(LOGITS), torch.tensor(LABEL), from_source=given)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_best_logits_are_those_under_equal_shares():
    """What the loss teaches: pixels that look alike, labelled by shares p, have logits that are equal at tau = 1."""
    label = torch.tensor(np.repeat([0, 1, 2], [70, 25, 5])).view(1, 10, 10)
    logits = torch.zeros(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    build()(logits.expand(-1, -1, 10, 10), label).backward()
    assert logits.grad.abs().max() < 1e-6
    logits.grad = None
    build(tau=0.0)(logits.expand(-1, -1, 10, 10), label).backward()
    assert logits.grad.abs().max() > 0.1


def test_one_channel_stands_for_two_classes():
    label = torch.tensor(LABEL % 2)
    one = build(shares=[0.9, 0.1])(torch.tensor(LOGITS[:, :1]), label)
    two = np.concatenate([np.zeros_like(LOGITS[:, :1]), LOGITS[:, :1]], 1) + np.log([0.9, 0.1])[:, None, None]
    assert one.item() == pytest.approx(per_pixel(two, LABEL % 2).mean(), rel=1e-6)


def test_sigmoids_get_the_odds_of_each_class():
    loss = build(dict(type='CrossEntropyLoss', use_sigmoid=True))
    z = torch.tensor(LOGITS + np.log(np.array(SHARES) / (1 - np.array(SHARES)))[:, None, None])
    expected = F.binary_cross_entropy_with_logits(z, F.one_hot(torch.tensor(LABEL), 3).movedim(-1, 1).double())
    assert loss(torch.tensor(LOGITS), torch.tensor(LABEL)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_heads_pass_on_whose_labels_they_are():
    head = MODELS.build(
        dict(
            type='FCNHead',
            in_channels=4,
            channels=4,
            num_classes=3,
            num_convs=0,
            concat_input=False,
            norm_cfg=dict(type='BN'),
            loss_decode=[dict(type='PriorNeutralLoss', loss=CE, shares=SHARES), dict(type='CrossEntropyLoss')],
        )
    )
    logits, label = torch.tensor(LOGITS), torch.tensor(LABEL)
    plain = per_pixel(LOGITS, LABEL).mean()
    neutral = per_pixel(LOGITS + np.log(SHARES)[:, None, None], LABEL).mean()
    assert head_loss(head, logits, label).item() == pytest.approx(plain + neutral, rel=1e-6)
    assert head_loss(head, logits, label, from_source=False).item() == pytest.approx(2 * plain, rel=1e-6)


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(tau=-1), 'tau'),
        (dict(shares=[0.7, 0.25]), 'shares'),
        (dict(shares=[1.0, 0.0, 0.0]), 'shares'),
        (dict(shares='auto'), 'auto'),
        (dict(shares=0.2), 'shares is 0.2'),
        (dict(shares=[0.5, 0.3, 0.1, 0.1]), '4 entries.*3 classes'),
    ],
)
def test_values_that_cannot_work(options, named):
    with pytest.raises(ConfigError, match=named):
        build(**options)(torch.tensor(LOGITS), torch.tensor(LABEL))


# The configuration key ------------------------------------------------------------------------------------------------


def test_the_key_reaches_each_decode_loss_and_goes():
    config = load_config(
        REPOSITORY / 'configs/st_dasegnet/method.py',
        {'class_prior.tau': 0.5, 'model.auxiliary_head': [dict(loss_decode=[CE, dict(type='CrossEntropyLoss')])]},
        task='potsdam2vaihingen',
        network='segformer_mit-b0',
    )
    assert 'class_prior' not in config
    weights = [1.0, 1.0, 1.0, 1.25, 1.5, 1.5]
    expected = dict(type='PriorNeutralLoss', tau=0.5, loss=dict(**CE, class_weight=weights))
    assert config.model.decode_head.loss_decode == expected
    assert [term.loss.type for term in config.model.auxiliary_head[0].loss_decode] == [CE['type'], 'CrossEntropyLoss']
    with pytest.raises(ConfigError, match='prior-neutral already'):
        load_config(Config(dict(model=config.model, class_prior=dict(tau=1.0))))
    auxiliary = [dict(loss_decode=dict(CE))]
    for model in (dict(decode_head=dict()), dict(decode_head=dict(), auxiliary_head=auxiliary)):
        with pytest.raises(ConfigError, match=r'model.decode_head has no loss_decode'):
            load_config(Config(dict(model=model, class_prior=dict(tau=1.0))))
    with pytest.raises(ConfigError, match='class_prior is 1'):
        load_config(Config(dict(model=dict(), class_prior=1)))
    with pytest.raises(ConfigError, match='did you mean class_prior'):
        load_config(REPOSITORY / 'configs/st_dasegnet/potsdam2vaihingen.py', {'class_priors.tau': 1.0})


def test_what_a_domain_changes_of_the_loss_stays_so():
    config = load_config(REPOSITORY / 'configs/st_dasegnet/potsdam2vaihingen.py', {'class_prior.tau': 1.0})
    head = config.model.decode_head
    assert head.loss_decode.type == 'PriorNeutralLoss'
    assert head.target.loss_decode == dict(loss=dict(class_weight=[1.0, 1.0, 1.25, 1.25, 1.5, 1.5]))


def test_auto_is_what_the_source_has(monkeypatch):
    monkeypatch.setattr('mmrs.apis.filling.source_shares', lambda config: SHARES)
    loss = dict(type='PriorNeutralLoss', loss=CE)
    config = Config(
        dict(
            model=dict(type='EncoderDecoder', decode_head=dict(loss_decode=[dict(loss), dict(loss, shares=[0.5, 0.5])]))
        )
    )
    fill_model(config)
    assert [term.shares for term in config.model.decode_head.loss_decode] == [SHARES, [0.5, 0.5]]
    config.model.type = 'FeatureRegression'
    with pytest.raises(ConfigError, match='FeatureRegression learns from no labels'):
        fill_model(config)
