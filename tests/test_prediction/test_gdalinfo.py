"""What gdalinfo says of a map, beside what it says of the raster: it is a function of the GDAL that rasterio brings."""

import ctypes
from pathlib import Path

import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from tests.test_prediction.conftest import smooth, write


@pytest.fixture(scope='module')
def gdalinfo():
    libraries = sorted(Path(rasterio.__file__).parents[1].glob('rasterio.libs/libgdal*.so*'))
    if not libraries:
        pytest.skip('rasterio has no GDAL library of its own here')
    gdal = ctypes.CDLL(str(libraries[0]))
    gdal.GDALOpen.restype = gdal.GDALInfoOptionsNew.restype = ctypes.c_void_p
    gdal.GDALInfo.restype = ctypes.c_char_p
    gdal.GDALOpen.argtypes = [ctypes.c_char_p, ctypes.c_int]
    gdal.GDALInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    gdal.GDALClose.argtypes = [ctypes.c_void_p]
    gdal.GDALAllRegister()

    def info(path):
        dataset = gdal.GDALOpen(str(path).encode(), 0)
        assert dataset
        text = gdal.GDALInfo(dataset, None).decode()
        gdal.GDALClose(dataset)
        return text

    return info


def _place(text):
    """The lines on CRS, transform, size and corners."""
    assert 'Size is' in text
    return (
        text[text.index('Size is') : text.index('Metadata:')]
        + text[text.index('Corner Coordinates') : text.index('Band 1')]
    )


@pytest.mark.parametrize(
    ('crs', 'transform'),
    [
        ('EPSG:32633', from_origin(500000.1, 4999999.7, 0.3, 0.3)),
        ('EPSG:32633', Affine(0.3, 0.0, 500000.1, 0.0, 0.3, 4e6)),
        ('EPSG:32633', Affine(0.4, 0.3, 500000.1, 0.3, -0.4, 4e6 + 1 / 3)),
        ('EPSG:4326', from_origin(179.99, -16.2, 0.0003, 0.0003)),
        ('EPSG:3857', from_origin(-20037508.34, 1e6, 2.5, 2.5)),
    ],
)
def test_place_classes_and_layout(gdalinfo, tmp_path, predict, crs, transform):
    write(tmp_path / 'in.tif', smooth((70, 61)), transform, crs)
    (made,) = predict().maps
    said = gdalinfo(made)
    assert _place(said) == _place(gdalinfo(tmp_path / 'in.tif'))
    for line in ('LAYOUT=COG', 'NoData Value=255', '0: dark', '2: bright', 'CLASSES=["dark", "medium", "bright"]'):
        assert line in said
    assert 'Color Table (RGB with 256 entries)' in said
