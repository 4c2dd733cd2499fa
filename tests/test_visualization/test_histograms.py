import numpy as np
import pytest
from PIL import Image

from mmrs.geo.statistics_bands import BandAccumulator
from mmrs.utils.errors import ConfigError, OutputError
from mmrs.visualization.histograms import histogram_edges, plot_domains


def statistics(image):
    accumulator = BandAccumulator(len(image), image.dtype.name)
    accumulator.add(image, None)
    return accumulator.result()


@pytest.fixture
def domains(rng):
    image = rng.integers(0, 120, (3, 50, 60), np.uint8)
    return dict(source=statistics(image), target=statistics(image + np.uint8(100)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_bins_hold_equally_many_whole_numbers(domains):
    edges = histogram_edges(list(domains.values()), 0)
    assert set(np.diff(edges)) == {3.0}  # 220 values in at most 100 bins
    assert edges[0] == -0.5
    assert len(edges) <= 101
    assert edges[-1] > 219
    for part in domains.values():
        assert part.histogram(0, edges).sum() == 3000


def test_bins_of_fractions_leave_outliers_out(rng):
    image = rng.normal(0, 1, (1, 100, 100)).astype(np.float32)
    image[0, 0, 0] = 1e30  # a nodata value that nobody declared
    part = statistics(image)
    edges = histogram_edges([part], 0)
    assert -5 < edges[0] < edges[-1] < 5
    assert part.histogram(0, edges).sum() > 0.99 * 10000
    constant = statistics(np.full((1, 4, 4), 0.5, np.float32))
    assert np.all(np.diff(histogram_edges([constant], 0)) > 0)


def _colour_share(path, colour):
    pixels = np.asarray(Image.open(path).convert('RGB')).astype(int)
    return (np.abs(pixels - colour).max(-1) < 40).mean()


def test_picture_shows_each_domain(domains, tmp_path):
    shares = dict(source=np.array([0.25, 0.75]), target=np.array([0.6, 0.4]))
    plot_domains(domains, tmp_path / 'a.png', shares, ('low_vegetation', 'car'), np.array([1.5, 2, 3]))
    blue, orange = (0, 114, 178), (213, 94, 0)
    assert _colour_share(tmp_path / 'a.png', blue) > 0.005
    assert _colour_share(tmp_path / 'a.png', orange) > 0.005
    plot_domains(dict(source=domains['source']), tmp_path / 'b.png')
    assert _colour_share(tmp_path / 'b.png', blue) > 0.005
    assert _colour_share(tmp_path / 'b.png', orange) == 0


def test_a_band_without_pixels_and_many_bands(tmp_path, rng):
    image = rng.normal(0, 1, (13, 20, 20)).astype(np.float32)
    image[4] = np.nan
    accumulator = BandAccumulator(13, 'float32')
    accumulator.add(image, None)
    empty = BandAccumulator(13, 'float32')
    empty.add(image, np.zeros((20, 20), bool))
    plot_domains(dict(source=statistics(np.nan_to_num(image)), target=empty.result()), tmp_path / 'a.png')
    assert Image.open(tmp_path / 'a.png').width > 1500


def test_errors(domains, tmp_path):
    with pytest.raises(ConfigError, match=r'a\.tiffany: the suffix names no picture format'):
        plot_domains(domains, tmp_path / 'a.tiffany')
    plot_domains(domains, tmp_path / 'a.png')
    with pytest.raises(OutputError, match=r'a\.png exists'):
        plot_domains(domains, tmp_path / 'a.png')
