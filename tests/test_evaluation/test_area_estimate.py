import json
from fractions import Fraction

import numpy as np
import pytest

from mmrs.evaluation.area_estimate import ErrorMatrix
from mmrs.utils.errors import ConfigError, DataError

CLASSES = ('deforestation', 'forest gain', 'stable forest', 'stable non-forest')

#: The example of Olofsson et al. 2014: counts by mapped and reference class, hectares that are mapped.
COUNTS = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = [18_000, 13_500, 288_000, 580_500]

#: What they publish: hectares, and half of the 95 % interval.
PUBLISHED = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]


def test_the_published_example():
    found = ErrorMatrix(CLASSES, np.array(COUNTS)).estimate(np.array(MAPPED))
    for j, (area, margin) in enumerate(PUBLISHED):
        shares = [Fraction(row[j], sum(row)) for row in COUNTS]
        by_hand = sum(a * share for a, share in zip(MAPPED, shares))
        variance = sum(a**2 * p * (1 - p) / (sum(row) - 1) for a, p, row in zip(MAPPED, shares, COUNTS))
        assert found.areas[j] == pytest.approx(float(by_hand), rel=1e-12)
        assert found.errors[j] == pytest.approx(float(variance) ** 0.5, rel=1e-12)
        assert found.margins[j] == pytest.approx(1.959964 * float(variance) ** 0.5, rel=1e-6)
        assert found.areas[j] == pytest.approx(area, abs=0.5)
        assert found.margins[j] == pytest.approx(margin, abs=2)  # they multiply rounded numbers
    assert found.areas.sum() == pytest.approx(sum(MAPPED))
    low, high = found.interval()
    np.testing.assert_allclose([low, high], found.areas + np.array([[-1], [1]]) * found.margins)


def test_zones_and_levels():
    rng = np.random.default_rng(0)
    counts, mapped = rng.integers(0, 30, (3, 3)), rng.uniform(0, 9, (5, 2, 3))
    mapped[0, 0] = 0
    matrix = ErrorMatrix(('a', 'b', 'c'), counts)
    found, narrow = matrix.estimate(mapped), matrix.estimate(mapped, 0.5)
    for zone in np.ndindex(5, 2):
        for j in range(3):
            variance = 0.0
            for i in range(3):
                n = counts[i].sum()
                variance += mapped[zone][i] ** 2 * (counts[i, j] / n) * (1 - counts[i, j] / n) / (n - 1)
            assert found.errors[(*zone, j)] == pytest.approx(variance**0.5)
    np.testing.assert_allclose(narrow.margins, 0.6744898 * found.errors, rtol=1e-6)
    assert (found.margins[0, 0] == 0).all()
    with pytest.raises(ConfigError, match='level is 95'):
        matrix.estimate(mapped, 95)


def test_an_interval_ends_where_areas_do():
    low, high = ErrorMatrix(('a', 'b'), np.array([[1, 1], [0, 2]])).estimate(np.array([10.0, 0.0])).interval()
    assert (low == 0).all()
    assert (high == 10).all()


def clusters(rng, number, size=200):
    """Pixels of tiles whose rates of errors differ, `(number, 2, 2)`, by mapped and reference class."""
    mapped = rng.binomial(size, rng.beta(4, 4, number))
    rates = rng.beta(6, 2, number), rng.beta(2, 18, number)  # of class 0 where 0 is mapped, where 1 is
    right = rng.binomial(mapped, rates[0])
    wrong = rng.binomial(size - mapped, rates[1])
    return np.stack([np.stack([right, mapped - right], 1), np.stack([wrong, size - mapped - wrong], 1)], 1)


def test_rasters_are_clusters():
    counts, mapped = clusters(np.random.default_rng(1), 40), np.array([3.0, 5.0])
    found = ErrorMatrix(('a', 'b'), counts).estimate(mapped)

    def areas(counts):
        return mapped @ (counts.sum(0) / counts.sum((0, 2))[:, None])

    np.testing.assert_allclose(found.areas, areas(counts), rtol=1e-12)
    without = np.array([areas(np.delete(counts, i, 0)) for i in range(40)])
    jackknife = np.sqrt(39 / 40 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.errors, jackknife, rtol=0.05)
    np.testing.assert_allclose(found.margins / found.errors, 2.022691, rtol=1e-5)  # Student's, 39 degrees of freedom
    zones = ErrorMatrix(('a', 'b'), counts).estimate(np.array([[0.0, 1.0], [3.0, 5.0]]))
    np.testing.assert_allclose(zones.errors[1], found.errors)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Pixels of one raster are alike: taken for a random sample, they promise far too much."""
    rng = np.random.default_rng(2)
    mapped = np.array([1.0, 1.0])
    truth = mapped @ [6 / 8, 2 / 20]
    hits, naive = 0, 0
    for _ in range(500):
        counts = clusters(rng, 20)
        for name, matrix in (('rasters', counts), ('pixels', counts.sum(0))):
            low, high = ErrorMatrix(('a', 'b'), matrix).estimate(mapped).interval()
            hits += name == 'rasters' and low[0] <= truth <= high[0]
            naive += name == 'pixels' and low[0] <= truth <= high[0]
    print(f'95 % intervals hold the truth: rasters {hits / 5:.1f} %, pixels {naive / 5:.1f} %')
    assert 0.91 < hits / 500 < 0.98
    assert naive / 500 < 0.5


def test_tables(tmp_path):
    (tmp_path / 'samples.csv').write_text('\ufeffmap, water,land\nland,3,40\n\nwater,20,1\n', encoding='utf-8')
    found = ErrorMatrix.read(tmp_path / 'samples.csv', ['land', 'ice', 'water'])
    assert found.counts.tolist() == [[40, 0, 3], [0, 0, 0], [1, 0, 20]]
    found.estimate(np.array([5.0, 0.0, 1.0]))
    with pytest.raises(DataError, match=r'samples\.csv.* ice'):
        found.estimate(np.array([5.0, 0.1, 1.0]))


def scores(*matrices, classes=('land', 'water')):
    files = {str(i): dict(confusion_matrix=matrix) for i, matrix in enumerate(matrices)}
    return json.dumps(dict(classes={name: {} for name in classes}, files=files))


def test_scores_of_rasters(tmp_path):
    (tmp_path / 'metrics.json').write_text(scores([[5, 1], [2, 9]], [[7, 0], [3, 4]]))
    found = ErrorMatrix.read(tmp_path / 'metrics.json', ['water', 'land'])
    assert found.counts.tolist() == [[[9, 1], [2, 5]], [[4, 0], [3, 7]]]  # mapped classes are the rows
    one = scores([[5, 1], [2, 0]], [[7, 0], [3, 4]], [[7, 0], [3, 0]])
    (tmp_path / 'metrics.json').write_text(one.replace('[7, 0]', '[7, 0]').replace('[5, 1]', '[5, 0]'))
    with pytest.raises(DataError, match=r'metrics\.json.* water'):
        ErrorMatrix.read(tmp_path / 'metrics.json', ['land', 'water']).estimate(np.array([1.0, 1.0]))


@pytest.mark.parametrize(
    ('name', 'text', 'said'),
    [
        ('a.csv', '', 'no table'),
        ('a.csv', 'map,land\n', 'no table'),
        ('a.csv', 'map,land,water\nland,1\n', 'no table'),
        ('a.csv', 'map,land,land\nland,1,2\n', 'several columns land'),
        ('a.csv', 'map,land\nland,1\nland,2\n', 'several rows land'),
        ('a.csv', 'map,land\nland,0.5\n', "land, land is '0.5'"),
        ('a.csv', 'map,land\nland,-1\n', "land, land is '-1'"),
        ('a.csv', 'map,land\nlake,1\n', 'lake'),
        ('a.json', '{', 'a.json'),
        ('a.json', '{"classes": {"land": {}}, "confusion_matrix": [[1]]}', 'files'),
        ('a.json', scores([[1, 2], [3, 4]]), 'one raster'),
        ('a.json', scores([[1, 2], [3, 4]], [[1, 2], [3, 4]], classes=['land', 'lake']), 'lake'),
        ('a.json', scores([[1]], [[1]]), 'square'),
        ('a.json', scores([[1, -2], [3, 4]], [[1, 2], [3, 4]]), 'square'),
    ],
)
def test_what_is_no_error_matrix(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name) as error:
        ErrorMatrix.read(tmp_path / name, ['land', 'water'])
    assert said in str(error.value)
