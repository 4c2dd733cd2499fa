from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmrs.models.adaptors import Domain
from mmrs.models.data_preprocessor import DomainAdaptationDataPreprocessor
from mmrs.models.parts.views import RandomViews, View, ViewColours, centres, inverse, move, places_of, read_at, then
from mmrs.utils import ConfigError

AFFINE = np.array([[[3.0, 0.5, 500000.0], [0.25, -4.0, 5400000.0]], [[1.0, 0.0, 7.0], [0.0, 1.0, -3.0]]])


def coordinates(height: int, width: int) -> torch.Tensor:
    """Images that show in two bands where on the ground their pixels lie, ``(2, 2, height, width)``."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    return torch.from_numpy(
        np.stack([
            [a * x + b * y + c for a, b, c in affine] for affine in AFFINE
        ])  # each of (height, width)
    )  # fmt: skip


def domain(images: torch.Tensor, valid: torch.Tensor | None = None, ground: str = 'EPSG:32632') -> Domain:
    return Domain(images, valid, None, [dict(to_ground=a, ground=ground, paired=True) for a in AFFINE[: len(images)]])


def numbers_of(view: View) -> torch.Tensor:
    """Coordinates of all pixels of a view, by its own account, ``(N, 2, S, S)``."""
    size = view.size
    return move(view.places.to_ground, centres(size, view.images).expand(len(view.images), -1, -1)).mT.unflatten(
        -1, (size, size)
    )


def inner(maps: torch.Tensor, view: View, window: tuple[int, int]) -> torch.Tensor:
    """Without pixels that reach beyond the outer pixels' centres, where nothing can be interpolated."""
    places = move(inverse(torch.from_numpy(AFFINE)), numbers_of(view).flatten(2).mT).mT.unflatten(-1, maps.shape[-2:])
    limits = torch.tensor(window[::-1])[:, None, None]
    return maps.movedim(1, 0)[:, ((places >= 0.5) & (places <= limits - 0.5)).all(1)]


@pytest.mark.parametrize('kind', ['same', 'near', 'other'])
@pytest.mark.parametrize('size', [(48, 48), (40, 64)])
def test_a_view_knows_the_place_of_each_pixel(kind, size):
    images = coordinates(*size)
    for seed in range(10):
        torch.manual_seed(seed)
        views = RandomViews({kind: 1.0}, colours=None)(domain(images), domain(images.clone()), None)
        assert [view.images.shape[0] for view in views] == [2 if kind == 'other' else 4] * 2
        for view in views:
            assert view.valid.all()
            half = View(view.images[:2], view.valid[:2], type(view.places)(*(own[:2] for own in view.places)))
            found, expected = (inner(maps, half, size) for maps in (half.images, numbers_of(half)))
            assert found.shape[1] > 500
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_places_of_one_view_are_found_in_the_other():
    images = coordinates(48, 48)
    torch.manual_seed(1)
    first, second = RandomViews(colours=None)(None, domain(images), None)
    here = centres(first.size, images)[None].expand(2, -1, -1)
    there = move(first.to(second), here)
    common = ((there > 1) & (there < second.size - 1)).all(-1) & ((here > 1) & (here < first.size - 1)).all(-1)
    assert common.float().mean() > 0.2
    seen, read = read_at(first.images, here, first.size), read_at(second.images, there, second.size)
    # At the outer edge of a window nothing is interpolated.
    close = (seen - read).abs().amax(-1)[common] < 1e-3
    assert close.double().mean() > 0.9


@pytest.mark.parametrize(('kind', 'least', 'most'), [('same', 0.5, 0.9), ('near', 0.2, 0.3)])
def test_areas_aspects_and_overlaps(kind, least, most):
    images, areas, shares = torch.zeros(200, 1, 32, 48), [], []
    settings = dict(area=(0.5, 0.9), near_area=(0.2, 0.3), aspect=1.5, min_overlap=0.4)
    torch.manual_seed(0)
    own = Domain(images, None, None, [{}] * 200)
    first, second = RandomViews({kind: 1.0}, colours=None, turns=False, **settings)(None, own, None)
    boxes = []
    for view in (first, second):
        affine = view.places.to_ground.numpy()
        sides = affine[:, [0, 1], [0, 1]] * 32
        areas += (sides.prod(1) / 32**2).tolist()
        ratio = sides[:, 0] / sides[:, 1]
        assert 1 / 1.5 - 1e-4 < ratio.min() < 0.9
        assert 1.1 < ratio.max() < 1.5 + 1e-4
        boxes.append((affine[..., 2], affine[..., 2] + sides))
        assert (boxes[-1][0] > -1e-4).all()
        assert (boxes[-1][1] < [48 + 1e-4, 32 + 1e-4]).all()
    assert least - 1e-4 < min(areas) < least + 0.1 * (most - least)
    assert most - 0.1 * (most - least) < max(areas) < most + 1e-4
    common = np.minimum(boxes[0][1], boxes[1][1]) - np.maximum(boxes[0][0], boxes[1][0])
    shares = common.clip(0).prod(1) / np.minimum(*((end - begin).prod(1) for begin, end in boxes))
    assert (shares > 0.4 - 1e-4).mean() > 0.97  # by chance, none that is drawn may be good
    assert shares.min() < 0.6


def test_parts_without_data_are_drawn_again_and_hidden():
    images, valid = torch.ones(64, 2, 32, 32), torch.ones(64, 32, 32, dtype=torch.bool)
    valid[:, :, :18] = False  # more than half of most parts
    own = domain(images, valid)._replace(metas=[{}] * 64)
    torch.manual_seed(0)
    views = RandomViews(area=(0.3, 0.3), colours=dict(gain=2.0))(None, own, identity())
    shares = torch.cat([view.valid.float().mean((1, 2)) for view in views])
    assert (shares > 0.45).float().mean() > 0.9  # about as the lattice has it
    assert shares.min() < 1
    for view in views:
        assert not view.images[(~view.valid)[:, None].expand_as(view.images)].any()
        assert view.images[view.valid[:, None].expand_as(view.images)].abs().min() > 0.1


def test_turns_and_flips_all_come():
    torch.manual_seed(0)
    images = torch.zeros(300, 1, 8, 8)
    own = Domain(images, None, None, [{}] * 300)
    view, _ = RandomViews(area=(1.0, 1.0), aspect=1.0, colours=None)(None, own, None)
    ways = {tuple(np.rint(affine[:, :2].flatten().numpy()).astype(int)) for affine in view.places.to_ground}
    assert ways == {
        *((x, 0, 0, y) for x in (1, -1) for y in (1, -1)),
        *((0, x, y, 0) for x in (1, -1) for y in (1, -1)),
    }


def test_affine_maps_equal_matrices():
    rng = np.random.default_rng(0)
    one, other, places = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 5, 2))
    square = [np.concatenate([m, np.tile([[[0, 0, 1]]], (4, 1, 1))], 1) for m in (one, other)]
    first, second = torch.from_numpy(one), torch.from_numpy(other)
    np.testing.assert_allclose(then(first, second).numpy(), (square[1] @ square[0])[:, :2], atol=1e-12)
    np.testing.assert_allclose(inverse(first).numpy(), np.linalg.inv(square[0])[:, :2], rtol=1e-9, atol=1e-9)
    expected = np.einsum('nij,nmj->nmi', one[..., :2], places) + one[:, None, :, 2]
    np.testing.assert_allclose(move(first, torch.from_numpy(places)).numpy(), expected, atol=1e-12)


def test_windows_of_unknown_places_are_apart_and_others_go_by_their_ground():
    known = [dict(to_ground=AFFINE[0], ground=name) for name in ('a', 'b', 'a')]
    grounds = places_of(known, 'source', 'cpu').ground
    assert grounds[0] == grounds[2]
    assert grounds[0] != grounds[1]
    unknown = torch.cat([places_of([{}] * 3, name, 'cpu').ground for name in ('source', 'target')])
    assert len(unknown.unique()) == 6


def identity() -> SimpleNamespace:
    return SimpleNamespace(denormalize=lambda images, domain: images, normalize=lambda images, domain: images)


def changed(images, valid=None, **settings):
    quiet = dict(gain=1.0, gamma=1.0, grey=0.0, drop=0.0, blur=0.0)
    valid = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool) if valid is None else valid
    return ViewColours(**{**quiet, **settings})(images, valid, identity(), 'source')


def test_colours_by_formula():
    torch.manual_seed(0)
    images = torch.rand(64, 5, 12, 12, dtype=torch.float64) + 0.05
    assert torch.equal(changed(images), images)
    torch.testing.assert_close(changed(images, grey=1.0), images.mean(1, keepdim=True).expand_as(images))
    valid = torch.ones(64, 12, 12, dtype=torch.bool)
    valid[:, :4] = False
    flat = images[:, :, 4:].mean((2, 3), keepdim=True).expand_as(images) * valid[:, None]
    torch.testing.assert_close(changed(images * valid[:, None], valid, drop=1.0), flat)
    assert torch.equal(changed(images[:, :3], drop=1.0), images[:, :3])  # colour is all that three bands have
    factor = changed(images, gain=1.5) / images
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor))  # for each band of each image
    assert 1.5**-2 <= factor.min() < 0.6
    assert 1.7 < factor.max() <= 1.5**2
    assert factor[:, 0, 0, 0].unique().numel() == 64
    exponent = changed(images, gamma=1.5).log() / images.log()
    assert 1 / 1.5 - 1e-6 <= exponent.min() < 0.75
    assert 1.35 < exponent.max() <= 1.5 + 1e-6


def test_some_images_are_blurred_and_the_others_are_what_they_were():
    torch.manual_seed(0)
    images = torch.rand(60, 1, 160, 160)
    out = changed(images, blur=0.5)
    spread = out.std((1, 2, 3)) / images.std((1, 2, 3))
    same = (out == images).flatten(1).all(1)
    assert 0.35 < same.float().mean() < 0.65
    assert spread[~same].min() < 0.25  # white noise of sigma 2 keeps 1 / (2 sqrt(pi) 2) of its deviation
    torch.testing.assert_close(out.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.02)


def test_shares_are_of_the_domain():
    preprocessor = DomainAdaptationDataPreprocessor([100.0] * 3, [50.0] * 3, [10.0] * 3, [20.0] * 3)
    raw = torch.randint(1, 255, (2, 3, 8, 8), dtype=torch.uint8)
    inputs = preprocessor(dict(source=dict(inputs=list(raw)), target=dict(inputs=list(raw))))['inputs']
    for name in ('source', 'target'):
        torch.manual_seed(3)
        valid = torch.ones(2, 8, 8, dtype=torch.bool)
        colours = ViewColours(gain=1.3, gamma=1.0, grey=0.0, drop=0.0, blur=0.0)
        out = preprocessor.denormalize(colours(inputs[name], valid, preprocessor, name), name) * 255 / raw
        torch.testing.assert_close(out, out[..., :1, :1].expand_as(out), rtol=1e-4, atol=1e-4)


def test_other_views_of_what_is_no_pair_and_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match='PairedDataset'):
        RandomViews(dict(same=1.0, other=1e-9))(*[Domain(torch.zeros(2, 1, 8, 8), None, None, [{}] * 2)] * 2, None)
    for settings, named in (
        (dict(kinds=dict(elsewhere=1.0)), 'elsewhere'),
        (dict(kinds=dict(same=0.0)), 'same'),
        (dict(area=(0.5, 0.2)), 'area'),
        (dict(min_overlap=0.0), 'min_overlap'),
        (dict(colours=dict(gain=0.5)), 'gain'),
    ):
        with pytest.raises(ConfigError, match=named):
            RandomViews(**settings)
