import csv
import json

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from mmrs.evaluation.area_estimate import ErrorMatrix
from tests.label_maps import write_label_map, write_raster
from tools import areas, evaluate_raster

CLASSES, PALETTE = ['road', 'roof'], [(90, 90, 90), (200, 0, 0)]
PLACE = dict(crs='EPSG:32633', transform=from_origin(500000, 5000000, 10, 10))


def labels(seed):
    return np.random.default_rng(seed).choice([0, 1, 255], size=(40, 60), p=[0.6, 0.3, 0.1]).astype(np.uint8)


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture
def town(tmp_path):
    """A map and two districts, of which the second one reaches beyond it."""
    path = write_label_map(tmp_path / 'town.tif', labels(0), CLASSES, PALETTE, **PLACE)
    shapes = [shapely.box(500000, 4999800, 500300, 5000000), shapely.box(500300, 4999000, 500600, 4999800)]
    pyogrio.raw.write(
        tmp_path / 'districts.gpkg',
        shapely.to_wkb(np.array(shapes)),
        [np.array(['north', 'south'], object)],
        ['name'],
        geometry_type='Polygon',
        crs='EPSG:32633',
    )
    return path


@pytest.fixture
def districts(tmp_path, town):
    return [str(town), '--polygons', str(tmp_path / 'districts.gpkg'), '--polygon-attribute', 'name']


def test_a_table_and_polygons(tmp_path, districts, capsys, logged):
    out = tmp_path / 'out'
    (tmp_path / 'samples.csv').write_text('map,roof,road\nroad,4,60\nroof,45,5\n')
    command = [*districts, '--confusion', str(tmp_path / 'samples.csv'), '-o', str(out / 'a.csv'), str(out / 'a.gpkg')]
    assert areas.main(command) == 0
    found = rows(out / 'a.csv')
    assert [(row['polygon'], row['class']) for row in found] == [(p, c) for p in ('north', 'south') for c in CLASSES]
    estimate = ErrorMatrix(('road', 'roof'), np.array([[60, 4], [5, 45]]))
    parts = labels(0)[:20, :30], labels(0)[20:, 30:]
    for i, part in enumerate(parts):
        mapped = 100.0 * np.array([(part == k).sum() for k in range(2)])
        expected = estimate.estimate(mapped)
        for k, row in enumerate(found[2 * i : 2 * i + 2]):
            assert int(row['pixels']) == (part == k).sum()
            assert float(row['mapped_m2']) == mapped[k]
            assert float(row['percent']) == pytest.approx(100 * mapped[k] / mapped.sum(), abs=0.005)
            assert float(row['adjusted_m2']) == pytest.approx(expected.areas[k], abs=0.005)
            assert float(row['low_m2']) == pytest.approx(expected.areas[k] - expected.margins[k], abs=0.005)
            assert float(row['high_m2']) == pytest.approx(expected.areas[k] + expected.margins[k], abs=0.005)
            for name in ('mapped', 'adjusted', 'low', 'high'):
                assert float(row[f'{name}_ha']) == pytest.approx(float(row[f'{name}_m2']) / 1e4, abs=1e-6)
    covered = [float(row['covered_percent']) for row in found]
    assert covered[0] == pytest.approx(100 * (parts[0] != 255).mean(), abs=0.005)
    assert covered[2] == pytest.approx(100 * (parts[1] != 255).sum() / (30 * 80), abs=0.005)
    meta, _, shapes, fields = pyogrio.raw.read(out / 'a.gpkg', layer='areas')
    values = dict(zip(meta['fields'], fields))
    assert meta['crs'] == 'EPSG:32633'
    np.testing.assert_allclose(shapely.area(shapely.from_wkb(shapes)), [60000, 240000])
    for column in set(found[0]) - {'polygon', 'class_id', 'class', 'covered_percent'}:
        for k, name in enumerate(CLASSES):
            np.testing.assert_allclose(
                values[f'{column}_{name}'], [float(row[column]) for row in found[k::2]], atol=0.006
            )
    np.testing.assert_allclose(values['covered_percent'], covered[::2], atol=0.006)
    printed = capsys.readouterr().out
    total = estimate.estimate(100.0 * np.array([sum((part == k).sum() for part in parts) for k in range(2)]))
    for area, margin in zip(total.areas, total.margins):
        assert f'{area / 1e4:,.2f}' in printed
        assert f'{margin / 1e4:,.2f}' in printed
    assert 'no data in more than 1 % of 2 of 2 polygons: north, south' in logged.text
    assert areas.main(command) == 2
    assert 'a.csv exists already' in capsys.readouterr().err
    before = found[0]['adjusted_m2']
    assert areas.main([*command, '--overwrite', '--level', '0.5']) == 0
    assert rows(out / 'a.csv')[0]['adjusted_m2'] == before
    assert float(rows(out / 'a.csv')[0]['low_m2']) > float(found[0]['low_m2'])
    assert sorted(path.name for path in out.iterdir()) == ['a.csv', 'a.gpkg']


def test_scores_of_several_rasters_say_how_often_a_map_is_wrong(tmp_path, town):
    rng, matrices = np.random.default_rng(1), []
    for i in range(4):
        truth = labels(10 + i)
        predicted = np.where(rng.random(truth.shape) < 0.05 * (i + 1), 1 - truth.clip(0, 1), truth.clip(0, 1))
        write_label_map(tmp_path / 'maps' / f'{i}.tif', predicted.astype(np.uint8), CLASSES, PALETTE, **PLACE)
        write_raster(tmp_path / 'labels' / f'{i}.tif', truth, nodata=255, **PLACE)
        pairs = [((predicted == a) & (truth == b)).sum() for a in range(2) for b in range(2)]
        matrices.append(np.reshape(pairs, (2, 2)))
    assert evaluate_raster.main([str(tmp_path / n) for n in ('maps', 'labels')] + ['--out', str(tmp_path / 's')]) == 0
    scores = tmp_path / 's' / 'metrics.json'
    assert areas.main([str(town), '--confusion', str(scores), '-o', str(tmp_path / 'a.csv')]) == 0
    mapped = 100.0 * np.array([(labels(0) == k).sum() for k in range(2)])
    expected = ErrorMatrix(('road', 'roof'), np.stack(matrices)).estimate(mapped)
    found = rows(tmp_path / 'a.csv')
    assert [row['polygon'] for row in found] == ['town.tif'] * 2
    np.testing.assert_allclose([float(row['adjusted_m2']) for row in found], expected.areas, atol=0.005)
    np.testing.assert_allclose([float(row['high_m2']) for row in found], expected.interval()[1], atol=0.005)


def test_expected_areas(tmp_path, town, logged):
    shown = labels(0) != 255
    probabilities = np.random.default_rng(0).dirichlet([1, 1], (40, 60)).transpose(2, 0, 1).astype(np.float32)
    probabilities[:, ~shown] = np.nan
    soft = write_raster(tmp_path / 'soft.tif', probabilities, nodata=np.nan, **PLACE)
    with rasterio.open(soft, 'r+') as raster:
        raster.descriptions = CLASSES
    command = [str(town), '--probabilities', str(soft), '-o', str(tmp_path / 'a.csv'), '--overwrite']
    assert areas.main(command) == 0
    assert 'not calibrated' in logged.text
    found = [float(row['expected_m2']) for row in rows(tmp_path / 'a.csv')]
    np.testing.assert_allclose(found, 100 * probabilities[:, shown].sum(1), atol=0.05)
    logged.clear()
    with rasterio.open(soft, 'r+') as raster:
        raster.update_tags(MMRS_SETTINGS=json.dumps(dict(calibration=dict(method='temperature'))))
    assert areas.main(command) == 0
    assert 'not calibrated' not in logged.text


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['-o', 'a.txt'], "'a.txt'"),
        (['-o', 'a.gpkg'], '--polygons'),
        (['-o', 'a.csv', './a.csv'], 'a.csv'),
        (['--polygon-attribute', 'name'], '--polygons'),
        (['--polygons', 'districts.gpkg', '--polygon-attribute', 'nam'], "no field 'nam'"),
        (['--polygons', 'districts.gpkg', '-o', 'districts.gpkg', '--overwrite'], 'districts.gpkg'),
        (['--polygons', 'missing.gpkg'], 'missing.gpkg: no such file'),
        (['--confusion', 'missing.csv'], 'missing.csv: no such file'),
    ],
)
def test_commands_that_cannot_work(tmp_path, town, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert areas.main([str(town), *options]) == 2
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before
