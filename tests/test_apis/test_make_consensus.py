"""Masks in, consensus out: files, windows, georeference and what the report says."""

import json

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter

from mmrs.apis import consensus
from mmrs.apis.consensus import make_consensus
from mmrs.geo.label_maps import open_classes
from mmrs.studies.consensus_study import corrupted
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.label_maps import write_raster
from tests.test_apis.test_raster_scores import write_polygons

CLASSES = ('water', 'field', 'road')
TABLE = "classes: [{name: water, color: '#0000FF'}, {name: field, color: '#00FF00'}, {name: road, color: '#FF0000'}]"
IDS = 'classes: [{name: water, id: 0}, {name: field, id: 1}, {name: road, id: 2}, {name: void, id: 255, ignore: true}]'
PLACE = dict(crs='EPSG:32633', transform=Affine(0.5, 0, 400000, 0, -0.5, 5800000))
SHAPE = (230, 260)


@pytest.fixture
def scene():
    """An image and the mask that it shows."""
    rng = np.random.default_rng(0)
    ground = gaussian_filter(rng.standard_normal(SHAPE), 12)
    mask = np.digitize(ground, np.quantile(ground, [0.3, 0.7])).astype(np.uint8)
    colours = np.array([[60, 80, 120], [90, 130, 70], [150, 140, 130]])
    image = colours[mask].transpose(2, 0, 1) + 12 * rng.standard_normal((3, *SHAPE))
    return image.clip(1, 255).astype(np.uint8), mask


def write(folder, image, masks, **profile):
    """Files of an image, masks of ids and the table of their classes."""
    (folder / 'classes.yaml').write_text(IDS)
    files = [write_raster(folder / f'{name}.tif', mask, **PLACE) for name, mask in masks.items()]
    return write_raster(folder / 'image.tif', image, **PLACE, **profile), files, folder / 'classes.yaml'


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(1)


def costs_of(masks, weights):
    """D of each pixel and class, from the formula."""
    present = [mask < 3 for mask in masks]
    weight = [np.where(here, own[np.minimum(mask, 2)], 0) for mask, own, here in zip(masks, weights, present)]
    return np.stack([sum(w * (m != k) for w, m in zip(weight, masks)) / sum(weight) for k in range(3)], axis=-1)


def energy_of(labels, costs, image, smoothness):
    """E(f) over the whole raster, from the formula."""
    bands = image.astype(float)
    bands = bands / bands.std(axis=(1, 2), keepdims=True)
    total, distances, parts = 0, [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rolled = [np.roll(array, (-down, -right), (-2, -1)) for array in (bands, labels)]
        inside = np.zeros(labels.shape, bool)
        inside[: labels.shape[0] - down, max(0, -right) : labels.shape[1] - max(0, right)] = True
        squares = ((bands - rolled[0]) ** 2).sum(axis=0)[inside]
        distances.append(squares)
        parts.append((squares, (labels != rolled[1])[inside], np.hypot(down, right)))
    beta = np.concatenate(distances).mean()
    for squares, borders, apart in parts:
        total += (smoothness * np.exp(-squares / (2 * beta)) / apart * borders).sum()
    return total + np.take_along_axis(costs, labels[..., None].astype(int), -1).sum()


def test_three_careless_annotators(scene, tmp_path):
    image, truth = scene
    masks = corrupted(truth, 3, 0)
    path, files, table = write(tmp_path, image, masks)
    out = tmp_path / 'new' / 'out.tif'
    report = make_consensus(path, files, out, table)
    labels, drawn = read(out), list(masks.values())
    majority = np.stack([sum(mask == k for mask in drawn) for k in range(3)]).argmax(axis=0)
    wrong = {name: (own != truth).mean() for name, own in {**masks, 'majority': majority, 'consensus': labels}.items()}
    assert wrong['consensus'] < 0.7 * min(wrong['majority'], *(wrong[name] for name in masks if name != 'shift'))
    assert wrong['consensus'] < wrong['majority']
    # The order of the annotators, and how far what is known without the truth is from it.
    shares = {annotator.name: annotator.share for annotator in report.annotators}
    assert sorted(shares, key=shares.get) == sorted(masks, key=lambda name: -wrong[name])
    assert max(abs(shares[name] - (1 - wrong[name])) for name in masks) < 0.1
    agreed = (drawn[0] == drawn[1]) & (drawn[0] == drawn[2])
    assert (labels == drawn[0])[agreed].all()

    found = json.loads((tmp_path / 'new' / 'out.json').read_text())
    assert found['pixels']['disputed'] == (~agreed).sum()
    assert found['pixels']['other than the majority'] == (labels != majority).sum()
    observed = (drawn[0] == drawn[2]).mean()
    chance = sum((drawn[0] == k).mean() * (drawn[2] == k).mean() for k in range(3))
    assert found['annotators']['shift']['kappa']['swaps'] == pytest.approx((observed - chance) / (1 - chance))
    weights = np.array([list(found['annotators'][name]['weight_by_class'].values()) for name in masks])
    np.testing.assert_allclose(weights.mean(axis=0), 1)
    costs = costs_of(drawn, weights)
    for name, own in (('consensus', labels), ('weighted vote', costs.argmin(axis=-1)), ('majority vote', majority)):
        assert found['energies'][name] == pytest.approx(energy_of(own, costs, image, 0.3), rel=1e-9)
    assert found['energies']['consensus'] < found['energies']['weighted vote']
    confidence = 1 - np.take_along_axis(costs, labels[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(read(out.with_name('out_confidence.tif')) / 254, confidence, atol=0.5 / 254 + 1e-9)
    with rasterio.open(out) as raster:
        assert (raster.crs, raster.transform, raster.nodata) == (PLACE['crs'], PLACE['transform'], 255)
    assert open_classes(out)[0] == list(CLASSES)
    assert '| swaps |' in (tmp_path / 'new' / 'out.md').read_text()
    with pytest.raises(OutputError, match=r'out\.tif exists'):
        make_consensus(path, files, out, table)
    assert {file.name for file in out.parent.iterdir()} >= {'out.tif', 'out_confidence.tif', 'out.json', 'out.md'}
    assert not [file for file in out.parent.iterdir() if 'parts' in file.name]


def test_windows_change_nothing_that_lies_within_them(scene, tmp_path, monkeypatch):
    """Disputes that fit into a window and its margin are settled as in the whole image."""
    image, truth = scene
    masks = [truth.copy() for _ in range(3)]
    rng = np.random.default_rng(3)
    for mask in masks:
        for row, column in rng.integers(0, 200, (40, 2)):
            mask[row : row + 6, column : column + 6] = rng.integers(3)
    path, files, table = write(tmp_path, image, dict(zip('abc', masks)))
    make_consensus(path, files, tmp_path / 'windows.tif', table)
    monkeypatch.setattr(consensus, 'WINDOW', 2048)
    report = make_consensus(path, files, tmp_path / 'whole.tif', table)
    assert report.windows == 1
    assert (read(tmp_path / 'windows.tif') == read(tmp_path / 'whole.tif')).all()


def test_gaps_and_pixels_without_data(scene, tmp_path):
    image, truth = scene
    image[:, :20] = 0
    masks = {name: truth.copy() for name in 'ab'}
    for mask in masks.values():
        mask[100:140, 100:140] = 255
    masks['a'][200:] = 255  # by one of the two alone
    path, files, table = write(tmp_path, image, masks, nodata=0)
    make_consensus(path, files, tmp_path / 'out.tif', table)
    expected = np.where(masks['b'] == 255, 255, truth)
    expected[:20] = 255
    assert (read(tmp_path / 'out.tif') == expected).all()
    assert (read(tmp_path / 'out_confidence.tif') == np.where(expected == 255, 255, 254)).all()
    report = make_consensus(path, files, tmp_path / 'full.tif', table, complete=True)
    full, confidence = read(tmp_path / 'full.tif'), read(tmp_path / 'full_confidence.tif')
    assert report.pixels['completed'] == 1600
    assert (full[:20] == 255).all()
    assert (full[expected != 255] == truth[expected != 255]).all()
    gap = slice(100, 140), slice(100, 140)
    assert (full[gap] == truth[gap]).mean() > 0.9
    assert confidence[gap].max() <= 127  # half of what an annotator's word is


@pytest.mark.slow
def test_polygons_are_burnt_in(scene, tmp_path):
    image, truth = scene
    masks = corrupted(truth, 3, 1)
    path, files, table = write(tmp_path, image, masks)
    drawn = [(shapely.geometry.shape(shape), CLASSES[int(k)]) for shape, k in
             shapes(masks['blobs'], transform=PLACE['transform'])]  # fmt: skip
    polygons = write_polygons(tmp_path / 'polygons.gpkg', *zip(*drawn))
    make_consensus(path, files, tmp_path / 'raster.tif', table)
    make_consensus(path, [files[0], polygons, files[2]], tmp_path / 'vector.tif', table, label_attribute='kind')
    assert (read(tmp_path / 'raster.tif') == read(tmp_path / 'vector.tif')).all()


@pytest.mark.slow
def test_an_interrupted_consensus_is_continued(scene, tmp_path, monkeypatch):
    image, truth = scene
    path, files, table = write(tmp_path, image, corrupted(truth, 3, 2))
    make_consensus(path, files, tmp_path / 'whole.tif', table)
    cut, calls = consensus.least_energy, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cut(*args)

    monkeypatch.setattr(consensus, 'least_energy', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_consensus(path, files, tmp_path / 'out.tif', table)
    assert not (tmp_path / 'out.tif').exists()
    make_consensus(path, files, tmp_path / 'out.tif', table, resume=True)
    assert len(calls) == 3 + 2  # of four windows
    assert (read(tmp_path / 'out.tif') == read(tmp_path / 'whole.tif')).all()


def test_mistakes(scene, tmp_path):
    image, truth = scene
    path, files, table = write(tmp_path, image, dict(a=truth, b=truth))
    out = tmp_path / 'out.tif'
    with pytest.raises(ConfigError, match='1 mask'):
        make_consensus(path, files[:1], out, table)
    with pytest.raises(ConfigError, match=r'a\.tif is given twice'):
        make_consensus(path, [files[0], *files], out, table)
    with pytest.raises(ConfigError, match=r'out\.png'):
        make_consensus(path, files, tmp_path / 'out.png', table)
    with pytest.raises(DataError, match=r'a\.tif does not say'):
        make_consensus(path, files, out)
    small = write_raster(tmp_path / 'small.tif', truth[:-1], **PLACE)
    with pytest.raises(DataError, match=r'small\.tif has 260 x 229 .* has 260 x 230'):
        make_consensus(path, [files[0], small], out, table)
    other = write_raster(tmp_path / 'other.tif', truth, **PLACE | dict(crs='EPSG:32634'))
    with pytest.raises(DataError, match=r'other\.tif has EPSG:32634.* has EPSG:32633'):
        make_consensus(path, [files[0], other], out, table)
    beside = write_raster(
        tmp_path / 'beside.tif', truth, **PLACE | dict(transform=Affine(0.5, 0, 4e5, 0, -0.5, 58e5 + 9))
    )
    with pytest.raises(DataError, match=r'beside\.tif has the transform .*5800009.*5800000'):
        make_consensus(path, [files[0], beside], out, table)
    unknown = write_raster(tmp_path / 'unknown.tif', truth + np.uint8(5), **PLACE)
    with pytest.raises(DataError, match=r'unknown\.tif'):
        make_consensus(path, [files[0], unknown], out, table)
    with pytest.raises(ConfigError, match='label_attribute'):
        make_consensus(path, files, out, table, label_attribute='kind')
    assert not out.exists()
