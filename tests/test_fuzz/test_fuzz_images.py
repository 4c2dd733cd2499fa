"""Any bytes as an image or a label map give an array or an error of ours."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import rasterio
from hypothesis import given, reject
from hypothesis import strategies as st
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from mmrs.datasets import RasterDataset
from mmrs.datasets.transforms.loading import LoadRasterAnnotations, LoadRasterImage
from mmrs.geo.headers import read_headers
from mmrs.geo.rasters import read_image, read_label_map
from tests.fuzzing import broken, ours

KINDS = ('png', 'palette.png', 'jpg', 'deflate.tif', 'tiled.tif', 'plain.tif', 'float.tif', 'alpha.tif', 'jpeg.tif')


@cache
def image_file(kind: str) -> bytes:
    """A small valid file: 3 bands of uint8 where the kind says nothing else; no pixel is 0."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 255, (3, 40, 48), np.uint8)
    suffix = kind.split('.')[-1]
    if suffix != 'tif':
        file = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        image = image.quantize(8) if kind == 'palette.png' else image
        image.save(file, {'png': 'PNG', 'jpg': 'JPEG'}[suffix])
        return file.getvalue()
    options = {
        'deflate.tif': dict(compress='deflate', predictor=2),
        'tiled.tif': dict(compress='lzw', tiled=True, blockxsize=16, blockysize=16),
        'plain.tif': dict(nodata=0),
        'float.tif': dict(dtype='float32', nodata=-9999, compress='deflate'),
        'alpha.tif': dict(photometric='RGB', alpha='YES', count=4),
        'jpeg.tif': dict(compress='jpeg', photometric='YCBCR', tiled=True, blockxsize=16, blockysize=16),
    }[kind]
    profile = dict(dict(driver='GTiff', width=48, height=40, count=3, dtype='uint8'), **options)
    place = dict(crs='EPSG:25832', transform=rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5))
    with MemoryFile() as file:
        with file.open(**profile, **place) as raster:
            raster.write(np.concatenate([pixels, pixels[:1]])[: profile['count']].astype(profile['dtype']))
        return file.read()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
@given(data=st.data())
def test_broken_images(kind, folder, data):
    content = data.draw(broken(st.just(image_file(kind))))
    path = folder / f'image.{kind}'
    path.write_bytes(content)
    with ours():
        image, valid = read_image(path)
        assert image.ndim == 3
        assert image.dtype in (np.uint8, np.float32)
        assert np.isfinite(image).all()
        assert valid is None or valid.shape == image.shape[:2]
    with ours():
        read_image(path, window=(3, 5, 20, 21))
    with ours():
        read_label_map(path)
    with ours():
        read_headers([str(path)], True)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
@given(data=st.data())
def test_a_cut_file_is_never_read_as_something_else(kind, folder, data):
    whole = image_file(kind)
    length = data.draw(st.integers(0, len(whole) - 1))
    path = folder / f'whole.{kind}'
    path.write_bytes(whole)
    expected, _ = read_image(path)
    path = folder / f'cut.{kind}'
    path.write_bytes(whole[:length])
    for read in (lambda: read_image(path), lambda: read_image(path, window=(0, 0, 48, 40))):
        with ours():
            image, _ = read()
            assert np.array_equal(image, expected), 'what is missing was made up'


DTYPES = ['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'uint64', 'int64', 'float32', 'float64']
DTYPES += ['complex64', 'complex_int16']
transforms = st.tuples(*[st.sampled_from([0.5, -0.5, 0.0, 1e-9, 1e9, 3e5])] * 6).map(lambda six: Affine(*six))
specials = st.sampled_from([0, 1, 255, -1, -9999, 65535, 1e38, -1e300, float('nan'), float('inf')])


@st.composite
def rasters(draw):
    """GeoTIFFs of any type, size and place: (pixels, rasterio's profile, the palette or None)."""
    dtype = draw(st.sampled_from(DTYPES))
    count, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    profile = dict(driver='GTiff', count=count, height=height, width=width, dtype=dtype)
    profile.update(
        draw(
            st.fixed_dictionaries(
                {},
                optional=dict(
                    nodata=specials,
                    crs=st.sampled_from(
                        ['EPSG:25832', 'EPSG:4326', 'EPSG:3857', 'EPSG:32661', 'LOCAL_CS["here",UNIT["metre",1]]']
                    ),
                    transform=transforms,
                    compress=st.sampled_from(['deflate', 'lzw', 'packbits']),
                    interleave=st.sampled_from(['band', 'pixel']),
                    nbits=st.sampled_from([1, 4, 7]),
                ),
            )
        )
    )
    pixels = (
        np.random.default_rng(draw(st.integers(0, 9)))
        .integers(0, 4, (count, height, width))
        .astype(dtype if dtype != 'complex_int16' else 'complex64')
    )
    if pixels.dtype.kind == 'f':
        pixels.flat[:: draw(st.integers(1, 50))] = draw(specials)
    palette = draw(st.none() | st.just({index: (index, 2, 3, 255) for index in range(3)}))
    return pixels, profile, palette if dtype == 'uint8' and count == 1 else None


@pytest.mark.filterwarnings('ignore')
@given(raster=rasters())
def test_any_raster(folder, raster):
    pixels, profile, palette = raster
    (folder / 'images').mkdir(exist_ok=True)
    path = folder / 'images' / 'any.tif'
    try:
        with rasterio.open(path, 'w', **profile) as file:
            file.write(pixels)
            if palette is not None:
                file.write_colormap(1, palette)
    except (rasterio.errors.RasterioError, ValueError, TypeError, OverflowError):
        reject()  # no such file can be written
    sample = dict(img_path=str(path), seg_map_path=str(path), classes=list('abc'), reduce_zero_label=False)
    with ours():
        image = LoadRasterImage().transform(dict(sample))['img']
        assert image.shape[:2] == pixels.shape[1:]
        assert np.isfinite(image).all()
    with ours():
        labels = LoadRasterAnnotations().transform(dict(sample))['gt_seg_map']
        assert set(np.unique(labels)) <= {0, 1, 2, 255}
    with ours():
        found = RasterDataset(
            data_root=str(folder),
            data_prefix=dict(img_path='images', seg_map_path='images'),
            metainfo=dict(classes=list('abc')),
            windows=dict(size=8),
            pipeline=[LoadRasterImage(), LoadRasterAnnotations()],
            gsd=raster[1]['count'] - 1 or None,
        )
        assert found[0]['img'].shape[2] in (pixels.shape[0], pixels.shape[0] - 1, 3)
