import numpy as np
import pytest
import shapely
from rasterio.features import shapes

from mmrs.prediction.outlines import OutlineTracer

NODATA = 255


def traced(labels, rows):
    """Class and polygon of each area, found strip by strip."""
    tracer = OutlineTracer(labels.shape, NODATA)
    found = []
    for top in range(0, len(labels), rows):
        outlines = tracer.add(labels[top : top + rows])
        pieces = np.split(outlines.points, outlines.ring_starts)[1:]
        rings = [shapely.linearrings(piece) for piece in pieces]
        for area, value in enumerate(outlines.values.tolist()):
            shell, *holes = (ring for ring, of in zip(rings, outlines.areas) if of == area)
            found.append((value, shapely.Polygon(shell, holes)))
    return found


def expected(labels):
    """The same by GDAL, from the whole array."""
    return [(int(value), shapely.geometry.shape(shape)) for shape, value in shapes(labels) if value != NODATA]


def same(found, wanted):
    first, second = (
        sorted((value, shapely.to_wkb(shapely.normalize(shape))) for value, shape in s) for s in (found, wanted)
    )
    return first == second


def check(labels):
    wanted = expected(labels)
    for rows in {1, 2, 3, 5, 8, len(labels)}:
        found = traced(labels, rows)
        assert all(shape.is_valid for _, shape in found)
        assert same(found, wanted), f'{rows} rows of\n{labels}'


@pytest.mark.parametrize('classes', [1, 2, 3, 5])
def test_random_maps(classes):
    random = np.random.default_rng(classes)
    for _ in range(40):
        labels = random.integers(0, classes, random.integers(1, 14, 2)).astype(np.uint8)
        labels[random.random(labels.shape) < random.choice([0, 0.1, 0.4])] = NODATA
        check(labels)


def test_checkerboard():
    check((np.indices((9, 8)).sum(0) % 2).astype(np.uint8))


def test_nested_rings():
    rows, columns = np.indices((21, 21))
    check((np.maximum(abs(rows - 10), abs(columns - 10)) % 3).astype(np.uint8))


def test_spiral():
    labels = np.zeros((31, 31), np.uint8)
    row, column, step = 0, 0, (0, 1)
    labels[0, 0] = 1
    # Straight on, and to the right where the next but one pixel is taken or outside.
    for _ in range(1000):
        ahead = row + step[0], column + step[1]
        beyond = row + 2 * step[0], column + 2 * step[1]
        inside = 0 <= ahead[0] < 31 and 0 <= ahead[1] < 31
        free = not (0 <= beyond[0] < 31 and 0 <= beyond[1] < 31) or not labels[beyond]
        if inside and free:
            row, column = ahead
            labels[row, column] = 1
        else:
            step = step[1], -step[0]
    assert labels.sum() > 400
    assert len(expected(labels)) == 2
    check(labels)


def test_an_area_that_touches_itself_diagonally():
    closing = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
    for turned in range(4):
        check(np.rot90(closing, turned).copy())
    # Two holes that touch, and a hole that touches the edge, in areas that meet below the strips.
    check(np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]], np.uint8))


def test_areas_that_join_in_the_last_row():
    comb = np.tile(np.array([1, 0], np.uint8), (6, 6))
    comb[-1] = 1
    check(comb)
    check(comb[::-1].copy())


def test_nodata_is_no_area():
    assert traced(np.full((5, 4), NODATA, np.uint8), 2) == []


def test_an_area_comes_out_with_the_strip_that_ends_it():
    labels = np.zeros((12, 6), np.uint8)
    labels[1:3, 1] = 1  # ends in the first strip of four rows
    labels[3:6, 4] = 2  # and this one in the second
    tracer = OutlineTracer(labels.shape, NODATA)
    found = [tracer.add(labels[top : top + 4]).values.tolist() for top in (0, 4, 8)]
    assert found == [[1], [2], [0]]
