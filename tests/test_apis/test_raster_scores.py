import json

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from mmrs.apis import raster_scores
from mmrs.apis.raster_scores import evaluate_raster, evaluate_rasters, pair_rasters
from mmrs.evaluation.raster_pair import RasterPair
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests import label_maps

CLASSES = ('road', 'building', 'tree')
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 0))
UTM = 'EPSG:32633'
NORTH_UP = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
SOUTH_UP = Affine(0.5, 0, 400000, 0, 0.5, 5799970)
TURNED = Affine(0.4, 0.3, 400000, 0.3, -0.4, 5800000)
GEOGRAPHIC = Affine(1e-5, 0, 13.5, 0, -1e-5, 52.3)


def write_raster(path, array, transform=NORTH_UP, crs=UTM, **profile):
    return label_maps.write_raster(path, array, crs=crs, transform=transform, **profile)


def write_map(path, array, transform=NORTH_UP, crs=UTM, classes=CLASSES):
    """A prediction as tools/predict.py writes it."""
    return label_maps.write_label_map(path, array, classes, COLOURS[: len(classes)], crs=crs, transform=transform)


def write_polygons(path, shapes, values, crs=UTM):
    shapes, values = shapely.to_wkb(np.array(shapes, object)), [np.array(values, object)]
    pyogrio.raw.write(path, shapes, values, ['kind'], geometry_type='Polygon', crs=crs, layer='areas')
    return path


def blobs(seed, shape=(90, 120), missing=0.0, size=9):
    """Patches of three classes, with single pixels of others and of none (255)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 3, (shape[0] // size + 1, shape[1] // size + 1))
    array = small.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]].astype(np.uint8)
    noise = rng.random(shape)
    array[noise > 0.95] = 1
    array[noise < missing] = 255
    return array


def count(predicted, labels):
    """Pixels by label and prediction, the last column without prediction, one by one."""
    counts = np.zeros((3, 4), int)
    for i in range(3):
        for j, value in enumerate((0, 1, 2, 255)):
            counts[i, j] = ((labels == i) & (predicted == value)).sum()
    return counts


def check_scores(part, counts):
    """Against the formulas in float64."""
    np.testing.assert_array_equal(part.counts, counts)
    if not part.missing_as_error:
        counts = counts[:, :3]
    iou, f1, precision, recall = [], [], [], []
    for i in range(3):
        hit, labelled, predicted = float(counts[i, i]), float(counts[i].sum()), float(counts[:, i].sum())
        iou.append(100 * hit / (labelled + predicted - hit))
        f1.append(200 * hit / (labelled + predicted))
        precision.append(100 * hit / predicted)
        recall.append(100 * hit / labelled if labelled else np.nan)
    names = dict(IoU=iou, F1=f1, Precision=precision, Acc=recall)
    for name, values in names.items():
        np.testing.assert_allclose(part.by_class[name], values, rtol=1e-12)
        np.testing.assert_allclose(part.overall[f'm{name}'], np.nanmean(values), rtol=1e-12)
    right = sum(float(counts[i, i]) for i in range(3))
    np.testing.assert_allclose(part.overall['aAcc'], 100 * right / counts.sum(), rtol=1e-12)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(raster_scores, '_WINDOW', 32)


@pytest.mark.parametrize(
    ('transform', 'crs'), [(NORTH_UP, UTM), (SOUTH_UP, UTM), (TURNED, UTM), (GEOGRAPHIC, 'EPSG:4326')]
)
def test_same_grid(tmp_path, transform, crs):
    predicted, labels = blobs(0, missing=0.1), blobs(1, missing=0.2)
    prediction = write_map(tmp_path / 'p.tif', predicted, transform, crs)
    label = write_raster(tmp_path / 'l.tif', labels, transform, crs, nodata=255)
    report = evaluate_raster(prediction, label)
    check_scores(report.full, count(predicted, labels))
    assert report.full.missing == ((predicted == 255) & (labels != 255)).sum() > 500
    report = evaluate_raster(prediction, label, missing_as_error=True)
    check_scores(report.full, count(predicted, labels))
    assert report.full.labelled.sum() == (labels != 255).sum()


@pytest.mark.parametrize('own', [NORTH_UP, TURNED])
@pytest.mark.parametrize(
    'transform',
    [
        Affine(1.3, 0, 400003.1, 0, -1.3, 5799995.2),  # coarser, covering a part
        Affine(1.3, 0, 399990.1, 0, 1.3, 5799930.2),  # south-up
        Affine(0.9, 0.4, 399990, 0.4, -0.9, 5800010),
    ],
)
def test_other_grid(tmp_path, own, transform):
    """Each pixel has the label at its centre."""
    predicted, labels = blobs(0), blobs(1, (70, 80), missing=0.05)
    prediction = write_map(tmp_path / 'p.tif', predicted, own)
    label = write_raster(tmp_path / 'l.tif', labels, transform, nodata=255)
    rows, columns = np.indices(predicted.shape) + 0.5
    inverse = ~transform
    x, y = own.a * columns + own.b * rows + own.c, own.d * columns + own.e * rows + own.f
    columns, rows = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    columns, rows = np.floor(columns).astype(int), np.floor(rows).astype(int)
    inside = (columns >= 0) & (rows >= 0) & (columns < 80) & (rows < 70)
    expected = np.where(inside, labels[rows.clip(0, 69), columns.clip(0, 79)], 255)
    assert inside.any()
    check_scores(evaluate_raster(prediction, label).full, count(predicted, expected))


def test_other_crs(tmp_path):
    """Two areas, which a meridian parts in the label raster and a column of pixels in the prediction."""
    predicted = np.zeros((90, 120), np.uint8)
    predicted[:, 40:] = 2
    prediction = write_map(tmp_path / 'p.tif', predicted)
    (west, east), (south, north) = transform_points(UTM, 'EPSG:4326', [399990, 400070], [5799945, 5800005])
    labels = np.zeros((300, 400), np.uint8)
    # 60 columns of the prediction from its left edge.
    (lon,), _ = transform_points(UTM, 'EPSG:4326', [400030], [5799977.5])
    labels[:, round((lon - west) / (east - west) * 400) :] = 2
    transform = Affine((east - west) / 400, 0, west, 0, (south - north) / 300, north)
    report = evaluate_raster(prediction, write_raster(tmp_path / 'l.tif', labels, transform, 'EPSG:4326'))
    expected = np.array([[40, 0, 20], [0, 0, 0], [0, 0, 60]]) * 90
    assert report.full.counts.sum() == predicted.size
    # The meridian is turned by a degree against the columns: a pixel or so at the ends of 90 rows.
    np.testing.assert_allclose(report.full.matrix, expected, atol=90)
    assert report.full.matrix[0, 2] > 0
    assert report.full.matrix[2, 0] == 0


def test_labels_much_finer_than_the_prediction(tmp_path):
    """The most frequent id of each 4 x 4 pixels."""
    predicted, majority = blobs(0, (20, 30)), blobs(1, (20, 30))
    labels = majority.repeat(4, 0).repeat(4, 1)
    labels[::4] = (labels[::4] + 1) % 3  # four pixels of sixteen
    prediction = write_map(tmp_path / 'p.tif', predicted)
    label = write_raster(tmp_path / 'l.tif', labels, Affine(0.125, 0, 400000, 0, -0.125, 5800000))
    check_scores(evaluate_raster(prediction, label).full, count(predicted, majority))


def test_label_ids(tmp_path):
    predicted, labels = blobs(0), blobs(1, missing=0.1)
    prediction, expected = write_map(tmp_path / 'p.tif', predicted), count(predicted, labels)
    shifted = write_raster(tmp_path / 'shifted.tif', labels + np.uint8(1))  # none is 0
    check_scores(evaluate_raster(prediction, shifted, reduce_zero_label=True).full, expected)
    # Other ids in another order, and a negative one for pixels without label.
    classes = tmp_path / 'classes.yaml'
    classes.write_text(
        'classes:\n  - {name: tree, id: [7, 9]}\n  - {name: unknown, id: -1, ignore: true}\n'
        '  - {name: road, id: 300}\n  - {name: building, id: 4}\n'
    )
    ids = np.full(256, -1, np.int16)
    ids[:3] = 300, 4, 7
    own = ids[labels]
    own[(labels == 2) & (np.arange(120) % 2 == 0)] = 9
    label = write_raster(tmp_path / 'l.tif', own)
    check_scores(evaluate_raster(prediction, label, classes=classes).full, expected)
    # A prediction in the same ids, which does not name its classes.
    foreign = write_raster(tmp_path / 'foreign.tif', np.where(predicted == 2, 9, ids[predicted]).astype(np.int16))
    report = evaluate_raster(foreign, label, classes=classes)
    assert report.full.classes == ('tree', 'road', 'building')
    np.testing.assert_array_equal(report.full.matrix, expected[:, :3][[2, 0, 1]][:, [2, 0, 1]])
    with pytest.raises(ConfigError, match='exclude each other'):
        evaluate_raster(prediction, label, classes=classes, reduce_zero_label=True)
    with pytest.raises(DataError, match=r'foreign\.tif does not say what its classes are.*--classes'):
        evaluate_raster(foreign, label)
    with pytest.raises(DataError, match=r'l\.tif: label id -1, 4, 7, 9, 300 .* Expected: 0 to 2'):
        evaluate_raster(prediction, label)
    classes.write_text(classes.read_text() + '  - {name: lake, id: 1}\n')
    with pytest.raises(DataError, match=r'p\.tif has no class lake.*are road, building, tree'):
        evaluate_raster(prediction, label, classes=classes)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_labels_without_crs(tmp_path, suffix):
    """They are taken pixel by pixel if the size is the prediction's, which may have a CRS or not."""
    predicted, labels = blobs(0), blobs(1)
    label = write_raster(tmp_path / f'l{suffix}', labels, None, None)
    for name, place in (('p.tif', dict(transform=None, crs=None)), ('q.tif', {})):
        prediction = write_map(tmp_path / name, predicted, **place)
        check_scores(evaluate_raster(prediction, label).full, count(predicted, labels))
    other = write_raster(tmp_path / f'm{suffix}', labels[:50], None, None)
    with pytest.raises(DataError, match='has no CRS'):
        evaluate_raster(tmp_path / 'q.tif', other)
    with pytest.raises(DataError, match='120 x 90 pixels'):
        evaluate_raster(tmp_path / 'p.tif', other)


@pytest.mark.parametrize('kind', ['rgb', 'rgba', 'palette'])
def test_masks_in_colours(tmp_path, kind):
    """As the ISPRS publishes them, with boundaries in black."""
    predicted, labels = blobs(0), blobs(1, missing=0.1)
    prediction = write_map(tmp_path / 'p.tif', predicted)
    classes = tmp_path / 'isprs.yaml'
    colours = ''.join(f'  - {{name: {name}, color: {list(colour)}}}\n' for name, colour in zip(CLASSES, COLOURS))
    classes.write_text(f'classes:\n{colours}  - {{name: boundary, color: [0, 0, 0], ignore: true}}\n')
    index = np.where(labels == 255, 3, labels)
    path = tmp_path / 'l.tif'
    if kind == 'palette':
        label = write_raster(path, 9 - index, palette=[(1, 2, 3)] * 6 + [(0, 0, 0), *COLOURS[::-1]])
    else:
        bands = np.array([*COLOURS, (0, 0, 0)], np.uint8)[index].transpose(2, 0, 1)
        if kind == 'rgba':  # transparent, whatever the colour
            bands = np.concatenate([bands, np.where(labels == 255, 0, 255).astype(np.uint8)[None]])
            bands[:3, labels == 255] = 17
        label = write_raster(path, bands, photometric='rgb', alpha='yes' if kind == 'rgba' else 'no')
    check_scores(evaluate_raster(prediction, label, classes=classes).full, count(predicted, labels))
    if kind == 'rgb':
        with pytest.raises(DataError, match=r'colour #000000 .* is no class .*Expected: #FFFFFF, #0000FF, #00FF00'):
            evaluate_raster(prediction, label)
        moved = write_raster(tmp_path / 'moved.tif', bands, Affine(0.5, 0, 400001, 0, -0.5, 5800000))
        with pytest.raises(DataError, match='in colours of three bands, and on another grid'):
            evaluate_raster(prediction, moved, classes=classes)


@pytest.mark.parametrize('crs', [UTM, 'EPSG:4326'])
def test_polygons(tmp_path, crs):
    """Two rectangles of whole pixels, one over a corner of the other."""
    predicted, labels = blobs(0), np.full((90, 120), 255, np.uint8)
    labels[10:50, 20:70] = 1
    labels[40:80, 60:100] = 2
    prediction = write_map(tmp_path / 'p.tif', predicted)
    shapes = [
        shapely.box(400000 + 0.5 * x0, 5800000 - 0.5 * y1, 400000 + 0.5 * x1, 5800000 - 0.5 * y0)
        for x0, y0, x1, y1 in ((20, 10, 70, 50), (60, 40, 100, 80))
    ]
    if crs != UTM:
        shapes = shapely.transform(shapes, lambda points: np.column_stack(transform_points(UTM, crs, *points.T)))
    label = write_polygons(tmp_path / 'l.gpkg', shapes, ['building', '3'], crs)
    with pytest.raises(ConfigError, match='label_attribute'):
        evaluate_raster(prediction, label)
    with pytest.raises(DataError, match=r"kind is '3' \(1 polygons\)"):
        evaluate_raster(prediction, label, label_attribute='kind')
    label = write_polygons(tmp_path / 'm.gpkg', shapes, ['building', '2'], crs)
    report = evaluate_raster(prediction, label, label_attribute='kind', label_layer='areas')
    check_scores(report.full, count(predicted, labels))
    labels[labels == 255] = 0
    report = evaluate_raster(prediction, label, label_attribute='kind', label_background='road')
    check_scores(report.full, count(predicted, labels))


def near_other_class(labels, steps, radius):
    """Where a labelled pixel of another class is within a radius; `steps` is its distance per column and row."""
    near = np.zeros(labels.shape, bool)
    padded = np.pad(labels, 12, constant_values=255)
    height, width = labels.shape
    for y, x in np.ndindex(25, 25):
        if np.hypot((x - 12) * steps[0], (y - 12) * steps[1]) <= radius + 1e-9:
            other = padded[y : y + height, x : x + width]
            near |= (other != labels) & (other != 255) & (labels != 255)
    return near


@pytest.mark.parametrize('window', [32, 45, 2048])
def test_erosion_does_not_see_windows(tmp_path, monkeypatch, window):
    monkeypatch.setattr(raster_scores, '_WINDOW', window)
    predicted, labels = blobs(0, missing=0.1, size=20), blobs(1, missing=0.02, size=20)
    prediction, label = write_map(tmp_path / 'p.tif', predicted), write_raster(tmp_path / 'l.tif', labels)
    report = evaluate_raster(prediction, label, erode=3)
    near = near_other_class(labels, (1, 1), 3)
    assert 0.1 < near.mean() < 0.9
    check_scores(report.full, count(predicted, labels))
    check_scores(report.eroded, count(predicted, np.where(near, 255, labels)))


def test_erosion_is_in_pixels_of_the_reference(tmp_path):
    """Pixels of the reference that are 2 wide and 1.5 high, in those of the prediction."""
    coarse = blobs(1, (44, 60), size=15)
    prediction = write_map(tmp_path / 'p.tif', predicted := blobs(0, (88, 120)))
    label = write_raster(tmp_path / 'l.tif', coarse, Affine(1, 0, 400000, 0, -0.75, 5800000))
    rows = np.floor((np.arange(88) + 0.5) / 1.5).astype(int)
    labels = np.full((88, 120), 255, np.uint8)
    labels[rows < 44] = coarse[rows[rows < 44]].repeat(2, 1)
    report = evaluate_raster(prediction, label, erode=3)
    near = near_other_class(labels, (1 / 2, 1 / 1.5), 3)
    check_scores(report.full, count(predicted, labels))
    check_scores(report.eroded, count(predicted, np.where(near, 255, labels)))


def test_pixels_of_a_reference_in_degrees(tmp_path):
    """A degree of latitude is 111.27 km here, one of longitude 111.32 km times the cosine, but for the ellipsoid."""
    prediction = write_map(tmp_path / 'p.tif', blobs(0))
    (lon,), (lat,) = transform_points(UTM, 'EPSG:4326', [399990], [5800010])
    label = write_raster(tmp_path / 'l.tif', blobs(1), Affine(1e-5, 0, lon, 0, -1e-5, lat), 'EPSG:4326')
    sizes = np.linalg.norm(RasterPair(prediction, label).label_pixel, axis=1)
    expected = 0.5 / np.array([1.1132 * np.cos(np.radians(lat)), 1.1127])
    np.testing.assert_allclose(sizes, expected, rtol=5e-3)


def test_outputs(tmp_path):
    predicted, labels = blobs(0, missing=0.1), blobs(1, missing=0.1)
    prediction, label = write_map(tmp_path / 'p.tif', predicted, TURNED), tmp_path / 'l.tif'
    write_raster(label, labels, TURNED)
    out = tmp_path / 'out'
    report = evaluate_raster(prediction, label, erode=2, out=out, errors_map=True)
    names = ['confusion_matrix.png', 'confusion_matrix_eroded.png', 'metrics.json', 'p_errors.qml', 'p_errors.tif']
    assert sorted(path.name for path in out.iterdir()) == names
    found = json.loads((out / 'metrics.json').read_text())
    counts = count(predicted, labels)
    assert found['confusion_matrix'] == counts[:, :3].tolist()
    assert found['pixels'] == counts[:, :3].sum()
    assert found['missing'] == counts[:, 3].sum()
    assert found['classes']['tree'] == {
        **{name: pytest.approx(values[2]) for name, values in report.full.by_class.items()},
        'pixels': counts[2, :3].sum(),
    }
    assert found['mIoU'] == pytest.approx(report.full.overall['mIoU'])
    assert found['eroded']['mIoU'] == pytest.approx(report.eroded.overall['mIoU']) != found['mIoU']
    assert found['files']['p']['mIoU'] == found['mIoU']
    with rasterio.open(out / 'p_errors.tif') as errors:
        expected = np.where((labels == 255) | (predicted == 255), 255, labels != predicted)
        np.testing.assert_array_equal(errors.read(1), expected)
        assert errors.transform == TURNED
    with pytest.raises(OutputError, match='not empty'):
        evaluate_raster(prediction, label, out=out)
    evaluate_raster(prediction, label, out=out, errors_map=True, missing_as_error=True, overwrite=True)
    with rasterio.open(out / 'p_errors.tif') as errors:
        np.testing.assert_array_equal(errors.read(1), np.where(labels == 255, 255, labels != predicted))


def test_several_pairs_make_one_matrix_and_a_bad_one_does_not_stop_them(tmp_path):
    pairs, total = {}, np.zeros((3, 4), int)
    for i in range(3):
        predicted, labels = blobs(i, (60 + i, 70)), blobs(i + 10, (60 + i, 70), missing=0.1)
        total += count(predicted, labels)
        prediction = write_map(tmp_path / 'maps' / f'{i}.tif', predicted)
        pairs[f'{i}'] = prediction, write_raster(tmp_path / 'labels' / f'{i}.tif', labels)
    good = dict(pairs)
    bad = blobs(0)
    bad[-1, -1] = 77  # in the last window: what was counted before is of no use
    pairs['unknown id'] = write_map(tmp_path / 'p.tif', blobs(0)), write_raster(tmp_path / 'l.tif', bad)
    pairs['missing'] = tmp_path / 'none.tif', tmp_path / 'l.tif'
    pairs['other classes'] = write_map(tmp_path / 'q.tif', blobs(0) % 2, classes=CLASSES[:2]), tmp_path / 'l.tif'
    report = evaluate_rasters(pairs, out=tmp_path / 'out', errors_map=True)
    check_scores(report.full, total)
    assert list(report.files) == list(good)
    assert {name: message.split(':')[0] for name, message in report.failed.items()} == {
        'unknown id': str(tmp_path / 'l.tif'),
        'missing': str(tmp_path / 'none.tif'),
        'other classes': f'{tmp_path}/q.tif has classes road, building, but {tmp_path}/maps/0.tif has road, building, '
        'tree. Score them in two runs.',
    }
    found = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert list(found['files']) == list(good)
    assert list(found['failed']) == list(report.failed)
    assert sorted(path.name for path in (tmp_path / 'out').glob('*.tif')) == [f'{i}_errors.tif' for i in range(3)]
    one = evaluate_raster(*pairs['1']).full.overall
    assert found['files']['1']['mIoU'] == pytest.approx(one['mIoU'])
    with pytest.raises(DataError, match='no such file'):
        evaluate_raster(*pairs['missing'])


def test_nothing_to_score(tmp_path):
    prediction = write_map(tmp_path / 'p.tif', blobs(0))
    label = write_raster(tmp_path / 'l.tif', np.full((90, 120), 255, np.uint8))
    with pytest.raises(DataError, match=r'No pixel is both in a prediction and labelled.*l\.tif'):
        evaluate_raster(prediction, label)
    away = write_raster(tmp_path / 'away.tif', blobs(0), Affine(0.5, 0, 500000, 0, -0.5, 5800000))
    with pytest.raises(DataError, match=r'away\.tif lies outside'):
        evaluate_raster(prediction, away)
    rgb = write_raster(tmp_path / 'rgb.tif', np.zeros((3, 90, 120), np.uint8))
    with pytest.raises(DataError, match='has 3 bands; a map of classes has one'):
        evaluate_raster(rgb, label)
    empty = write_map(tmp_path / 'empty.tif', np.full((90, 120), 255, np.uint8))
    labelled = write_raster(tmp_path / 'labelled.tif', blobs(0))
    with pytest.raises(DataError, match=r'No pixel is both in a prediction and labelled.*labelled\.tif'):
        evaluate_raster(empty, labelled)
    assert evaluate_raster(empty, labelled, missing_as_error=True).full.overall['aAcc'] == 0


def test_pairs_of_folders(tmp_path):
    for name in ('a/1_S1.tif', 'a/2_S1.tif', '3_S1.tif', '1_S1_confidence.tif'):
        write_map(tmp_path / 'maps' / name, blobs(0))
    for name in ('a/1_label.tif', 'a/2_label.png', '3_label.gpkg', '4_label.tif'):
        path = tmp_path / 'labels' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folders = [tmp_path / 'maps', tmp_path / 'labels']
    with pytest.raises(DataError, match=r'No file .*\(1_S1_confidence, .*3_label.*--pred-suffix'):
        pair_rasters(folders)
    assert pair_rasters(folders, '_S1.tif', '_label.tif') == {
        '4': (str(tmp_path / 'maps/4_S1.tif'), str(tmp_path / 'labels/4_label.tif')),  # which fails later
        'a/1': (str(tmp_path / 'maps/a/1_S1.tif'), str(tmp_path / 'labels/a/1_label.tif')),
    }
    for file in (tmp_path / 'labels').rglob('*_label.*'):
        file.rename(file.with_name(file.name.replace('label', 'S1')))
    assert list(pair_rasters(folders)) == ['3_S1', '4_S1', 'a/1_S1', 'a/2_S1']


def test_maps_of_two_models(tmp_path):
    """What `tools/predict.py` writes beside its maps is no reference."""
    for name in ('new/a.tif', 'new/b.tif', 'old/a.tif', 'old/b.tif', 'old/a_confidence.tif', 'old/a_quicklook.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(pair_rasters([tmp_path / 'new', tmp_path / 'old'])) == ['a', 'b']


def test_pairs_of_files(tmp_path):
    assert pair_rasters(['a.tif', 'b.tif', 'x/c.tif', 'd.gpkg']) == {
        'a': ('a.tif', 'b.tif'),
        'c': ('x/c.tif', 'd.gpkg'),
    }
    for paths, message in (
        (['a', 'b', 'c'], '3 files'),
        (['x/a.tif', 'b', 'y/a.tif', 'c'], 'same name'),
        ([tmp_path, 'a'], 'is a folder'),
    ):
        with pytest.raises(ConfigError, match=message):
            pair_rasters(paths)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        *[(dict(erode=erode), f'erode is {erode}') for erode in (-1, np.nan, np.inf)],
        (dict(errors_map=True), '--out'),
        *[
            (dict([option]), 'no reference is a vector file')
            for option in (('label_attribute', 'kind'), ('label_class', 'road'))
        ],
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_rasters(dict(a=('a.tif', 'b.tif')), **options)


def test_two_maps_are_compared_by_name(tmp_path):
    predicted, labels = blobs(0), blobs(1)
    first = write_map(tmp_path / 'first.tif', predicted)
    own = evaluate_raster(first, write_map(tmp_path / 'second.tif', labels)).full
    order = [2, 0, 1]
    place = np.full(256, 255, np.uint8)
    place[order] = range(3)
    turned = write_map(tmp_path / 'turned.tif', place[labels], classes=[CLASSES[i] for i in order])
    other = evaluate_raster(first, turned).full
    assert other.classes == CLASSES
    np.testing.assert_array_equal(other.counts, own.counts)
    np.testing.assert_array_equal(other.counts, count(predicted, labels))


def test_floods_against_their_shifted_copy(tmp_path, real_data):
    """The labels of Sentinel-1 chips, moved by two columns, as a prediction."""
    classes = tmp_path / 'classes.yaml'
    classes.write_text(
        'classes:\n  - {name: dry, id: 0}\n  - {name: water, id: 1}\n  - {name: unknown, id: -1, ignore: true}\n'
    )
    pairs, total, eroded = {}, np.zeros((2, 3), int), np.zeros((2, 3), int)
    for path in sorted((real_data / 'sen1floods11' / 'Labels').glob('*.tif'))[:4]:
        with rasterio.open(path) as raster:
            ids, place = raster.read(1), dict(transform=raster.transform, crs=raster.crs)
        labels = np.where(ids == -1, 255, ids).astype(np.uint8)
        predicted = np.full_like(labels, 255)
        predicted[:, 2:] = labels[:, :-2]
        pairs[path.stem] = write_map(tmp_path / path.name, predicted, classes=('dry', 'water'), **place), path
        near = np.zeros(labels.shape, bool)
        for y, x in [(0, 1), (1, 0)]:  # the disc of one pixel
            a, b = labels[: 512 - y, : 512 - x], labels[y:, x:]
            apart = (a != b) & (a != 255) & (b != 255)
            near[: 512 - y, : 512 - x] |= apart
            near[y:, x:] |= apart
        counts = count(predicted, labels)[:2, [0, 1, 3]]
        total += counts
        eroded += count(predicted, np.where(near, 255, labels))[:2, [0, 1, 3]]
    report = evaluate_rasters(pairs, classes=classes, erode=1)
    np.testing.assert_array_equal(report.full.counts, total)
    np.testing.assert_array_equal(report.eroded.counts, eroded)
    assert 0 < report.full.overall['mIoU'] < report.eroded.overall['mIoU'] < 100
