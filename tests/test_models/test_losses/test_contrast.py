import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmrs.models.losses.contrast import dense_contrast, nt_xent, smoothed, unified, unified_views, uniformity

CLOSE = dict(rtol=1e-10, atol=1e-10)


def gradient(loss, inputs):
    return torch.autograd.grad(loss, inputs)[0]


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


# Whole windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', ['small', 'usual', 'cold', 'unnormalised'])
def test_ntxent_equals_the_releases(case, golden):
    recorded = golden('ssl_ntxent.pt')[case]
    z = recorded['z'].clone().requires_grad_()
    rows = normalize(z, dim=1) if recorded['normalise'] else z
    loss = nt_xent(*rows.chunk(2), recorded['temperature']).loss
    torch.testing.assert_close(loss, recorded['loss_mean'], **CLOSE)
    torch.testing.assert_close(gradient(loss, z), recorded['grad_of_mean'], **CLOSE)


def test_ntxent_where_all_is_alike():
    rows = torch.ones(5, 3) / math.sqrt(3)
    assert nt_xent(rows, rows, 0.5).loss.item() == pytest.approx(math.log(2 * 5 - 1))


def test_excluded_windows_and_such_without_data_by_hand():
    first, second = unit(4, 6), unit(4, 6, seed=1)
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 2] = excluded[2, 0] = True
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    rows = np.concatenate([first, second])
    losses, hits = [], []
    for i, window in enumerate([0, 1, 2, 3] * 2):
        if window == 3:
            continue
        others = [k for k in range(8) if k % 4 != 3 and k != i and {k % 4, window} != {0, 2}]
        scores = {k: math.exp(rows[i] @ rows[k] / 0.3) for k in others}
        losses.append(-math.log(scores[(i + 4) % 8] / sum(scores.values())))
        hits.append(max(scores, key=scores.get) == (i + 4) % 8)
    found = nt_xent(first, second, 0.3, excluded, weight)
    assert found.loss.item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert found.recall.item() == pytest.approx(np.mean(hits))


def test_nothing_to_compare_is_no_loss_and_no_gradient_that_is_not_finite():
    for loss in (lambda *a: nt_xent(*a[:2], 0.5, *a[2:]).loss, lambda *a: unified_views(*a[:2], 16.0, *a[2:]).loss):
        first, second = unit(3, 4).requires_grad_(), unit(3, 4, seed=1)
        for weight in (torch.tensor([1.0, 0, 0]).double(), torch.zeros(3).double()):
            value = loss(first, second, None, weight)
            assert value.item() == pytest.approx(0)
            assert gradient(value, first).isfinite().all()
    views = unit(3, 2, 4).requires_grad_()
    value = uniformity(views, None, torch.tensor([1.0, 0, 0]).double())
    assert value.item() == 0
    assert not gradient(value, views).any()


UNIFORM = ['no_kernel_2views', 'no_kernel_4views', 'rbf', 'rbf_1d_attribute', 'rbf_lambda0', 'cosine']


@pytest.mark.parametrize('case', UNIFORM)
def test_uniformity_equals_the_release(case, golden):
    recorded = golden('ssl_decoupled_uniformity.pt')[case]
    z = recorded['z'].clone().requires_grad_()
    mixing = None
    if (prior := recorded.get('prior')) is not None:
        prior = prior.view(len(z), -1)
        if recorded['kernel'] == 'rbf':
            kernel = (-torch.cdist(prior, prior).square() / (2 * recorded['sigma'] ** 2)).exp()
        else:
            kernel = normalize(prior, dim=1) @ normalize(prior, dim=1).T
        mixing = smoothed(kernel, recorded['lambda_'] or len(z) ** -0.5)
    loss = uniformity(normalize(z, dim=-1), mixing, t=recorded['t'])
    torch.testing.assert_close(loss, torch.as_tensor(recorded['loss']), rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient(loss, z), recorded['grad'], rtol=0, atol=1e-9)


def test_windows_of_one_place_share_a_centroid(golden):
    recorded = golden('ssl_decoupled_uniformity.pt')['centroids_two_groups']
    prior = recorded['prior']
    kernel = (-torch.cdist(prior, prior).square() / (2 * recorded['sigma'] ** 2)).exp()
    centroids = smoothed(kernel, recorded['lambda_']) @ normalize(recorded['z'], dim=-1).mean(1)
    torch.testing.assert_close(centroids, recorded['centroids'], rtol=0, atol=1e-9)


@pytest.mark.parametrize('number', [3, 5])
def test_uniformity_between_its_ends(number):
    corners = torch.eye(number, dtype=torch.float64) - 1 / number  # a regular simplex
    views = normalize(corners, dim=1)[:, None].expand(-1, 2, -1)
    assert uniformity(views).item() == pytest.approx(-4 * number / (number - 1))
    assert uniformity(views[:1].expand(number, -1, -1)).item() == pytest.approx(0, abs=1e-12)
    dead = torch.tensor([1.0] * number + [0.0]).double()
    assert uniformity(torch.cat([views, unit(1, 2, number)]), None, dead).item() == pytest.approx(
        -4 * number / (number - 1)
    )


@pytest.mark.parametrize('case', ['oucl_default', 'oucl_gamma32_delta', 'oucl_alpha_yes_is_ignored'])
def test_unified_loss_equals_the_release(case, golden):
    recorded = golden('ssl_metaug.pt')[case]
    similarities = recorded['similarities'].clone().requires_grad_()
    positives, negatives = similarities[..., 0].T, similarities[..., 1:].movedim(1, 0).flatten(1)
    # It takes delta from negatives and 1 - delta from positives, or, by default, nothing from either.
    margin = 1 - 2 * recorded['delta'] if recorded['delta'] else 0.0
    loss = unified(positives, negatives, recorded['gamma'], margin).mean()
    torch.testing.assert_close(loss, torch.as_tensor(recorded['loss']), **CLOSE)
    torch.testing.assert_close(gradient(loss, similarities), recorded['grad'], **CLOSE)


def test_unified_loss_of_equal_similarities():
    one = torch.tensor([[0.3]])
    for gamma in (1.0, 16.0):
        assert unified(one, one, gamma).item() == pytest.approx(16 / gamma * math.log(2))


# Cells ----------------------------------------------------------------------------------------------------------------


def regions(maps, corners):
    """The 3 x 3 cells from each upper left one, flattened: ``(N, R, 9 C)``."""
    return torch.stack([maps[:, y : y + 3, x : x + 3].flatten(1) for y, x in corners.tolist()], 1)


@pytest.mark.parametrize('case', ['local_R', 'local_R_9regions', 'local_R_no_projection'])
def test_contrast_of_cells_equals_the_release(case, golden):
    recorded = golden('ssl_local_contrast.pt')[case]
    features = recorded['features'].clone().requires_grad_()
    anchors, used = recorded['positions'], recorded['negatives'][:, : recorded['used_negatives']]
    own = normalize(regions(features, torch.cat([anchors, used.flatten(0, 1)])) @ recorded['projection'], dim=-1)
    number, each = used.shape[:2]
    negatives = torch.zeros(own.shape[1], own.shape[1], dtype=torch.bool)
    for anchor, k in itertools.product(range(number), range(each)):
        negatives[anchor, number + anchor * each + k] = True
    found = dense_contrast(own[:1], own[1:], negatives[None], recorded['temperature'])
    loss = found.loss[:, :number].mean()
    torch.testing.assert_close(loss, torch.as_tensor(recorded['loss']), **CLOSE)
    torch.testing.assert_close(gradient(loss, features), recorded['grad'], **CLOSE)


def test_cells_that_are_all_alike_and_cells_without_negatives():
    alike = torch.ones(1, 6, 4) / 2
    negatives = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    negatives[0, 0] = False
    found = dense_contrast(alike, alike, negatives, 0.1)
    torch.testing.assert_close(found.loss, (1 + 2 * negatives.sum(-1)).float().log())
    assert found.recall[0, 0] == 1


def test_recall_of_cells_by_hand():
    first, second = unit(1, 5, 3), unit(1, 5, 3, seed=1)
    negatives = ~torch.eye(5, dtype=torch.bool)[None]
    hits = np.zeros(5)
    for own, other in ((first[0].numpy(), second[0].numpy()), (second[0].numpy(), first[0].numpy())):
        for i in range(5):
            wrong = [own[i] @ rows[k] for rows in (own, other) for k in range(5) if k != i]
            hits[i] += own[i] @ other[i] >= max(wrong)
    assert dense_contrast(first, second, negatives, 1.0).recall[0].tolist() == (hits / 2).tolist()
