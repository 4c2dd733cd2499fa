"""Resampled windows against numpy, from files that hold all sorts of overviews, which say something else."""

import os

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy
from rasterio.transform import Affine

from mmrs.datasets import GeographicPairedDataset, RasterDataset
from mmrs.geo.rasters import read_coverage, read_image, read_label_map, shared_raster
from mmrs.geo.resampling import resample, resampling_weights

KINDS = ('none', 'nearest', 'average', 'mode', 'external', 'stale', 'cog')
SIDE, FACTOR = 512, 8


def blocks(array):
    """`(h, w, FACTOR ** 2, ...)` of `(H, W, ...)`."""
    side = SIDE // FACTOR
    parts = array.reshape(side, FACTOR, side, FACTOR, *array.shape[2:]).swapaxes(1, 2)
    return parts.reshape(side, side, FACTOR**2, *array.shape[2:])


@pytest.fixture
def fine(rng):
    """Ids, in each block of which one has more than half of the pixels; and those."""
    coarse = rng.integers(0, 3, (SIDE // FACTOR,) * 2, np.uint8)
    ids = coarse.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
    row, column = np.mgrid[:SIDE, :SIDE]
    # The pixel that overviews by the nearest one take is another one.
    ids[(row % 4 < 3) & (column % 2 == 0)] = rng.integers(0, 3, (SIDE, SIDE), np.uint8)[
        (row % 4 < 3) & (column % 2 == 0)
    ]
    counts = np.stack([(blocks(ids) == i).sum(axis=2) for i in range(3)], axis=2)
    assert (counts.max(axis=2) > FACTOR**2 / 2).all()
    return ids, coarse


@pytest.fixture
def stored(tmp_path, write):
    """Writes an array with overviews of a kind."""

    def make(name, kind, array, **profile):
        path = tmp_path / kind / name
        profile = {'tiled': True, 'blockxsize': 64, 'blockysize': 64, **profile}
        write(path, np.zeros_like(array) if kind == 'stale' else array, **profile)
        how = Resampling[kind] if kind in ('average', 'mode') else Resampling.nearest
        if kind not in ('none', 'cog'):
            with rasterio.Env(TIFF_USE_OVR=kind == 'external'), rasterio.open(path, 'r+') as raster:
                raster.build_overviews([2, 4, 8], how)
        if kind == 'stale':
            with rasterio.open(path, 'r+') as raster:
                raster.write(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
        if kind == 'cog':
            copy(path, tmp_path / 'copy.tif', driver='COG', blocksize=64, overview_resampling='cubic')
            os.replace(tmp_path / 'copy.tif', path)
        with rasterio.open(path) as raster:
            assert bool(raster.overviews(1)) is (kind != 'none')
        return path

    return make


def resampled(root, images, labels):
    """The first sample of a data set whose pixels are those of `blocks`."""
    return RasterDataset(
        data_root=str(root),
        data_prefix=dict(img_path=images, seg_map_path=labels),
        metainfo=dict(classes=('x', 'y', 'z')),
        gsd=0.05 * FACTOR,
        test_mode=True,
        pipeline=[dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')],
    )[0]


@pytest.mark.parametrize('kind', KINDS)
def test_data_set_at_a_ground_sampling_distance_takes_no_overviews(tmp_path, rng, fine, stored, kind):
    ids, coarse = fine
    image = rng.integers(0, 60000, (SIDE, SIDE, 2), np.uint16)
    stored('images/a.tif', kind, image)
    stored('labels/a.tif', kind, ids)
    sample = resampled(tmp_path / kind, 'images', 'labels')
    found = sample['inputs'].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, blocks(image).mean(axis=2), rtol=1e-6)
    np.testing.assert_array_equal(sample['data_samples'].gt_sem_seg.data[0], coarse)


@pytest.mark.parametrize('kind', ['none', 'average', 'cog'])
def test_pairs_by_place_take_no_overviews(tmp_path, rng, stored, write, kind):
    image = rng.integers(0, 60000, (SIDE, SIDE, 1), np.uint16)
    stored('images/a.tif', kind, image)
    side = SIDE // FACTOR
    with rasterio.open(tmp_path / kind / 'images/a.tif') as raster:
        transform = raster.transform @ Affine.scale(FACTOR)
    write(tmp_path / 'before/b.tif', np.zeros((side, side, 1), np.uint8), transform=transform)

    def part(root, folder, **settings):
        return dict(
            type='RasterDataset',
            data_root=str(root),
            data_prefix=dict(img_path=folder),
            metainfo=dict(classes=('x',)),
            test_mode=True,
            pipeline=[dict(type='LoadRasterImage')],
            **settings,
        )

    pairs = GeographicPairedDataset(
        source=part(tmp_path, 'before', windows=dict(size=side)), target=part(tmp_path / kind, 'images')
    )
    found = pairs[0]['target']['inputs'].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, blocks(image).mean(axis=2), rtol=1e-6)


@pytest.mark.parametrize(
    ('suffix', 'driver', 'options'),
    [
        ('.jpg', 'JPEG', dict(quality=95)),  # decodes at an eighth of its size
        ('.jp2', 'JP2OpenJPEG', dict(reversible='YES', quality=100)),  # has resolution levels
        ('.tif', 'GTiff', dict(compress='jpeg', photometric='ycbcr', tiled='YES')),
        ('.png', 'PNG', {}),
    ],
)
def test_formats_with_resolutions_of_their_own(tmp_path, write, fine, rng, suffix, driver, options):
    ids, _ = fine
    colours = rng.integers(0, 256, (3, 3), np.uint8)
    write(tmp_path / 'plain.tif', colours[ids], photometric='rgb')
    path = tmp_path / f'a{suffix}'
    copy(tmp_path / 'plain.tif', path, driver=driver, **options)
    if suffix == '.png':  # overviews in a file beside it
        with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tmp_path / 'plain.tif', 'r+') as raster:
            raster.build_overviews([2, 4, 8], Resampling.nearest)
        os.replace(tmp_path / 'plain.tif.ovr', f'{path}.ovr')
    whole, _ = read_image(path)
    found, _ = read_image(path, None, (8, 16, 40, 64), (SIDE // FACTOR,) * 2)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, blocks(whole).mean(axis=2).round()[16:64, 8:40])


@pytest.mark.parametrize('kind', ['none', 'nearest', 'external', 'cog'])
def test_labels_and_where_they_are(fine, rng, stored, kind):
    """Few pixels have a label, and those that overviews by the nearest one take have none."""
    ids, _ = fine
    labelled = rng.random((SIDE, SIDE)) < 0.03
    path = stored('a.tif', kind, np.where(labelled, ids, 255), nodata=255)
    window, grid_shape = (3, 5, 64, 60), (SIDE // FACTOR,) * 2
    counts = np.stack([(blocks(np.where(labelled, ids, 255)) == i).sum(axis=2) for i in range(3)], axis=2)
    first, second = np.sort(counts, axis=2)[..., :0:-1].transpose(2, 0, 1)[:2]
    own = np.s_[window[1] : window[3], window[0] : window[2]]
    found, nodata = read_label_map(path, window, grid_shape)
    clear = (first > second)[own]
    np.testing.assert_array_equal(found[clear], counts.argmax(axis=2)[own][clear])
    assert nodata == 255
    with shared_raster(path) as raster:
        np.testing.assert_array_equal(read_coverage(raster, window, grid_shape), (first > 0)[own])


@pytest.mark.parametrize('internal', [True, False])
def test_overviews_of_a_mask_say_nothing(fine, rng, write, tmp_path, internal):
    ids, _ = fine
    shown = rng.random((SIDE, SIDE)) < 0.03
    path = write(tmp_path / 'a.tif', ids, tiled=True)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        with rasterio.open(path, 'r+') as raster:
            raster.write_mask(np.where(shown, 255, 0).astype(np.uint8))
        with rasterio.open(path, 'r+') as raster:
            raster.build_overviews([2, 4, 8], Resampling.nearest)
    window, grid_shape = (0, 0, SIDE // FACTOR, SIDE // FACTOR), (SIDE // FACTOR,) * 2
    expected, number = blocks(shown).any(axis=2), blocks(shown).sum(axis=2)
    with shared_raster(path) as raster:
        np.testing.assert_array_equal(read_coverage(raster, window, grid_shape), expected)
    image, valid = read_image(path, None, window, grid_shape)
    np.testing.assert_array_equal(valid, expected)
    means = blocks(np.where(shown, ids, 0)).sum(axis=2) / np.maximum(number, 1)
    assert np.abs(image[..., 0] - means)[expected].max() <= 0.5


def test_labels_of_a_virtual_raster_come_from_no_overviews_either(tmp_path, write, fine, stored):
    ids, coarse = fine
    stored('images/a.tif', 'none', ids[..., None])
    label = stored('a.tif', 'nearest', ids)
    with rasterio.open(label) as raster:
        place, wkt = raster.transform.to_gdal(), raster.crs.to_wkt()
    (tmp_path / 'labels.vrt').write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{wkt.replace("&", "&amp;")}</SRS>'
        f'<GeoTransform>{", ".join(map(str, place))}</GeoTransform><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename>{label}</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    sample = resampled(tmp_path, 'none/images', 'labels.vrt')
    np.testing.assert_array_equal(sample['data_samples'].gt_sem_seg.data[0], coarse)


@pytest.mark.parametrize('how', ['nodata in all bands', 'nodata in any band', 'nan', 'mask', 'alpha'])
def test_pixels_without_data_count_for_nothing(tmp_path, write, rng, how):
    """Zero is nodata in all bands of bytes, and a value where it is in some of them."""
    hidden = rng.random((SIDE, SIDE)) < 0.5
    hidden[:32, :40] = True
    image = rng.integers(0, 3, (SIDE, SIDE, 3), np.uint8) * 50
    profile = dict(photometric='rgb')
    if how == 'nodata in all bands':
        image[hidden], profile['nodata'] = 0, 0
        hidden = ~image.any(axis=2)
    elif how == 'nodata in any band':
        image = image.astype(np.int16)
        image[hidden, 1], profile = -32768, dict(nodata=-32768)
    elif how == 'nan':
        image = image.astype(np.float32)
        image[hidden, 1], profile = np.nan, {}
    elif how == 'alpha':
        image = np.dstack((image, np.where(hidden, 0, 255).astype(np.uint8)))
    path = write(tmp_path / 'a.tif', image, **profile)
    with rasterio.open(path, 'r+') as raster:
        if how == 'alpha':
            raster.colorinterp = (*raster.colorinterp[:3], ColorInterp.alpha)
        if how == 'mask':
            raster.write_mask(np.where(hidden, 0, 255).astype(np.uint8))
    found, valid = read_image(path, None, (0, 0, SIDE // FACTOR, SIDE // FACTOR), (SIDE // FACTOR,) * 2)
    number = blocks(~hidden).sum(axis=2)
    np.testing.assert_array_equal(valid, number > 0)
    total = blocks(np.where(hidden[..., None], 0, image[..., :3].astype(np.float64))).sum(axis=2)
    means = (total / np.maximum(number, 1)[..., None])[valid]
    error = np.abs(found[valid] - means).max()
    assert error <= (0.5 if found.dtype == np.uint8 else 1e-4)


def test_holes_do_not_spread_where_pixels_get_smaller(tmp_path, write):
    image = np.full((6, 6, 1), 7, np.float32)
    image[2, 3] = np.nan
    found, valid = read_image(write(tmp_path / 'a.tif', image), None, (0, 0, 12, 12), (12, 12))
    assert (found == 7).all()
    assert valid is None or valid[[0, -1]].all()


def test_strips_join_without_a_seam(tmp_path, write, rng, monkeypatch):
    image = rng.random((200, 150, 2)).astype(np.float32)
    image[rng.random((200, 150)) < 0.2] = np.nan
    path = write(tmp_path / 'a.tif', image)
    whole, shown = read_image(path, None, (3, 4, 40, 66), (67, 41))
    monkeypatch.setattr('mmrs.geo.rasters._STRIP_BYTES', 10000)
    parts, shown_by_parts = read_image(path, None, (3, 4, 40, 66), (67, 41))
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(shown_by_parts, shown)


@pytest.mark.parametrize('count', [3, 7, 10, 11, 25])
def test_weights(rng, count):
    """Against the integral of a step function, and numpy's linear interpolation."""
    values = rng.random(10)
    weights = resampling_weights(0, 10, count, 10).toarray().astype(np.float64)
    found = weights @ values / weights.sum(axis=1)
    if count <= 10:
        integral = np.interp(np.linspace(0, 10, count + 1), np.arange(11), np.concatenate(([0], values.cumsum())))
        expected = np.diff(integral) * count / 10
    else:
        expected = np.interp((np.arange(count) + 0.5) * 10 / count - 0.5, np.arange(10), values)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_whole_numbers_stay_exact():
    image = np.full((64, 64, 1), 201, np.uint8)
    weights = resampling_weights(0, 64, 9, 64)
    assert (resample(image, None, weights, weights)[0] == 201).all()
    bright = np.full((64, 64, 1), 65535, np.float32)
    weights = resampling_weights(0, 64, 16, 64)
    assert (resample(bright, None, weights, weights)[0] == 65535).all()
