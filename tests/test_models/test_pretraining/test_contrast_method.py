import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mmrs.models.losses.contrast import nt_xent
from mmrs.models.parts.features import extract_features
from mmrs.models.parts.views import Places, View
from mmrs.models.pretraining.contrast import GlobalContrast, LocalContrast
from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from mmrs.weights import load_matching
from tests.conformance import HRDA, Trainer

# Views that show a window as it is.
STILL = {
    'model.views': dict(area=(1.0, 1.0), aspect=1.0, turns=False, colours=None),
    'model.backbone.drop_path_rate': 0.0,
    'model.decode_head.norm_cfg': None,
}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cross_entropy(positive, negatives):
    return math.log(math.exp(positive) + sum(map(math.exp, negatives))) - positive


def test_losses_by_hand():
    settings = dict(points=10000, distance=3.0, temperature=0.3)
    trainer = Trainer('contrast', {**STILL, 'model.local_loss': settings}, dtype=torch.float64)
    model, batch = trainer.model, trainer.batch(0, size=32, valid='both')
    found = trainer.losses(batch)
    prepared = model.data_preprocessor(batch, True)
    images = torch.cat(list(prepared['inputs'].values()))
    valid = [
        sample.valid_map.data[0] if 'valid_map' in sample else torch.ones(32, 32, dtype=torch.bool)
        for samples in prepared['data_samples'].values()
        for sample in samples
    ]
    assert len({int(own.sum()) for own in valid}) > 1
    with torch.no_grad():
        maps = extract_features(model, images, ['stage4', 'decode_head'])
        (last, cells), (coarse, fine) = maps.values(), (maps[name].shape[-1] for name in maps)
        known = [own.double().view(n, 32 // n, n, 32 // n).mean((1, 3)) >= 0.5 for own in valid for n in (coarse, fine)]
        pooled = torch.stack([own[:, ok].mean(1) for own, ok in zip(last, known[::2])])
        whole = unit(model.pretext['backbone'].head(pooled).numpy())
        assert [int(ok.sum()) for ok in known[::2]] != [coarse * coarse] * 4
        local = []
        for own, ok in zip(cells, known[1::2]):
            rows = unit(model.pretext['decode_head'].head(own[:, ok].T).numpy())
            places = np.argwhere(ok.numpy())
            for i, row in enumerate(rows):
                apart = np.hypot(*(places - places[i]).T) > 3
                local.append(cross_entropy(row @ row / 0.3, [*(rows[apart] @ row / 0.3)] * 2))
    rows = np.concatenate([whole, whole])
    glob = [
        cross_entropy(rows[i] @ rows[(i + 4) % 8] / 0.5, [rows[i] @ rows[k] / 0.5 for k in range(8) if k % 4 != i % 4])
        for i in range(8)
    ]
    assert found['loss_global'].item() == pytest.approx(np.mean(glob), rel=1e-9)
    assert found['loss_local'].item() == pytest.approx(np.mean(local), rel=1e-9)
    assert found['accuracy_global'] == found['accuracy_local'] == 1
    assert found['share_spread_global'].item() == pytest.approx(rows.std(0).mean() * math.sqrt(rows.shape[1]), rel=1e-9)


def view(number=3, size=8, x=(0.0, 6.0, 100.0), ground=(1, 1, 1), images=None, valid=None) -> View:
    """A view of windows in a row, whose pixels are units of the ground."""
    affine = torch.eye(2, 3, dtype=torch.float64).repeat(number, 1, 1)
    affine[:, 0, 2] = torch.tensor(x[:number])
    images = torch.zeros(number, 1, size, size) if images is None else images
    valid = torch.ones(number, size, size, dtype=torch.bool) if valid is None else valid
    return View(images, valid, Places(affine, torch.tensor(ground[:number])))


def same(number):
    part = GlobalContrast(4, exclude=number)
    part.head = nn.Identity()
    return part


@pytest.mark.parametrize(
    ('exclude', 'ground', 'pairs'),
    [
        (1.0, (1, 1, 1), [(0, 1)]),
        (0.5, (1, 1, 1), []),
        (1.0, (1, 2, 1), []),
        (99.0, (1, 1, 1), [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_windows_that_are_near_on_the_ground_are_no_negatives(exclude, ground, pairs):
    maps = [torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    found, _ = same(exclude)(tuple(maps), (view(ground=ground),) * 2)
    excluded = torch.zeros(3, 3, dtype=torch.bool)
    for i, j in pairs:
        excluded[i, j] = excluded[j, i] = True
    first, second = (normalize(own[..., 0, 0], dim=1) for own in maps)
    assert found.loss.item() == pytest.approx(nt_xent(first, second, 0.5, excluded).loss.item(), rel=1e-6)


def test_uniformity_with_places_that_are_one_is_blind_to_where_centroids_lie():
    maps = [torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    losses = []
    for x in ((0.0, 0.0, 0.0), (0.0, 800.0, 1600.0)):
        part = GlobalContrast(4, loss='uniformity', sigma=1.0)
        part.head = nn.Identity()
        losses.append(part(tuple(maps), (view(x=x),) * 2)[0].loss.item())
    assert losses[0] == pytest.approx(0, abs=1e-4)  # all share a centroid
    rows = unit(np.stack([own[..., 0, 0].numpy() for own in maps], 1)).mean(1) / 1.01  # of the identity: K / (K + 0.01)
    potentials = [math.exp(-2 * ((rows[i] - rows[j]) ** 2).sum()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert losses[1] == pytest.approx(math.log(np.mean(potentials)), rel=1e-4)


def test_the_spread_says_collapse():
    alike, apart = torch.ones(6, 4, 1, 1), torch.eye(4).repeat(2, 1)[:6, :, None, None] * 2 - 0.5
    spreads = [
        float(same(0.0)((maps, maps), (view(6, x=tuple(range(6)), ground=(1,) * 6),) * 2)[1]) for maps in (alike, apart)
    ]
    assert spreads[0] == pytest.approx(0, abs=1e-6)
    assert spreads[1] > 0.5


@pytest.mark.parametrize(('tolerance', 'hit'), [(1, False), (3, True)])
def test_a_counterpart_one_cell_away_is_found_with_tolerance(tolerance, hit):
    maps = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    part = LocalContrast(6, points=36, tolerance=tolerance, distance=0.0)
    part.head = nn.Identity()
    inner = torch.zeros(1, 8, 8, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    torch.manual_seed(0)
    own = view(1, valid=inner)
    found, _ = part((maps, maps.roll(1, -1)), (own, own))
    assert (found.recall > 0.6) == hit


def test_cells_are_read_where_the_other_view_shows_them():
    """The second view is the first one, turned by a quarter, mirrored and shifted; so are its maps."""
    maps = torch.randn(1, 6, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = view(1)
    affine = torch.tensor([[[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]], dtype=torch.float64)  # x = y' + 2, y = x'
    second = first._replace(places=Places(affine, first.places.ground))
    part = LocalContrast(6, points=48, distance=0.0)
    part.head = nn.Identity()
    turned = maps.mT.roll(-2, -2)  # row y' is column x - 2
    found, _ = part((maps, turned), (first, second))
    assert found.recall == 1
    rows = normalize(maps[0, :, :, 2:].flatten(1), dim=0).T
    cosines = (rows @ rows.T / 0.2).exp()
    expected = ((2 * cosines.sum(1) - cosines.diagonal()) / cosines.diagonal()).log().mean()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_what_no_loss_moves_is_frozen():
    model = Trainer('contrast').model
    assert [k for k, p in model.named_parameters() if not p.requires_grad and 'conv_seg' not in k] == []
    assert not any(p.requires_grad for p in model.decode_head.conv_seg.parameters())
    alone = Trainer('contrast', {'model.local_loss': None}).model
    assert not any(p.requires_grad for p in alone.decode_head.parameters())
    assert list(alone.pretext) == ['backbone']


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        (dict(global_loss=None, local_loss=None), 'nothing to learn'),
        (dict(global_loss=dict(loss='simclr')), 'simclr'),
        (dict(global_loss=dict(sigma=1.0)), 'uniformity'),
        (dict(local_loss=dict(tolerance=2)), 'tolerance'),
        (dict(views=dict(kinds=dict(near=-1))), 'near'),
    ],
)
def test_settings_that_make_no_sense(changes, named):
    with pytest.raises(ConfigError, match=named):
        MODELS.build({**Trainer('contrast').config.model, **changes})


def test_a_network_of_two_resolutions_is_refused():
    with pytest.raises(ConfigError, match='MultiResolution'):
        Trainer('contrast', {**HRDA, 'model.views': {}})


STUDENTS = {f'segmentor.backbone.{domain}.': 'backbone.' for domain in ('source', 'target')}
FLAT = {'backbone.': 'backbone.', 'decode_head.': 'decode_head.'}


@pytest.mark.parametrize(
    ('method', 'places'),
    [(name, FLAT) for name in ('source only', 'advent two levels', 'dacs', 'fada')]
    + [('st_dasegnet decoder_only', STUDENTS)],
)
def test_a_method_starts_from_its_weights(method, places):
    weights, model = Trainer('contrast').model.state_dict(), Trainer(method).model
    load_matching(model, weights, 'contrast.pth')
    own = model.state_dict()
    for place, part in places.items():
        keys = [key for key in weights if key.startswith(part) and 'conv_seg' not in key]
        assert len(keys) > 10
        assert all(torch.equal(own[place + key.removeprefix(part)], weights[key]) for key in keys)


@pytest.mark.slow
def test_cells_of_one_image_are_told_apart_after_some_steps():
    trainer = Trainer('contrast', {**STILL, 'model.global_loss': None, 'optim_wrapper.optimizer.lr': 1e-2})
    batch = trainer.batch(0, images=[0], size=32)
    losses = [trainer.step(batch)['loss_local'].item() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
