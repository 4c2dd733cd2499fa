import csv

import numpy as np
import pytest
from rasterio.transform import Affine, from_origin

from mmrs.prediction.areas import class_areas, write_areas
from mmrs.utils.errors import DataError, OutputError
from tests.label_maps import write_label_map, write_raster

CLASSES, PALETTE = ['water', 'land', 'ice'], [(0, 0, 255), (0, 255, 0), (255, 255, 255)]


def zone(south, north):
    """Square metres of a zone of the WGS84 ellipsoid between two latitudes, per radian of longitude."""
    a, f = 6378137.0, 1 / 298.257223563
    e = np.sqrt(f * (2 - f))

    def q(latitude):
        s = np.sin(np.radians(latitude))
        return (1 - e**2) * (s / (1 - e**2 * s**2) + np.arctanh(e * s) / e)

    return a**2 / 2 * (q(north) - q(south))


def test_areas_in_metres_degrees_and_without_place(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 255], size=(700, 2100), p=[0.2, 0.7, 0.1]).astype(np.uint8)
    labels[600:, :] = 1
    counts = [(labels == i).sum() for i in range(3)]
    utm = write_label_map(
        tmp_path / 'maps/utm.tif', labels, CLASSES, PALETTE, crs='EPSG:32633', transform=Affine(2, 0, 5e5, 0, -3, 6e6)
    )
    names, pixels, metres = class_areas(utm)
    assert names == CLASSES
    np.testing.assert_array_equal(pixels, counts)
    np.testing.assert_allclose(metres, 6 * np.array(counts))

    step = 0.05  # degrees: from 70 to 35 degrees north, where rows differ by a factor of 2.4
    degrees = write_label_map(
        tmp_path / 'maps/degrees.tif',
        labels,
        CLASSES,
        PALETTE,
        crs='EPSG:4326',
        transform=from_origin(-50, 70, step, step),
    )
    edges = 70 - step * np.arange(701)
    by_row = zone(edges[1:], edges[:-1]) * np.radians(step)
    expected = [(by_row[:, None] * (labels == i)).sum() for i in range(3)]
    np.testing.assert_allclose(class_areas(degrees)[2], expected, rtol=1e-5)

    bare = write_label_map(tmp_path / 'bare.tif', labels, CLASSES, PALETTE)
    assert np.isnan(class_areas(bare)[2]).all()
    write_areas([utm, bare], tmp_path / 'areas.csv')
    rows = list(csv.DictReader((tmp_path / 'areas.csv').open()))
    assert [row['map'] for row in rows] == ['maps/utm.tif'] * 3 + ['bare.tif'] * 3
    assert [row['class'] for row in rows] == CLASSES * 2
    assert [float(row['m2']) for row in rows[:3]] == pytest.approx([6 * n for n in counts])
    assert {row['m2'] for row in rows[3:]} == {''}
    for part in (rows[:3], rows[3:]):
        assert [int(row['pixels']) for row in part] == counts
        assert [float(row['percent']) for row in part] == pytest.approx(100 * np.array(counts) / sum(counts), abs=1e-4)
    with pytest.raises(OutputError, match=r'areas\.csv'):
        write_areas([utm], tmp_path / 'areas.csv')


def test_what_is_no_map_has_no_areas(tmp_path):
    with pytest.raises(DataError, match=r'plain\.tif is no label map'):
        class_areas(write_raster(tmp_path / 'plain.tif', np.zeros((4, 4), np.uint8)))
