import numpy as np
import pytest
from mmengine.runner import set_random_seed

from mmrs.geo.windows import Windows, jittered, partition, training_windows
from mmrs.utils.errors import ConfigError


def cover(windows, shape):
    count = np.zeros(shape, int)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= shape[1]
        assert 0 <= y0 < y1 <= shape[0]
        count[y0:y1, x0:x1] += 1
    return count


@pytest.mark.parametrize('shape', [(100, 130), (7, 300), (64, 64), (1, 1), (65, 127)])
@pytest.mark.parametrize('size', [(64, 64), (10, 33)])
def test_partition_has_each_pixel_once(shape, size):
    windows = partition(shape, size)
    assert (cover(windows, shape) == 1).all()
    for side, of in ((0, 1), (1, 0)):
        lengths = [window[2 + side] - window[side] for window in windows]
        assert max(lengths) <= size[of]
        assert max(lengths) - min(lengths) <= 1


def test_training_windows_have_one_size_and_leave_nothing_out():
    windows = training_windows((100, 130), (64, 64), (64, 64))
    assert windows == [
        (0, 0, 64, 64), (64, 0, 128, 64), (66, 0, 130, 64),
        (0, 36, 64, 100), (64, 36, 128, 100), (66, 36, 130, 100),
    ]  # fmt: skip
    assert (cover(windows, (100, 130)) > 0).all()
    assert len(training_windows((128, 128), (64, 64), (32, 32))) == 9
    assert training_windows((50, 200), (64, 64), (64, 64))[-1] == (136, 0, 200, 50)


def test_jitter_is_uniform_within_half_a_stride_and_the_raster():
    set_random_seed(0)
    drawn = np.array([jittered((20, 0, 30, 10), (100, 32), (10, 8)) for _ in range(4000)])
    x, y = drawn[:, 0], drawn[:, 1]
    assert (drawn[:, 2:] - drawn[:, :2] == 10).all()
    # 20 - 4 up to 32 - 10, and 0 up to 0 + 5.
    for values, places in ((x, range(16, 23)), (y, range(6))):
        found, counts = np.unique(values, return_counts=True)
        assert found.tolist() == list(places)
        # Five standard deviations of a binomial count.
        expected = len(drawn) / len(places)
        assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1


def test_jitter_follows_the_global_seed():
    def draw():
        set_random_seed(3)
        return [jittered((64, 64, 128, 128), (500, 500), (64, 64)) for _ in range(5)]

    assert draw() == draw()
    assert len(set(draw())) == 5


def test_window_of_a_small_raster_stays():
    assert jittered((0, 0, 30, 20), (20, 30), (64, 64)) == (0, 0, 30, 20)


def test_metres():
    assert Windows(size=100, stride=50, unit='metre').in_pixels((0.5, 0.25)) == ((400, 200), (200, 100))
    assert Windows(size=100).in_pixels((0.5, 0.25)) == ((100, 100), (100, 100))
    assert Windows(size=1, unit='metre').in_pixels((10, 10)) == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(size=0), 'size is 0; a number above 0'),
        (dict(size='512'), "size is '512'; a number above 0"),
        (dict(size=float('inf')), 'size is inf; a number above 0'),
        (dict(size=100.5), 'size is 100.5; a whole number of pixels'),
        (dict(size=64, stride=0), 'stride is 0; a number above 0'),
        (dict(size=64, stride=65), 'stride 65 is larger than size 64, which leaves gaps'),
        (dict(size=64, unit='feet'), "unit is 'feet'; one of pixel, metre"),
    ],
)
def test_settings_that_make_no_windows(settings, message):
    with pytest.raises(ConfigError, match=f'windows: {message}'):
        Windows(**settings)
