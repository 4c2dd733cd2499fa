"""What is found out about losses: of mmseg, of this project, and of a user."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mmrs.models  # noqa: F401 (registers)
from mmrs.models.losses.probing import LossProbe
from mmrs.registry import MODELS
from mmrs.utils import ConfigError


def probe(loss, num_classes=3, out_channels=None, ignore_index=255):
    loss = MODELS.build(loss) if isinstance(loss, dict) else loss
    return LossProbe(loss, num_classes, out_channels or num_classes, ignore_index, 'decode_head.loss_decode')


class Own(nn.Module):
    """A user's cross entropy, with something wrong in it, or nothing."""

    def __init__(self, fault=''):
        super().__init__()
        self.fault = fault

    def forward(self, logits, label, weight=None, ignore_index=255, **kwargs):
        loss = F.cross_entropy(logits, label, ignore_index=ignore_index, reduction='none')
        if weight is None:
            return loss.mean()
        if self.fault == 'per image':
            weight = weight.mean((1, 2), keepdim=True)
        if self.fault == 'normalised':
            return (loss * weight).sum() / weight.sum()
        if self.fault == 'squared':
            weight = weight.square()
        if self.fault == 'constant':
            return (loss * weight).mean() + 0.1
        return (loss * weight).mean()


@pytest.mark.parametrize(
    ('loss', 'honours'),
    [
        (dict(type='PixelMeanCrossEntropyLoss'), True),
        (dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 0.0, 2.0]), True),
        (dict(type='FocalLoss'), True),
        (dict(type='mmseg.CrossEntropyLoss'), True),
        (dict(type='mmseg.CrossEntropyLoss', class_weight=[1.0, 0.5, 2.0]), True),
        (dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True), True),
        (dict(type='mmseg.CrossEntropyLoss', reduction='none'), True),
        (dict(type='mmseg.DiceLoss'), False),
        (dict(type='mmseg.LovaszLoss', reduction='none'), False),
        (dict(type='mmseg.LovaszLoss', per_image=True), False),
        (dict(type='mmseg.TverskyLoss'), False),
        (Own(), True),
        (Own('per image'), False),
        (Own('normalised'), False),
        (Own('squared'), False),
        (Own('constant'), False),
    ],
)
def test_who_multiplies_each_pixel_by_its_weight(loss, honours):
    found = probe(loss)
    found.require_sense()
    assert found.honours_weights() == honours


@pytest.mark.parametrize('num_classes', [2, 3, 5, 6, 7, 8, 19])
def test_any_number_of_classes(num_classes):
    for loss, honours in ((dict(type='PixelMeanCrossEntropyLoss'), True), (dict(type='mmseg.DiceLoss'), False)):
        found = probe(loss, num_classes)
        found.require_sense()
        assert found.honours_weights() == honours


@pytest.mark.parametrize('loss', ['PixelMeanCrossEntropyLoss', 'FocalLoss', 'mmseg.CrossEntropyLoss'])
def test_binary_by_one_channel(loss):
    found = probe(dict(type=loss, use_sigmoid=True) if 'Mean' not in loss else dict(type=loss), 2, 1)
    found.require_sense()
    assert found.honours_weights()
    assert found.honours_ignored()


@pytest.mark.parametrize(
    ('loss', 'channels', 'message'),
    [
        (dict(type='mmseg.FocalLoss'), 3, r'loss_decode \(FocalLoss\) cannot be computed .*cpu: RuntimeError'),
        (dict(type='mmseg.OhemCrossEntropy'), 3, r"\(OhemCrossEntropy\) cannot .*'weight'"),
        # One number for each class is taken for one for each column.
        (dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True, class_weight=[1.0] * 8), 8, r'\(CrossEntropyLoss\)'),
        (dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 2.0]), 3, 'has 2 entries, but the logits have 3'),
        # It learns the opposite, as it takes the one channel for that of class 0.
        (dict(type='mmseg.DiceLoss'), 1, r'\(DiceLoss\) is 0\.98.* right .* 0\.0003.* wrong'),
        (dict(type='mmseg.TverskyLoss'), 1, r'\(TverskyLoss\) is 0 for a right .* 0 for a wrong'),
        (dict(type='mmseg.CrossEntropyLoss'), 1, r'\(CrossEntropyLoss\) cannot'),
    ],
)
def test_what_cannot_be_learnt_from(loss, channels, message):
    with pytest.raises(ConfigError, match=message):
        probe(loss, max(channels, 2), channels).require_sense()


def test_a_loss_that_fails_where_pixels_have_no_label():
    class Indexing(nn.Module):
        def forward(self, logits, label, weight=None, ignore_index=255):
            return F.cross_entropy(logits, label, torch.ones(3)[label].new_ones(3))

    found = probe(Indexing())
    found.require_sense()
    with pytest.raises(
        ConfigError, match=r'\(Indexing\) cannot be computed where pixels have no label \(255\): IndexE'
    ):
        found.honours_ignored()


@pytest.mark.parametrize(('loss', 'honours'), [('PixelMeanCrossEntropyLoss', True), ('mmseg.DiceLoss', False)])
def test_who_leaves_pixels_without_label_alone(loss, honours):
    assert probe(dict(type=loss)).honours_ignored() == honours


def test_the_probe_changes_no_loss_and_no_random_number():
    loss = MODELS.build(dict(type='PixelMeanCrossEntropyLoss', class_weight=[1.0, 2.0, 3.0]))
    state = torch.get_rng_state()
    found = probe(loss)
    found.require_sense()
    found.honours_weights()
    assert torch.equal(torch.get_rng_state(), state)
    assert loss.class_weight.tolist() == [1, 2, 3]


def test_a_term_that_is_switched_off():
    for loss in ('PixelMeanCrossEntropyLoss', 'mmseg.DiceLoss'):
        probe(dict(type=loss, loss_weight=0.0)).require_sense()


def test_a_loss_that_counts_begins_at_its_beginning():
    class Counting(Own):
        calls = 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return super().forward(*args, **kwargs)

    loss = Counting()
    probed = probe(loss)
    probed.require_sense()
    assert probed.honours_weights()
    assert loss.calls == 0
