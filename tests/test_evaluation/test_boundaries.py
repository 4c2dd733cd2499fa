import numpy as np
import pytest

from mmrs.evaluation.boundaries import disc, near_boundary


def brute_force(labels: np.ndarray, radius: float, pixel: np.ndarray) -> np.ndarray:
    """Pixels with a labelled pixel of another class whose centre is no further away, by all pairs of pixels."""
    rows, columns = np.indices(labels.shape)
    places = (pixel @ np.stack([columns.ravel(), rows.ravel()])).T
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    flat = labels.ravel()
    other = (flat[:, None] != flat[None]) & (flat[None] != 255) & (flat[:, None] != 255)
    return (other & (distance <= radius + 1e-9)).any(1).reshape(labels.shape)


TURNED = np.array([[0.6, -0.8], [0.8, 0.6]])


@pytest.mark.parametrize('radius', [1, 1.5, 3, 5])
@pytest.mark.parametrize(
    'pixel', [np.eye(2), np.diag([1, -1]), np.diag([0.5, 1.25]), 0.7 * TURNED, np.diag([10.0, 10.0])]
)
def test_all_pairs_of_pixels_say_the_same(radius, pixel):
    rng = np.random.default_rng(3)
    labels = np.kron(rng.integers(0, 3, (5, 6)), np.ones((5, 6))).astype(np.uint8)[:22, :33]
    labels[rng.random(labels.shape) < 0.02] = 2
    labels[rng.random(labels.shape) < 0.05] = 255
    expected = brute_force(labels, radius, pixel)
    np.testing.assert_array_equal(near_boundary(labels, disc(radius, pixel)), expected)
    # Pixels ten units large reach no other.
    assert expected.any() == (pixel[0, 0] < 10)


def test_disc_of_three_pixels():
    expected = [
        [0, 0, 0, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 1, 0, 0, 0],
    ]
    np.testing.assert_array_equal(disc(3), expected)


def test_neither_ignored_pixels_nor_the_edge_are_a_boundary():
    labels = np.full((12, 14), 2, np.uint8)
    labels[4:7, 5:9] = 255
    assert not near_boundary(labels, disc(3)).any()
    labels[5, 6] = 0  # an island in the ignored area, three columns from the labelled ones on the left
    near = near_boundary(labels, disc(3))
    assert near[5, 6]
    assert near[5, 3]
    assert not near[5, 2]
    assert not near[labels == 255].any()
