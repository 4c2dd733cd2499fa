import os
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio._err import CPLE_AppDefinedError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from mmrs.geo.folders import RASTER_SUFFIXES
from mmrs.geo.headers import read_headers
from mmrs.geo.rasters import open_raster, read_image, read_label_map, require_all_blocks
from mmrs.utils.errors import DataError, UnreadableError, UnusableError

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


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
NO_AREA = dict(crs='EPSG:25832', transform=Affine(0.5, 0.5, 0.5, 0.5, 0.5, 0.5))


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def tagged(path, scale, offset):
    with rasterio.open(path, 'r+') as raster:
        raster.scales, raster.offsets = (scale,) * 3, (offset,) * 3


def of_type(path, dtype):
    with rasterio.open(path, 'w', driver='GTiff', width=8, height=8, count=1, dtype=dtype) as raster:
        raster.write(np.ones((1, 8, 8), np.complex64))


def headers(path):
    return read_headers([str(path)], False)


def corner(path):
    return read_image(path, None, (180, 180, 200, 200))


def scaled(path):
    return read_image(path, apply_scale=True)


@pytest.mark.parametrize(
    ('make', 'read', 'error', 'carried'),
    [
        (lambda p, w: w(p('.tif'), NOISE), lambda path: read_image(path, (4,)), DataError, r'has 3 bands, .*\[4\]'),
        (lambda p, w: w(p('.png'), NOISE), read_label_map, DataError, 'has 3 bands, but a label map .*color_masks'),
        (lambda p, w: p('.png').write_text('no image'), read_image, UnreadableError, 'cannot be read'),
        (lambda p, w: p('.png'), read_image, UnreadableError, 'no such file'),
        *(
            (lambda p, w, suffix=suffix, do=do: do(p(suffix)), read_image, UnreadableError, carried)
            for suffix in ('.png', '.tif')
            for do, carried in ((os.mkfifo, 'cannot be read .* it is no file'), (Path.touch, 'read .* it has 0 bytes'))
        ),
        *(
            (lambda p, w, suffix=suffix: cut(w(p(suffix), NOISE)), read, UnreadableError, 'cannot be read .*Restore')
            for suffix in ('.png', '.jpg', '.tif')
            for read in (read_image, corner)
        ),
        *(
            (lambda p, w, how=how: cut(w(p('.tif'), NOISE, **how), 0.75), corner, UnreadableError, 'cannot .*Restore')
            for how in (dict(compress='deflate'), dict(tiled=True), dict(tiled=True, compress='lzw'))
        ),
        *(
            (lambda p, w, kind=kind: of_type(p('.tif'), kind), read, UnusableError, rf'has complex numbers \({kind}\)')
            for kind in ('complex64', 'complex_int16')
            for read in (read_image, read_label_map)
        ),
        *(
            (lambda p, w, tags=tags: tagged(w(p('.tif'), NOISE), *tags), scaled, UnusableError, 'gives scale')
            for tags in ((0, 0), (np.nan, 0), (1, np.inf))
        ),
        (lambda p, w: w(p('.tif'), NOISE, **NO_AREA), headers, UnusableError, r'transform \(0\.5, .* have no area'),
    ],
)
def test_files_that_cannot_be_used(tmp_path, write, make, read, error, carried):
    paths = []

    def path(suffix):
        return paths.append(tmp_path / f'a{suffix}') or paths[-1]

    make(path, write)
    with pytest.raises(error, match=f'{paths[0].name}:? .*{carried}|{paths[0].name}: {carried}') as caught:
        read(paths[0])
    assert type(caught.value) is error


def test_png_with_bytes_behind_its_end_is_read(tmp_path, write, rng):
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    path = write(tmp_path / 'a.png', image)
    path.write_bytes(path.read_bytes() + b'trailer')
    np.testing.assert_array_equal(read_image(path)[0], image)


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


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize('stored', [{}, {'compress': 'deflate'}, {'tiled': True, 'blockxsize': 16, 'blockysize': 16}])
@pytest.mark.parametrize('bands', [None, (3, 1)])
def test_window_is_a_part_of_the_whole(tmp_path, write, rng, dtype, stored, bands):
    image = (rng.random((40, 50, 3)) * 200).astype(dtype)
    path = write(tmp_path / 'a.tif', image, **stored)
    read, valid = read_image(path, bands, (7, 5, 31, 40))
    assert valid is None
    assert read.flags.c_contiguous
    assert read.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(read, image[5:40, 7:31, [2, 0] if bands else slice(None)])


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_window_of_a_plain_image(tmp_path, write, rng, suffix):
    path = write(tmp_path / f'a{suffix}', rng.integers(0, 256, (20, 30, 3), np.uint8))
    np.testing.assert_array_equal(read_image(path, None, (3, 2, 13, 20))[0], read_image(path)[0][2:20, 3:13])


def shares(length: int, start: float, end: float, cells: int) -> np.ndarray:
    """Weights `(cells, length)` with which pixels contribute to equal cells between two places."""
    edges = np.linspace(start, end, cells + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(0) / np.diff(edges)[:, None]


@pytest.mark.parametrize(('grid_shape', 'window'), [((30, 45), (5, 3, 25, 30)), ((24, 37), (7, 2, 37, 24))])
def test_coarser_pixels_are_the_mean_of_what_they_cover(tmp_path, write, rng, grid_shape, window):
    image = rng.random((60, 90, 2)).astype(np.float32)
    read, valid = read_image(write(tmp_path / 'a.tif', image), None, window, grid_shape)
    rows = shares(60, 0, 60, grid_shape[0])[window[1] : window[3]]
    columns = shares(90, 0, 90, grid_shape[1])[window[0] : window[2]]
    np.testing.assert_allclose(read, np.einsum('ih,jw,hwc->ijc', rows, columns, image.astype(np.float64)), rtol=1e-5)
    assert valid is None


def test_finer_pixels_are_interpolated(tmp_path, write):
    """A plane stays a plane; pixel centres of a raster with 2.5 times as many pixels lie between those of the file."""
    row, column = np.mgrid[:20, :30] + 0.5
    path = write(tmp_path / 'a.tif', (3 * row + 7 * column)[..., None].astype(np.float32))
    read, _ = read_image(path, None, (10, 5, 60, 45), (50, 75))
    row, column = np.mgrid[5:45, 10:60] + 0.5
    np.testing.assert_allclose(read[..., 0], 3 * row / 2.5 + 7 * column / 2.5, rtol=1e-5)


def test_pixels_without_data_do_not_count_in_a_mean(tmp_path, write, rng):
    image = rng.random((8, 8, 1)).astype(np.float32)
    image[0, 0] = image[2:4, 2:4] = -9999
    read, valid = read_image(write(tmp_path / 'a.tif', image, nodata=-9999), None, (0, 0, 4, 4), (4, 4))
    assert np.argwhere(~valid).tolist() == [[1, 1]]
    np.testing.assert_allclose(read[0, 0, 0], (image[0, 1, 0] + image[1, 0, 0] + image[1, 1, 0]) / 3, rtol=1e-6)


def test_coarser_and_finer_label_maps(tmp_path, write):
    ids = np.array([[4, 4, 7, 7], [4, 9, 9, 7]], np.uint8)
    path = write(tmp_path / 'a.tif', ids)
    np.testing.assert_array_equal(read_label_map(path, (0, 0, 2, 1), (1, 2))[0], [[4, 7]])
    np.testing.assert_array_equal(
        read_label_map(path, (2, 0, 8, 4), (4, 8))[0], ids.repeat(2, axis=0).repeat(2, axis=1)[:, 2:]
    )


def test_alpha_band_is_a_mask_and_no_band(tmp_path, write, rng):
    image = rng.integers(1, 256, (6, 4, 4), np.uint8)
    image[2, 3, 3] = 0
    for path in (write(tmp_path / 'a.png', image), write(tmp_path / 'a.tif', image, alpha='yes')):
        for window in (None, (0, 0, 4, 6)):
            for bands in (None, (1, 2, 3)):
                read, valid = read_image(path, bands, window)
                assert read.shape == (6, 4, 3)
                assert np.argwhere(~valid).tolist() == [[2, 3]]
            read, valid = read_image(path, (4, 1), window)
            np.testing.assert_array_equal(read, image[..., [3, 0]])  # asked for as a band, it hides nothing
            assert valid is None


@pytest.mark.parametrize(
    ('dtype', 'opaque', 'nodata'),
    [(np.uint8, 255, 7), (np.uint16, 200, None), (np.uint16, 65535, None), (np.int16, 1, -9), (np.float32, 1, None)],
)
def test_alpha_band_of_any_type(tmp_path, rng, dtype, opaque, nodata):
    """GDAL itself makes no mask of most of these."""
    image = rng.integers(10, 200, (3, 6, 4)).astype(dtype)
    image[2] = opaque
    image[2, 1, 2] = 0
    if nodata is not None:
        image[:, 4, 3] = nodata
    path = tmp_path / 'a.tif'
    profile = dict(count=3, height=6, width=4, dtype=dtype, nodata=nodata, crs='EPSG:32633')
    with rasterio.open(path, 'w', transform=Affine(1, 0, 4e5, 0, -1, 5.8e6), **profile) as raster:
        raster.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
        raster.write(image)
    for window in (None, (0, 0, 4, 6)):
        read, valid = read_image(path, None, window)
        np.testing.assert_array_equal(read[valid], image[:2].transpose(1, 2, 0)[valid])
        assert np.argwhere(~valid).tolist() == [[1, 2]] + ([] if nodata is None else [[4, 3]])
    image[2] = 0
    with rasterio.open(path, 'r+') as raster:
        raster.write(image)
    assert read_headers([str(path)], find_empty=True)[0].empty


def test_mask_and_nodata(tmp_path, write):
    image = np.full((4, 5, 2), 3, np.int16)
    image[1, 2, 0] = -9
    path = write(tmp_path / 'a.tif', image, nodata=-9)
    with rasterio.open(path, 'r+') as raster:
        mask = np.ones((4, 5), bool)
        mask[3, 4] = False
        raster.write_mask(mask)
    assert np.argwhere(~read_image(path)[1]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize('internal', [True, False])
def test_mask_band(tmp_path, write, rng, internal):
    path = write(tmp_path / 'a.tif', rng.integers(0, 256, (20, 30, 3), np.uint16))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, 'r+') as raster:
        mask = np.full((20, 30), 255, np.uint8)
        mask[3:5, 7] = 0
        raster.write_mask(mask)
    assert (tmp_path / 'a.tif.msk').exists() is not internal
    for window, at in ((None, [[3, 7], [4, 7]]), ((5, 4, 30, 20), [[0, 2]])):
        assert np.argwhere(~read_image(path, None, window)[1]).tolist() == at


@pytest.mark.parametrize(
    ('dtype', 'nodata', 'lacking'),
    [
        (np.uint8, 0, [[0, 0]]),  # zero in one band is a dark pixel, in all it is none
        (np.uint16, 65535, [[0, 0]]),
        (np.int16, -32768, [[0, 0], [1, 1]]),  # outside of what data can be
        (np.float32, -9999, [[0, 0], [1, 1]]),
        (np.float32, np.nan, [[0, 0], [1, 1]]),
        (np.float64, np.finfo(np.float64).min, [[0, 0], [1, 1]]),  # infinite as a float32
    ],
)
def test_what_counts_as_nodata(tmp_path, write, rng, dtype, nodata, lacking):
    image = rng.integers(1, 200, (6, 4, 3)).astype(dtype)
    image[0, 0] = image[1, 1, 2] = nodata
    path = write(tmp_path / 'a.tif', image, nodata=nodata)
    for window in (None, (0, 0, 4, 6)):
        assert np.argwhere(~read_image(path, None, window)[1]).tolist() == lacking


def test_nodata_of_a_palette_image(tmp_path, write, rng):
    indices = rng.integers(0, 3, (6, 4)).astype(np.uint8)
    path = write(tmp_path / 'a.tif', indices, palette=PALETTE, nodata=1, photometric='palette')
    _, valid = read_image(path, None, (1, 0, 4, 6))
    np.testing.assert_array_equal(valid, indices[:, 1:] != 1)


def test_replaced_file_is_read_anew(tmp_path, write, rng):
    for _ in range(3):
        image = rng.integers(0, 256, (20, 30, 3), np.uint8)
        path = write(tmp_path / 'a.tif', image)
        np.testing.assert_array_equal(read_image(path, None, (0, 0, 30, 20))[0], image)


def test_open_raster_is_no_scapegoat_for_another(tmp_path, write, rng):
    """GDAL keeps its last complaint, here of a colour table that comes too late, and rasterio may raise it later."""
    image = rng.integers(1, 256, (20, 30, 4), np.uint8)
    path = write(tmp_path / 'a.tif', image, alpha='yes')
    read_image(path, None, (0, 0, 9, 9))
    ids = write(tmp_path / 'ids.tif', np.zeros((20, 30), np.uint8))
    read_label_map(ids, (0, 0, 9, 9))
    place = dict(crs='EPSG:32633', transform=Affine(1, 0, 5, 0, -1, 5))
    profile = dict(driver='GTiff', width=300, height=300, count=1, dtype='uint8', compress='deflate', **place)
    with rasterio.open(tmp_path / 'b.tif', 'w', **profile) as other:
        other.write(np.zeros((1, 300, 300), np.uint8))
        other.write_colormap(1, {0: (1, 2, 3)})
    np.testing.assert_array_equal(read_image(path, None, (3, 2, 9, 9))[0], image[2:9, 3:9, :3])
    read_label_map(ids, (0, 0, 9, 9))


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_blocks_of_a_file_that_was_just_written(tmp_path):
    path, values = tmp_path / 'a.tif', np.random.default_rng(0).integers(0, 255, (1, 600, 700), np.uint8)
    profile = dict(driver='GTiff', count=1, height=600, width=700, dtype='uint8', tiled=True, compress='deflate')
    with rasterio.open(path, 'w', **profile) as file:
        file.write(values)
    length = path.stat().st_size
    with rasterio.open(path) as file:
        require_all_blocks(file, length)
        with pytest.raises(OSError, match='not complete'):
            require_all_blocks(file, length - 1)
    with rasterio.open(path, 'w', sparse_ok=True, **profile) as file:
        file.write(values[:, :256], window=((0, 256), (0, 700)))
    with rasterio.open(path) as file, pytest.raises(OSError, match='not complete'):
        require_all_blocks(file, path.stat().st_size)


@pytest.mark.parametrize('suffix', RASTER_SUFFIXES)
def test_no_image_is_a_pointer_to_other_files_or_to_the_network(suffix, tmp_path, write):
    """GDAL goes by the content, and a virtual raster is a text that names files and addresses."""
    write(tmp_path / 'secret.png', np.full((8, 8, 1), 7, np.uint8))
    virtual = (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename>{tmp_path}/secret.png</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        '</VRTRasterBand></VRTDataset>'
    )
    server = (
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/${z}/${x}/${y}.png</ServerUrl></Service>'
        '<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0'
        '</LowerRightY><TileLevel>1</TileLevel></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>'
    )
    for text in (virtual, server):
        path = tmp_path / f'image{suffix}'
        path.write_text(text)
        for read in (read_image, read_label_map, lambda path: read_image(path, window=(0, 0, 2, 2))):
            with pytest.raises(UnreadableError, match=rf'image{suffix} cannot be read as an image'):
                read(path)
    # Who names one by its own suffix wants one.
    (tmp_path / 'mosaic.vrt').write_text(virtual)
    assert (read_image(tmp_path / 'mosaic.vrt')[0] == 7).all()


def test_formats_are_known_by_their_content(tmp_path, write):
    image = np.full((8, 8, 3), 7, np.uint8)
    write(tmp_path / 'a.png', image).rename(tmp_path / 'a.tif')
    assert np.array_equal(read_image(tmp_path / 'a.tif')[0], image)


def test_pixels_of_a_virtual_raster_are_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv('GDAL_VRT_ENABLE_PYTHON', 'YES')
    (tmp_path / 'a.vrt').write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python'
        "</PixelFunctionLanguage><PixelFunctionCode><![CDATA[\ndef f(*args, **kwargs):\n    open('"
        f"{tmp_path}/attacked', 'w')\n]]></PixelFunctionCode></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UnreadableError, match='cannot be read as an image'):
        read_image(tmp_path / 'a.vrt')
    assert not (tmp_path / 'attacked').exists()


def tiff(width, height, *, strip=(0, 0), rows=None, bits=8):
    """The bytes of a TIFF of one band: its header, and one strip that is said to be at (place, length)."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, strip[0])]
    entries += [(277, 3, 1), (278, 4, rows or height), (279, 4, strip[1])]
    table = b''.join(struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in entries)
    return b'II*\0' + struct.pack('<IH', 8, len(entries)) + table + bytes(4)


@pytest.mark.parametrize(
    'content',
    [
        tiff(2**31 - 1, 2**31 - 1),
        tiff(2**31 - 1, 2, strip=(8, 100)),
        tiff(2**20, 2**20, strip=(8, 2**31), rows=1),
        tiff(2**17, 2**17, strip=(0, 0), bits=64),
        tiff(60000, 60000, strip=(8, 114)),
    ],
)
def test_a_small_file_that_says_it_is_huge(content, tmp_path):
    path = tmp_path / 'huge.tif'
    path.write_bytes(content)
    for read in (read_image, read_label_map, lambda path: read_headers([str(path)], True)):
        with pytest.raises((OSError, DataError), match=r'huge\.tif'):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6  # kB


def test_more_pixels_than_memory(tmp_path, monkeypatch):
    path = tmp_path / 'a.tif'
    with rasterio.open(path, 'w', driver='GTiff', width=64, height=50, count=3, dtype='int16') as raster:
        raster.write(np.ones((3, 50, 64), np.int16))
    monkeypatch.setattr('os.sysconf', lambda name: {'SC_PAGE_SIZE': 1, 'SC_PHYS_PAGES': 2 * 50 * 64 * 3 * 4 - 1}[name])
    with pytest.raises(DataError, match=r'a\.tif says that it has 64 x 50 pixels .* read it by window'):
        read_image(path)
    assert read_image(path, window=(0, 0, 64, 49))[0].shape == (49, 64, 3)


def test_a_geotiff_that_has_lost_the_table_of_its_blocks(tmp_path):
    """GDAL reads zeros from it; which are fine where the file says that they are no data."""
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff(16, 16))
    for read in (read_image, read_label_map, lambda path: read_image(path, window=(0, 0, 4, 4))):
        with pytest.raises(
            UnreadableError, match=r'a\.tif cannot be read as an image: its blocks of pixels are missing'
        ):
            read(path)
    profile = dict(driver='GTiff', width=16, height=16, count=1, dtype='uint8', nodata=0, SPARSE_OK=True)
    with rasterio.open(tmp_path / 'b.tif', 'w', **profile):
        pass
    assert not read_image(tmp_path / 'b.tif')[1].any()


@pytest.mark.parametrize(
    'error', [CPLE_AppDefinedError(3, 1, 'no such key'), UnicodeDecodeError('utf-8', b'a', 0, 1, 'no')]
)
def test_errors_that_rasterio_lets_through(error, tmp_path, write, monkeypatch):
    """Of GDAL's own, and about names that are no text; arbitrary bytes lead to both, see tests/test_fuzz."""

    def fail(*_, **__):
        raise error

    path = write(tmp_path / 'a.tif', np.ones((8, 8, 1), np.uint8))
    monkeypatch.setattr('mmrs.geo.rasters.DatasetReader', fail)
    with pytest.raises(UnreadableError, match=r'a\.tif cannot be read as an image: .*no.*Restore the file'):
        read_image(path)


@pytest.fixture
def reflectance(tmp_path, write, rng):
    """Sentinel-2 before and after its offset of -0.1 was brought in; and what both files say."""
    values = rng.integers(100, 3000, (24, 32, 2)).astype(np.uint16)
    values[3:6, 4:8] = 0
    names = ('old.tif', 0, 0.0), ('new.tif', 1000, -0.1)
    for name, added, offset in names:
        path = write(tmp_path / name, np.where(values > 0, values + np.uint16(added), 0).astype(np.uint16), nodata=0)
        with rasterio.open(path, 'r+') as raster:
            raster.scales, raster.offsets = (1e-4, 2e-4), (offset, 2 * offset)
    return tmp_path, values * np.array([1e-4, 2e-4]), (values > 0).all(axis=2)


@pytest.mark.parametrize('name', ['old.tif', 'new.tif'])
def test_scale_and_offset(reflectance, name):
    folder, expected, shown = reflectance
    for window, grid_shape in (
        (None, None),
        ((0, 0, 32, 24), None),
        ((0, 0, 16, 12), (12, 16)),
        ((0, 0, 64, 48), (48, 64)),
    ):
        image, valid = read_image(folder / name, None, window, grid_shape, apply_scale=True)
        assert image.dtype == np.float32
        if image.shape[0] == 24:
            np.testing.assert_allclose(image[valid], expected[shown], atol=1e-6)
            np.testing.assert_array_equal(valid, shown)
        if image.shape[0] == 12:
            number = shown.reshape(12, 2, 16, 2).sum(axis=(1, 3))
            total = np.where(shown[..., None], expected, 0).reshape(12, 2, 16, 2, 2).sum(axis=(1, 3))
            means = total[number > 0] / number[number > 0][:, None]
            np.testing.assert_allclose(image[number > 0], means, atol=1e-6)
    image, _ = read_image(folder / name, [2], apply_scale=True)
    np.testing.assert_allclose(image[shown, 0], expected[shown, 1], atol=1e-6)
    assert read_image(folder / name)[0].max() > 100  # as it is in the file


def test_bytes_with_a_scale_become_numbers_and_colours_stay(tmp_path, write, rng):
    values = rng.integers(0, 256, (6, 4, 1), np.uint8)
    for name, palette in (('a.tif', None), ('b.tif', PALETTE)):
        values = values % 3 if palette else values
        path = write(tmp_path / name, values, palette=palette, photometric='palette' if palette else 'minisblack')
        with rasterio.open(path, 'r+') as raster:
            raster.scales, raster.offsets = (0.5,), (-3,)
        image, _ = read_image(path, apply_scale=True)
        if palette:
            assert image.dtype == np.uint8
            np.testing.assert_array_equal(image, read_image(path)[0])
        else:
            np.testing.assert_array_equal(image, values * np.float32(0.5) - 3)
