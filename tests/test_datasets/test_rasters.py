import warnings

import numpy as np
import pytest
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from mmrs.datasets.rasters import list_rasters, open_raster, read_image, read_label_map

PALETTE = {0: (10, 20, 30), 1: (40, 50, 60), 2: (0, 0, 0)}


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_bands_keep_the_order_of_the_file(tmp_path, write, rng, suffix):
    image = rng.integers(0, 256, (7, 5, 3), np.uint8)
    read, valid = read_image(write(tmp_path / f'a{suffix}', image))
    np.testing.assert_array_equal(read, image)
    assert read.flags.c_contiguous
    assert read.dtype == np.uint8
    assert valid is None


def test_jpg_is_read_in_rgb(tmp_path, write):
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    read, _ = read_image(write(tmp_path / 'a.JPG', image, quality=95))
    assert read[..., 0].mean() > 190
    assert read[..., 2].mean() < 10


@pytest.mark.parametrize(('count', 'bands'), [(1, None), (2, None), (6, None), (6, (5, 1))])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_any_number_and_type_of_bands(tmp_path, write, rng, count, bands, dtype):
    image = (rng.random((7, 5, count)) * 200).astype(dtype)
    path = write(tmp_path / 'a.tif', image, **({'photometric': 'minisblack'} if dtype == np.uint8 else {}))
    read, _ = read_image(path, bands)
    assert read.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(read, image if bands is None else image[..., [4, 0]])


def test_missing_band_is_an_error(tmp_path, write, rng):
    path = write(tmp_path / 'a.tif', rng.integers(0, 9, (4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r'a\.tif has 3 bands, numbered from 1; bands \[4\] were asked for'):
        read_image(path, (4,))


def test_palette_image_becomes_rgb_but_palette_label_map_stays_ids(tmp_path, write, rng):
    indices = rng.integers(0, 3, (6, 4)).astype(np.uint8)
    path = write(tmp_path / 'a.png', indices, palette=PALETTE)
    image, _ = read_image(path)
    np.testing.assert_array_equal(image, np.array(list(PALETTE.values()), np.uint8)[indices])
    np.testing.assert_array_equal(read_image(path, (3, 1))[0], image[..., [2, 0]])
    np.testing.assert_array_equal(read_label_map(path)[0], indices)


def test_pixels_without_data_are_reported_and_hold_the_mean(tmp_path, write, rng):
    image = rng.random((6, 4, 2)).astype(np.float32)
    image[0, 0] = -9999
    image[1, 1, 0] = np.nan
    read, valid = read_image(write(tmp_path / 'a.tif', image, nodata=-9999))
    assert [tuple(p) for p in np.argwhere(~valid)] == [(0, 0), (1, 1)]
    np.testing.assert_allclose(read[0, 0], image[valid].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(read[1, 1], image[valid].mean(axis=0), rtol=1e-6)


def test_image_without_any_data(tmp_path, write):
    read, valid = read_image(write(tmp_path / 'a.tif', np.full((3, 3, 1), np.nan, np.float32)))
    assert not valid.any()
    assert not read.any()


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
def test_cut_file_is_an_error_and_not_black(tmp_path, write, rng, suffix):
    path = write(tmp_path / f'cut{suffix}', rng.integers(0, 256, (200, 200, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match=rf'cut{suffix} cannot be read as an image: .*Restore the file'):
        read_image(path)


def test_png_with_bytes_behind_its_end_is_read(tmp_path, write, rng):
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    path = write(tmp_path / 'a.png', image)
    path.write_bytes(path.read_bytes() + b'trailer')
    np.testing.assert_array_equal(read_image(path)[0], image)


def test_no_image_and_no_file(tmp_path):
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(OSError, match=r'text\.png cannot be read as an image'):
        read_image(tmp_path / 'text.png')
    with pytest.raises(FileNotFoundError, match=r'none\.png: no such file'):
        read_image(tmp_path / 'none.png')


def test_label_map_with_several_bands_is_an_error(tmp_path, write, rng):
    path = write(tmp_path / 'a.png', rng.integers(0, 9, (4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r'a\.png has 3 bands, but a label map has one .*color_masks'):
        read_label_map(path)


def test_missing_georeference_warns_for_geotiffs_alone(tmp_path, write, rng):
    image = rng.integers(0, 9, (4, 4, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_image(write(tmp_path / 'a.png', image))
        read_image(write(tmp_path / 'a.jpg', image))
    with pytest.warns(NotGeoreferencedWarning), open_raster(write(tmp_path / 'a.tif', image, transform=None)):
        pass


def test_georeference_beside_a_png_is_found(tmp_path, write, rng):
    transform = Affine(0.05, 0, 366676, 0, -0.05, 5808615)
    path = write(tmp_path / 'a.png', rng.integers(0, 9, (4, 4, 3), np.uint8), crs='EPSG:32633', transform=transform)
    with open_raster(path) as raster:
        assert raster.crs.to_epsg() == 32633
        assert raster.transform.almost_equals(transform)


def test_list_rasters(tmp_path):
    for name in ('b.png', 'sub/a.TIF', 'c.d.jpeg', 'c.d.jpeg.aux.xml', 'notes.txt', '.b.png.123.part', '.hidden.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_rasters(tmp_path) == {'b': 'b.png', 'c.d': 'c.d.jpeg', 'sub/a': 'sub/a.TIF'}
    assert list_rasters(tmp_path, ('.d.jpeg',)) == {'c': 'c.d.jpeg'}
    (tmp_path / 'b.tif').touch()
    with pytest.raises(ValueError, match=r'holds both b\.(png|tif) and b\.(png|tif), which differ by their suffixes'):
        list_rasters(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        list_rasters(tmp_path / 'nowhere')


def test_transparent_pixels_hold_no_data(tmp_path, write, rng):
    image = rng.integers(0, 256, (6, 4, 4), np.uint8)
    image[..., 3] = 255
    image[2, 3, 3] = 0
    read, valid = read_image(write(tmp_path / 'a.png', image), (1, 2, 3))
    assert read.shape == (6, 4, 3)
    assert np.argwhere(~valid).tolist() == [[2, 3]]
