import numpy as np
import pytest
from PIL import Image
from rasterio.transform import Affine

from mmrs.datasets import GeographicPairedDataset, PairedDataset, RasterDataset, RemoteSensingDataset
from mmrs.preparation.converters.clips import write_raster
from mmrs.utils import ConfigError

CROP = dict(type='GroundCrop', crop_size=(24, 32))
LOAD = dict(type='LoadRasterImage')
PACK = dict(type='PackRasterInputs')


def write_coordinates(path, gsd=2.0, crs='EPSG:32632', size=(90, 120), x0=1000.0, y0=3000.0):
    """A raster that shows where on the ground its pixels lie, in two bands."""
    x = x0 + gsd * (np.arange(size[1]) + 0.5)
    y = y0 - gsd * (np.arange(size[0])[:, None] + 0.5)
    image = np.stack(np.broadcast_arrays(x, y)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, image, crs=crs, transform=Affine(gsd, 0, x0, 0, -gsd, y0))


def assert_in_place(sample, tolerance=1e-2):
    """What the pixels show is where the sample says that they are."""
    meta, image = sample['data_samples'].metainfo, sample['inputs'].numpy()
    height, width = image.shape[1:]
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    expected = [a * x + b * y + c for a, b, c in meta['to_ground']]
    inner = (slice(2, -2), slice(2, -2))  # resampling has no more to go by at the edge
    for band, values in zip(image, expected):
        np.testing.assert_allclose(band[inner], values[inner], rtol=0, atol=tolerance)
    return meta


@pytest.mark.parametrize('settings', [{}, dict(windows=dict(size=64, stride=40)), dict(gsd=3.0)], ids=str)
@pytest.mark.parametrize('resize', [[], [dict(type='Resize', scale_factor=0.5, keep_ratio=True)]], ids=['', 'half'])
def test_crops_of_rasters_know_their_place(tmp_path, settings, resize):
    write_coordinates(tmp_path / 'images' / 'a.tif')
    data = RasterDataset(
        data_root=str(tmp_path), data_prefix=dict(img_path='images'), pipeline=[LOAD, *resize, CROP, PACK], **settings
    )
    found = [assert_in_place(data[i % len(data)], 0.6 if settings.get('gsd') else 1e-2) for i in range(8)]
    assert {meta['ground'] for meta in found} == {'EPSG:32632'}
    assert len({str(meta['to_ground']) for meta in found}) > 2


def test_without_georeference_places_are_pixels_of_the_file(tmp_path):
    (tmp_path / 'images').mkdir()
    y, x = np.mgrid[:60, :80]
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(tmp_path / 'images' / 'a.png')
    data = RemoteSensingDataset(
        data_root=str(tmp_path), data_prefix=dict(img_path='images'), pipeline=[LOAD, CROP, PACK]
    )
    sample = data[0]
    meta, image = sample['data_samples'].metainfo, sample['inputs'].numpy()
    assert image.shape == (3, 24, 32)
    (a, b, c), (d, e, f) = meta['to_ground']
    assert (a, b, d, e) == (1, 0, 0, 1)
    assert (c, f) == tuple(image[:2, 0, 0])  # the first pixel's outer edge
    assert meta['ground'] == meta['img_path']


def test_both_images_of_a_pair_lie_where_the_source_does(tmp_path):
    write_coordinates(tmp_path / 'a' / 'x.tif')
    write_coordinates(tmp_path / 'b' / 'y.tif', gsd=1.5, size=(160, 200), x0=990.0, y0=3010.0)
    source, target = (
        dict(type='RasterDataset', data_root=str(tmp_path), data_prefix=dict(img_path=name), pipeline=[LOAD])
        for name in 'ab'
    )
    pairs = GeographicPairedDataset(dict(source, windows=dict(size=64)), target, [CROP])
    for i in range(len(pairs)):
        metas = [assert_in_place(pairs[i][domain], 0.05) for domain in ('source', 'target')]
        assert {meta['ground'] for meta in metas} == {'EPSG:32632'}
    pair = pairs[0]
    np.testing.assert_array_equal(*(pair[name]['data_samples'].metainfo['to_ground'] for name in ('source', 'target')))


def test_an_image_that_is_smaller_stays_whole_and_one_without_a_size_too(tmp_path):
    write_coordinates(tmp_path / 'images' / 'a.tif', size=(20, 30))
    for crop in (CROP, dict(type='GroundCrop')):
        data = RasterDataset(data_root=str(tmp_path), data_prefix=dict(img_path='images'), pipeline=[LOAD, crop, PACK])
        assert data[0]['inputs'].shape == (2, 20, 30)
        assert_in_place(data[0])


def test_a_pair_is_cropped_alike_or_refused(tmp_path):
    for name in 'ab':
        write_coordinates(tmp_path / name / 'x.tif')
    source, target = (
        dict(type='RemoteSensingDataset', data_root=str(tmp_path), data_prefix=dict(img_path=n), pipeline=[LOAD])
        for n in 'ab'
    )
    sample = PairedDataset(source, target, [CROP])[0]
    assert (sample['source']['inputs'] == sample['target']['inputs']).all()
    with pytest.raises(ConfigError, match='GroundCrop'):
        PairedDataset(dict(source, pipeline=[LOAD, CROP]), target)
    with pytest.raises(ConfigError, match='crop_size'):
        RemoteSensingDataset(
            data_root=str(tmp_path), data_prefix=dict(img_path='a'), pipeline=[dict(CROP, crop_size=0)]
        )
