import json

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import torch
from rasterio.transform import from_origin

from mmrs.prediction.jobs import MapSettings
from mmrs.prediction.maker import MapMaker
from mmrs.prediction.mapping import make_maps
from tests.label_maps import write_raster


class ByValue:
    """A predictor of three classes, dark, medium and bright, by each pixel alone: windows agree on every pixel."""

    classes, palette = ('dark', 'medium', 'bright'), [(0, 0, 0), (120, 120, 120), (255, 255, 255)]
    bands, mean, std, threshold = 1, [128.0], [64.0], None

    def __call__(self, images, valid):
        value = images.float() / 255
        return torch.cat((-(value**2), -((value - 0.5) ** 2), -((value - 1) ** 2)), 1).mul(20).softmax(1)


class ByContext(ByValue):
    """One that judges a pixel by the whole window too, so that windows contradict each other."""

    def __call__(self, images, valid):
        images = images.float()
        return super().__call__(images + 0.5 * (images - images.mean((2, 3), keepdim=True)), valid)


class Watching(ByValue):
    """Remembers what it is asked: a copy of the images, and their valid pixels."""

    def __init__(self):
        self.seen = []

    def __call__(self, images, valid):
        self.seen.append((images.clone(), valid))
        return super().__call__(images, valid)

    @property
    def sizes(self):
        return {tuple(images.shape[2:]) for images, _ in self.seen}


def write(path, values, transform=None, crs='EPSG:32633', **options):
    """A raster of one band, or of `(bands, H, W)`."""
    located = {} if crs is None else dict(crs=crs, transform=transform or from_origin(500000, 5000000, 0.5, 0.5))
    return write_raster(path, values, **located, **options)


def smooth(shape, seed=0):
    """An image `(H, W)`, uint8, with something to see at every scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = sum(np.sin(x / a + p) + np.cos(y / a + q) for a, p, q in rng.uniform((3, 0, 0), (40, 6, 6), (6, 3)))
    return (128 + 18 * waves).clip(1, 255).astype(np.uint8)


@pytest.fixture
def predict(tmp_path):
    """Maps of rasters, by default of `in.tif`; settings as those of `MapSettings` and `make_maps`."""

    def run(*inputs, out='maps', predictor=None, window=32, options=None, **settings):
        if not inputs and not (tmp_path / 'in.tif').exists():
            write(tmp_path / 'in.tif', smooth((40, 50)))
        names = 'quicklook', 'resume', 'overwrite', 'steps', 'identity'
        maker_options = {name: settings.pop(name) for name in names if name in settings}
        maker = MapMaker(predictor or ByValue(), MapSettings(window=window, **settings), **maker_options)
        return make_maps(maker, inputs or [tmp_path / 'in.tif'], tmp_path / out, progress=False, **(options or {}))

    return run


def read(path, band=1):
    with rasterio.open(path) as raster:
        return raster.read(band)


def write_area(path, shapes, layer='a', crs='EPSG:32633', kind='Polygon', **options):
    """An area of interest in any format that pyogrio writes."""
    shapes = np.array([shape and shapely.to_wkb(shape) for shape in shapes], object)
    pyogrio.raw.write(path, shapes, [], [], layer=layer, crs=crs, geometry_type=kind, **options)
    return str(path)


def write_geojson(path, shapes, epsg=None):
    """An area of interest in degrees, or in another CRS."""
    geometries = [shape and json.loads(shapely.to_geojson(shape)) for shape in shapes]
    features = [dict(type='Feature', properties={}, geometry=geometry) for geometry in geometries]
    crs = {} if epsg is None else dict(crs=dict(type='name', properties=dict(name=f'urn:ogc:def:crs:EPSG::{epsg}')))
    path.write_text(json.dumps(dict(type='FeatureCollection', features=features, **crs)))
    return str(path)
