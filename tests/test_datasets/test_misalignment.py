import math

import numpy as np
import pytest
from scipy import ndimage

from mmrs.datasets.transforms.misalignment import smooth_field
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError
from tests.small_files import LOADING, build_dataset


def build(**arguments):
    return TRANSFORMS.build(dict(type='Misalignment', **arguments))


def sample(image, path='folder/tile.tif', **fields):
    return dict(img=image, img_path=path, seg_fields=list(fields), **fields)


def field_of(shape=(40, 60), path='folder/tile.tif', **arguments):
    return build(**arguments).displacement(sample(np.zeros((*shape, 1), np.uint8), path))


@pytest.fixture
def image(rng):
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (40, 60, 3)), (2, 2, 0), mode='wrap')
    return (128 + 40 * smooth / smooth.std()).clip(0, 255).astype(np.float32)


@pytest.fixture
def force(monkeypatch):
    """Makes a transform that moves everything by a known x and y."""

    def make(x, y):
        transform = build(shift=1)

        def displacement(results):
            return np.broadcast_to(np.array([x, y], float), (*results['img'].shape[:2], 2))

        monkeypatch.setattr(transform, 'displacement', displacement)
        return transform

    return make


# --- the fields -------------------------------------------------------------------------------------------------------


def test_shift_has_the_stated_length_in_any_direction():
    directions = []
    for i in range(200):
        u = field_of(shift=4, path=f'{i}.tif')
        np.testing.assert_allclose(np.hypot(u[..., 0], u[..., 1]), 4, rtol=1e-12)
        assert np.ptp(u, axis=(0, 1)).max() == 0
        directions.append(math.atan2(u[0, 0, 1], u[0, 0, 0]))
    # Uniform: the mean of 200 unit vectors has a length of about 1 / sqrt(200).
    assert abs(np.exp(1j * np.array(directions)).mean()) < 0.2


def test_direction_does_not_depend_on_the_amounts():
    four, eight, both = (
        field_of(**a) for a in (dict(shift=4), dict(shift=8), dict(shift=4, rotation=2, scale=0.1, elastic=3))
    )
    np.testing.assert_allclose(eight, 2 * four, rtol=1e-12)
    np.testing.assert_allclose(both.mean((0, 1)), four.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize(('rotation', 'scale'), [(3, 0), (0, 0.05), (3, 0.05), (90, 0)])
def test_rotation_and_scale_about_the_centre(rotation, scale):
    rows, columns = np.mgrid[:40, :60].astype(np.float64)
    place = (columns - 29.5) + 1j * (rows - 19.5)
    found = set()
    for i in range(40):
        u = field_of(rotation=rotation, scale=scale, path=f'{i}.tif')
        moved = u[..., 0] + 1j * u[..., 1]
        expected = {
            (turn, growth): place * (1 + scale) ** growth * np.exp(1j * math.radians(turn * rotation)) - place
            for turn in (-1, 1)
            for growth in (-1, 1)
        }
        close = {signs for signs, field in expected.items() if np.abs(field - moved).max() < 1e-9}
        assert close
        found |= close
    assert len(found) == 4  # both ways occur


@pytest.mark.parametrize('shape', [(40, 60), (64, 64), (37, 53)])
@pytest.mark.parametrize('smoothness', [2.0, 5.0])
def test_elastic_field_is_smoothed_noise(shape, smoothness):
    field = smooth_field(shape, smoothness, np.random.default_rng(7))
    noise = np.random.default_rng(7).standard_normal((2, *shape), np.float32).astype(np.float64)
    # In the plane, with a kernel that goes round the edges until nothing is left of it.
    expected = np.stack([ndimage.gaussian_filter(part, smoothness, mode='wrap', truncate=8) for part in noise], -1)
    expected -= expected.mean((0, 1))
    expected /= np.sqrt((expected**2).sum(-1).mean())
    np.testing.assert_allclose(field, expected, atol=1e-3)


def test_elastic_field_has_the_stated_size_and_smoothness():
    u = field_of((256, 256), elastic=3, smoothness=16)
    assert abs(math.sqrt((u**2).sum(-1).mean()) - 3) < 1e-4
    np.testing.assert_allclose(u.mean((0, 1)), 0, atol=1e-5)
    # Noise behind a Gaussian has slopes with a standard deviation of that of the values / (sqrt(2) * smoothness).
    slopes = np.gradient(u, axis=(0, 1))
    expected = 3 / math.sqrt(2) / (math.sqrt(2) * 16)
    for slope in slopes:
        assert abs(slope.std() / expected - 1) < 0.25


@pytest.mark.parametrize('shape', [(8, 8), (5, 300), (2, 2)])
def test_elastic_field_of_small_images(shape):
    u = field_of(shape, elastic=2, smoothness=500)
    assert abs(math.sqrt((u**2).sum(-1).mean()) - 2) < 1e-3


def test_other_names_windows_and_seeds_move_otherwise():
    image = np.zeros((40, 60, 1), np.uint8)
    first = build(shift=4).displacement(sample(image, 'a/x.tif'))
    assert np.array_equal(build(shift=4).displacement(sample(image, 'b/x.png')), first)
    for other in (
        build(shift=4).displacement(sample(image, 'a/y.tif')),
        build(shift=4, seed=1).displacement(sample(image, 'a/x.tif')),
        build(shift=4).displacement({**sample(image, 'a/x.tif'), 'window': (0, 0, 60, 40)}),
    ):
        assert np.abs(other - first).max() > 1e-3


def test_without_a_seed_numpys_generator_decides():
    transform, image = build(shift=4, seed=None), np.zeros((4, 4, 1), np.uint8)
    np.random.seed(3)  # noqa: NPY002 (the generator that MMEngine seeds)
    drawn = [transform.displacement(sample(image))[0, 0] for _ in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
    np.random.seed(3)  # noqa: NPY002
    assert all(np.array_equal(transform.displacement(sample(image))[0, 0], u) for u in drawn)


# --- what is moved ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('bands', [1, 3, 7])
def test_whole_pixels_are_exact(dtype, bands, rng, force):
    image = rng.integers(0, 255, (20, 30, bands)).astype(dtype)
    labels = rng.integers(0, 5, (20, 30)).astype(np.uint8)
    moved = force(3, -2)(sample(image, gt_seg_map=labels))
    # The pixel at (row, column) shows what was at (row - 2, column + 3).
    assert np.array_equal(moved['img'][2:, :-3], image[:-2, 3:])
    assert np.array_equal(moved['gt_seg_map'][2:, :-3], labels[:-2, 3:])
    inside = np.zeros((20, 30), bool)
    inside[2:, :-3] = True
    assert np.array_equal(moved['valid_map'], inside)
    assert moved['valid_map'].dtype == np.uint8
    assert moved['seg_fields'] == ['gt_seg_map', 'valid_map']
    assert set(moved['gt_seg_map'][~inside]) == {255}
    mean = image.reshape(-1, bands).mean(0, dtype=np.float64)
    np.testing.assert_allclose(
        moved['img'][~inside], np.tile(mean, ((~inside).sum(), 1)), atol=1 if dtype == np.uint8 else 1e-3
    )
    assert moved['img'].dtype == dtype


def test_fractions_follow_the_field(image):
    """Against cubic splines, another interpolation, which on a smooth image agrees to a few grey levels."""
    transform = build(shift=3.3, rotation=2, scale=0.03, elastic=1, smoothness=8)
    u = transform.displacement(sample(image))
    rows, columns = np.mgrid[:40, :60].astype(np.float64)
    places = [rows + u[..., 1], columns + u[..., 0]]
    expected = np.stack([ndimage.map_coordinates(image[..., b].astype(float), places, order=3) for b in range(3)], -1)
    moved = transform(sample(image))
    inner = ndimage.binary_erosion(moved['valid_map'] == 1, iterations=3)
    assert inner.mean() > 0.5
    difference = np.abs(moved['img'] - expected)[inner]
    assert np.sqrt((difference**2).mean()) < 0.02 * image.std()
    # The other way round, or with x and y exchanged, it is far off.
    for wrong in ([rows - u[..., 1], columns - u[..., 0]], [rows + u[..., 0], columns + u[..., 1]]):
        other = ndimage.map_coordinates(image[..., 0].astype(float), wrong, order=3)
        assert np.sqrt(((moved['img'][..., 0] - other)[inner] ** 2).mean()) > 0.3 * image.std()


def test_maps_take_the_nearest_pixel(rng):
    labels = rng.integers(0, 9, (40, 60)).astype(np.int64)
    transform = build(rotation=10)
    u = transform.displacement(sample(labels[..., None]))
    moved = transform(sample(labels[..., None].astype(np.float32), gt_seg_map=labels))
    for row, column in rng.integers(0, (40, 60), (100, 2)):
        y, x = round(row + u[row, column, 1]), round(column + u[row, column, 0])
        is_inside = 0 <= y < 40 and 0 <= x < 60
        assert moved['gt_seg_map'][row, column] == (labels[y, x] if is_inside else 255)
        assert moved['valid_map'][row, column] == is_inside
    assert moved['gt_seg_map'].dtype == labels.dtype


def test_holes_move_along(rng, force):
    image = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    valid = np.ones((20, 30), np.uint8)
    valid[5:9, 10:15] = 0
    image[valid == 0] = 7
    moved = force(4, 0)(sample(image, valid_map=valid))
    expected = np.zeros((20, 30), np.uint8)
    expected[:, :26] = valid[:, 4:]
    assert np.array_equal(moved['valid_map'], expected)
    assert moved['seg_fields'] == ['valid_map']
    np.testing.assert_allclose(moved['img'][0, -1], image[valid == 1].mean(0), atol=1)


def test_nothing_to_move_changes_nothing(image):
    moved = build()(sample(image))
    assert moved['img'] is image
    assert 'valid_map' not in moved


def test_what_all_comes_from_inside_has_no_map(image, force):
    moved = force(0, 0)(sample(image))
    assert 'valid_map' not in moved
    assert np.array_equal(moved['img'], image)


def test_given_arrays_stay_as_they_are(image):
    given, labels = image.copy(), np.zeros((40, 60), np.uint8)
    build(shift=5)(sample(image, gt_seg_map=labels))
    assert np.array_equal(image, given)
    assert not labels.any()


def test_in_a_pipeline(make_dataset):
    root = make_dataset(n=2)
    plain, moved = (
        build_dataset(root, pipeline=[*LOADING, *transforms, dict(type='PackRasterInputs')])
        for transforms in ([], [dict(type='Misalignment', shift=4)])
    )
    for i in range(2):
        before, after, again = plain[i], moved[i], moved[i]
        assert after['inputs'].equal(again['inputs'])
        outside = ~after['data_samples'].valid_map.data
        # 4 px in some direction leave a strip of 4 px in all, along one side or two.
        assert 40 * 2 < outside.sum() < 4 * (40 + 48)
        assert (after['data_samples'].gt_sem_seg.data[outside] == 255).all()
        assert not after['inputs'].equal(before['inputs'])
    assert not moved[0]['data_samples'].valid_map.data.equal(moved[1]['data_samples'].valid_map.data)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(shift=-1), 'Misalignment: shift is -1; a number of at least 0'),
        (dict(rotation=200), 'rotation is 200; .* at most 180'),
        (dict(smoothness=0), 'smoothness is 0; a number above 0'),
        (dict(seed='a'), "seed is 'a'; a whole number, or None"),
        (dict(elastic=8, smoothness=12), 'elastic=8 px with smoothness=12 px folds .* 16 px or more was expected'),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(**arguments)


def test_labels_of_another_size(image):
    with pytest.raises(ConfigError, match=r'tile.tif has 60 x 40 pixels .*, but its gt_seg_map has 30 x 20'):
        build(shift=4)(sample(image, gt_seg_map=np.zeros((20, 30), np.uint8)))
