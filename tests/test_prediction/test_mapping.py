import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform_bounds
from torch.nn import functional as F

from mmrs.geo.vectors import VectorLayer
from mmrs.prediction import maker, mapping
from mmrs.prediction.jobs import MapSettings
from mmrs.prediction.maker import MapMaker
from mmrs.prediction.parts import PartStore
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.test_prediction.conftest import (
    ByContext,
    ByValue,
    Watching,
    read,
    smooth,
    write,
    write_area,
    write_geojson,
)


@pytest.fixture
def warned(monkeypatch):
    """What is warned of."""
    said = []
    monkeypatch.setattr(mapping.MMLogger.get_current_instance(), 'warning', said.append)
    return said


@pytest.fixture
def inputs(tmp_path):
    """Two rasters of one window or a few."""
    return [write(tmp_path / f'{name}.tif', smooth((40, 50))) for name in 'ab']


@pytest.fixture
def high(tmp_path):
    """Two rasters of many windows."""
    return [write(tmp_path / f'{name}.tif', smooth((300, 90))) for name in 'ab']


class Doing(ByContext):
    """Does something in the middle."""

    def __init__(self, act):
        self.act, self.calls = act, 0

    def __call__(self, images, valid):
        self.calls += 1
        if self.calls == 12:
            self.act()
        return super().__call__(images, valid)


def listed(folder):
    return sorted(name for name in os.listdir(folder) if not name.endswith(('.aux.xml', '.qml')))


def expected(image):
    """Labels of `ByValue`."""
    value = image / 255
    return np.abs(value - np.array([0, 0.5, 1])[:, None, None]).argmin(0)


def test_map_of_a_raster(tmp_path, predict):
    image = smooth((90, 130))
    transform = Affine(0.4, 0.3, 500000.1, 0.3, -0.4, 4e6 + 1 / 3)
    write(tmp_path / 'in.tif', image, transform)
    report = predict(extra=('confidence', 'probabilities', 'entropy'), quicklook=True)
    assert report.maps == [tmp_path / 'maps' / 'in.tif']
    assert not report.failed
    assert report.pixels == image.size
    np.testing.assert_array_equal(read(report.maps[0]), expected(image))
    with rasterio.open(report.maps[0]) as raster:
        assert (raster.crs, raster.transform) == ('EPSG:32633', transform)  # to the last bit
        assert raster.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
        assert json.loads(raster.tags()['CLASSES']) == ['dark', 'medium', 'bright']
        assert raster.colormap(1)[1] == (120, 120, 120, 255)
        assert raster.nodata == 255
    said = ByValue()(torch.from_numpy(image)[None, None], None)[0].numpy()
    for band in (1, 2, 3):
        found = read(tmp_path / 'maps' / 'in_probabilities.tif', band) / 254
        np.testing.assert_allclose(found, said[band - 1], atol=0.5 / 254 + 1e-6)
    np.testing.assert_allclose(read(tmp_path / 'maps' / 'in_confidence.tif') / 254, said.max(0), atol=0.5 / 254 + 1e-6)
    assert sorted(os.listdir(tmp_path / 'maps')) == [
        'in.qml', 'in.tif', 'in.tif.aux.xml', 'in_confidence.qml', 'in_confidence.tif', 'in_entropy.qml',
        'in_entropy.tif', 'in_probabilities.qml', 'in_probabilities.tif', 'in_quicklook.png',
    ]  # fmt: skip


@pytest.mark.parametrize('shape', [(1, 1), (1, 200), (150, 1), (7, 5), (33, 31)])
def test_raster_that_is_smaller_than_a_window(tmp_path, predict, shape):
    image = smooth(shape)
    write(tmp_path / 'in.tif', image)
    np.testing.assert_array_equal(read(predict().maps[0]), expected(image))


def test_narrow_rasters_reach_the_network_at_a_size_that_it_can_halve(tmp_path, predict):
    watching = Watching()
    write(tmp_path / 'in.tif', smooth((1, 200)))
    predict(predictor=watching, window=128)
    assert watching.sizes == {(64, 128)}


def test_holes_are_nodata_and_windows_without_data_are_not_predicted(tmp_path, predict):
    image = smooth((100, 120))
    image[10:80, 20:110] = 0
    image[:4] = 0
    write(tmp_path / 'in.tif', image, nodata=0)
    report = predict(overlap=0.25, batch_size=3)
    labels = read(report.maps[0])
    assert (labels[image == 0] == 255).all()
    np.testing.assert_array_equal(labels[image > 0], expected(image)[image > 0])
    starts = {axis: [min(s, n - 32) for s in range(0, n - 8, 24)] for axis, n in (('y', 100), ('x', 120))}
    holding = sum((image[y : y + 32, x : x + 32] > 0).any() for y in set(starts['y']) for x in set(starts['x']))
    assert report.times.windows == holding < len(set(starts['y'])) * len(set(starts['x']))


@pytest.mark.parametrize('settings', [dict(window=64, overlap=0.0, batch_size=2), dict(window=128)])
def test_pixels_without_data_are_told_to_the_model(tmp_path, predict, settings):
    """Also where windows with and without such pixels are in one batch."""
    image = smooth((64, 128)).astype(np.float32)
    image[5:9, 7:20] = np.nan
    watching = Watching()
    write(tmp_path / 'in.tif', image)
    predict(predictor=watching, **settings)
    ((images, valid),) = watching.seen
    np.testing.assert_array_equal(np.hstack(valid), np.isfinite(image))
    assert torch.isfinite(images).all()


def test_bands_are_read_in_the_order_that_is_asked_for(tmp_path, predict):
    images = np.stack([smooth((40, 50), seed) for seed in range(3)])
    write(tmp_path / 'in.tif', images)
    np.testing.assert_array_equal(read(predict(bands=(3,)).maps[0]), expected(images[2]))


@pytest.mark.parametrize(
    ('settings', 'shape', 'said'),
    [
        (dict(bands=(4,)), (3, 40, 50), ['has 3 bands', 'bands [4]']),
        (dict(gsd=1e-9), (40, 50), ['32 px at 1e-09 m', '1 x 1 px', '0.5 x 0.5 m']),
        (dict(window=512, gsd=10), (1, 9000), ['512 px at 10 m', '10240 x 10240 px', '--window 409']),
        (dict(steps=[dict(type='Pad', size_divisor=40)]), (40, 50), ['take Pad out']),
    ],
    ids=['bands', 'tiny windows', 'huge windows', 'padding'],
)
def test_settings_that_do_not_suit_a_raster(tmp_path, predict, settings, shape, said):
    write(tmp_path / 'in.tif', np.ones(shape, np.uint8))
    (reason,) = predict(**settings).failed.values()
    assert all(part in reason for part in said), reason


@pytest.mark.parametrize(
    ('settings', 'error', 'said'),
    [
        (dict(bbox=(1, 2, 1, 3)), ConfigError, r'bbox is \(1, 2, 1, 3\).*XMIN'),
        (dict(bbox=(1, 2, np.nan, 3)), ConfigError, 'bbox is'),
        (dict(aoi='none.gpkg'), (OSError, DataError), r'none\.gpkg: no such file'),
        (dict(bbox=(1, 2, 3, 4), bbox_crs='EPSG:0'), ConfigError, "'EPSG:0' is no CRS"),
        (dict(options=dict(vrt='in.tif')), ConfigError, r"'in\.tif'.* ends in \.vrt"),
        *[(dict(gsd=gsd), ConfigError, f'gsd is {gsd}') for gsd in (0, -1, np.inf, np.nan)],
    ],
)
def test_what_is_wrong_for_all_rasters_is_said_once(tmp_path, predict, settings, error, said):
    with pytest.raises(error, match=said):
        predict(**settings)


def test_raster_without_any_data_is_a_map_without_any_and_is_named(tmp_path, predict, warned):
    inputs = tmp_path / 'in.tif', tmp_path / 'b.tif'
    for path, values in zip(inputs, (np.full((80, 90), np.nan, np.float32), smooth((80, 90)))):
        write(path, values)
    empty, full = map(read, predict(*inputs).maps)
    assert (empty == 255).all()
    assert (full < 3).all()
    (said,) = warned
    assert 'in.tif' in said
    assert 'b.tif' not in said
    assert predict(inputs[0], overwrite=True).times.windows == 0


def test_contradicting_windows_are_blended_as_a_plain_sum_says(tmp_path, predict):
    image = smooth((75, 93))
    write(tmp_path / 'in.tif', image)
    predict(predictor=ByContext(), overlap=0.5, extra=('probabilities',), dtype='float16')
    total, weight = np.zeros((3, 75, 93)), np.zeros((75, 93))
    taper = np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
    for y in [*range(0, 44, 16), 43]:
        for x in [*range(0, 62, 16), 61]:
            window = torch.from_numpy(image[y : y + 32, x : x + 32])[None, None].double()
            total[:, y : y + 32, x : x + 32] += ByContext()(window, None)[0].numpy() * np.outer(taper, taper)
            weight[y : y + 32, x : x + 32] += np.outer(taper, taper)
    for band in range(3):
        found = read(tmp_path / 'maps' / 'in_probabilities.tif', band + 1)
        np.testing.assert_allclose(found, (total / weight)[band], atol=6e-4)  # a half float has 11 bits


def test_seams_do_not_show(tmp_path, predict):
    """A network that sees 10 pixels to each side, on a periodic scene: blended windows against one huge window."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(8, 1, 11, 11, generator=generator) / 11, torch.randn(3, 8, 11, 11, generator=generator) / 20]

    class Convolutional(ByValue):
        def __call__(self, images, valid):
            hidden = F.conv2d((images.float() - 128) / 64, weights[0], padding=5).relu()
            return F.conv2d(hidden, weights[1], padding=5).mul(3).softmax(1)

    y, x = np.mgrid[:400, :400]
    image = (128 + 100 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 25)).astype(np.uint8)
    write(tmp_path / 'in.tif', image)
    inside = slice(40, 360), slice(40, 360)
    huge = read(predict(predictor=Convolutional(), window=400, out='huge').maps[0])[inside]
    share = {}
    for name, settings in dict(blended={}, tiled=dict(overlap=0.0, blend='flat')).items():
        found = read(predict(predictor=Convolutional(), window=128, out=name, **settings).maps[0])[inside]
        share[name] = (found != huge).mean()
    assert len(np.unique(huge)) == 3
    assert share['blended'] < 0.005 < share['tiled']


@pytest.mark.parametrize('gsd', [0.25, 0.5, 1.0, 3.1])
def test_resampling_to_the_models_resolution_and_back(tmp_path, predict, gsd):
    """What is large at any of these resolutions is found, in its place."""
    y, x = np.mgrid[:300, :400]
    image = np.where((x - 200) ** 2 + (y - 150) ** 2 < 90**2, 250, 5).astype(np.uint8)
    write(tmp_path / 'in.tif', image)
    watching = Watching()
    (made,) = predict(predictor=watching, window=64, gsd=gsd).maps
    labels, truth = read(made), np.where(image == 250, 2, 0)
    assert labels.shape == image.shape
    assert watching.sizes <= {(64, 64), (64, 65)} if gsd < 3 else len(watching.sizes) == 1
    # The change from dark to bright is as wide as the model's pixels.
    distance = np.abs(np.hypot(x - 199.5, y - 149.5) - 90)
    sure = distance > 1.5 + 1.5 * gsd / 0.5
    np.testing.assert_array_equal(labels[sure], truth[sure])
    assert abs(int((labels == 2).sum()) - int((truth == 2).sum())) < 0.03 * (truth == 2).sum()


def test_a_pixel_of_the_models_has_data_where_some_of_it_has(tmp_path, predict):
    image = smooth((128, 128)).astype(np.float32)
    image[10, 10] = np.nan  # one in four
    image[20:22, 20] = image[21, 21] = np.nan  # three in four
    image[40:42, 30:32] = np.nan
    watching = Watching()
    write(tmp_path / 'in.tif', image)
    (made,) = predict(predictor=watching, window=64, gsd=1.0).maps
    assert np.argwhere(~watching.seen[0][1][0].numpy()).tolist() == [[20, 15]]
    np.testing.assert_array_equal(read(made) == 255, np.isnan(image))


def test_gsd_of_pixels_that_are_not_square(tmp_path, predict):
    """Degrees at 60 degrees north: a pixel is twice as high as wide."""
    watching = Watching()
    write(tmp_path / 'in.tif', smooth((200, 400)), from_origin(10, 60, 9e-6, 9e-6), 'EPSG:4326')
    maker = MapMaker(watching, MapSettings(window=100, gsd=1.0))
    plan = maker.plan({str(tmp_path / 'in.tif'): tmp_path / 'map.tif'})
    height, width = plan.jobs[0].windows.size
    assert (height, width) == (100, 200) or abs(width / height - 2) < 0.03
    predict(predictor=watching, window=100, gsd=1.0)
    assert watching.sizes == {(100, 100)}


def test_resolution_that_is_almost_the_models_is_left_alone(tmp_path):
    write(tmp_path / 'in.tif', smooth((450, 450)))
    maker = MapMaker(ByValue(), MapSettings(window=400, gsd=0.504))
    (job,) = maker.plan({str(tmp_path / 'in.tif'): tmp_path / 'map.tif'}).jobs
    assert job.windows.size == job.model_size == (400, 400)


def test_steps_of_the_test_pipeline(tmp_path, predict):
    watching = Watching()
    image = np.kron(smooth((32, 48)), np.ones((2, 2), np.uint8))
    image[:3] = 0
    write(tmp_path / 'in.tif', image, nodata=0)
    half = [dict(type='Resize', scale_factor=0.5, keep_ratio=True)]
    (made,) = predict(predictor=watching, window=64, steps=half).maps
    assert watching.sizes == {(32, 32)}
    assert {tuple(valid.shape[1:]) for _, valid in watching.seen} == {(32, 32)}
    assert (read(made) == expected(image))[10:].mean() > 0.95


def test_what_an_earlier_run_made_beside_a_map_goes_with_it(tmp_path, predict):
    inputs = [write(tmp_path / name, smooth((20, 20))) for name in ('a.tif', 'a_entropy.tif', 'b.tif')]
    maps = tmp_path / 'maps'

    predict(inputs[0], quicklook=True, extra=('probabilities', 'confidence'))
    predict(*inputs[1:], quicklook=True, extra=('confidence',))
    write(maps / 'b_entropy.tif', smooth((20, 20)))  # of somebody else
    (maps / 'a_confidence.tif.aux.xml').touch()
    predict(inputs[0], extra=('confidence',), overwrite=True)
    others = ['a_entropy.tif', 'a_entropy_confidence.tif', 'a_entropy_quicklook.png']
    others += ['b.tif', 'b_confidence.tif', 'b_entropy.tif', 'b_quicklook.png']
    assert listed(maps) == sorted(['a.tif', 'a_confidence.tif', *others])
    (maps / 'a.tif').unlink()
    with pytest.raises(OutputError, match=r'a_confidence\.tif exists already'):
        predict(inputs[0])
    predict(inputs[0], overwrite=True)
    assert listed(maps) == sorted(['a.tif', *others])
    assert not (maps / 'a_confidence.tif.aux.xml').exists()
    assert not (maps / 'a_confidence.qml').exists()
    predict(inputs[2], overwrite=True)
    assert listed(maps) == ['a.tif', *others[:3], 'b.tif', 'b_entropy.tif']


def test_styles_come_back_and_those_of_users_stay(tmp_path, predict, warned):
    style, other = (tmp_path / 'maps' / f'in{name}.qml' for name in ('', '_confidence'))
    settings = dict(extra=('confidence',), options=dict(vrt=tmp_path / 'maps' / 'all.vrt'))
    predict(**settings)
    written = style.read_text()
    assert (tmp_path / 'maps' / 'all.qml').read_text() == written
    style.write_text('<qgis>mine</qgis>')
    other.unlink()
    predict(**settings, resume=True)
    assert other.exists()
    assert not warned
    predict(**settings, overwrite=True)
    assert style.read_text() == '<qgis>mine</qgis>'
    (said,) = warned
    assert f'{style}: kept' in said
    style.write_text(written.replace('dark', 'an earlier class'))  # not touched by a user
    predict(**settings, overwrite=True)
    assert style.read_text() == written
    assert len(warned) == 1
    other.write_text('<qgis>mine</qgis>')
    predict(overwrite=True)
    assert other.exists()  # though the raster is gone


def test_a_style_is_not_put_beside_the_predicted_raster(tmp_path, predict):
    Path(write(tmp_path / 'in.tif', smooth((20, 20)))).rename(tmp_path / 'in.tiff')
    predict(tmp_path / 'in.tiff', out='in.tif', extra=('confidence',))
    assert {path.name for path in tmp_path.glob('*.qml')} == {'in_confidence.qml'}


def test_rasters_of_other_formats_in_a_folder_are_named(tmp_path, predict, logged):
    (tmp_path / 'in').mkdir()
    for name in ('b.img', 'c.bil'):
        write(tmp_path / 'in' / name, smooth((20, 20)))
    with pytest.raises(ConfigError, match=r'there is no raster .*in has 2 rasters \(\.bil, \.img\)'):
        predict(tmp_path / 'in')
    write(tmp_path / 'in' / 'a.tif', smooth((20, 20)))
    assert [path.name for path in predict(tmp_path / 'in').maps] == ['a.tif']
    (said,) = (record.getMessage() for record in logged.records if 'left out' in record.getMessage())
    assert '2 rasters (.bil, .img)' in said


# Areas ---------------------------------------------------------------------------------------------------------------


def test_bounding_box_cuts_the_map_and_changes_no_pixel(tmp_path, predict):
    image = smooth((120, 150))
    write(tmp_path / 'in.tif', image)
    whole = read(predict(predictor=ByContext()).maps[0])
    box = (500000 + 0.5 * 40.2, 5000000 - 0.5 * 99.5, 500000 + 0.5 * 110, 5000000 - 0.5 * 30)
    (made,) = predict(predictor=ByContext(), bbox=box, out='cut').maps
    with rasterio.open(made) as map_:
        assert map_.transform == Affine(0.5, 0, 500000 + 20, 0, -0.5, 5000000 - 15)
        np.testing.assert_array_equal(map_.read(1), whole[30:100, 40:110])


def test_bounding_box_in_another_crs(tmp_path, predict):
    write(tmp_path / 'in.tif', smooth((200, 200)))
    box = transform_bounds('EPSG:32633', 'EPSG:4326', 500020, 4999950, 500060, 4999980)
    (made,) = predict(bbox=box, bbox_crs='EPSG:4326').maps
    with rasterio.open(made) as map_:
        left, bottom, right, top = map_.bounds
    # Its sides are hardly turned here: a pixel around it at most.
    np.testing.assert_allclose((left, bottom, right, top), (500020, 4999950, 500060, 4999980), atol=1)


def test_area_of_interest(tmp_path, predict):
    image = smooth((100, 100))
    write(tmp_path / 'in.tif', image)
    triangle = shapely.Polygon([(500010, 4999990), (500040, 4999990), (500040, 4999960)])
    aoi = write_geojson(tmp_path / 'aoi.geojson', [triangle], 32633)
    (made,) = predict(aoi=aoi).maps
    with rasterio.open(made) as map_:
        assert map_.bounds == (500010, 4999960, 500040, 4999990)
        labels = map_.read(1)
    inside = np.triu(np.ones((60, 60), bool), 1)  # pixels whose centre is above the diagonal
    on_it = np.eye(60, dtype=bool)
    np.testing.assert_array_equal(labels[~inside & ~on_it], 255)
    np.testing.assert_array_equal(labels[inside], expected(image)[20:80, 20:80][inside])
    image[30:60, 50:70] = 0  # a hole, half of it in the area
    write(tmp_path / 'in.tif', image, nodata=0)
    again = read(predict(aoi=aoi, overwrite=True).maps[0])
    np.testing.assert_array_equal(again, np.where(image[20:80, 20:80] == 0, 255, labels))


def test_rasters_outside_of_the_area_are_left_out(tmp_path, predict):
    write(tmp_path / 'near.tif', smooth((40, 40)))
    write(tmp_path / 'far.tif', smooth((40, 40)), from_origin(900000, 5000000, 0.5, 0.5))
    report = predict(tmp_path / 'near.tif', tmp_path / 'far.tif', bbox=(500000, 4999990, 500010, 5000000))
    assert [path.name for path in report.maps] == ['near.tif']
    assert report.outside == [str(tmp_path / 'far.tif')]


# Many rasters --------------------------------------------------------------------------------------------------------


def test_folder_keeps_its_layout_and_one_bad_file_does_not_stop_the_others(tmp_path, predict):
    for name in ('a.tif', 'deep/b.tif', 'c.tif'):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / 'in' / name, smooth((40, 50)))
    (tmp_path / 'in' / 'b.tif').write_bytes(b'no raster')
    write(tmp_path / 'in' / 'bands.tif', np.zeros((2, 20, 20), np.uint8))
    report = predict(tmp_path / 'in')
    assert [os.path.relpath(path, tmp_path / 'maps') for path in report.maps] == ['a.tif', 'c.tif', 'deep/b.tif']
    assert sorted(map(os.path.basename, report.failed)) == ['b.tif', 'bands.tif']
    assert 'has 2 bands (alpha not counted), but the model was trained on 1' in report.failed[str(tmp_path / 'in' / 'bands.tif')]  # fmt: skip  # noqa: E501
    assert listed(tmp_path / 'maps') == ['a.tif', 'c.tif', 'deep']


def test_maps_in_the_folder_of_their_rasters_are_no_rasters_the_next_time(tmp_path, predict):
    (tmp_path / 'in').mkdir()
    write(tmp_path / 'in' / 'a.tif', smooth((40, 50)))
    assert len(predict(tmp_path / 'in', out='in/maps').maps) == 1
    again = predict(tmp_path / 'in', out='in/maps', resume=True)
    assert again.maps == again.skipped == [tmp_path / 'in' / 'maps' / 'a.tif']


def test_raster_is_not_overwritten_by_its_own_map(tmp_path, predict):
    for out in ('.', 'in.tif'):
        with pytest.raises(ConfigError, match='would be overwritten by its own map'):
            predict(out=out, overwrite=True)


def test_rasters_are_not_overwritten_by_what_is_made_of_others(tmp_path, predict):
    for name in ('a.tif', 'a_confidence.tif', 'deep/a.tif'):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / 'in' / name, smooth((40, 50)))
    with pytest.raises(ConfigError, match=r'would both become .*maps/a_confidence\.tif'):
        predict(tmp_path / 'in', extra=('confidence',))
    with pytest.raises(ConfigError, match=r'would both become .*maps/a\.tif'):
        predict(tmp_path / 'in' / 'a.tif', tmp_path / 'in' / 'deep' / 'a.tif')
    inputs = tmp_path / 'in' / 'a_quicklook.png', tmp_path / 'in' / 'deep' / 'a.tif'
    inputs[0].write_text('an image')
    with pytest.raises(ConfigError, match=r'a_quicklook\.png would be overwritten by what is made of .*deep/a\.tif'):
        predict(*inputs, out='in', quicklook=True, overwrite=True)
    (tmp_path / 'all.vrt').write_text('a mosaic')
    with pytest.raises(ConfigError, match=r'all\.vrt would overwrite what it is made from'):
        predict(tmp_path / 'all.vrt', overwrite=True, options=dict(vrt=tmp_path / 'all.vrt'))
    for folder in ('in', 'in/deep'):
        with pytest.raises(ConfigError, match='lies in the folder of the maps'):
            predict(tmp_path / folder, out='in')


def test_ground_control_points_alone_are_refused(tmp_path, predict):
    points = [GroundControlPoint(row, col, 15 + col / 1e4, 47 - row / 1e4) for row, col in ((0, 0), (0, 39), (39, 0))]
    write(tmp_path / 'in.tif', smooth((40, 40)), crs=None)
    with rasterio.open(tmp_path / 'in.tif', 'r+') as raster:
        raster.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
    (reason,) = predict().failed.values()
    assert 'located by 3 ground control points' in reason
    assert 'gdalwarp' in reason
    assert not (tmp_path / 'maps').exists() or not os.listdir(tmp_path / 'maps')


def test_values_far_from_the_training_images_are_worth_a_warning(tmp_path, predict, warned):
    write(tmp_path / 'in.tif', smooth((80, 80)).astype(np.uint16) * 100)
    predict()
    (said,) = warned
    assert 'band 1 has a mean of' in said
    assert '128 +- 64' in said


# What exists, what is missing ----------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path, predict):
    image = smooth((40, 50))
    write(tmp_path / 'in.tif', image)
    predict()
    before = (tmp_path / 'maps' / 'in.tif').read_bytes()
    with pytest.raises(OutputError, match=r'in\.tif exists already: pass --resume'):
        predict()
    assert predict(resume=True).skipped == [tmp_path / 'maps' / 'in.tif']
    assert (tmp_path / 'maps' / 'in.tif').read_bytes() == before
    (reason,) = predict(resume=True, overlap=0.5).failed.values()
    assert 'made with other settings: overlap was 0.25, is 0.5' in reason
    assert (tmp_path / 'maps' / 'in.tif').read_bytes() == before
    assert not predict(resume=True, overwrite=True, overlap=0.5).skipped
    assert predict(resume=True, overlap=0.5).skipped
    write(tmp_path / 'in.tif', 255 - image)
    assert predict(overwrite=True).maps
    np.testing.assert_array_equal(read(tmp_path / 'maps' / 'in.tif'), expected(255 - image))


def test_other_outputs_are_not_overwritten_either(tmp_path, predict):
    (tmp_path / 'maps').mkdir()
    for name, settings in (
        ('in_confidence.tif', dict(extra=('confidence',))),
        ('in_quicklook.png', dict(quicklook=True)),
        ('all.vrt', dict(options=dict(vrt=tmp_path / 'maps' / 'all.vrt'))),
        ('all.gpkg', dict(options=dict(vector=tmp_path / 'maps' / 'all.gpkg'))),
    ):
        (tmp_path / 'maps' / name).write_text('mine')
        with pytest.raises(OutputError, match=re.escape(f'{name} exists already')):
            predict(**settings)
        assert (tmp_path / 'maps' / name).read_text() == 'mine'
        assert not (tmp_path / 'maps' / 'in.tif').exists()


def test_raster_that_vanishes_and_comes_back(tmp_path, predict, high):
    away = tmp_path / 'away'
    report = predict(*high, predictor=Doing(lambda: high[0].rename(away)), batch_size=1)
    assert [path.name for path in report.maps] == ['b.tif']
    (reason,) = report.failed.values()
    assert 'no such file' in reason
    assert '--resume continues' in reason
    assert not (tmp_path / 'maps' / 'a.tif').exists()
    away.rename(high[0])
    again = predict(*high, predictor=ByContext(), batch_size=1, resume=True)
    assert len(again.maps) == 2
    assert 0 < again.times.windows < report.times.windows
    whole = predict(high[0], predictor=ByContext(), batch_size=1, out='whole')
    assert (tmp_path / 'maps' / 'a.tif').read_bytes() == whole.maps[0].read_bytes()
    assert listed(tmp_path / 'maps') == ['a.tif', 'b.tif']


def stop():
    raise KeyboardInterrupt


def test_half_done_map_of_a_raster_that_was_replaced(tmp_path, predict, high):
    with pytest.raises(KeyboardInterrupt):
        predict(*high, predictor=Doing(stop))
    assert (tmp_path / 'maps' / '.b.parts').exists()
    half_done = listed(tmp_path / 'maps' / '.a.parts')
    assert len(half_done) > 2
    with pytest.raises(OutputError, match=r'\.a\.parts exists already: pass --resume'):
        predict(*high)
    write(high[0], smooth((300, 90), 1))
    report = predict(*high, resume=True)
    assert [path.name for path in report.maps] == ['b.tif'], report.failed
    assert re.search(r'\.a\.parts was made with other settings: raster_state', report.failed[str(high[0])])
    assert listed(tmp_path / 'maps' / '.a.parts') == half_done
    report = predict(*high, resume=True, overwrite=True)
    assert report.skipped == [tmp_path / 'maps' / 'b.tif']
    np.testing.assert_array_equal(read(report.maps[0]), expected(smooth((300, 90), 1)))


def test_map_of_another_model_or_area_is_not_taken_for_finished(tmp_path, predict):
    corners = [(500000, 5000000), (500020, 5000000), (500020, 4999990)]
    aoi = write_geojson(tmp_path / 'aoi.geojson', [shapely.Polygon(corners)], 32633)
    predict(aoi=aoi, identity=dict(weights='a'))
    assert predict(aoi=aoi, identity=dict(weights='a'), resume=True).skipped
    (reason,) = predict(aoi=aoi, identity=dict(weights='b'), resume=True).failed.values()
    assert "weights was 'a', is 'b'" in reason
    write_geojson(tmp_path / 'aoi.geojson', [shapely.Polygon([*corners, (500000, 4999995)])], 32633)
    (reason,) = predict(aoi=aoi, identity=dict(weights='a'), resume=True).failed.values()
    assert 'aoi.2 was' in reason


def test_picture_of_a_map_that_is_replaced_is_drawn_anew(tmp_path, predict):
    picture = tmp_path / 'maps' / 'in_quicklook.png'
    pictures = []
    for image, options in ((smooth((40, 50)), {}), (255 - smooth((40, 50)), dict(resume=True, overwrite=True))):
        write(tmp_path / 'in.tif', image)
        predict(quicklook=True, **options)
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]
    predict(quicklook=True, resume=True)
    assert picture.read_bytes() == pictures[1]
    picture.unlink()
    predict(quicklook=True, resume=True)
    assert picture.read_bytes() == pictures[1]


def test_finished_map_that_is_damaged(tmp_path, predict, inputs):
    predict(*inputs)
    (tmp_path / 'maps' / 'a.tif').write_bytes(b'damaged')
    report = predict(*inputs, resume=True)
    assert report.skipped == [tmp_path / 'maps' / 'b.tif']
    assert 'maps/a.tif cannot be read' in report.failed[str(inputs[0])]


def test_picture_that_cannot_be_drawn_does_not_stop_the_others(tmp_path, predict, monkeypatch, inputs):
    real = maker.write_quicklook

    def draw(image, *args, **options):
        if image == str(inputs[0]):
            raise DataError(f'{image}: no such file')
        real(image, *args, **options)

    monkeypatch.setattr(maker, 'write_quicklook', draw)
    report = predict(*inputs, quicklook=True)
    assert [path.name for path in report.maps] == ['b.tif']
    assert '--resume continues' in report.failed[str(inputs[0])]
    monkeypatch.setattr(maker, 'write_quicklook', real)
    again = predict(*inputs, quicklook=True, resume=True)
    assert len(again.skipped) == 2
    assert not again.failed
    assert listed(tmp_path / 'maps') == ['a.tif', 'a_quicklook.png', 'b.tif', 'b_quicklook.png']


def test_map_that_cannot_be_written_stops_the_run_before_the_next_one_is_done(tmp_path, predict, monkeypatch):
    write(tmp_path / 'a.tif', smooth((40, 50)))
    write(tmp_path / 'b.tif', smooth((3000, 90)))

    class Slow(ByValue):
        def __call__(self, images, valid):
            time.sleep(0.005)
            return super().__call__(images, valid)

    def merge(*_):
        raise OutputError('a.tif cannot be written: No space left on device')

    monkeypatch.setattr(PartStore, 'merge', merge)
    with pytest.raises(OutputError, match='No space left'):
        predict(tmp_path / 'a.tif', tmp_path / 'b.tif', predictor=Slow(), batch_size=1)
    assert len(os.listdir(tmp_path / 'maps' / '.b.parts')) < 20


def test_folder_that_another_machine_does_not_see(tmp_path, predict, monkeypatch):
    real = MapMaker.open

    def elsewhere(self, plan):
        real(self, plan)
        shutil.rmtree(tmp_path / 'maps')

    monkeypatch.setattr(MapMaker, 'open', elsewhere)
    with pytest.raises(OutputError, match=r'\.in\.parts, which the first process has made, is not there'):
        predict()


def test_another_process_that_stops(tmp_path, predict, monkeypatch):
    def closed(_):
        raise RuntimeError('Connection closed by peer')

    monkeypatch.setattr(mapping, 'all_gather_object', closed)
    with pytest.raises(OutputError, match='another process has stopped'):
        predict()


def test_disk_that_is_full(tmp_path, predict, monkeypatch):
    write(tmp_path / 'in.tif', smooth((300, 90)))
    real, calls = PartStore.write, []

    def write_part(self, *args):
        calls.append(1)
        if len(calls) == 5:
            raise OutputError('part 5 cannot be written: No space left on device')
        real(self, *args)

    monkeypatch.setattr(PartStore, 'write', write_part)
    with pytest.raises(OutputError, match='No space left'):
        predict()
    assert os.listdir(tmp_path / 'maps') == ['.in.parts']
    monkeypatch.setattr(PartStore, 'write', real)
    assert predict(resume=True).maps
    assert '.in.parts' not in os.listdir(tmp_path / 'maps')


def test_folder_that_cannot_be_written(tmp_path, predict):
    (tmp_path / 'maps').write_text('a file')
    with pytest.raises(ConfigError, match='maps is a file; a folder for the maps was expected'):
        predict()
    with pytest.raises(OutputError, match='maps'):
        predict(out='maps/below')


def test_raster_that_is_replaced_in_the_middle(tmp_path, predict, high):
    other = write(tmp_path / 'other.tif', smooth((300, 90), 1))
    (reason,) = predict(high[0], predictor=Doing(lambda: other.rename(high[0])), batch_size=1).failed.values()
    assert 'a.tif was replaced while it was predicted' in reason
    assert not (tmp_path / 'maps' / 'a.tif').exists()
    (made,) = predict(high[0], predictor=ByContext(), batch_size=1, resume=True, overwrite=True).maps
    whole = predict(high[0], predictor=ByContext(), batch_size=1, out='whole').maps[0]
    assert made.read_bytes() == whole.read_bytes()


def test_what_is_made_of_all_maps_replaces_nothing_else(tmp_path, predict):
    aoi = tmp_path / 'area.gpkg'
    write_area(aoi, [shapely.box(500000, 4999990, 500010, 5000000)])
    before = aoi.read_bytes()
    with pytest.raises(ConfigError, match=r'area\.gpkg would overwrite what it is made from'):
        predict(aoi=str(aoi), overwrite=True, options=dict(vector=aoi))
    with pytest.raises(OutputError, match=r'area\.gpkg exists already, and is of no prediction'):
        predict(resume=True, options=dict(vector=aoi))
    assert aoi.read_bytes() == before
    project = tmp_path / 'maps' / 'all.qgs'
    joint = dict(vector=tmp_path / 'maps' / 'all.gpkg', vrt=tmp_path / 'maps' / 'all.vrt', project=project)
    for resume in (False, True):
        assert predict(resume=resume, options=joint).maps
    project.write_text('<qgis>saved by a user</qgis>')
    with pytest.raises(OutputError, match=r'all\.qgs exists already, and is of no prediction'):
        predict(resume=True, options=joint)
    assert project.read_text() == '<qgis>saved by a user</qgis>'
    with pytest.raises(ConfigError, match=r'all\.qgz'):
        predict(resume=True, options=dict(project=tmp_path / 'maps' / 'all.qgz'))


LOCAL = 'LOCAL_CS["site",UNIT["metre",1]]'
TURNED = Affine(0.5, 0.1, 500000, 0.1, -0.5, 5000000)


@pytest.mark.parametrize('dry_run', [False, True])
@pytest.mark.parametrize(
    ('options', 'rasters', 'named'),
    [
        (dict(vrt='all.vrt'), [dict(crs=None)], '0.tif'),
        (dict(vrt='all.vrt'), [{}, dict(crs=None)], '1.tif'),
        (dict(vrt='all.vrt'), [{}, dict(crs='EPSG:32632')], '1.tif'),
        (dict(vrt='all.vrt'), [{}, {}, dict(transform=TURNED)], '2.tif'),
        (dict(vector='all.gpkg', min_area=5), [dict(crs=None)], '0.tif'),
        (dict(vector='all.gpkg', simplify=5), [{}, dict(crs=LOCAL)], '1.tif'),
        (dict(vector='all.gpkg'), [{}, dict(crs=None), {}], '1.tif'),
        (dict(vector='all.gpkg'), [dict(crs=None), {}], '1.tif'),
        (dict(vector='all.gpkg'), [{}, dict(crs=LOCAL)], '1.tif'),
    ],
)
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_what_cannot_be_made_of_the_maps_is_known_before_anything_is_predicted(
    tmp_path, predict, options, rasters, named, dry_run
):
    paths = [write(tmp_path / f'{i}.tif', smooth((40, 50)), **options) for i, options in enumerate(rasters)]
    options = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(DataError, match=rf'^\S*{re.escape(named)}'):
        predict(*paths, options=dict(options, dry_run=dry_run))
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize(
    'options', [dict(vector='folder.gpkg'), dict(vector='file/a.gpkg'), dict(vrt='file/new/a.vrt')]
)
def test_places_that_cannot_be_written_are_known_before_anything_is_predicted(tmp_path, predict, options):
    (tmp_path / 'folder.gpkg').mkdir()
    (tmp_path / 'file').touch()
    ((key, name),) = options.items()
    with pytest.raises(OutputError, match=re.escape(name)):
        predict(options={key: tmp_path / name}, overwrite=True)
    assert not (tmp_path / 'maps').exists()


@pytest.mark.parametrize('placed', [True, False])
@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_a_crs_in_a_file_of_its_own_is_mentioned(tmp_path, predict, warned, placed):
    write(tmp_path / 'in.tif', smooth((40, 50)), crs=None)
    if placed:
        (tmp_path / 'in.tfw').write_text('1\n0\n0\n-1\n500000\n4000000\n')
    (tmp_path / 'in.prj').write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt())
    predict()
    assert len(warned) == placed
    assert all(f'rio edit-info --crs EPSG:32633 {tmp_path / "in.tif"}' in text for text in warned)


def test_dry_run_writes_nothing(tmp_path, predict, capsys):
    predict(options=dict(dry_run=True))
    assert not (tmp_path / 'maps').exists()
    assert '50 x 40' in capsys.readouterr().out


def test_mosaic_and_polygons_of_all_maps(tmp_path, predict):
    images = [smooth((40, 50), seed) for seed in range(2)]
    write(tmp_path / 'a.tif', images[0])
    write(tmp_path / 'b.tif', images[1], from_origin(500025, 5000000, 0.5, 0.5))
    joint = dict(vrt=tmp_path / 'maps' / 'all.vrt', vector=tmp_path / 'maps' / 'all.gpkg')
    predict(tmp_path / 'a.tif', tmp_path / 'b.tif', options=joint)
    np.testing.assert_array_equal(read(joint['vrt']), np.hstack([expected(image) for image in images]))
    areas = VectorLayer(str(joint['vector']), attribute='area_m2').values()  # its styles are no layer to choose from
    np.testing.assert_allclose(sum(areas), 2 * 40 * 50 * 0.25)
    inside = VectorLayer(str(joint['vector'])).within((500025, 4999980, 500050, 5000000))
    assert len(inside.shapes) >= 3
