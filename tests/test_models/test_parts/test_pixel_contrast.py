import math

import numpy as np
import pytest
import torch
from torch import nn

from mmrs.models.parts import PixelContrast
from mmrs.models.parts.pixel_contrast import ContrastDraws, PixelsByClass
from mmrs.utils.errors import ConfigError

VOID = 255


def contrast(width, num_classes=3, **options):
    """A contrast of the features themselves, in float64."""
    part = PixelContrast(width, num_classes, **{'weight': 1.0, 'width': width, **options}).double()
    part.project = nn.Identity()
    return part


def halves(index, number):
    """Numbers from 0 to 1 that stand for places among so many."""
    return (torch.as_tensor(index).double() + 0.5) / number


@pytest.fixture
def recorded(golden):
    return golden('ssl_action.pt')['pixel_contrast']


def test_the_release(recorded):
    """Loss and gradient, with what the release has drawn: there negatives are places among all pixels of others."""
    prob, classes = recorded['prob'], len(recorded['classes'])
    label = recorded['label_onehot'].argmax(1).masked_fill(recorded['valid'][:, 0] == 0, VOID)
    shape = classes, recorded['num_queries'], recorded['num_negatives']
    part = contrast(
        5, classes, queries=shape[1], negatives=shape[2], temperature=recorded['temperature'],
        sure=recorded['strong_threshold'], momentum=0.0,
    )  # fmt: skip
    own = prob.gather(1, label.clamp(max=classes - 1)[:, None])[:, 0]
    query, other, negative = torch.zeros(shape[:2]).double(), torch.zeros(shape).long(), torch.zeros(shape).double()
    for k in range(classes):
        hard = ((label == k) & (own < recorded['strong_threshold'])).sum()
        query[k] = halves(recorded['query_draws'][k], hard)
        others = [(k + i) % classes for i in range(1, classes)]
        places = [(c, halves(i, n)) for c in others for n in [int((label == c).sum())] for i in range(n)]
        drawn = [places[i] for i in recorded['negative_draws'][k].tolist()]
        other[k] = torch.tensor([c for c, _ in drawn]).view(shape[1:])
        negative[k] = torch.stack([place for _, place in drawn]).view(shape[1:])
    part._others = lambda prototypes, size, uniform: other
    features = recorded['rep'].clone().requires_grad_()
    loss = part(features, prob.log(), label, ContrastDraws(query, negative, negative))
    torch.testing.assert_close(loss, recorded['loss'], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, features)[0], recorded['grad'], rtol=0, atol=1e-6)


def one_hot_features(label, width):
    """Features that are the class itself."""
    return nn.functional.one_hot(label.clamp(max=width - 1), width).movedim(-1, 1).double()


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_closed_forms(temperature):
    label = torch.arange(3).repeat(8)[:, None].repeat(1, 8)[None]  # (1, 24, 8): as many of each class
    part = contrast(3, queries=5, negatives=11, temperature=temperature)
    uniform = torch.zeros(1, 3, 24, 8).double()
    # All alike: which of 12 it is cannot be told.
    same = torch.ones(1, 3, 24, 8).double()
    assert float(part(same, uniform, label)) == pytest.approx(math.log(12), rel=1e-12)
    # Classes at right angles: the prototype at 1 / T, each negative at 0.
    part = contrast(3, queries=5, negatives=11, temperature=temperature)
    expected = math.log(1 + 11 * math.exp(-1 / temperature))
    assert float(part(7 * one_hot_features(label, 3), uniform, label)) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(part.prototypes, 7 * torch.eye(3).double())
    # Nothing is to be learnt of pixels that are sure, of a class alone, or of none.
    sure = 20 * one_hot_features(label, 3)
    for logits, own in ((sure, label), (uniform, torch.zeros_like(label)), (uniform, torch.full_like(label, VOID))):
        features = torch.randn(1, 3, 24, 8).double().requires_grad_()
        loss = part(features, logits, own)
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, features)[0].any()
    # Of two classes that show, one is sure: the mean over both has 0 for it.
    label = label.masked_fill(label == 2, VOID)
    halfway = torch.where(label[:, None] == 0, sure, uniform)
    loss = contrast(3, queries=5, negatives=11, temperature=temperature)(one_hot_features(label, 3), halfway, label)
    assert float(loss) == pytest.approx(expected / 2, rel=1e-12)


def test_by_hand_and_by_finite_differences():
    """Loops over what is drawn; the gradient is that of the queries alone, prototypes and negatives stay."""
    generator = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(2, 4, 5, 6, generator=generator).double() for _ in range(2))
    label = torch.randint(0, 5, (2, 5, 6), generator=generator)
    label[label == 4] = VOID
    part = contrast(4, 4, queries=3, negatives=4, temperature=0.3, sure=0.6, weight=0.5)
    draws = part.draw()

    flat, vectors = label.flatten().numpy(), features.movedim(1, -1).reshape(-1, 4).numpy()
    p = logits.softmax(1).movedim(1, -1).reshape(-1, 4).numpy()

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    prototypes = unit(np.stack([vectors[flat == k].mean(0) for k in range(4)]))
    pairs = []  # query, prototype, negatives
    for k in range(4):
        hard = [i for i in np.flatnonzero(flat == k) if p[i, k] < 0.6]
        similar = np.array([np.exp(prototypes[k] @ prototypes[j] / 0.3) * (j != k) for j in range(4)])
        steps = np.cumsum(similar / similar.sum())
        for q in range(3):
            places = []
            for m in range(4):
                j = int(np.argmax(steps > draws.other[k, q, m].item()))
                members = np.flatnonzero(flat == j)
                places.append(members[int(draws.negative[k, q, m] * len(members))])
            pairs.append((hard[int(draws.query[k, q] * len(hard))], k, places))
    fixed = unit(vectors)

    def loss(moved):
        values = []
        for query, k, places in pairs:
            cosines = unit(moved[query]) @ np.stack([prototypes[k], *fixed[places]]).T / 0.3
            values.append(np.log(np.exp(cosines).sum()) - cosines[0])
        return 0.5 * np.mean(values)

    features.requires_grad_()
    found = part(features, logits, label, draws)
    assert float(found) == pytest.approx(loss(vectors), rel=1e-12)
    gradient = torch.autograd.grad(found, features)[0].movedim(1, -1).reshape(-1, 4).numpy()
    queries = sorted({query for query, _, _ in pairs})
    for query in queries:
        for channel in range(4):
            step = np.zeros_like(vectors)
            step[query, channel] = 1e-5
            slope = (loss(vectors + step) - loss(vectors - step)) / 2e-5
            assert gradient[query, channel] == pytest.approx(slope, abs=1e-8)
    assert not np.delete(gradient, queries, 0).any()


def test_what_is_void_has_no_part():
    features, logits = torch.randn(2, 2, 3, 8, 8).double()
    label = torch.randint(0, 3, (2, 8, 8))
    label[:, :3] = VOID
    part, other = contrast(3), contrast(3)
    draws = part.draw()
    loss = part(features, logits, label, draws)
    features[:, :, :3] = 1e6
    logits[:, :, :3] = 0
    assert torch.equal(loss, other(features, logits, label, draws))
    assert torch.equal(part.prototypes, other.prototypes)


def test_similar_classes_are_drawn_more_often():
    prototypes = nn.functional.normalize(torch.randn(4, 6), dim=1)
    part = contrast(6, 4, temperature=0.5)
    uniform = torch.rand(4, 50, 400, dtype=torch.float64)
    classes = part._others(prototypes, torch.tensor([9, 1, 0, 5]), uniform)
    share = torch.stack([(classes == k).flatten(1).double().mean(1) for k in range(4)], 1).numpy()
    expected = np.exp(2 * (prototypes @ prototypes.T).double().numpy()) * (1 - np.eye(4)) * [1, 1, 0, 1]
    np.testing.assert_allclose(share, expected / expected.sum(1, keepdims=True), atol=0.015)
    assert (share == 0).tolist() == [[i == j or j == 2 for j in range(4)] for i in range(4)]


def test_prototypes_are_carried_on():
    """A class that is not shown keeps its prototype, however long; the first one is that of the batch."""
    part = contrast(3, momentum=0.75)
    logits, label = torch.zeros(1, 3, 2, 2).double(), torch.tensor([[[0, 0], [1, VOID]]])
    first, second = torch.randn(2, 1, 3, 2, 2).double()
    part(first, logits, label)
    means = [features[0, :, 0].mean(1) for features in (first, second)]
    torch.testing.assert_close(part.prototypes, torch.stack([means[0], first[0, :, 1, 0], torch.zeros(3).double()]))
    assert part.seen.tolist() == [True, True, False]
    part(second, logits, label.masked_fill(label == 1, 2))
    carried = 0.75 * means[0] + 0.25 * means[1]
    torch.testing.assert_close(part.prototypes, torch.stack([carried, first[0, :, 1, 0], second[0, :, 1, 0]]))
    state = part.state_dict()
    assert {'prototypes', 'seen'} <= state.keys()  # a resumed run goes on with them


def test_places_of_pixels():
    label = torch.tensor([1, 0, VOID, 1, 2, 1])
    pixels = PixelsByClass.of(label, 4)
    assert pixels.size.tolist() == [1, 3, 1, 0]
    third = torch.tensor([0.0, 0.34, 0.67, 1 - 2**-53], dtype=torch.float64)
    assert pixels.pick(torch.tensor([1, 1, 1, 1]), third).tolist() == [0, 3, 5, 5]
    assert pixels.pick(torch.tensor([0, 2]), torch.tensor([0.9, 0.0])).tolist() == [1, 4]


def test_two_classes_with_one_output():
    label, features = torch.randint(0, 2, (1, 6, 6)), torch.randn(1, 2, 6, 6).double()
    logit = torch.randn(1, 1, 6, 6).double()
    one, two = contrast(2, 2), contrast(2, 2)
    draws = one.draw()
    both = torch.cat((-logit / 2, logit / 2), 1)
    torch.testing.assert_close(one(features, logit, label, draws), two(features, both, label, draws))


@pytest.mark.parametrize(
    ('option', 'value'),
    [('weight', -1), ('queries', 0), ('negatives', 1.5), ('temperature', 0), ('sure', 2), ('momentum', 1)],
)
def test_options_that_cannot_work(option, value):
    with pytest.raises(ConfigError, match=rf'contrast\.{option} is {value}'):
        contrast(3, **{option: value})
