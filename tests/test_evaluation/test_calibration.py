import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mmrs.evaluation.calibration import Calibration, Scaling, calibration_figures, fit_scaling, reliability
from mmrs.utils.errors import ConfigError, DataError


def drawn(number, classes=3, scale=1.0, offset=0.0, spread=4.0, seed=0):
    """Logits, and labels whose probabilities are the softmax of `scale * logits + offset`."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (number, classes))
    scaled = logits * scale + offset
    label = (scaled + random.gumbel(size=scaled.shape)).argmax(1)
    return torch.from_numpy(logits), torch.from_numpy(label)


def likelihood(logits, label, scale, offset=0.0):
    """Mean negative log-likelihood, by numpy."""
    scaled = logits.numpy() * scale + offset
    largest = scaled.max(1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(scaled - largest).sum(1))
    return float((total - scaled[np.arange(len(label)), label.numpy()]).mean())


def test_the_temperature_of_an_overconfident_model_is_found():
    logits, label = drawn(40000, scale=1 / 2.5)
    found = fit_scaling(logits.float(), label)
    temperature = 1 / found.scale[0]
    assert found.scale == (1 / temperature,) * 3
    assert found.offset == (0, 0, 0)
    assert temperature == pytest.approx(2.5, rel=0.03)
    # None of the neighbours on a fine grid is more likely.
    logits, grid = logits.float().double(), temperature + np.linspace(-0.05, 0.05, 101)
    scan = [likelihood(logits, label, 1 / t) for t in grid]
    assert np.argmin(scan) == 50
    assert scan[50] < likelihood(logits, label, 1.0) - 0.1
    before, after = (calibration_figures(own.softmax(1), label) for own in (logits, found(logits)))
    assert before['ece'] > 0.1
    assert after['ece'] < 0.01
    assert after['nll'] == pytest.approx(scan[50], rel=1e-9)
    assert after['accuracy'] == before['accuracy']


def test_a_vector_is_where_the_likelihood_is_flat():
    scale, offset = np.array([0.4, 1.0, 0.7]), np.array([1.0, -1.5, 0.5])
    logits, label = drawn(40000, scale=scale, offset=offset)
    found = fit_scaling(logits, label, 'vector')
    assert found.scale == pytest.approx(scale, rel=0.05)
    assert found.offset == pytest.approx(offset, abs=0.1)
    assert math.fsum(found.offset) == pytest.approx(0, abs=1e-12)
    place = np.array([*found.scale, *found.offset])
    for step in np.eye(6) * 1e-4:
        above, below = (likelihood(logits, label, own[:3], own[3:]) for own in (place + step, place - step))
        assert abs(above - below) / 2e-4 < 1e-6
    assert likelihood(logits, label, place[:3], place[3:]) < likelihood(logits, label, fit_scaling(logits, label).scale)


def test_one_output_for_two_classes():
    """The logits are (0, z), and a vector is Platt's scaling of the sigmoid."""
    logits, label = drawn(5000, 2, scale=0.5, offset=np.array([0.0, 0.8]))
    logits[:, 1] -= logits[:, 0]
    logits[:, 0] = 0
    label = (0.5 * logits[:, 1] + 0.8 + torch.from_numpy(np.random.default_rng(1).logistic(size=5000)) > 0).long()
    sign = 2 * label.numpy() - 1

    def loss(at):
        return np.logaddexp(0, -sign * (at[0] * logits[:, 1].numpy() + at[1])).mean()

    slope, shift = minimize(loss, [1.0, 0.0], tol=1e-12).x
    found = fit_scaling(logits, label, 'vector')
    assert found.scale[1] == pytest.approx(slope, rel=1e-4)
    assert found.offset[1] - found.offset[0] == pytest.approx(shift, abs=1e-4)


def test_what_cannot_be_fitted():
    logits, label = drawn(200, spread=1.0)
    for arguments, kind, found in (
        ((logits, label, 'isotonic'), ConfigError, 'isotonic'),
        ((logits, logits.argmax(1)), DataError, '200'),
        ((logits, logits.argmin(1)), DataError, 'temperature'),
        ((logits[:0], label[:0]), DataError, 'no labelled pixel'),
        ((logits, label.clamp(max=1), 'vector', ('road', 'tree', 'car')), DataError, 'car'),
    ):
        with pytest.raises(kind, match=found):
            fit_scaling(*arguments)


@pytest.mark.parametrize('bins', [10, 7])
def test_figures_by_hand(bins):
    number = 70 * bins
    logits, label = drawn(number, 4, scale=0.5)
    probability = logits.softmax(1)
    probability[0], label[0] = torch.tensor([1.0, 0, 0, 0]), 0
    found = calibration_figures(probability, label, bins)
    p, y = probability.numpy(), label.numpy()

    def error(confidence, hit, groups):
        return (
            sum(abs(hit[group].mean() - confidence[group].mean()) * len(group) for group in groups if len(group))
            / number
        )

    def widths(confidence):
        edges = np.arange(bins + 1) / bins
        return [np.flatnonzero((confidence > low) & (confidence <= high)) for low, high in itertools.pairwise(edges)]

    confidence, hit = p.max(1), p.argmax(1) == y
    assert found['ece'] == pytest.approx(error(confidence, hit, widths(confidence)), abs=1e-12)
    masses = np.split(np.argsort(confidence), bins)
    assert found['ece_equal_mass'] == pytest.approx(error(confidence, hit, masses), abs=1e-12)
    by_class = []
    for k in range(4):
        groups = widths(p[:, k])
        # Probabilities of just 0, which are in no bin of these, are right here.
        assert not (y == k)[p[:, k] == 0].any()
        by_class.append(error(p[:, k], y == k, groups))
    assert found['classwise'] == pytest.approx(by_class, abs=1e-12)
    assert found['classwise_ece'] == pytest.approx(np.mean(by_class), abs=1e-12)
    assert found['nll'] == pytest.approx(-np.log(p[np.arange(number), y]).mean())
    assert found['brier'] == pytest.approx(np.square(p - np.eye(4)[y]).sum(1).mean())
    assert (found['accuracy'], found['confidence']) == pytest.approx((hit.mean(), confidence.mean()))
    assert found['pixels'] == number
    share, sure, right = (part.numpy() for part in reliability(probability, label, bins))
    for group, values in zip(widths(confidence), zip(share, sure, right)):
        own = (len(group) / number, confidence[group].mean(), hit[group].mean()) if len(group) else (0, np.nan, np.nan)
        assert values == pytest.approx(own, nan_ok=True)
    assert (share == 0).any()


def test_files_that_are_no_calibration(tmp_path):
    path = tmp_path / 'a.json'
    good = dict(method='vector', classes=['a', 'b'], scale=dict(a=1, b=2.5), offset=dict(a=0, b=0), weights='0f')
    path.write_text(json.dumps(good))
    read = Calibration.read(path)
    assert read == Calibration('vector', ('a', 'b'), Scaling((1.0, 2.5), (0.0, 0.0)), '0f')
    read.require_model(['a', 'b'], '0f', 'x.pth')
    for classes, weights in ((['b', 'a'], '0f'), (['a', 'b'], '0e'), (['a', 'b'], None)):
        with pytest.raises(ConfigError, match=r'x\.pth'):
            read.require_model(classes, weights, 'x.pth')
    for text in ('{', '[]', '{"classes": []}', json.dumps({**good, 'scale': dict(a=1)}),
                 json.dumps({**good, 'offset': dict(a=0, b=math.nan)})):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=r'a\.json'):
            Calibration.read(path)
    with pytest.raises(DataError, match=r'none\.json'):
        Calibration.read(tmp_path / 'none.json')
