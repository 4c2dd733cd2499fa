import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from mmrs.geo.cutting import cut_raster
from mmrs.geo.rasters import read_image
from mmrs.utils.errors import OutputError, UnreadableError

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')

UTM = dict(crs='EPSG:32633', transform=Affine(8, 6, 500000, 6, -8, 5600000))
WINDOW = (3, 2, 11, 7)


def write(path, pixels, mask=None, colormap=None, **profile):
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, 'w', driver='GTiff', count=len(pixels), height=pixels.shape[1], width=pixels.shape[2],
            dtype=pixels.dtype, **profile,
        ) as raster,
    ):  # fmt: skip
        raster.write(pixels)
        if colormap:
            raster.write_colormap(1, colormap)
        if mask is not None:
            raster.write_mask(mask)
    return path


@pytest.mark.parametrize('kind', ['uint8', 'uint16', 'float32'])
def test_a_part_has_the_same_values_at_the_same_places(tmp_path, rng, kind):
    pixels = rng.integers(0, 200, (5, 12, 15)).astype(kind)
    path = write(tmp_path / 'whole.tif', pixels, nodata=7, **UTM)
    with rasterio.open(path, 'r+') as raster:
        raster.descriptions, raster.scales, raster.offsets = list('abcde'), [2.0] * 5, [1.0] * 5
    out = tmp_path / 'deep' / 'part.tif'
    cut_raster(path, WINDOW, out)
    with rasterio.open(path) as whole, rasterio.open(out) as part:
        np.testing.assert_array_equal(part.read(), pixels[:, 2:7, 3:11])
        assert (part.crs, part.nodata, part.descriptions, part.scales) == (whole.crs, 7, tuple('abcde'), (2.0,) * 5)
        assert part.colorinterp == whole.colorinterp
        for column, row in ((0, 0), (8, 5), (2, 3)):
            assert part.xy(row, column) == pytest.approx(whole.xy(row + 2, column + 3))
    before = read_image(path, window=WINDOW)
    after = read_image(out)
    np.testing.assert_array_equal(after[0], before[0])
    assert (before[1] is None) == (after[1] is None)
    with pytest.raises(OutputError, match=r'part\.tif exists'):
        cut_raster(path, WINDOW, out)
    cut_raster(path, (0, 0, 2, 2), out, overwrite=True)
    with rasterio.open(out) as part:
        assert part.shape == (2, 2)


def test_masks_palettes_and_transparency_stay(tmp_path, rng):
    mask = rng.integers(0, 2, (12, 15)).astype(np.uint8) * 255
    pixels = rng.integers(0, 4, (3, 12, 15)).astype(np.uint8)
    colours = {i: (10 * i, 20, 30, 255) for i in range(4)}
    alpha = dict(photometric='rgb', alpha='yes')
    for name, path in dict(
        mask=write(tmp_path / 'mask.tif', pixels, mask, **UTM),
        palette=write(tmp_path / 'palette.tif', pixels[:1], colormap=colours, **UTM),
        alpha=write(tmp_path / 'alpha.tif', np.concatenate([pixels, mask[None]]), **alpha, **UTM),
        nowhere=write(tmp_path / 'nowhere.tif', pixels),
    ).items():
        out = tmp_path / f'{name}_part.tif'
        cut_raster(path, WINDOW, out)
        (image, valid), (part, own) = read_image(path, window=WINDOW), read_image(out)
        np.testing.assert_array_equal(image, part)
        if name in ('mask', 'alpha'):
            np.testing.assert_array_equal(own, mask[2:7, 3:11] == 255)
            np.testing.assert_array_equal(own, valid)
        with rasterio.open(out) as raster:
            assert (raster.crs is None) == (name == 'nowhere')
            assert (ColorInterp.alpha in raster.colorinterp) == (name == 'alpha')
    assert not list(tmp_path.glob('*.msk'))


def test_four_bands_are_no_transparency(tmp_path, rng):
    path = write(tmp_path / 'rgbn.tif', rng.integers(0, 255, (4, 9, 9)).astype(np.uint8), photometric='rgb', alpha='no')
    cut_raster(path, (0, 0, 4, 4), tmp_path / 'part.tif')
    assert read_image(tmp_path / 'part.tif')[0].shape == (4, 4, 4)


def test_what_cannot_be_read_leaves_nothing(tmp_path):
    (tmp_path / 'broken.tif').write_bytes(b'no raster')
    with pytest.raises(UnreadableError, match='broken'):
        cut_raster(tmp_path / 'broken.tif', WINDOW, tmp_path / 'part.tif')
    assert [path.name for path in tmp_path.iterdir()] == ['broken.tif']
