import numpy as np
import pytest
import torch
from torch import nn

from mmrs.models.parts import SelfTraining, make_pseudo_label
from mmrs.utils import ConfigError


def test_pseudo_labels_match_the_release(golden):
    cases = {name: case for name, case in golden('pseudo.pt').items() if not name.startswith('bug_')}
    assert len(cases) >= 5
    for name, case in cases.items():
        weights = case['class_weight'] and torch.tensor(case['class_weight'])
        pseudo = make_pseudo_label(case['logits'], case['threshold'], case['rare_threshold'], weights)
        assert torch.equal(pseudo.label, case['label'].squeeze(1)), name
        torch.testing.assert_close(pseudo.weight, case['weight'], rtol=1e-6, atol=0, msg=name)
        assert pseudo.confident_share.item() == pytest.approx(case['ratio'], rel=1e-6), name


@pytest.mark.parametrize('class_weight', [[1.0, 2.0, 3.0, 4.0, 5.0, 2.0], [1.01, 0.0, 1.51, 1.51, 2.01, 2.01]])
def test_pseudo_label_weights_are_a_table_look_up(golden, class_weight):
    """Integer and zero class weights, which the release confuses with class ids and with 'not confident'."""
    logits = golden('pseudo.pt')['config']['logits']
    pseudo = make_pseudo_label(logits, 0.975, 0.8, torch.tensor(class_weight))
    probability = np.exp(logits.double().numpy())
    probability /= probability.sum(1, keepdims=True)
    confidence = probability.max(1)
    share = (confidence >= 0.975).mean()
    expected = share * np.where(confidence >= 0.8, np.asarray(class_weight)[probability.argmax(1)], 0.5)
    np.testing.assert_allclose(pseudo.weight.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize('class_weight', [None, torch.tensor([1.0, 1.5, 1.0, 2.0, 1.0, 3.0])])
def test_pixels_without_data_have_no_part_in_pseudo_labels(golden, class_weight):
    """As if only the valid pixels were there: their weights, and the share over them."""
    logits = golden('pseudo.pt')['config']['logits']
    valid = torch.rand(logits.shape[0], *logits.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.6
    pseudo = make_pseudo_label(logits, 0.975, 0.8, class_weight, valid)
    alone = make_pseudo_label(logits.movedim(1, 0)[None, :, valid][..., None], 0.975, 0.8, class_weight)
    assert 0 < alone.confident_share < 1
    assert pseudo.confident_share.item() == pytest.approx(alone.confident_share.item(), rel=1e-6)
    torch.testing.assert_close(pseudo.weight[valid], alone.weight[0, :, 0])
    assert not pseudo.weight[~valid].any()


def test_pseudo_labels_of_an_image_without_data(golden):
    logits = golden('pseudo.pt')['config']['logits']
    pseudo = make_pseudo_label(logits, valid=torch.zeros(logits.shape[0], *logits.shape[-2:], dtype=torch.bool))
    assert pseudo.confident_share == 0
    assert not pseudo.weight.any()


@pytest.mark.parametrize('class_weight', [None, [1.5, 3.0]])
def test_pseudo_labels_of_one_channel_are_those_of_two(class_weight):
    """By the definition in float64, on the logits (0, z) and their softmax."""
    z = torch.linspace(-6, 6, 2 * 9 * 7).view(2, 1, 9, 7).flip(0)
    two = np.stack((np.zeros_like(z[:, 0].double().numpy()), z[:, 0].double().numpy()), 1)
    probability = np.exp(two) / np.exp(two).sum(1, keepdims=True)
    confidence, label = probability.max(1), probability.argmax(1)
    share = (confidence >= 0.975).mean()
    assert 0 < share < 1
    table = class_weight and torch.tensor(class_weight)
    pseudo = make_pseudo_label(z, 0.975, 0.8, table)
    np.testing.assert_array_equal(pseudo.label.numpy(), label)
    assert set(label.ravel()) == {0, 1}
    assert pseudo.confident_share.item() == pytest.approx(share, rel=1e-6)
    weight = share * np.where(confidence >= 0.8, np.asarray(class_weight or [1.0, 1.0])[label], 0.5)
    np.testing.assert_allclose(pseudo.weight.numpy(), weight if class_weight else share, rtol=1e-5)


def test_the_teacher_labels_by_its_own_numbers(golden):
    logits = golden('pseudo.pt')['config']['logits']
    weights = [1.0, 1.5, 1.0, 2.0, 1.0, 3.0]
    valid = torch.rand(logits.shape[0], *logits.shape[-2:], generator=torch.Generator().manual_seed(0)) < 0.6
    teacher = SelfTraining({'head': nn.Conv2d(2, 6, 1)}, 6, 0.9, 0.7, weights)
    for found, expected in zip(
        teacher.pseudo_label(logits, valid), make_pseudo_label(logits, 0.9, 0.7, torch.tensor(weights), valid)
    ):
        assert torch.equal(found, expected)
    # A checkpoint has the copies, by their names, and nothing else: the numbers are the configuration's.
    assert set(teacher.state_dict()) == {'head.weight', 'head.bias'}
    # A new device or precision takes the class weights along.
    assert teacher.double().class_weight.dtype == torch.float64


def test_class_weights_are_one_for_each_class():
    with pytest.raises(ConfigError, match=r'self_training\.class_weight has 1 entries for 6 classes'):
        SelfTraining({}, 6, class_weight=[1.0])


def test_class_weights_that_no_pixel_gets_are_mentioned(monkeypatch):
    said = []
    monkeypatch.setattr('mmrs.models.parts.self_training.print_log', lambda text, **_: said.append(text))
    SelfTraining({}, 2, class_weight=[1.0, 2.0])
    assert not said
    SelfTraining({}, 2, class_weight=[1.0, 2.0], rare_threshold=None)
    (text,) = said
    assert 'rare_threshold' in text
