import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from mmrs.geo.rasters import open_raster, read_image
from mmrs.geo.windows import clip_origins
from mmrs.preparation.converters.clips import (
    check_clipping,
    clip_grid,
    georeference,
    read_clip,
    write_raster,
)
from mmrs.utils.errors import ConfigError, OutputError

PLACE = dict(crs='EPSG:4326', transform=rasterio.Affine(1, 0, 0, 0, -1, 0))


@pytest.mark.parametrize(
    ('length', 'size', 'stride', 'drop', 'shift'),
    [
        (10, 4, 4, [0, 4], [0, 4, 6]),
        (8, 4, 4, [0, 4], [0, 4]),
        (9, 4, 2, [0, 2, 4], [0, 2, 4, 5]),
        (4, 4, 4, [0], [0]),
        (3, 4, 4, [], []),
    ],
)
def test_origins(length, size, stride, drop, shift):
    assert clip_origins(length, size, stride, 'drop') == drop
    assert clip_origins(length, size, stride, 'shift') == shift


def test_grid_goes_row_by_row_and_names_the_corners():
    assert [str(clip) for clip in clip_grid(5, 4, 2, 2, 'drop')] == ['0_0_2_2', '2_0_4_2', '0_2_2_4', '2_2_4_4']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((0, 1, 'drop'), 'clip_size is 0'),
        ((4, 0, 'drop'), 'stride is 0'),
        ((4, 5, 'drop'), 'stride is 5; .* 4'),
        ((4, 4, 'pad'), "edge is 'pad'; one of drop, shift"),
    ],
)
def test_clipping_that_makes_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_clipping(*arguments)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_clip_keeps_pixels_and_place(tmp_path, write, rng, suffix):
    image = rng.integers(0, 256, (30, 40, 3), np.uint8)
    clip = clip_grid(40, 30, 10, 10, 'drop')[5]
    path = tmp_path / f'clip{suffix}'
    with open_raster(write(tmp_path / 'a.tif', image)) as raster:
        write_raster(path, read_clip(raster, clip), **georeference(raster, clip))
        corner = raster.xy(clip.y0, clip.x0, offset='ul')
    np.testing.assert_array_equal(read_image(path)[0], image[10:20, 10:20])
    with open_raster(path) as raster:
        assert raster.crs.to_epsg() == 32633
        assert (raster.transform.c, raster.transform.f) == pytest.approx(corner)
        assert raster.res == pytest.approx((0.05, 0.05))
    assert not list(tmp_path.glob('.*'))


def test_no_georeference_no_sidecar(tmp_path, write, rng):
    with open_raster(write(tmp_path / 'a.png', rng.integers(0, 9, (4, 4), np.uint8))) as raster:
        assert georeference(raster) == {}
        write_raster(tmp_path / 'b.png', raster.read(1))
    assert {path.name for path in tmp_path.iterdir()} == {'a.png', 'b.png'}


def test_nodata_survives_in_a_geotiff(tmp_path, rng):
    write_raster(tmp_path / 'a.tif', rng.random((2, 4, 4)), nodata=-1, **PLACE)
    with open_raster(tmp_path / 'a.tif') as raster:
        assert (raster.nodata, raster.count, raster.dtypes[0]) == (-1, 2, 'float64')


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_nothing_half_written_stays(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    with pytest.raises(OutputError, match=rf'a\{suffix} cannot be written'):
        write_raster(path, np.zeros((4, 4), np.complex64 if suffix == '.png' else np.bool_), **PLACE)
    path.mkdir()
    with pytest.raises(OutputError, match=rf'a\{suffix} is a folder'):
        write_raster(path, np.zeros((4, 4), np.uint8), nodata=0, **PLACE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_pixels_without_data_in_several_bands(tmp_path, rng, suffix):
    image = rng.integers(0, 3, (3, 20, 20), np.uint8)
    write_raster(tmp_path / f'a{suffix}', image, nodata=0)
    with open_raster(tmp_path / f'a{suffix}', quiet=True) as raster:
        np.testing.assert_array_equal(raster.read(), image)
    np.testing.assert_array_equal(read_image(tmp_path / f'a{suffix}')[1], (image != 0).any(axis=0))


def test_a_fourth_band_is_no_transparency_unless_said(tmp_path, rng):
    image = rng.integers(0, 256, (4, 20, 20), np.uint8)
    write_raster(tmp_path / 'a.tif', image, **PLACE)
    assert read_image(tmp_path / 'a.tif')[0].shape == (20, 20, 4)
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    write_raster(tmp_path / 'b.tif', image, colorinterp=colours, **PLACE)
    with open_raster(tmp_path / 'b.tif') as raster:
        assert raster.colorinterp == colours
