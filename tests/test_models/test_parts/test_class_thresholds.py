import numpy as np
import pytest
import torch
from torch import nn

from mmrs.models.parts import SelfTraining, confidence_regularisers
from mmrs.utils import ConfigError
from tests.conformance import Trainer, changes

CBST, IAST = dict(type='CBSTThresholds', portion=0.3), dict(type='IASTThresholds')
EACH = pytest.mark.parametrize('thresholds', [CBST, IAST], ids=['CBST', 'IAST'])


@pytest.fixture(scope='module')
def recorded(golden):
    return golden('uda_selftraining.pt')


def teacher(classes, **options):
    return SelfTraining({}, classes, thresholds=options)


def drawn(shape, seed, sure=3.0):
    """Logits of a teacher that is sure of some pixels and is so of its classes to different degrees."""
    generator = torch.Generator().manual_seed(seed)
    logits = sure * torch.randn(shape, generator=generator)
    return logits * torch.linspace(0.5, 1.5, shape[1])[:, None, None]


def by_hand(logits):
    """Probabilities in float64, by numpy."""
    exponentials = np.exp(logits.double().numpy())
    return exponentials / exponentials.sum(1, keepdims=True)


# The originals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('portion', [0.1, 0.5, 1.0])
def test_class_balanced_labels_are_those_of_the_original(recorded, portion):
    """All images at once; of each image and class every 4th pixel counts. One class is predicted nowhere."""
    probability, case = recorded['probability'], recorded['cases'][f'portion_{portion}']
    found = teacher(5, type='CBSTThresholds', portion=portion, initial=1, momentum=0).thresholds
    counted = torch.zeros(probability[:, 0].shape, dtype=torch.bool)
    for image, label in zip(counted, probability.argmax(1)):
        for c in range(5):
            places = (label == c).nonzero()[:: recorded['downsampling']]
            image[tuple(places.T)] = True
    label, passes = found(probability, counted)
    torch.testing.assert_close(found.values, case['thresholds'], rtol=0, atol=1e-6)
    assert torch.equal(torch.where(passes, label + 1, 0), case['label_plus_one'].long())


def test_instance_adaptive_labels_are_those_of_the_original(recorded):
    """Image after image, with confidences that are kept in half precision."""
    case = recorded['cases']['iast']
    options = dict(alpha=case['alpha'], momentum=case['beta'], gamma=case['gamma'], initial=case['initial'])
    found = teacher(5, type='IASTThresholds', **options).thresholds
    steps = zip(recorded['probability'].half().float(), case['thresholds_after_image'], case['label_plus_one'])
    for probability, thresholds, expected in steps:
        label, passes = found(probability[None])
        torch.testing.assert_close(found.values.double(), thresholds, rtol=0, atol=1e-6)
        assert torch.equal(torch.where(passes, label + 1, 0)[0], expected.long())


def test_regularisers_are_those_of_the_original(recorded):
    """Which divides by the number of classes, too, and counts log K less as the divergence."""
    case = recorded['cases']['iast']['regularisers']
    entropy, divergence = confidence_regularisers(case['logits'], case['ignored'][:, 0] == 0)
    classes = case['logits'].shape[1]
    assert entropy.item() / classes == pytest.approx(case['entropy_on_ignored'].item(), abs=1e-9)
    assert (divergence.item() + np.log(classes)) / classes == pytest.approx(case['kld_on_labelled'].item(), abs=1e-9)


# Batch by batch ------------------------------------------------------------------------------------------------------


def test_class_balanced_thresholds_follow_the_batches():
    found = teacher(4, momentum=0.8, **CBST)
    expected = np.full(4, 0.9)
    for seed in range(3):
        logits = drawn((2, 4, 16, 12), seed)
        if seed == 1:
            logits[:, 2] = -30  # in this batch no pixel is of class 2
        probability = by_hand(logits)
        confidence, label = probability.max(1), probability.argmax(1)
        for c in range(4):
            own = np.sort(confidence[label == c])[::-1]
            if (number := int(0.3 * len(own))) > 0:
                expected[c] = 0.8 * expected[c] + 0.2 * own[number - 1]
        pseudo = found.pseudo_label(logits)
        np.testing.assert_allclose(found.thresholds.values.numpy(), expected, rtol=1e-5)
        ratio = probability / expected[:, None, None]
        np.testing.assert_array_equal(pseudo.label.numpy(), ratio.argmax(1))
        np.testing.assert_array_equal(pseudo.weight.numpy(), ratio.max(1) >= 1)
        assert 0 < pseudo.confident_share.item() == pytest.approx((ratio.max(1) >= 1).mean())


def test_instance_adaptive_thresholds_are_numpys_quantiles():
    found = teacher(4, momentum=0.6, alpha=0.4, gamma=3, initial=0.7, **IAST)
    logits, valid = drawn((2, 4, 16, 12), 0), torch.rand(2, 16, 12, generator=torch.Generator().manual_seed(1)) < 0.6
    probability = by_hand(logits)
    confidence, label = probability.max(1), probability.argmax(1)
    expected = np.empty(4)
    for c in range(4):
        own = np.append(confidence[(label == c) & valid.numpy()], 0.7)
        expected[c] = 0.6 * 0.7 + 0.4 * np.quantile(own, 1 - 0.4 * 0.7**3)
    pseudo = found.pseudo_label(logits, valid)
    np.testing.assert_allclose(found.thresholds.values.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(pseudo.weight.numpy(), (confidence >= expected[label]) & valid.numpy())


def test_a_threshold_of_one_gives_way():
    """A class of which all pixels are certain would else never be heard of again where one is not."""
    found = teacher(2, initial=1, **IAST)
    logits = torch.full((1, 2, 4, 4), 200.0)
    logits[:, 1] = -200
    found.pseudo_label(logits)
    assert found.thresholds.values.tolist() == pytest.approx([0.999, 0.999])


@EACH
def test_pixels_that_pass_weigh_their_class_and_the_others_nothing(thresholds):
    """So that all weights together are the number of pixels that pass, which the weight q of all pixels adds up to."""
    logits, weights = drawn((2, 4, 16, 12), 0), [1.0, 3.0, 0.0, 0.5]
    plain = teacher(4, **thresholds).pseudo_label(logits)
    weighted = SelfTraining({}, 4, class_weight=weights, thresholds=thresholds).pseudo_label(logits)
    assert set(plain.weight.unique().tolist()) == {0.0, 1.0}
    assert plain.weight.mean().item() == pytest.approx(plain.confident_share.item())
    assert torch.equal(weighted.label, plain.label)
    np.testing.assert_allclose(weighted.weight.numpy(), np.asarray(weights)[plain.label] * plain.weight.numpy())
    assert weighted.confident_share == plain.confident_share


@EACH
def test_pixels_without_data_or_without_a_number_move_no_threshold(thresholds):
    logits, valid = drawn((2, 4, 16, 12), 0), torch.ones(2, 16, 12, dtype=torch.bool)
    valid[0, :5] = False
    logits[1, 2, 3, 4] = torch.nan
    known = valid.clone()
    known[1, 3, 4] = False
    masked, alone = teacher(4, **thresholds), teacher(4, **thresholds)
    pseudo = masked.pseudo_label(logits, valid)
    expected = alone.pseudo_label(logits.movedim(1, 0)[None, :, known][..., None])
    assert torch.equal(masked.thresholds.values, alone.thresholds.values)
    assert torch.equal(pseudo.weight[known], expected.weight[0, :, 0])
    assert not pseudo.weight[~known].any()
    before = masked.thresholds.values.clone()
    nothing = masked.pseudo_label(logits, torch.zeros_like(valid))
    assert not nothing.weight.any()
    assert nothing.confident_share == 0
    torch.testing.assert_close(masked.thresholds.values, before)


@EACH
def test_a_part_of_the_pixels_is_enough(thresholds):
    """Evenly spread; thresholds from a sixteenth of 65536 pixels are those from all within sampling error."""
    logits = drawn((1, 4, 256, 256), 0)
    part, whole = (teacher(4, momentum=0, samples=n, **thresholds) for n in (4096, 65536))
    for found in (part, whole):
        found.pseudo_label(logits)
    torch.testing.assert_close(part.thresholds.values, whole.thresholds.values, rtol=0, atol=0.03)
    assert not torch.equal(part.thresholds.values, whole.thresholds.values)


@EACH
def test_one_channel_is_two_classes(thresholds):
    z = drawn((2, 1, 16, 12), 0)
    one, two = (teacher(2, **thresholds) for _ in range(2))
    for found, expected in zip(one.pseudo_label(z), two.pseudo_label(torch.cat((torch.zeros_like(z), z), 1))):
        assert torch.equal(found, expected)


def test_regularisers_by_finite_differences():
    """And their values by numpy; nothing where no pixel is valid."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labelled, valid = (torch.rand(2, 4, 5, generator=generator) < 0.5 for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: confidence_regularisers(z, labelled, valid), logits)
    probability = by_hand(logits.detach())
    ignored, learnt = (valid & ~labelled).numpy(), (valid & labelled).numpy()
    entropy, divergence = confidence_regularisers(logits, labelled, valid)
    assert entropy.item() == pytest.approx(-(probability * np.log(probability)).sum(1)[ignored].mean())
    assert divergence.item() == pytest.approx(-np.log(3 * probability).mean(1)[learnt].mean())
    assert [loss.item() for loss in confidence_regularisers(logits, labelled, torch.zeros_like(valid))] == [0, 0]


# In a run ------------------------------------------------------------------------------------------------------------


@EACH
def test_a_resumed_run_goes_on_with_its_thresholds(thresholds):
    options = {'model.self_training.thresholds': {**thresholds, 'initial': 0.2}}
    steady, resumed = (Trainer('st_dasegnet decoder_only', options) for _ in range(2))
    for seed in range(2):
        logged = steady.step(steady.batch(seed))
    resumed.model.load_state_dict(steady.state()['model'])
    resumed.optimizer.load_state_dict(steady.state()['optimizer'])
    resumed.iteration = 2
    before = steady.model.teacher.thresholds.values.clone()
    for trainer in (steady, resumed):
        logged = trainer.step(trainer.batch(2))
    assert changes(steady.state(), resumed.state()) == set()
    assert (steady.model.teacher.thresholds.values != before).all()
    assert 0 < logged['confident_share'] < 1
    assert logged['loss_pseudo_t2t'] > 0


def test_without_them_a_checkpoint_has_no_thresholds():
    with_thresholds, without = (SelfTraining({'head': nn.Conv2d(2, 6, 1)}, 6, thresholds=t) for t in (CBST, None))
    assert set(with_thresholds.state_dict()) - set(without.state_dict()) == {'thresholds.values'}


@pytest.mark.parametrize(
    ('key', 'value'),
    [('portion', 0), ('portion', 1.5), ('initial', 0), ('momentum', 1), ('samples', 2.5), ('alpha', 0), ('gamma', -1)],
)
def test_numbers_out_of_range(key, value):
    kind = IAST['type'] if key in ('alpha', 'gamma') else CBST['type']
    with pytest.raises(ConfigError, match=rf'self_training\.thresholds\.{key} is {value}'):
        teacher(6, type=kind, **{key: value})
