"""Distances and tolerances against plain float64 formulas, pixel by pixel."""

import numpy as np
import pytest
import torch

from mmrs.models.losses import FeatureRegressionLoss
from mmrs.models.losses.feature_regression import parse_tolerance
from mmrs.utils import ConfigError

DISTANCES = ('l2', 'smooth_l1', 'cosine')
TOLERANCES = ('exact', 'local(3)', 'local(5)', 'pyramid', 'pyramid(3)', 'gram')


def plain(distance: str, a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two vectors."""
    difference = np.abs(a - b)
    if distance == 'l2':
        return (difference**2).mean()
    if distance == 'smooth_l1':
        return np.where(difference < 1, difference**2 / 2, difference - 0.5).mean()
    return 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))


@pytest.fixture
def maps():
    """A student's and a reference's map (2, 5, 7, 6) of different scale, and their weights, some 0, some partial."""
    rng = np.random.default_rng(0)
    student, reference = rng.normal(0.3, 1, (2, 5, 7, 6)), rng.normal(0, 1.5, (2, 5, 7, 6))
    valid = [rng.choice([0, 0.25, 1, 1, 1], (2, 7, 6)) for _ in range(2)]
    return student, reference, *valid


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def compute(distance, tolerance, *arrays) -> float:
    return float(FeatureRegressionLoss(distance, tolerance)(*tensors(*arrays)))


@pytest.mark.parametrize('distance', DISTANCES)
def test_exact(distance, maps):
    student, reference, valid_s, valid_r = maps
    total = weight = 0.0
    for n, y, x in np.ndindex(valid_s.shape):
        w = valid_s[n, y, x] * valid_r[n, y, x]
        total += w * plain(distance, student[n, :, y, x], reference[n, :, y, x])
        weight += w
    assert compute(distance, 'exact', *maps) == pytest.approx(total / weight, rel=1e-6)


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('size', [1, 3, 5])
def test_local(distance, size, maps):
    student, reference, valid_s, valid_r = maps
    radius, (height, width) = size // 2, valid_s.shape[1:]
    total = weight = 0.0
    for n, y, x in np.ndindex(valid_s.shape):
        around = [
            (plain(distance, student[n, :, y, x], reference[n, :, v, u]), valid_r[n, v, u])
            for v in range(max(0, y - radius), min(height, y + radius + 1))
            for u in range(max(0, x - radius), min(width, x + radius + 1))
            if valid_r[n, v, u] > 0
        ]
        if around:
            best, share = min(around)
            total += valid_s[n, y, x] * share * best
            weight += valid_s[n, y, x] * share
    assert compute(distance, f'local({size})', *maps) == pytest.approx(total / weight, rel=1e-6)


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('sizes', [(1,), (2,), (3, 4), (2, 4, 8)])
def test_pyramid(distance, sizes, maps):
    """Of one image, so that each size's mean can be written down at once."""
    student, reference, valid_s, valid_r = (array[:1] for array in maps)
    weights = (valid_s * valid_r)[0]
    means = []
    for size in sizes:
        total = weight = 0.0
        for top in range(0, 7, min(size, 7)):
            for left in range(0, 6, min(size, 6)):
                cell = (..., slice(top, top + size), slice(left, left + size))
                w = weights[cell]
                if w.sum():
                    a, b = ((m[0][cell] * w).sum((1, 2)) / w.sum() for m in (student, reference))
                    total += w.sum() * plain(distance, a, b)
                    weight += w.sum()
        means.append(total / weight)
    text = f'pyramid({", ".join(map(str, sizes))})'
    assert compute(distance, text, student, reference, valid_s, valid_r) == pytest.approx(np.mean(means), rel=1e-6)


@pytest.mark.parametrize('distance', DISTANCES)
def test_gram(distance, maps):
    student, reference, valid_s, valid_r = (array[:1] for array in maps)
    w = (valid_s * valid_r)[0]
    grams = [np.einsum('chw,dhw,hw->cd', m[0], m[0], w) / w.sum() for m in (student, reference)]
    expected = plain(distance, grams[0].ravel(), grams[1].ravel())
    assert compute(distance, 'gram', student, reference, valid_s, valid_r) == pytest.approx(expected, rel=1e-6)


def test_gram_ignores_position(maps):
    student, reference, *_ = maps
    everywhere = np.ones((2, 7, 6))
    moved = np.random.default_rng(1).permutation(student.reshape(2, 5, -1), axis=2).reshape(student.shape)
    losses = [compute('l2', 'gram', s, reference, everywhere, everywhere) for s in (student, moved)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    exact = [compute('l2', 'exact', s, reference, everywhere, everywhere) for s in (student, moved)]
    assert exact[0] != pytest.approx(exact[1], rel=1e-3)


@pytest.mark.parametrize('shift', [(0, 1), (1, 0), (-1, 1), (2, -2), (0, 3)])
def test_local_forgives_shifts_up_to_its_radius(shift):
    """A student that is the reference shifted; what came in from outside does not count."""
    wide = np.random.default_rng(0).normal(size=(1, 4, 20, 20))
    reference = wide[..., 5:15, 5:15]
    student = wide[..., 5 + shift[0] : 15 + shift[0], 5 + shift[1] : 15 + shift[1]]
    everywhere = np.ones((1, 10, 10))
    inner = np.zeros((1, 10, 10))
    inner[:, 3:-3, 3:-3] = 1
    for size in (3, 5, 7):
        loss = compute('l2', f'local({size})', student, reference, inner, everywhere)
        if max(map(abs, shift)) <= size // 2:
            assert loss == 0
        else:
            assert loss > 0.1
    assert compute('l2', 'exact', student, reference, inner, everywhere) > 0.1


@pytest.mark.parametrize('tolerance', TOLERANCES)
@pytest.mark.parametrize('distance', DISTANCES)
def test_gradient_by_finite_differences(distance, tolerance, maps):
    student, reference, valid_s, valid_r = (tensor[..., :4, :5] for tensor in tensors(*maps))
    loss = FeatureRegressionLoss(distance, tolerance)
    student, reference = student[:, :3].clone().requires_grad_(), reference[:, :3]
    assert torch.autograd.gradcheck(lambda s: loss(s, reference, valid_s, valid_r), student)


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_masked_pixels_have_no_part(tolerance, maps):
    """Neither the value of a masked pixel, in either map, nor a step away from it changes anything."""
    student, reference, valid_s, valid_r = tensors(*maps)
    loss = FeatureRegressionLoss('smooth_l1', tolerance)
    before = loss(student.requires_grad_(), reference, valid_s, valid_r)
    (gradient,) = torch.autograd.grad(before, student)
    hidden = (valid_s == 0)[:, None].expand_as(student)
    assert gradient[hidden].eq(0).all()
    assert gradient[~hidden].abs().sum() > 0
    with torch.no_grad():
        student[hidden] += 100
        other = reference.masked_fill((valid_r == 0)[:, None], -100)
        assert loss(student, other, valid_s, valid_r) == before


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_nothing_in_common_is_no_loss(tolerance, maps):
    student, reference, _, valid = tensors(*maps)
    loss = FeatureRegressionLoss('l2', tolerance)(student.requires_grad_(), reference, torch.zeros_like(valid), valid)
    loss.backward()
    assert loss == 0
    assert student.grad.eq(0).all()


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_a_diverged_student_is_seen(tolerance, maps):
    student, *others = tensors(*maps)
    total, weight = FeatureRegressionLoss('l2', tolerance).sums(student * torch.nan, *others)
    assert total.isnan().all()
    assert (weight > 0).all()  # else validation would take it for a pair with nothing in common


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_autocast_changes_nothing(tolerance, maps):
    arrays = [tensor.float() for tensor in tensors(*maps)]
    loss = FeatureRegressionLoss('l2', tolerance)
    expected = loss(*arrays)
    with torch.autocast('cpu', torch.bfloat16):
        assert loss(*arrays) == expected


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_the_reference_gets_no_gradient(tolerance, maps):
    student, reference, *valid = tensors(*maps)
    reference.requires_grad_()
    FeatureRegressionLoss('l2', tolerance)(student.requires_grad_(), reference, *valid).backward()
    assert reference.grad is None
    assert student.grad is not None


@pytest.mark.parametrize('tolerance', TOLERANCES)
def test_sums_are_those_of_single_images(tolerance, maps):
    loss = FeatureRegressionLoss('l2', tolerance)
    total, weight = loss.sums(*tensors(*maps))
    for n in range(2):
        alone = float(loss(*(tensor[n : n + 1] for tensor in tensors(*maps))))
        assert float(total[n] / weight[n]) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize(
    'text', ['', 'near', 'exact(3)', 'local', 'local(2)', 'local(3, 5)', 'pyramid(0)', 'gram()', 'local(-3)', 'local(3']
)
def test_unknown_tolerances(text):
    with pytest.raises(ConfigError, match='is none of exact, local'):
        parse_tolerance(text)


def test_tolerances_with_numbers():
    assert parse_tolerance('local(7)') == ('local', (7,))
    assert parse_tolerance('pyramid(1, 2)') == ('pyramid', (1, 2))
    assert parse_tolerance('pyramid') == ('pyramid', (2, 4, 8))


def test_unknown_distance():
    with pytest.raises(ConfigError, match="'l1' is none of l2, smooth_l1, cosine"):
        FeatureRegressionLoss('l1')
