"""The numerics of a consensus: features, self-consistency, costs, and labels of least energy."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import multivariate_normal

from mmrs.preparation.consensus.annotators import (
    Moments,
    blocks_of,
    cohen_kappa,
    data_costs,
    pixel_features,
    relative_trust,
    self_consistency,
)
from mmrs.preparation.consensus.graph_cuts import Pairs, energy, hold, image_pairs, least_energy, squared_differences

CASES = ['binary_4x4', 'binary_void_4x4', 'binary_10x12', 'three_classes_3x3', 'three_classes_8x9']


def problem(seed, shape, classes):
    """Random costs and borders of a grid, strong ones and weak ones."""
    rng = np.random.default_rng(seed)
    pairs = squared_differences(rng.standard_normal((1, *shape)))
    pairs = pairs._replace(values=rng.exponential(0.4, len(pairs.values)) * (rng.random(len(pairs.values)) < 0.9))
    return rng.random((shape[0] * shape[1], classes)) * rng.choice([0.3, 1, 3]), pairs


def all_energies(costs, pairs):
    """Energy of every labelling, and the labellings."""
    labels = np.array(list(itertools.product(range(costs.shape[1]), repeat=len(costs))))
    data = costs[np.arange(len(costs)), labels].sum(axis=1)
    return data + ((labels[:, pairs.first] != labels[:, pairs.second]) * pairs.values).sum(axis=1), labels


@pytest.mark.parametrize('name', CASES)
def test_recorded_numbers(golden, name):
    case = {key: value.numpy() if hasattr(value, 'numpy') else value for key, value in
            golden('ssl_consensus.pt')[name].items()}  # fmt: skip
    costs = data_costs(case['masks'].reshape(len(case['masks']), -1), case['trust'])
    np.testing.assert_allclose(costs, case['data_cost'].reshape(costs.shape), atol=1e-9)
    assert squared_differences(case['image']).values.mean() == pytest.approx(case['beta'], abs=1e-9)
    pairs = image_pairs(case['image'], case['smoothness'], case['beta'])
    recorded = dict(zip(map(tuple, case['pairs'].tolist()), case['pair_weight']))
    assert len(pairs.first) == len(recorded)
    for first, second, value in zip(*pairs):
        assert value == pytest.approx(recorded[first, second], abs=1e-9)
    labels = least_energy(costs, pairs)
    assert (labels == case['labels'].ravel()).all()
    assert energy(costs, pairs, labels) == pytest.approx(case['energy'], abs=1e-9)
    assert (costs.argmin(axis=1) == case['vote'].ravel()).all()
    assert energy(costs, pairs, case['vote'].ravel()) == pytest.approx(case['vote_energy'], abs=1e-9)


def test_two_classes_are_exact():
    for seed in range(60):
        costs, pairs = problem(seed, (3, 4), 2)
        found, _ = all_energies(costs, pairs)
        labels = least_energy(costs, pairs)
        assert energy(costs, pairs, labels) == pytest.approx(found.min(), abs=1e-5), seed


def test_three_classes_are_within_their_bound():
    best = 0
    for seed in range(25):
        costs, pairs = problem(seed, (3, 3), 3)
        found, _ = all_energies(costs, pairs)
        reached = energy(costs, pairs, least_energy(costs, pairs))
        assert reached <= 2 * found.min()
        assert reached <= energy(costs, pairs, costs.argmin(axis=1)) + 1e-9
        best += reached <= found.min() + 1e-5
    assert best >= 20


def test_a_larger_cut_equals_the_linear_programme():
    for seed in range(4):
        costs, pairs = problem(100 + seed, (12, 14), 2)
        size, number = len(costs), len(pairs.values)
        # z of a pair is at least |y_p - y_q|.
        rows = np.zeros((2 * number, size + number))
        for sign, part in ((1, rows[:number]), (-1, rows[number:])):
            part[np.arange(number), pairs.first] = sign
            part[np.arange(number), pairs.second] = -sign
            part[np.arange(number), size + np.arange(number)] = -1
        prices = np.concatenate([costs[:, 1] - costs[:, 0], pairs.values])
        solved = linprog(prices, rows, np.zeros(2 * number), bounds=[(0, 1)] * size + [(0, None)] * number)
        reached = energy(costs, pairs, least_energy(costs, pairs))
        assert reached == pytest.approx(solved.fun + costs[:, 0].sum(), abs=1e-3)


def test_what_is_held_counts_for_its_neighbours():
    costs, pairs = problem(5, (3, 3), 2)
    labels, held = np.array([1, 0, 1, 0, 0, 1, 1, 1, 0]), np.arange(9) % 2 == 0
    found, labellings = all_energies(costs, pairs)
    allowed = (labellings[:, held] == labels[held]).all(axis=1)
    best = labellings[allowed][found[allowed].argmin()]
    assert (least_energy(*hold(costs, pairs, labels, held)) == best[~held]).all()
    everything = hold(costs, pairs, labels, np.ones(9, bool))
    assert least_energy(*everything).shape == (0,)


def test_features_are_those_of_squares_of_valid_pixels():
    rng = np.random.default_rng(0)
    bands, valid = 5000 + rng.standard_normal((2, 14, 15)), rng.random((14, 15)) < 0.8
    bands[:, ~valid] = 1e6
    found = pixel_features(bands, valid)
    assert found.shape == (14, 15, 10)
    for y, x in np.argwhere(valid):
        expected = [bands[:, y, x]]
        for reach in (1, 4):
            here = slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1)
            near = bands[(slice(None), *here)][:, valid[here]]
            expected += [near.mean(axis=1), near.std(axis=1)]
        np.testing.assert_allclose(found[y, x], np.concatenate(expected), atol=1e-6)


def test_the_classifier_is_the_posterior_of_gaussians_of_one_covariance():
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 2, 3], 400, p=[0.6, 0.3, 0.1])
    features = rng.standard_normal((400, 3)) * [1, 20, 0.1] + np.array([[0, 0, 0], [0, 0, 0], [2, 10, 0], [0, 0, 0.1]])[
        labels
    ] + 50  # fmt: skip
    parts = [Moments(5, 3, np.full(3, 40.0)) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 150), slice(150, 400))):
        part.add(features[rows], labels[rows])
    total = parts[0] + parts[1]
    spread = total.spread()
    np.testing.assert_allclose(spread, features.std(axis=0))
    scaled = features / spread
    means = {k: scaled[labels == k].mean(axis=0) for k in (0, 2, 3)}
    rest = scaled - np.stack([means[k] for k in labels])
    pooled = rest.T @ rest / 400
    shrunk = 0.9 * pooled + 0.1 * np.eye(3) * np.trace(pooled) / 3
    density = np.zeros((400, 5))
    for k, mean in means.items():
        density[:, k] = (labels == k).mean() * multivariate_normal(mean, shrunk).pdf(scaled)
    classifier = total.classifier(spread)
    np.testing.assert_allclose(
        classifier.probabilities(features, 5), density / density.sum(axis=1, keepdims=True), atol=1e-9
    )
    assert (classifier.predict(features) == density.argmax(axis=1)).all()


def test_self_consistency_is_the_mean_over_blocks():
    counts = np.zeros((2, 4, 3))
    hits = np.zeros_like(counts)
    counts[0, :, 0], hits[0, :, 0] = [10, 20, 0, 40], [5, 20, 0, 10]
    counts[0, 1, 1], hits[0, 1, 1] = 8, 8
    found = self_consistency(hits, counts)
    # Class 2 has the mean of the annotator's pixels; the second annotator has nothing to be judged by.
    np.testing.assert_allclose(found[0], [(0.5 + 1 + 0.25) / 3, 0.95, 43 / 78])
    np.testing.assert_allclose(found[1], 0.5)
    trust = relative_trust(np.array([[0.9, 0.2], [0.3, 0.4], [0.6, 0.3]]), np.array([[1, 1], [1, 1], [1, 0]], bool))
    np.testing.assert_allclose(trust, [[1.5, 2 / 3], [0.5, 4 / 3], [1, 1]])


def test_blocks_are_quarters():
    blocks = blocks_of((5, 8), (2, 1, 7, 5))
    assert (blocks == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [2, 2, 3, 3, 3], [2, 2, 3, 3, 3]]).all()


def test_kappa():
    # Fleiss's textbook form: (p_o - p_e) / (1 - p_e).
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert cohen_kappa(np.diag([3, 4])) == 1
    assert np.isnan(cohen_kappa(np.zeros((2, 2))))
    assert np.isnan(cohen_kappa(np.array([[5, 0], [0, 0]])))


def test_pairs_among_some_pixels():
    pairs = Pairs(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.1, 0.2, 0.3]))
    first, second, values = pairs.within(np.array([True, False, True, True]))
    assert (first.tolist(), second.tolist(), values.tolist()) == ([1], [2], [0.3])
