import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from mmrs.geo.folders import list_rasters, other_rasters
from mmrs.utils.errors import DataError


def test_list_rasters(tmp_path):
    for name in ('b.png', 'sub/a.TIF', 'c.d.jpeg', 'c.d.jpeg.aux.xml', 'notes.txt', '.b.png.123.part', '.hidden.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_rasters(tmp_path) == {'b': 'b.png', 'c.d': 'c.d.jpeg', 'sub/a': 'sub/a.TIF'}
    assert list_rasters(tmp_path, ('.d.jpeg',)) == {'c': 'c.d.jpeg'}
    (tmp_path / 'b.tif').touch()
    with pytest.raises(DataError, match=r'holds both b\.(png|tif) and b\.(png|tif), which differ by their suffixes'):
        list_rasters(tmp_path)
    with pytest.raises(DataError, match='nowhere: no such folder'):
        list_rasters(tmp_path / 'nowhere')


@pytest.fixture
def formats(tmp_path):
    """A folder of one raster in formats that it is not searched for, with what belongs to them or looks like them."""
    folder = tmp_path / 'formats'
    (folder / 'sub').mkdir(parents=True)
    place = dict(crs='EPSG:32633', transform=Affine(0.5, 0, 366676, 0, -0.5, 5808615))
    names = {'a.img': 'HFA', 'sub/b.DAT': 'ENVI', 'c.gpkg': 'GPKG', 'd.bil': 'EHdr', 'e': 'ENVI', 'f.bsq': 'ENVI'}
    for name, driver in names.items():
        profile = dict(driver=driver, width=70, height=60, count=1, dtype='uint8', **place)
        with rasterio.open(folder / name, 'w', **profile) as raster:
            raster.write(np.ones((1, 60, 70), np.uint8))
    for name in names:
        with rasterio.open(folder / name) as raster:
            assert raster.shape == (60, 70)
    pyogrio.raw.write(
        folder / 'polygons.gpkg',
        np.array([shapely.box(0, 0, 1, 1).wkb], object),
        [],
        [],
        crs='EPSG:32633',
        geometry_type='Polygon',
    )
    for name in ('stats.dat', 'x.prj', 'x.tfw', 'x.csv', 'README', 'x.ovr', 'x.gif', 'x.hdr', '.hidden.img', 'x.dbf'):
        (folder / name).touch()
    return folder


def test_rasters_of_other_formats_are_named(formats, write, logged):
    named = '6 rasters (.bil, .bsq, .dat, .gpkg, .img, without suffix)'
    assert other_rasters(formats) == named
    assert other_rasters(formats, ('.img', '.bsq')) == '4 rasters (.bil, .dat, .gpkg, without suffix)'
    assert list_rasters(formats, advice='convert them') == {}  # for the caller to say
    write(formats / 'g.tif', np.ones((4, 4), np.uint8))
    assert not logged.records
    assert list_rasters(formats) == list_rasters(formats, advice='convert them') == {'g': 'g.tif'}
    (record,) = logged.records
    assert record.levelname == 'WARNING'
    for part in (str(formats), named, 'convert them'):
        assert part in record.getMessage()
    (formats / 'e').unlink()
    assert other_rasters(formats) == '5 rasters (.bil, .bsq, .dat, .gpkg, .img)'
    assert other_rasters(formats / 'sub') == '1 raster (.dat)'
