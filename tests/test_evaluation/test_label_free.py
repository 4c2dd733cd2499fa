import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mmrs.evaluation.label_free import (
    CRITERIA,
    BatchNuclearNorm,
    Consistency,
    DeepEmbeddedValidation,
    EnsembleAgreement,
    Entropy,
    InformationMaximisation,
    MixVal,
    Observation,
    SoftNeighbourhoodDensity,
    TeacherAgreement,
    choose,
    dead_classes,
    inadmissible,
)
from mmrs.evaluation.label_free.changes import CHANGES, GEOMETRIC, PHOTOMETRIC
from mmrs.evaluation.label_free.density import neighbourhood_density
from mmrs.evaluation.label_free.embedded import density_ratio, effective_size, embedded_risk
from mmrs.models.data_preprocessor import DomainAdaptationDataPreprocessor
from mmrs.utils import ConfigError, DataError

GOLDEN = torch.load(Path(__file__).resolve().parents[1] / 'data/golden/uda_criteria.pt', weights_only=True)
CASES = ('soft', 'confident_diverse', 'collapsed', 'uniform')


def seen_as(probability, valid=None):
    """What a network says that sees nothing but the pixel: images are its probabilities."""
    return Observation(probability, valid, lambda images: images)


def tile(logits, rows=8):
    """Logits ``(M, K)`` as what a network says of an image of so many rows."""
    return logits.softmax(1).T.reshape(logits.shape[1], rows, -1)


def scored(criterion, *tiles, expected=None):
    for probability in tiles:
        criterion.update(seen_as(probability))
    return criterion.compute(expected)


# The releases' values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['float64', 'float32'])
@pytest.mark.parametrize('case', CASES)
def test_criteria_of_single_predictions_equal_the_originals(case, dtype):
    golden = GOLDEN[f'{case}_{dtype}']
    logits, values = golden['logits'], golden['values']
    close = dict(rel=1e-6, abs=1e-6) if dtype == 'float32' else dict(rel=1e-9, abs=1e-9)
    # In two images, for all of it is summed.
    parts = [tile(half, 4) for half in logits.chunk(2)]
    assert scored(Entropy(6), *parts).plain == pytest.approx(values['entropy'], **close)
    assert scored(CRITERIA['diversity'](6), *parts).plain == pytest.approx(values['diversity'], **close)
    both = scored(InformationMaximisation(6), *parts)
    assert both.plain == pytest.approx(values['im'], **close)
    assert both.parts == {name: pytest.approx(values[name], **close) for name in ('entropy', 'diversity')}
    norm = scored(BatchNuclearNorm(6), *parts).value * math.sqrt(6 / len(logits))
    # The roots of eigenvalues that are 0 but for rounding.
    assert norm == pytest.approx(values['bnm'], abs=2e-6 if dtype == 'float32' else 1e-8)
    density = neighbourhood_density(logits.softmax(1))
    assert density.mean().item() == pytest.approx(values['snd'], rel=1e-6 if dtype == 'float32' else 1e-9)


def test_density_of_the_release_for_segmentation():
    golden = GOLDEN['snd_segmentation']
    for logits, places, expected in zip(golden['image_logits'], golden['pixel_indices'], golden['per_image']):
        pixels = logits[0].flatten(1).T.softmax(1)[places]
        density = neighbourhood_density(pixels, itself=True, epsilon=1e-5)
        assert density.mean().item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize('normalisation', [None, 'max', 'standardize'])
def test_risk_of_deep_embedded_validation(normalisation):
    golden = GOLDEN['dev']
    risk = embedded_risk(golden['weight'][:, 0], golden['error'][:, 0], normalisation)
    assert risk == pytest.approx(float(golden[str(normalisation)]), rel=1e-9)


# Classes that died ---------------------------------------------------------------------------------------------------


def test_guarded_values_put_the_worst_networks_last():
    """Entropy and density alone prefer the network that predicts one class."""
    expected = torch.full((6,), 1 / 6)
    tiles = {case: tile(GOLDEN[f'{case}_float64']['logits']) for case in CASES}
    shares = [torch.bincount(t.argmax(0).flatten(), minlength=6) / 80 for t in tiles.values()]
    reasons = inadmissible(shares, expected)
    assert [reason is None for reason in reasons] == [True, True, False, False]
    for kind in (Entropy, SoftNeighbourhoodDensity):
        scores = {case: scored(kind(6), t, expected=expected) for case, t in tiles.items()}
        assert max(CASES, key=lambda case: scores[case].plain) in ('collapsed', 'uniform')
        assert max(CASES, key=lambda case: scores[case].value) in ('confident_diverse', 'soft')
    assert choose([scored(Entropy(6), t, expected=expected).value for t in tiles.values()], reasons, 0.0).candidate == 1


def test_values_are_means_over_the_classes_that_are_expected():
    probability = torch.tensor([[0.9, 0.6, 0.2], [0.1, 0.4, 0.8], [0.0, 0.0, 0.0]])[:, None]
    of_pixel = [sum(p * math.log(p) for p in own if p) for own in ((0.9, 0.1), (0.6, 0.4), (0.2, 0.8))]
    first, second = (of_pixel[0] + of_pixel[1]) / 2, of_pixel[2]
    score = scored(Entropy(3), probability)
    assert score.plain == pytest.approx(sum(of_pixel) / 3)
    assert score.per_class[:2] == pytest.approx((first, second))
    assert math.isnan(score.per_class[2])
    assert score.value == pytest.approx((first + second) / 2)
    for expected, value in (
        ((0.5, 0.5, 0.0), (first + second) / 2),
        ((0.996, 0.004, 0.0), first),  # a class of less than 0.5 % is not expected
        ((0.5, 0.2, 0.3), (first + second - math.log(3)) / 3),  # the third one has died
    ):
        assert scored(Entropy(3), probability, expected=torch.tensor(expected)).value == pytest.approx(value)


def test_a_class_of_a_few_sure_pixels_has_died():
    probability = torch.tensor([0.9, 0.1])[:, None, None].repeat(1, 10, 10)
    probability[:, 0, 0] = torch.tensor([0.0, 1.0])
    usual = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    for second, worst in ((0.19, 0.0), (0.21, -math.log(2))):
        value = scored(Entropy(2), probability, expected=torch.tensor([1 - second, second])).value
        assert value == pytest.approx((worst - usual) / 2)


def test_a_class_is_dead_below_a_twentieth_of_its_share_on_the_source():
    expected = torch.tensor([0.5, 0.4, 0.096, 0.004])
    assert dead_classes(torch.tensor([0.9, 0.021, 0.079, 0]), expected).tolist() == [False, False, False, False]
    assert dead_classes(torch.tensor([0.9, 0.019, 0.004, 0]), expected).tolist() == [False, True, True, False]


def test_candidates_with_fewer_classes_than_usual_are_out():
    even, expected = torch.full((4,), 0.25), torch.full((4,), 0.25)
    dead = torch.tensor([0.5, 0.5, 0.0, 0.0])
    narrow = torch.tensor([0.94, 0.02, 0.02, 0.02])
    reasons = inadmissible([even, dead, even, narrow], expected)
    assert reasons[0] is None
    assert '2 of its classes have died, where 0 is usual' in reasons[1]
    assert 'it predicts 1.3 classes' in reasons[3]
    # Where all are alike there is nothing to compare with.
    assert inadmissible([dead] * 3, expected) == [None] * 3


def test_the_least_adapted_stays_unless_another_one_is_clearly_better():
    fine = [None] * 3
    assert choose([0.5, 0.54, 0.4], fine, margin=0.05) == (0, 'kept', pytest.approx(0.04))
    assert choose([0.5, 0.45, 0.4], fine, margin=0.05) == (0, 'kept', pytest.approx(-0.05))
    assert choose([0.5, 0.56, 0.4], fine, margin=0.05)[:2] == (1, 'adapted')
    assert choose([0.5, 0.9, 0.6], [None, 'dead', None], margin=0.05)[:2] == (2, 'adapted')
    assert choose([0.5, math.nan, 0.4], fine, margin=0.05)[:2] == (0, 'kept')
    assert choose([0.5, 0.1, 0.2], ['dead', None, None])[:2] == (2, 'adapted')
    assert choose([math.nan, 0.1, 0.2], fine)[:2] == (2, 'adapted')
    assert choose([0.1, 0.2, 0.15], ['dead', None, None])[:2] == (1, 'adapted')
    assert choose([0.5, 0.9], ['dead', 'dead']) == (0, 'none', pytest.approx(math.nan, nan_ok=True))


# Consistency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('change', GEOMETRIC)
@pytest.mark.parametrize('size', [(40, 56), (9, 7)], ids=str)
def test_maps_of_changed_images_lie_on_the_image(change, size):
    torch.manual_seed(0)
    # Smooth, so that a map which was scaled and scaled back is nearly the same.
    probability = F.interpolate(torch.randn(1, 4, 3, 3), size, mode='bicubic').softmax(1)[0]
    under = seen_as(probability).under(change)
    inside = under[0] >= 0
    assert under.shape == probability.shape
    assert inside.float().mean() > (0.3 if change == 'shift' else 0.999)
    assert (under - probability)[:, inside].abs().max() < (0.15 if change == 'scale' else 1e-6)
    if change == 'shift':
        rows, columns = min(20, (size[0] - 1) // 2), min(12, (size[1] - 1) // 2)
        assert inside[rows:, columns:].all()
        assert not inside[:rows].any()
        assert not inside[:, :columns].any()


@pytest.mark.parametrize('bands', [3, 6])
@pytest.mark.parametrize('change', PHOTOMETRIC)
def test_photometric_changes_keep_to_the_range_of_values(change, bands):
    preprocessor = DomainAdaptationDataPreprocessor(mean=[100.0] * bands, std=[50.0] * bands)
    image = torch.rand(bands, 24, 24) * 255
    asked = []

    def network(images):
        asked.append(images * 50 + 100)
        return images[:, :2].softmax(1)

    preprocessor(dict(inputs=[image.byte()], data_samples=None))  # it has seen that images have 8 bits
    Observation((image - 100) / 50, None, network, preprocessor).under(change)
    (changed,) = asked
    assert changed.min() > -1e-3
    assert changed.max() < 255 + 1e-3
    unit = image / 255
    expected = dict(gamma=unit**1.25, brightness=unit + 0.08, contrast=0.92 * unit + 0.04).get(change)
    if expected is None:
        assert changed[0].var() < image.var()
    else:
        torch.testing.assert_close(changed[0], expected.clamp(0, 1) * 255, rtol=0, atol=1e-2)


def test_consistency_is_the_mean_iou_of_two_maps():
    image = torch.zeros(2, 4, 4)
    image[0], image[1, :, :2] = 0.5, 1.0  # the left half is of the second class

    def left_heavy(images):
        """Maps the last column as the second class, whatever it shows."""
        maps = images.clone()
        maps[:, 1, :, -1] = 2
        return maps

    criterion = Consistency(2, ['flip', 'vertical_flip'])
    criterion.update(Observation(image, None, left_heavy))
    score = criterion.compute()
    # Columns of the map: 2 2 1 2; of the flipped one, moved back: 2 2 1 1.
    assert score.parts == {'flip': pytest.approx((1 / 2 + 2 / 3) / 2), 'vertical_flip': 1.0}
    assert score.value == pytest.approx((7 / 12 + 1) / 2)
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[:, -1] = False
    criterion = Consistency(2, ['flip'])
    criterion.update(Observation(image, valid, left_heavy))
    assert criterion.compute().value == 1.0
    # A class that is expected and never predicted is a class that is never the same.
    assert criterion.compute(torch.tensor([0.5, 0.5])).value == 1.0
    one = Consistency(2, ['flip'])
    one.update(seen_as(torch.eye(2)[0][:, None, None].expand(2, 4, 4)))
    assert one.compute().value == 1.0
    assert one.compute(torch.tensor([0.5, 0.5])).value == 0.5


def test_one_pass_serves_all_criteria_that_look_at_a_change():
    passes = []

    def network(images):
        passes.append(images.shape)
        return images.softmax(1)

    seen = Observation(torch.randn(3, 48, 48), None, network)
    for criterion in (Consistency(3), TeacherAgreement(3), Entropy(3)):
        criterion.update(seen)
    assert len(passes) == 5


def test_agreement_with_the_teacher():
    seen = Observation(torch.rand(2, 30, 30), None, lambda images: images, teacher=lambda images: images.flip(1))
    criterion = TeacherAgreement(2)
    criterion.update(seen)
    assert criterion.compute().value == 0.0


def test_unknown_change():
    with pytest.raises(ConfigError, match=r'changes is .turn'):
        Consistency(3, ['turn'])
    assert set(GEOMETRIC) | set(PHOTOMETRIC) == set(CHANGES)


# The others ----------------------------------------------------------------------------------------------------------


def test_density_samples_all_classes_alike():
    torch.manual_seed(0)
    rare = torch.randn(4000, 3) + torch.tensor([3.0, 2.0, 1.0])
    tiles = [tile(part, 20) for part in rare.chunk(2)]
    criterion = SoftNeighbourhoodDensity(3, number=60)
    score = scored(criterion, *tiles)
    assert [len(pixels) for _, pixels in criterion._kept] == [20, 20, 20]
    expected = neighbourhood_density(torch.cat([pixels for _, pixels in criterion._kept]))
    assert score.plain == pytest.approx(expected.mean().item())
    assert score.value == pytest.approx(expected.view(3, 20).mean(1).mean().item())
    again = scored(SoftNeighbourhoodDensity(3, number=60), *tiles)
    assert again == score
    assert scored(SoftNeighbourhoodDensity(3, number=60, seed=1), *tiles) != score


def test_mixtures_by_hand():
    a = torch.tensor([[5.0, 0.0], [0.0, 5.0], [0.0, 1.0], [9.0, 0.0]]).T[:, None]
    b = torch.tensor([[5.0, 0.0], [5.0, 0.0], [9.0, 0.0], [0.0, 9.0]]).T[:, None]
    criterion = MixVal(2, share=0.6)
    for image in (b, a):
        criterion.update(seen_as(image))
    score = criterion.compute()
    # Equal in the first pixel alone; of the others, the mixture keeps class 1, loses class 1, keeps class 0.
    assert score.parts == {'intra': 1.0, 'inter': pytest.approx((1 / 1 + 1 / 2) / 2)}
    assert score.value == pytest.approx(0.875)


def test_mixtures_are_compared_by_ranks():
    def score(inter, intra):
        return SimpleNamespace(parts=dict(inter=inter, intra=intra))

    scores = [score(0.9, 0.1), score(0.5, 0.5), score(math.nan, 0.9), score(0.5, 0.6)]
    assert MixVal.compared(scores) == [1.5, 1.25, 1.5, 1.75]
    assert Entropy.compared([SimpleNamespace(value=3.0)]) == [3.0]


def test_density_ratio_of_two_bells():
    """Of normal distributions at -0.5 and 0.5 the ratio is exp(x)."""
    torch.manual_seed(0)
    source, target = torch.randn(6000, 1) - 0.5, torch.randn(9000, 1) + 0.5
    x = torch.linspace(-1.5, 1.5, 7)[:, None]
    assert density_ratio(source, target, x).log().tolist() == pytest.approx(x[:, 0].tolist(), abs=0.12)


def test_effective_size():
    assert effective_size(torch.tensor([2.0, 2.0, 0.0, 0.0])) == 2.0


def sign_of_the_first(images):
    return F.one_hot((images[:, 0] > 0).long(), 2).permute(0, 3, 1, 2).float()


def source_and_target(distance, number=200):
    """DEV of a network whose features are the images, and whose errors on the source grow with the first of them."""
    torch.manual_seed(0)
    criterion = DeepEmbeddedValidation(2, number=number)
    for i in range(6):
        image = torch.randn(2, 20, 20)
        wrong = torch.rand(20, 20) < 0.2 * (image[0] > 0.5)
        seen = Observation(image, None, sign_of_the_first, embed=lambda images: images)
        label = torch.where(wrong, 1 - seen.label, seen.label)
        criterion.update_source(seen, label, trained=i % 2 == 0)
        criterion.update(Observation(image + distance, None, lambda images: images, embed=lambda images: images))
    return criterion


def test_errors_count_where_the_source_is_like_the_target():
    near, far = (source_and_target(torch.tensor([d, 0.0])[:, None, None]).compute() for d in (0.0, 0.7))
    assert far.value < near.value < 0
    assert near.parts['effective_size'] > far.parts['effective_size'] > 50


def test_too_few_pixels_of_the_source_are_like_the_target():
    with pytest.raises(DataError, match=r'are worth .* of the target, fewer than 50'):
        source_and_target(torch.tensor([6.0, 6.0])[:, None, None], number=15).compute()


def test_agreement_of_an_ensemble():
    torch.manual_seed(0)
    truth = torch.randint(3, (30, 30))
    labels = [torch.where(torch.rand(30, 30) < noise, (truth + 1) % 3, truth) for noise in (0.1, 0.2, 0.3, 0.1, 0.9)]
    mean = torch.stack([F.one_hot(label, 3) for label in labels]).float().mean(0).permute(2, 0, 1)
    ensemble = EnsembleAgreement(3, len(labels))
    ensemble.update(labels, mean, torch.ones(30, 30, dtype=torch.bool))
    values = [score.value for score in ensemble.compute()]
    assert min(values[0], values[3]) > values[1] > values[2] > values[4]
    missed = ensemble.compute(torch.full((3,), 1 / 3))
    assert [score.value for score in missed] == pytest.approx(values)


@pytest.mark.parametrize('kind', [*CRITERIA.values(), DeepEmbeddedValidation])
def test_images_without_data_are_passed_over(kind):
    criterion = kind(3)
    criterion.update(seen_as(torch.rand(3, 40, 40).softmax(0), torch.zeros(40, 40, dtype=torch.bool)))
    with pytest.raises(DataError, match=f'{kind.name}: no pixel of the target has data'):
        criterion.compute()
