import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine
from rasterio.warp import calculate_default_transform, reproject
from rasterio.warp import transform as transform_points

from mmrs.datasets import GeographicPairedDataset
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError
from tests.small_files import turned

UTM = 'EPSG:32633'
LEFT, TOP = 400000, 5800000
LOAD = [dict(type='LoadRasterImage')]


def field(x, y):
    """A smooth function of UTM coordinates; its slope is at most 4.1 per metre."""
    return 128 + 80 * np.sin((x - LEFT) / 25) + 40 * np.cos((y - TOP) / 31)


@pytest.fixture
def scene(write):
    """Writes a raster of one band that shows `field`."""

    def make(path, transform, shape, crs=UTM, **profile):
        row, column = np.mgrid[: shape[0], : shape[1]] + 0.5
        x, y = (
            transform.a * column + transform.b * row + transform.c,
            transform.d * column + transform.e * row + transform.f,
        )
        if crs != UTM:
            moved = transform_points(crs, UTM, x.ravel(), y.ravel())
            x, y = (np.array(values).reshape(shape) for values in moved)
        return write(path, field(x, y).astype(np.float32)[..., None], crs=crs, transform=transform, **profile)

    return make


@pytest.fixture
def source(tmp_path, scene):
    """200 m x 150 m in UTM at 0.5 m."""
    scene(tmp_path / 'a' / 'spring.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (300, 400))
    return tmp_path


def degrees(left, top, right, bottom, pixel=0.6, crs='EPSG:4326'):
    """Transform and shape of a raster in another CRS from one UTM corner to another; `pixel` is in metres."""
    (x0, x1), (y0, y1) = transform_points(UTM, crs, [left, right], [top, bottom])
    height, width = round((top - bottom) / pixel), round((right - left) / pixel)
    return Affine((x1 - x0) / width, 0, x0, 0, (y1 - y0) / height, y0), (height, width)


def config(root, pipeline=(), **kwargs):
    size = kwargs.pop('size', 50)
    source = dict(windows=dict(size=size, jitter=False), **kwargs.pop('source', {}))
    target = dict(kwargs.pop('target', {}))
    parts = dict(type='RasterDataset', data_root=str(root), pipeline=LOAD, serialize_data=False)
    return dict(
        type='GeographicPairedDataset',
        source=dict(parts, data_prefix=dict(img_path='a'), **source),
        target=dict(parts, data_prefix=dict(img_path='b'), **target),
        pipeline=list(pipeline),
        **kwargs,
    )


def valid_of(part):
    found = part['data_samples'].get('valid_map')
    return np.ones(part['inputs'].shape[1:], bool) if found is None else found.data[0].numpy()


def shown_area(transform, shape, crs, step=0.25):
    """Square metres of the 200 m x 150 m that a raster shows, from a dense grid of points; it is right to about a
    metre for each hundred metres of edge and less.
    """
    x, y = np.meshgrid(np.arange(LEFT + step / 2, LEFT + 200, step), np.arange(TOP - step / 2, TOP - 150, -step))
    moved = transform_points(UTM, crs, x.ravel(), y.ravel()) if crs != UTM else (x.ravel(), y.ravel())
    x, y = (np.array(values) for values in moved)
    inverse = ~transform
    column, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    return ((column > 0) & (row > 0) & (column < shape[1]) & (row < shape[0])).sum() * step**2


def whole_ring_area(transform, shape, crs):
    """Square metres in UTM of a raster in another CRS, by the shoelace formula with 40 000 points."""
    t = np.linspace(0, 1, 10000, endpoint=False)
    one, nil = np.ones_like(t), np.zeros_like(t)
    column, row = np.r_[t, one, 1 - t, nil] * shape[1], np.r_[nil, t, one, 1 - t] * shape[0]
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    x, y = (np.array(values) for values in transform_points(crs, UTM, x, y))
    x, y = x - LEFT, y - TOP
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


PLACES = {
    'degrees': ('EPSG:4326', *degrees(LEFT + 60, TOP - 40, LEFT + 300, TOP - 220)),
    'next zone': ('EPSG:32632', *degrees(LEFT - 50, TOP + 30, LEFT + 120.3, TOP - 90.7, 1.7, 'EPSG:32632')),
    'Mercator': ('EPSG:3857', *degrees(LEFT - 50, TOP + 30, LEFT + 520, TOP - 70, 2.5, 'EPSG:3857')),
    'turned': (UTM, turned(LEFT + 40, TOP - 10, 25, 0.8), (120, 220)),
    'south-up': (UTM, Affine(0.7, 0, LEFT - 20, 0, 0.7, TOP - 100), (200, 100)),
}


@pytest.mark.parametrize('place', PLACES)
def test_paired_area_is_the_true_one(source, scene, place):
    crs, transform, shape = PLACES[place]
    scene(source / 'b' / 't.tif', transform, shape, crs)
    # Windows of which anything is shown, so that all that both show is in a pair.
    area = DATASETS.build(config(source, min_overlap=1e-6)).area
    truth = shown_area(transform, shape, crs)
    assert 3000 < truth < 29000
    # A pixel (0.25 m2) more or less along an edge of up to 700 pixels; and where the points are, 0.25 m apart.
    assert area.overlap_km2 * 1e6 == pytest.approx(truth, abs=0.5 * 0.25 * np.sqrt(truth))
    assert area.paired_km2 == pytest.approx(area.overlap_km2, rel=1e-6)
    assert area.source_share == pytest.approx(truth / 30000, abs=1e-3)
    own = whole_ring_area(transform, shape, crs)
    assert area.target_share == pytest.approx(truth / own, abs=2e-3)
    assert (area.source_rasters, area.target_rasters) == (1, 1)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:32632', 'EPSG:3035'])
def test_area_of_a_raster_inside_another(source, scene, crs):
    transform, shape = degrees(LEFT + 30, TOP - 20, LEFT + 180, TOP - 130, 0.6, crs)
    scene(source / 'b' / 't.tif', transform, shape, crs)
    area = DATASETS.build(config(source, min_overlap=1e-6)).area
    # To a hundredth of a pixel of 0.25 m2.
    assert area.overlap_km2 * 1e6 == pytest.approx(whole_ring_area(transform, shape, crs), abs=0.0025)
    assert area.target_share == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('place', PLACES)
def test_both_images_show_one_place(source, scene, place):
    crs, transform, shape = PLACES[place]
    scene(source / 'b' / 't.tif', transform, shape, crs)
    dataset = DATASETS.build(config(source))
    shown = np.zeros((300, 400), bool)
    for i in range(len(dataset)):
        sample = dataset[i]
        first, second = sample['source'], sample['target']
        assert first['inputs'].shape == second['inputs'].shape == (1, 50, 50)
        x0, y0, x1, y1 = first['data_samples'].window
        valid = valid_of(second)
        assert valid_of(first).all()
        assert valid.mean() > 0.45
        shown[y0:y1, x0:x1] |= valid
        error = (first['inputs'] - second['inputs']).abs().numpy()[0][valid]
        # Half a pixel of the coarser of the two.
        assert error.max() < 4.1 * 0.5 * max(0.5, max(dataset.area.target_pixel_metres))
        assert error.mean() < 0.4
        assert second['data_samples'].img_path.endswith('t.tif')
    # What the maps say is shown, and what the polygons do, but for windows that show too little.
    full = DATASETS.build(config(source, size=400, min_overlap=1e-6))
    valid = valid_of(full[0]['target'])
    np.testing.assert_array_equal(shown & ~valid, False)
    assert valid.sum() * 0.25 == pytest.approx(full.area.overlap_km2 * 1e6, rel=3e-3)


def test_same_grid_is_read_exactly(source, scene):
    scene(source / 'b' / 'autumn.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (300, 400))
    moved = Affine(0.5, 0, LEFT + 100, 0, -0.5, TOP - 50)
    scene(source / 'b' / 'winter.tif', moved, (300, 400))
    dataset = DATASETS.build(config(source))
    assert (len(dataset), dataset.area.target_rasters) == (48 + 16, 2)
    assert dataset.area.paired_km2 == pytest.approx(0.03)
    assert dataset.area.target_share == pytest.approx((0.03 + 0.01) / 0.06)
    for i in range(len(dataset)):
        sample = dataset[i]
        assert (sample['source']['inputs'] - sample['target']['inputs']).abs().max() < 1e-4
        assert 'valid_map' not in sample['target']['data_samples']


def test_many_rasters_find_each_other(tmp_path, scene):
    """Tiles of 20 m against tiles of 32 m: those pairs that hold enough of each other, and no more."""
    for i in range(5):
        for j in range(4):
            scene(tmp_path / 'a' / f'{i}_{j}.tif', Affine(1, 0, LEFT + 20 * i, 0, -1, TOP - 20 * j), (20, 20))
    for i in range(3):
        for j in range(2):
            place = Affine(2, 0, LEFT + 32 * i + 4, 0, -2, TOP - 32 * j)
            scene(tmp_path / 'b' / f'{i}_{j}.tif', place, (16, 16))
    dataset = DATASETS.build(config(tmp_path, size=20, min_overlap=0.4))
    expected = set()
    for i in range(5):
        for j in range(4):
            for k in range(3):
                for m in range(2):
                    wide = min(20 * i + 20, 32 * k + 36) - max(20 * i, 32 * k + 4)
                    high = min(20 * j + 20, 32 * m + 32) - max(20 * j, 32 * m)
                    if min(wide, high) > 0 and wide * high >= 160:
                        expected.add((f'{i}_{j}', f'{k}_{m}'))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert {(info['source']['img_path'][-7:-4], info['target']['img_path'][-7:-4]) for info in infos} == expected
    assert len(dataset) == len(expected) > 15
    assert dataset.area.source_rasters == len({pair[0] for pair in expected})
    unpaired = {path[-7:-4] for path in dataset.unpaired['source']}
    assert unpaired == {f'{i}_{j}' for i in range(5) for j in range(4)} - {pair[0] for pair in expected}
    assert unpaired


def test_source_in_two_zones(tmp_path, scene):
    """Each source raster meets the target in its own CRS."""
    transform, shape = degrees(LEFT + 50, TOP, LEFT + 90, TOP - 40, 0.5, 'EPSG:32632')
    scene(tmp_path / 'a' / '1.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (80, 80))
    scene(tmp_path / 'a' / '2.tif', transform, shape, 'EPSG:32632')
    transform, shape = degrees(LEFT - 20, TOP + 20, LEFT + 150, TOP - 100)
    scene(tmp_path / 'b' / 't.tif', transform, shape, 'EPSG:4326')
    dataset = DATASETS.build(config(tmp_path, size=80))
    assert (len(dataset), dataset.area.source_rasters) == (2, 2)
    assert dataset.area.source_share == pytest.approx(1, abs=1e-9)
    assert dataset.area.target_share == pytest.approx((1600 + 1600) / (170 * 120), rel=0.01)
    for i in range(2):
        sample = dataset[i]
        assert (sample['source']['inputs'] - sample['target']['inputs']).abs().max() < 4.1 * 0.3


def test_ground_in_rasters_of_two_zones_counts_once(tmp_path, scene):
    """Both zones show 80 m x 60 m of the target, of which 60 m x 60 m are the same."""
    scene(tmp_path / 'a' / '1.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (120, 160))
    transform, shape = degrees(LEFT + 20, TOP, LEFT + 100, TOP - 60, 0.5, 'EPSG:32632')
    scene(tmp_path / 'a' / '2.tif', transform, shape, 'EPSG:32632')
    scene(tmp_path / 'b' / 't.tif', Affine(0.5, 0, LEFT - 5, 0, -0.5, TOP + 5), (140, 220))
    area = DATASETS.build(config(tmp_path, min_overlap=1e-6)).area
    # A dense grid of points in the target.
    x, y = np.meshgrid(np.arange(LEFT - 5 + 0.05, LEFT + 105, 0.1), np.arange(TOP + 5 - 0.05, TOP - 65, -0.1))
    shown = (x > LEFT) & (x < LEFT + 80) & (y < TOP) & (y > TOP - 60)
    places = transform_points(UTM, 'EPSG:32632', x.ravel(), y.ravel())
    (column, row), (a, b, c, d, e, f) = (np.array(v).reshape(x.shape) for v in places), tuple(~transform)[:6]
    column, row = a * column + b * row + c, d * column + e * row + f
    shown |= (column > 0) & (column < shape[1]) & (row > 0) & (row < shape[0])
    assert area.target_share == pytest.approx(shown.mean(), abs=2e-3)


def test_resampled_source_and_common_transforms(source, scene):
    crs, transform, shape = PLACES['degrees']
    scene(source / 'b' / 't.tif', transform, shape, crs)
    pipeline = [dict(type='RandomCrop', crop_size=(20, 30)), dict(type='RandomFlip', prob=0.5)]
    settings = config(source, pipeline, size=40, source=dict(gsd=1.0))
    settings['source']['windows'] = dict(size=40)
    dataset = DATASETS.build(settings)
    np.random.seed(0)  # noqa: NPY002
    windows, shares = set(), []
    for _ in range(30):
        sample = dataset[0]
        valid = valid_of(sample['target'])
        error = (sample['source']['inputs'] - sample['target']['inputs']).abs().numpy()[0][valid]
        assert sample['source']['inputs'].shape == (1, 20, 30)
        assert error.max(initial=0) < 4.1 * 0.5
        windows.add(sample['source']['data_samples'].window)
        shares.append(valid.mean())
    assert len(windows) > 10
    assert min(shares) < 0.9 < max(shares)
    assert dataset.area.source_pixel_metres == (1, 1)


def test_pixels_without_data_on_both_sides(source, scene):
    crs, transform, shape = PLACES['degrees']
    for path, hole in (
        (source / 'a' / 'spring.tif', np.s_[:, 150:200, 200:260]),
        (scene(source / 'b' / 't.tif', transform, shape, crs), np.s_[:, 100:150, 60:100]),
    ):
        with rasterio.open(path, 'r+') as raster:
            image = raster.read()
            image[hole] = np.nan
            raster.write(image)
    sample = DATASETS.build(config(source, size=400, min_overlap=0.1))[0]
    first, second = sample['source'], sample['target']
    expected = np.ones((300, 400), bool)
    expected[150:200, 200:260] = False
    np.testing.assert_array_equal(valid_of(first), expected)
    both = valid_of(first) & valid_of(second)
    assert valid_of(second).sum() * 0.25 == pytest.approx(shown_area(transform, shape, crs) - 50 * 40 * 0.36, rel=0.01)
    assert (first['inputs'] - second['inputs']).abs().numpy()[0][both].max() < 4.1 * 0.5
    assert np.isfinite(second['inputs'].numpy()).all()


def test_log_says_how_much_is_paired(source, scene):
    scene(source / 'b' / 't.tif', Affine(1.2, 0, LEFT + 100, 0, -1.2, TOP), (250, 250))
    scene(source / 'b' / 'far.tif', Affine(0.5, 0, LEFT + 9000, 0, -0.5, TOP), (30, 40))
    dataset = DATASETS.build(config(source, size=100))
    text = str(dataset.area)
    assert '6 pairs of 1 source and 1 target rasters' in text
    assert 'paired: 0.015 of 0.015 km2 that both show, 50 % of the source and 16.6 % of the target' in text
    assert 'pixels: 0.5 m and 0.5 to 1.2 m' in text
    assert dataset.unpaired == dict(source=[], target=[str(source / 'b' / 'far.tif')])
    assert dataset.area.as_dict()['pairs'] == 6


def test_no_overlap_names_both_extents(source, scene):
    scene(source / 'b' / 't.tif', *degrees(LEFT + 5000, TOP, LEFT + 5100, TOP - 100), 'EPSG:4326')
    with pytest.raises(DataError) as caught:
        DATASETS.build(config(source))
    assert (
        f'In EPSG:32633 the 1 rasters of the source ({source / "a"}) cover x 400000 to 400200, y 5799850 to 5800000; '
        f'the 1 of the target ({source / "b"}) cover x 404998'
    ) in str(caught.value)


@pytest.mark.parametrize('north', [90, 84])
def test_target_of_the_whole_earth(source, write, north):
    world = Affine(10, 0, -180, 0, -north / 9, north)
    write(source / 'b' / 'world.tif', np.ones((18, 36, 1), np.uint8), crs='EPSG:4326', transform=world)
    with pytest.raises(
        DataError, match=rf'world.tif shows .* too far for EPSG:32633: it covers x -180 to 180, y -{north}'
    ):
        DATASETS.build(config(source))


def test_neighbours_do_not_overlap(source, scene):
    scene(source / 'b' / 't.tif', Affine(0.5, 0, LEFT + 200, 0, -0.5, TOP), (30, 40))
    with pytest.raises(DataError, match='No target raster meets a source raster'):
        DATASETS.build(config(source))


def test_too_little_overlap(source, scene):
    scene(source / 'b' / 't.tif', Affine(0.5, 0, LEFT + 190, 0, -0.5, TOP), (300, 40))
    with pytest.raises(DataError, match=r'covers 50 % of a source window \(min_overlap\); the most is 20 %'):
        DATASETS.build(config(source, size=100))
    assert len(DATASETS.build(config(source, size=100, min_overlap=0.2))) == 3
    assert len(DATASETS.build(config(source, size=100, min_overlap=1e-12))) == 3


def test_rasters_without_place(source, write, scene):
    image = np.zeros((30, 40, 1), np.float32)
    path = source / 'b' / 't.tif'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        write(path, image, crs=None, transform=Affine.identity())
        with pytest.raises(DataError, match=r't\.tif has no CRS, without which it cannot be paired by place'):
            DATASETS.build(config(source))
        write(path, image, crs=UTM, transform=Affine.identity())
        with pytest.raises(DataError, match=r't\.tif has no transform from pixels to coordinates'):
            DATASETS.build(config(source))
        points = [GroundControlPoint(r, c, LEFT + c, TOP - r) for r, c in ((0, 0), (0, 40), (30, 0), (30, 40))]
        path.unlink()
        with rasterio.open(path, 'w', driver='GTiff', count=1, height=30, width=40, dtype='float32') as raster:
            raster.write(image.transpose(2, 0, 1))
            raster.gcps = points, rasterio.CRS.from_string(UTM)
        with pytest.raises(DataError, match=r't\.tif says by 4 ground control points where it lies; a CRS'):
            DATASETS.build(config(source))


def test_the_180th_meridian(tmp_path, scene, write):
    """UTM runs on over it, longitudes do not."""
    image = np.zeros((100, 100, 1), np.float32)
    utm = 'EPSG:32601'
    (x,), (y,) = transform_points('EPSG:4326', utm, [-179.999], [10.0])
    write(tmp_path / 'a' / 's.tif', image, crs=utm, transform=Affine(10, 0, x - 500, 0, -10, y + 500))
    plate = Affine(1e-4, 0, 179.995, 0, -1e-4, 10.005)
    write(tmp_path / 'b' / 't.tif', image, crs='EPSG:4326', transform=plate)
    with pytest.raises(DataError, match=r's\.tif: it lies across the 180th meridian .*Warp both sides'):
        DATASETS.build(config(tmp_path))
    # Wholly to the west of it, but with longitudes that count on.
    write(tmp_path / 'a' / 's.tif', image[:50, :50], crs=utm, transform=Affine(10, 0, x, 0, -10, y + 250))
    with pytest.raises(DataError, match=r't\.tif shows some of .*s\.tif, but its coordinates in EPSG:4326 are others'):
        DATASETS.build(config(tmp_path))
    # In one CRS there is no such thing.
    write(tmp_path / 'b' / 't.tif', image, crs=utm, transform=Affine(9, 0, x - 300, 0, -9, y + 300))
    assert len(DATASETS.build(config(tmp_path))) == 1


def test_a_raster_at_the_other_end_of_the_earth(tmp_path, scene, write):
    """Near the equator, a transverse Mercator projection of it covers the source."""
    scene(tmp_path / 'a' / 's.tif', Affine(1, 0, 500000, 0, -1, 1000), (100, 100))
    scene(tmp_path / 'b' / 't.tif', Affine(0.5, 0, 500000, 0, -0.5, 1000), (200, 200))
    far = Affine(0.01, 0, 15 - 180 - 0.5, 0, -0.01, 0.5)
    write(tmp_path / 'b' / 'far.tif', np.zeros((100, 100, 1), np.float32), crs='EPSG:4326', transform=far)
    pairs = DATASETS.build(config(tmp_path, size=100))
    assert len(pairs) == 1
    assert [Path(path).name for path in pairs.unpaired['target']] == ['far.tif']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(min_overlap=0), r'min_overlap is 0; a number above 0 and of at most 1'),
        (dict(min_overlap=1.5), r'min_overlap is 1\.5'),
        (dict(target=dict(windows=dict(size=20))), 'the target has windows or gsd'),
        (dict(target=dict(gsd=2.0)), 'the target has windows or gsd'),
    ],
)
def test_settings_that_cannot_work(source, scene, changes, message):
    scene(source / 'b' / 't.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (300, 400))
    with pytest.raises(ConfigError, match=message):
        DATASETS.build(config(source, **changes))


def test_other_data_sets_are_refused(source, scene):
    settings = config(source)
    scene(source / 'b' / 't.tif', Affine(0.5, 0, LEFT, 0, -0.5, TOP), (300, 400))
    for name in ('source', 'target'):
        settings[name]['type'] = 'RemoteSensingDataset'
    del settings['source']['windows']
    with pytest.raises(ConfigError, match='source is a RemoteSensingDataset; a RasterDataset was expected'):
        DATASETS.build(settings)


def test_keys_of_images(source, scene):
    scene(source / 'b' / 't.tif', *degrees(LEFT, TOP, LEFT + 200, TOP - 150), 'EPSG:4326')
    settings = config(source, [dict(type='RandomFlip', prob=1.0)])
    dataset = DATASETS.build(settings)
    assert isinstance(dataset, GeographicPairedDataset)
    keys = [dataset[i]['source']['data_samples'].metainfo['image_key'] for i in range(len(dataset))]
    assert len(set(keys)) == len(keys)
    settings['source']['windows'] = dict(size=50)  # jitters
    dataset = DATASETS.build(settings)
    np.random.seed(0)  # noqa: NPY002
    assert not any('image_key' in dataset[i]['source']['data_samples'].metainfo for i in range(10))


def test_real_chips_find_themselves_in_metres(real_data, tmp_path):
    """Chips of several continents, and the same warped to UTM: each pair is one chip, and lies on itself."""
    chips = sorted((real_data / 'sen1floods11' / 'S1').glob('*.tif'))
    if not chips:
        pytest.skip(f'no Sentinel-1 chips in {real_data}')
    for path in chips:
        with rasterio.open(path) as raster:
            image, profile, bounds = raster.read(), raster.profile, raster.bounds
            if np.isnan(image).mean() > 0.5:
                continue
            (lon,), (lat,) = transform_points(raster.crs, 'EPSG:4326', [bounds.left], [bounds.top])
            utm = f'EPSG:{(32601 if lat > 0 else 32701) + int((lon + 180) // 6)}'
            affine, width, height = calculate_default_transform(
                raster.crs, utm, raster.width, raster.height, *bounds, resolution=9
            )
        warped = np.full((2, height, width), np.nan, np.float32)
        reproject(
            image,
            warped,
            src_transform=profile['transform'],
            src_crs=profile['crs'],
            dst_transform=affine,
            dst_crs=utm,
            src_nodata=np.nan,
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
        )
        for folder in 'ab':
            (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / 'a')
        profile.update(crs=utm, transform=affine, width=width, height=height)
        with rasterio.open(tmp_path / 'b' / f'{path.stem}_utm.tif', 'w', **profile) as raster:
            raster.write(warped)
    settings = config(tmp_path, size=512)
    settings['target']['skip_empty'] = settings['source']['skip_empty'] = False
    dataset = DATASETS.build(settings)
    assert len(dataset) == len(list((tmp_path / 'a').iterdir())) > 5
    assert dataset.area.source_share == pytest.approx(1, abs=1e-3)
    for i in range(0, len(dataset), 3):
        sample = dataset[i]
        name = Path(sample['source']['data_samples'].img_path).stem
        assert sample['target']['data_samples'].img_path.endswith(f'{name}_utm.tif')
        first, second = (sample[part]['inputs'][0].numpy()[40:-40, 40:-40] for part in ('source', 'target'))
        valid = (valid_of(sample['source']) & valid_of(sample['target']))[40:-40, 40:-40]
        agreement = {}
        for x in (-1, 0, 1):
            for y in (-1, 0, 1):
                both = valid & np.roll(valid, (y, x), (0, 1))
                agreement[y, x] = np.corrcoef(first[both], np.roll(second, (y, x), (0, 1))[both])[0, 1]
        assert max(agreement, key=agreement.get) == (0, 0), agreement
        assert agreement[0, 0] > 0.9
