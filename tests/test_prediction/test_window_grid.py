import numpy as np
import pytest

from mmrs.prediction.canvas import Canvas
from mmrs.prediction.window_grid import BLENDS, Axis, WindowGrid, taper
from mmrs.utils.errors import ConfigError


@pytest.mark.parametrize('blend', BLENDS)
@pytest.mark.parametrize(('length', 'size', 'overlap'), [(100, 32, 0.25), (33, 32, 0.5), (7, 7, 0.9), (1000, 1, 0.0)])
def test_weights_of_all_windows_on_a_pixel_add_up_to_one(length, size, overlap, blend):
    axis = Axis(length, size, overlap, blend)
    total = np.zeros(length)
    for start, weights in zip(axis.starts, axis.weights):
        assert (weights > 0).all()
        total[start : start + size] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.starts[-1] + size == length


def test_tapers_are_the_named_functions():
    x = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(taper(8, 'cosine'), np.sin(np.pi * x) ** 2)
    np.testing.assert_allclose(taper(8, 'gaussian'), np.exp(-((x - 0.5) ** 2) / (2 * 0.125**2)))
    assert (taper(8, 'flat') == 1).all()
    with pytest.raises(ConfigError, match="blend is 'hann'; one of cosine, gaussian, flat"):
        taper(8, 'hann')


def test_windows_that_touch_an_interval():
    axis = Axis(100, 10, 0.0, 'flat')
    assert list(axis.touching(10, 20)) == [1]
    assert list(axis.touching(9, 21)) == [0, 1, 2]
    assert list(axis.touching(0, 100)) == list(range(10))


def _grids(rng):
    shape = tuple(int(n) for n in rng.integers(1, 90, 2))
    x0, y0 = (int(rng.integers(0, n)) for n in shape[::-1])
    x1, y1 = int(rng.integers(x0 + 1, shape[1] + 1)), int(rng.integers(y0 + 1, shape[0] + 1))
    return WindowGrid(
        shape,
        tuple(int(n) for n in rng.integers(1, 40, 2)),
        overlap=float(rng.choice([0, 0.1, 0.25, 0.5, 0.8])),
        blend=str(rng.choice(BLENDS)),
        area=(x0, y0, x1, y1) if rng.random() < 0.5 else None,
        classes=3,
        batch_size=int(rng.integers(1, 6)),
        lane_bytes=1,  # lanes as narrow as they get
    )


def _blended(grid, runs, values):
    """Parts by their place; windows predict what the image holds, in three classes."""
    found = {}
    for run in runs:
        canvas = Canvas(grid, run)
        done = []
        for batch in grid.batches(run):
            for window in batch:
                done += canvas.before(window)
                x0, y0, x1, y1 = window.pixels
                canvas.add(window, values[:, y0:y1, x0:x1], np.ones((y1 - y0, x1 - x0), bool))
        done += canvas.rest()
        assert [place for place, _, _ in done] == run.parts
        found.update({place: (probabilities, shown) for place, probabilities, shown in done})
    return found


@pytest.mark.parametrize('seed', range(24))
def test_parts_cover_what_is_wanted_once_and_blend_to_the_image(seed):
    rng = np.random.default_rng(seed)
    grid = _grids(rng)
    values = rng.random((3, *grid.shape)).astype(np.float32)
    seen = np.zeros(grid.shape, int)
    runs = [run for lane in range(len(grid.lanes)) for run in grid.runs(lane)]
    for (x0, y0, x1, y1), (probabilities, shown) in _blended(grid, runs, values).items():
        seen[y0:y1, x0:x1] += 1
        # Every window says the same of a pixel, so that any weights that add up to 1 give it back.
        np.testing.assert_allclose(probabilities, values[:, y0:y1, x0:x1], atol=1e-5)
        assert shown.all()
    x0, y0, x1, y1 = grid.wanted
    assert (seen[y0:y1, x0:x1] == 1).all()
    assert seen.sum() == (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize('seed', range(24))
def test_any_choice_of_parts_is_made_of_the_same_batches(seed):
    rng = np.random.default_rng(seed)
    grid = _grids(rng)
    for lane in range(len(grid.lanes)):
        whole = list(grid.runs(lane))
        batches = [batch for run in whole for batch in grid.batches(run)]
        assert sum(map(len, batches)) == sum(run.windows for run in whole)
        values = rng.random((3, *grid.shape)).astype(np.float32)
        expected = _blended(grid, whole, values)
        some = {part for part in grid.parts(lane) if rng.random() < 0.5}
        runs = list(grid.runs(lane, some))
        assert {part for run in runs for part in run.parts} == some
        for run in runs:
            own = list(grid.batches(run))
            assert all(batch in batches for batch in own)
            assert run.windows == sum(map(len, own))
        for place, (probabilities, _) in _blended(grid, runs, values).items():
            assert (probabilities == expected[place][0]).all()  # to the last bit


def test_sum_is_that_of_the_windows_predictions():
    """Windows that contradict each other, against a plain float64 sum over the whole image."""
    rng = np.random.default_rng(0)
    grid = WindowGrid((50, 70), (20, 30), overlap=0.4, classes=2)
    rows, columns = (
        [(start, taper(size, 'cosine')) for start in axis.starts] for axis, size in ((grid.y, 20), (grid.x, 30))
    )
    total, weight = np.zeros((2, 50, 70)), np.zeros((50, 70))
    run = next(grid.runs(0))
    canvas, parts = Canvas(grid, run), []
    for batch in grid.batches(run):
        for window in batch:
            said = rng.random((2, 20, 30)).astype(np.float32)
            parts += canvas.before(window)
            canvas.add(window, said, np.ones((20, 30), bool))
            (y, wy), (x, wx) = rows[window.row], columns[window.column]
            total[:, y : y + 20, x : x + 30] += said * np.outer(wy, wx)
            weight[y : y + 20, x : x + 30] += np.outer(wy, wx)
    for (x0, y0, x1, y1), probabilities, _ in [*parts, *canvas.rest()]:
        np.testing.assert_allclose(probabilities, (total / weight)[:, y0:y1, x0:x1], atol=1e-6)


def test_memory_is_bounded_whatever_the_width():
    grid = WindowGrid((40_000, 40_000), (512, 512), classes=7)
    width = max(x1 - x0 for x0, x1 in grid.lanes)
    assert 7 * 4 * 512 * width <= 128 * 2**20
    assert all(x0 % 512 == 0 for x0, _ in grid.lanes)


@pytest.mark.parametrize(('key', 'value'), [('overlap', 1.0), ('overlap', -0.1), ('batch_size', 0), ('size', (0, 5))])
def test_impossible_windows_are_refused(key, value):
    with pytest.raises(ConfigError):
        WindowGrid(**{**dict(shape=(10, 10), size=(5, 5)), key: value})
