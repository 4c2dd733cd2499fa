import io
import re
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from rasterio.transform import Affine

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.datasets.transforms import LoadRasterAnnotations, LoadRasterImage, PackRasterInputs
from mmrs.geo import orientation
from mmrs.geo.rasters import open_raster, read_image
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import load_recipe
from mmrs.utils.errors import DataError

SUFFIXES = ('.jpg', '.png', '.tif', '.webp')


@pytest.fixture
def scene(rng):
    return rng.integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # 48 x 32 pixels


def save(path, pixels, tag):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x112] = tag
    lossless = dict(lossless=True) if path.suffix == '.webp' else {}
    image.save(path, **(dict(tiffinfo={0x112: tag}) if path.suffix == '.tif' else dict(exif=exif, **lossless)))
    return path


def shown(path):
    """What a viewer shows, by Pillow."""
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))


def check(read, expected, suffix):
    """Decoders differ where colours are compressed; blocks of noise turned the wrong way are 85 apart."""
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() <= (8 if suffix in ('.jpg', '.webp') else 0)


@pytest.mark.parametrize('tag', range(2, 9))
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_an_image_that_viewers_turn_is_refused_with_both_sizes(tmp_path, scene, suffix, tag):
    path = save(tmp_path / f'a{suffix}', scene, tag)
    height, width = shown(path).shape[:2]
    with pytest.raises(DataError, match=rf'a{suffix} is stored .* 48 x 32 .* is {tag}, .* show {width} x {height} '):
        read_image(path)


@pytest.mark.parametrize('tag', [0, 1, 9])
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_an_upright_image_is_read(tmp_path, scene, suffix, tag):
    path = save(tmp_path / f'a{suffix}', scene, tag)
    check(read_image(path)[0], np.asarray(Image.open(path).convert('RGB')), suffix)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_the_command_of_the_message_turns_the_pixels(tmp_path, scene, suffix):
    paths = [save(tmp_path / f'{tag}{suffix}', scene, tag) for tag in (3, 6)]
    before = [shown(path) for path in paths]
    with pytest.raises(DataError) as caught:
        read_image(paths[0])
    code = re.search(r'`python -c "(.*)" FILE \.\.\.`', str(caught.value))[1]
    subprocess.run([sys.executable, '-c', code, *map(str, paths)], check=True)
    for path, expected in zip(paths, before):
        check(read_image(path)[0], expected, suffix)


def test_a_georeferenced_image_counts_as_it_is_stored(tmp_path, scene):
    path = save(tmp_path / 'a.tif', scene, 6)
    with rasterio.open(path, 'r+') as raster:
        raster.transform = Affine(0.5, 0, 400000, 0, -0.5, 5800000)
    assert Image.open(path).getexif()[0x112] == 6
    np.testing.assert_array_equal(read_image(path)[0], scene)


def test_a_jpeg_in_a_zip_file(tmp_path, scene):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        archive.write(save(tmp_path / 'a.jpg', scene, 8), 'a.jpg')
    with pytest.raises(DataError, match='EXIF orientation is 8'), open_raster(f'/vsizip/{tmp_path}/a.zip/a.jpg'):
        pass


def test_a_png_with_the_tag_behind_its_pixels(tmp_path, scene):
    path = tmp_path / 'a.png'
    Image.fromarray(scene).save(path)
    exif = struct.pack('>2sHIHHHIHHI', b'MM', 42, 8, 1, 0x112, 3, 1, 5, 0, 0)
    chunk = struct.pack('>I', len(exif)) + b'eXIf' + exif + struct.pack('>I', zlib.crc32(b'eXIf' + exif))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    assert Image.open(path).getexif()[0x112] == 5
    with pytest.raises(DataError, match='show 32 x 48 pixels'):
        read_image(path)


def test_all_kinds_of_tiff():
    """Both byte orders, and BigTIFF; by the specification of the format."""
    for order, mark in (('<', b'II'), ('>', b'MM')):
        entries = [struct.pack(f'{order}HHIHH', name, 3, 1, value, 0) for name, value in ((0x100, 9), (0x112, 7))]
        data = struct.pack(f'{order}2sHIH', mark, 42, 8, 2) + b''.join(entries)
        assert orientation._tiff_orientation(io.BytesIO(data)) == 7
        entries = [struct.pack(f'{order}HHQHHI', name, 3, 1, value, 0, 0) for name, value in ((0x100, 9), (0x112, 4))]
        data = struct.pack(f'{order}2sHHHQQ', mark, 43, 8, 0, 16, 2) + b''.join(entries)
        assert orientation._tiff_orientation(io.BytesIO(data)) == 4


def test_a_file_is_opened_for_the_tag_once(tmp_path, scene, monkeypatch):
    path = save(tmp_path / 'a.png', scene, 1)
    read_image(path)
    monkeypatch.setattr(orientation, '_png_exif', None)
    read_image(path)


RECIPE = """
classes:
  - {name: dark, color: '#000000'}
  - {name: light, color: '#FFFFFF'}
"""


@pytest.fixture(params=['images/a.jpg', 'masks/a.png'])
def pair(request, tmp_path, scene):
    """An image and its mask, one of which is turned."""
    mask = np.where(scene[..., :1] > 127, 255, 0).repeat(3, 2).astype(np.uint8)
    for name, pixels in (('images/a.jpg', scene), ('masks/a.png', mask)):
        save(tmp_path / name, pixels, 3 if name == request.param else 1)
    (tmp_path / 'c.yaml').write_text(RECIPE)
    return tmp_path, request.param


def test_converter_and_data_sets_refuse_a_turned_image_or_mask(pair):
    folder, turned = pair
    with pytest.raises(DataError, match=turned):
        Conversion(load_recipe(folder / 'c.yaml'), folder, folder / 'out').run()
    options = dict(
        data_root=str(folder),
        classes_file='c.yaml',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        pipeline=[LoadRasterImage(), LoadRasterAnnotations(), PackRasterInputs()],
    )
    with pytest.raises(DataError, match=turned):
        RasterDataset(**options)
    with pytest.raises(DataError, match=turned):
        RemoteSensingDataset(**options)[0]
