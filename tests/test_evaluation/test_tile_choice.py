import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional as F

from mmrs.evaluation.label_free import Observation
from mmrs.evaluation.tile_choice import CRITERIA, TileLook, Tiles, gradient_distance
from mmrs.evaluation.tile_choice.gradients import gradients_by_class
from mmrs.utils.errors import ConfigError, DataError

CLASSES = ('bare', 'water', 'trees')


def tiles(number=12, seed=0, **known):
    """Tiles of which all is random but what is known."""
    rng = np.random.default_rng(seed)
    facts = dict(
        uncertainty=rng.random(number),
        shares=rng.dirichlet([1, 1, 1], number),
        costs=np.full(number, 10.0),
        candidates=np.ones(number, bool),
        labelled=np.zeros(number, bool),
        classes=CLASSES,
        features=rng.normal(size=(number, 4)),
        gradients=rng.normal(size=(number, 3, 5)),
    )
    return Tiles(**facts | known)


def order(criterion, of, number=None, seed=0, **options):
    return [own.index for own in CRITERIA[criterion](of, seed).choose(number, **options)]


# What every criterion does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('criterion', CRITERIA)
def test_only_candidates_are_chosen_each_once(criterion):
    candidates = np.arange(12) % 3 != 1
    labelled = np.arange(12) == 5
    of = tiles(candidates=candidates, labelled=labelled, costs=np.where(np.arange(12) == 0, 50.0, 10.0))
    chosen = CRITERIA[criterion](of).choose(7)
    assert sorted(own.index for own in chosen) == [0, 2, 3, 6, 8, 9, 11]
    assert all(math.isfinite(own.value) and own.reason for own in chosen)
    for number in (8, 13):
        with pytest.raises(ConfigError, match=rf'k is {number}.* 7 .*12 in all, 4 without.*1 labelled'):
            order(criterion, of, number)
    # As many as the budget allows; what is too dear is passed over.
    assert 0 not in order(criterion, of, budget=49)
    assert len(order(criterion, of, budget=49)) == 4
    assert len(order(criterion, of, 2, budget=49)) == 2
    with pytest.raises(ConfigError, match=r'budget is 9.*10'):
        order(criterion, of, budget=9)
    with pytest.raises(DataError, match='12 without'):
        order(criterion, tiles(candidates=np.zeros(12, bool)), 1)


@pytest.mark.parametrize('criterion', sorted(set(CRITERIA) - {'random'}))
def test_of_equal_tiles_the_first_is_chosen(criterion):
    alike = tiles(6)
    same = {key: np.repeat(getattr(alike, key)[:1], 6, 0) for key in ('uncertainty', 'shares', 'features', 'gradients')}
    assert order(criterion, tiles(6, **same), 6) == list(range(6))
    assert order(criterion, alike, 6, seed=0) == order(criterion, alike, 6, seed=1)


def test_an_unknown_fact_is_named():
    with pytest.raises(ConfigError, match='features'):
        CRITERIA['balanced'](tiles(features=None))


# Each of them ---------------------------------------------------------------------------------------------------------


def test_random_is_uniform_and_of_the_seed_alone():
    draws = [order('random', tiles(6, seed=i), 2, seed=i) for i in range(600)]
    counts = np.bincount(np.ravel(draws), minlength=6)
    assert counts.min() > 150
    assert counts.max() < 250
    assert order('random', tiles(6, seed=1), 6, seed=3) == order('random', tiles(6, seed=2), 6, seed=3)


def test_the_least_sure_come_first():
    of = tiles()
    assert order('uncertainty', of, 12) == np.argsort(-of.uncertainty).tolist()


def radius(features, centres):
    return cdist(features, features[list(centres)]).min(1).max()


@pytest.mark.parametrize('seed', range(20))
def test_k_centre_is_within_twice_the_optimum(seed):
    of = tiles(9, seed)
    chosen = order('diversity', of, 3)
    best = min(radius(of.features, centres) for centres in itertools.combinations(range(9), 3))
    assert radius(of.features, chosen) <= 2 * best
    # Each is the farthest from those before it, the first the nearest to the mean.
    distances = cdist(of.features, of.features)
    assert chosen[0] == np.linalg.norm(of.features - of.features.mean(0), axis=1).argmin()
    for i in (1, 2):
        assert chosen[i] == distances[:, chosen[:i]].min(1).argmax()


def test_k_centre_is_the_optimum_of_clusters_and_complements_labels():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [50, 0], [0, 60], [70, 70]])
    features = (centres[:, None] + rng.normal(0, 0.1, (4, 3, 2))).reshape(12, 2)
    assert {i // 3 for i in order('diversity', tiles(features=features), 4)} == set(range(4))
    labelled = np.isin(np.arange(12), [0, 4])
    assert {i // 3 for i in order('diversity', tiles(features=features, labelled=labelled), 2)} == {2, 3}
    # What has no data has no place either.
    features[11] = 1e6
    assert {i // 3 for i in order('diversity', tiles(features=features, candidates=np.arange(12) < 11), 4)} == set(
        range(4)
    )


def cosine_distance(first, second):
    return sum(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-6) for a, b in zip(first, second))


@pytest.mark.parametrize('scale', [1.0, 1e-7])
def test_gradient_matching_against_a_search_by_hand(scale):
    """Also of a network that is sure, whose gradients are tiny."""
    candidates = np.arange(12) != 4
    of = tiles(gradients=scale * tiles().gradients, candidates=candidates)
    scaled = of.gradients / np.linalg.norm(of.gradients[candidates].mean(0))
    taken = []
    for _ in range(5):
        rest = [i for i in range(12) if i != 4 and i not in taken]
        distance = {i: cosine_distance(scaled[[*taken, i]].mean(0), scaled[candidates].mean(0)) for i in rest}
        taken.append(min(rest, key=distance.__getitem__))
    chosen = CRITERIA['gradient'](of).choose(5)
    assert [own.index for own in chosen] == taken
    assert -chosen[-1].value == pytest.approx(distance[taken[-1]], rel=1e-9)


def test_gradient_matching_takes_what_sums_up_to_all():
    one, other = np.eye(3)[None, :, :2], np.eye(3)[None, :, 1:]
    gradients = np.concatenate([np.repeat(one, 5, 0), np.repeat(other, 5, 0)])
    assert sorted(i // 5 for i in order('gradient', tiles(10, gradients=gradients), 2)) == [0, 1]


def test_classes_are_balanced():
    """Equally unsure and equally far from each other, tiles of one class each are taken class by class."""
    shares = np.eye(3)[[0, 0, 0, 0, 0, 0, 1, 1, 2]]
    shares[0] = [0.9, 0.1, 0]
    of = tiles(9, uncertainty=np.full(9, 0.5), shares=shares, features=np.eye(9))
    chosen = CRITERIA['balanced'](of).choose(6)
    assert [own.index for own in chosen][:3] == [0, 8, 6]
    counts = of.shares[[own.index for own in chosen]].sum(0)
    assert counts.max() - counts.min() < 2.5 < 6 - counts.min()
    assert 'trees is 100 % of it, 0 % of the tiles before' in chosen[1].reason


def test_balanced_is_the_product_of_three():
    of = tiles(10, candidates=np.arange(10) != 7, labelled=np.arange(10) == 2)
    taken = [2]
    for own in CRITERIA['balanced'](of).choose(4):
        values = []
        for i in range(10):
            mean = of.shares[[*taken, i]].mean(0)
            evenness = -(mean * np.log(mean)).sum() / math.log(3)
            distance = min(np.linalg.norm(of.features[i] - of.features[j]) for j in taken)
            values.append(distance * of.uncertainty[i] * evenness if i not in (2, 7) else -1)
        assert own.index == np.argmax(values)
        assert own.value == pytest.approx(max(values))
        taken.append(own.index)
    certain = tiles(5, uncertainty=np.array([0, 0, 0.1, 0, 0]))
    assert order('balanced', certain, 1) == [2]


# Gradients ------------------------------------------------------------------------------------------------------------


def test_the_distance_is_the_releases(golden):
    recorded = golden('ssl_dcc.pt')
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(recorded['groups'], 4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(36, 3),
    ).double()  # fmt: skip
    network.load_state_dict(recorded['state'])
    weights = [own for own in network.parameters() if own.dim() > 1]

    def rows(images, labels, keep=False):
        loss = F.cross_entropy(network(images), labels)
        return [own.flatten(1) for own in torch.autograd.grad(loss, weights, create_graph=keep)]

    def distance(first, second):
        return sum(gradient_distance(a, b) for a, b in zip(first, second))

    number = recorded['classes']
    real = [rows(images, torch.full((len(images),), c)) for c, images in enumerate(recorded['real'])]
    made, label = recorded['synthetic'].clone().requires_grad_(), recorded['synthetic_label']
    by_class = sum(distance(rows(made[label == c], label[label == c], True), real[c]) for c in range(number))
    together = distance(rows(made, label, True), [sum(own) / number for own in zip(*real)])
    for value, name in ((by_class, 'classwise'), (together, 'contrastive')):
        assert value.item() == pytest.approx(recorded[f'loss_{name}'].item(), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, made, retain_graph=True)
        torch.testing.assert_close(gradient, recorded[f'grad_{name}'], rtol=1e-6, atol=1e-6)


def test_gradients_by_class_are_those_of_the_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 4).double()
    features = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(30, generator=generator, dtype=torch.float64)
    logits = layer(features)
    predicted = logits.argmax(1)
    sums, counts = gradients_by_class(features.T, logits.T.detach(), weights)
    for c in range(4):
        loss = (F.cross_entropy(logits, predicted, reduction='none') * weights)[predicted == c].sum()
        (expected,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
        torch.testing.assert_close(sums[c], expected)
        assert counts[c].item() == pytest.approx(weights[predicted == c].sum().item())


# A look at a tile -----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Classifies pixels two by two, by one convolution."""

    def __init__(self, outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.decode_head = nn.Module()
        self.decode_head.conv_seg = nn.Conv2d(2, outputs, 1).double()

    def forward(self, images):
        logits = self.decode_head.conv_seg(F.avg_pool2d(images, 2))
        if logits.shape[1] == 1:
            logits = torch.cat([0 * logits, logits], 1)
        return F.interpolate(logits, scale_factor=2).softmax(1)


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 8, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('outputs', [1, 3])
def test_a_look_in_parts_is_a_look_at_the_whole(image, outputs):
    network, classes = Network(outputs), max(outputs, 2)
    valid = torch.ones(8, 12, dtype=torch.bool)
    valid[:, 10:] = valid[:2] = False
    valid[4:, :6] = False  # a part without any data
    options = dict(uncertainties=('entropy', 'margin'), facts=('features', 'gradients'))
    looks = [TileLook(network, (8, 12), classes, **options) for _ in range(2)]
    looks[0].update(Observation(image, valid, network), (0, 0, 12, 8))
    for y0, x0 in itertools.product((0, 4), (0, 6)):
        part = (slice(y0, y0 + 4), slice(x0, x0 + 6))
        own, where = F.pad(image[:, part[0], part[1]], (0, 2, 0, 2)), F.pad(valid[part], (0, 2, 0, 2))
        looks[1].update(Observation(own, where, network), (x0, y0, x0 + 6, y0 + 4))

    # By hand, pixel by pixel.
    with torch.no_grad():
        probability = network(image[None])[0].numpy()
        cells = F.avg_pool2d(image[None], 2)[0].flatten(1).numpy()
        scores = network.decode_head.conv_seg(F.avg_pool2d(image[None], 2))[0].flatten(1).numpy()
    where = valid.numpy()
    entropy = -(probability * np.log(probability)).sum(0)[where] / math.log(classes)
    best = np.sort(probability, 0)[:, where]
    uncertainty = (entropy + 1 - best[-1] + best[-2]).mean() / 2
    weights = where.reshape(4, 2, 6, 2).mean((1, 3)).ravel()
    scores = np.concatenate([0 * scores, scores]) if outputs == 1 else scores
    soft = np.exp(scores) / np.exp(scores).sum(0)
    gradient = np.zeros((classes, 2))
    for c in range(classes):
        here = scores.argmax(0) == c
        if weights[here].sum():
            residual = soft - np.eye(classes)[c][:, None]
            gradient += (residual * weights * here) @ cells.T / weights[here].sum() / classes
    for look in looks:
        assert look.pixels == where.sum()
        np.testing.assert_array_equal(look.labels, np.where(where, probability.argmax(0), 255))
        assert look.uncertainty == pytest.approx(uncertainty)
        np.testing.assert_allclose(look.features, cells @ weights / weights.sum(), atol=1e-6)
        np.testing.assert_allclose(look.gradients, gradient, atol=1e-6)
        np.testing.assert_allclose(
            look.shares, np.bincount(probability.argmax(0)[where], minlength=classes) / where.sum()
        )
        assert look.cost == where.sum()


def test_flips_show_what_is_not_stable(image):
    class Leaning(Network):
        def forward(self, images):  # the left half is class 0, whatever it shows
            return torch.eye(2, dtype=images.dtype)[:, (torch.arange(12) >= 6).long()][None, :, None].expand(
                1, 2, 8, 12
            )

    look = TileLook(Leaning(), (8, 12), 2, ('flip',))
    look.update(Observation(image, None, Leaning()), (0, 0, 12, 8))
    assert look.uncertainty == pytest.approx(0.5)  # one of two flips changes every pixel


def test_polygons_are_areas_of_one_class_that_somebody_would_draw(image):
    look = TileLook(Network(), (40, 40), 3, cost='polygons')
    look.labels[:] = 0
    look.labels[:, 20:22] = 1  # divides the first class, and is one area itself
    look.labels[5, 5] = 2  # a speck
    look.labels[30:36, 30:36] = look.labels[36:, 36:] = 2  # they touch by a corner; the second is too small
    look.labels[:3] = 255
    assert look.cost == 4


def test_what_a_look_does_not_know(image):
    for options in (dict(uncertainties=('doubt',)), dict(cost='hours')):
        with pytest.raises(ConfigError, match=r'doubt|hours'):
            TileLook(Network(), (8, 12), 3, **options)
    network = Network()
    network.decode_head.conv_seg = nn.Identity()
    with pytest.raises(ConfigError, match='conv_seg'):
        TileLook(network, (8, 12), 3, facts=('features',))
    empty = TileLook(Network(), (8, 12), 3, facts=('features', 'gradients'))
    empty.update(Observation(image, torch.zeros(8, 12, dtype=torch.bool), Network()), (0, 0, 12, 8))
    assert (empty.pixels, empty.uncertainty, empty.shares.sum()) == (0, 0, 0)
    assert empty.features.shape == (2,)
    assert empty.gradients.shape == (3, 2)
