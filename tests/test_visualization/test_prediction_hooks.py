from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from rasterio.transform import Affine

from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.visualization import LabelMapHook, OverlayHook

TRANSFORM = Affine(0.5, 0, 400000, 0, -0.5, 5800000)


@pytest.fixture
def dataset(tmp_path):
    """A raster of 60 x 40 pixels with two without data, read at half its resolution."""
    image = np.random.default_rng(0).random((2, 40, 60)).astype(np.float32)
    image[:, 30:32, 50:52] = -9999
    path = tmp_path / 'images' / 'sub' / 'town.v2.tif'
    path.parent.mkdir(parents=True)
    profile = dict(driver='GTiff', count=2, width=60, height=40, dtype='float32', nodata=-9999)
    with rasterio.open(path, 'w', crs='EPSG:32633', transform=TRANSFORM, **profile) as raster:
        raster.write(image)
    with DefaultScope.overwrite_default_scope('mmrs'):
        yield RasterDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images'),
            metainfo=dict(classes=('a', 'b', 'c')),
            gsd=1,
            windows=dict(size=16),
            test_mode=True,
            pipeline=[dict(type='LoadRasterImage'), dict(type='PackRasterInputs')],
        )


@pytest.fixture
def outputs(dataset):
    """Predictions that tell where they are: the class is row plus column in the resampled raster, modulo 3."""
    samples = []
    for item in dataset:
        sample = item['data_samples']
        x0, y0, x1, y1 = sample.metainfo['window']
        row, column = np.mgrid[y0:y1, x0:x1]
        sample.pred_sem_seg = PixelData(data=torch.from_numpy((row + column) % 3)[None])
        samples.append(sample)
    return samples


def run(hook, dataset, outputs):
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset), visualizer=None)
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, None, outputs)


NAMES = [f'town.v2_{x}_{y}_{x + 15}_{y + 10}' for y in (0, 10) for x in (0, 15)]


def test_label_maps_of_windows_lie_where_the_windows_do(tmp_path, dataset, outputs):
    run(LabelMapHook(str(tmp_path / 'out')), dataset, outputs)
    files = sorted(path.relative_to(tmp_path / 'out') for path in (tmp_path / 'out').rglob('*.*'))
    assert files == sorted(Path('sub', f'{name}.tif') for name in NAMES)
    whole = np.full((20, 30), 254, np.uint8)
    for file in files:
        with rasterio.open(tmp_path / 'out' / file) as raster:
            assert raster.crs.to_epsg() == 32633
            assert raster.nodata == 255
            left, bottom, right, top = raster.bounds
            assert raster.res == (1, 1)
            x, y = round(left - 400000), round(5800000 - top)
            assert (right - left, top - bottom) == (raster.width, raster.height)
            whole[y : y + raster.height, x : x + raster.width] = raster.read(1)
    row, column = np.mgrid[:20, :30]
    expected = (row + column) % 3
    expected[15, 25] = 255
    np.testing.assert_array_equal(whole, expected)


def test_pictures_of_windows(tmp_path, dataset, outputs):
    run(OverlayHook(str(tmp_path / 'out'), interval=3), dataset, outputs)
    files = sorted(path.stem for path in (tmp_path / 'out').rglob('*.png'))
    assert files == sorted([NAMES[0], NAMES[3]])
    assert Image.open(tmp_path / 'out' / 'sub' / f'{NAMES[0]}.png').width > 400  # image and prediction


def test_whole_raster_keeps_its_name(tmp_path, dataset, outputs):
    sample = SegDataSample(metainfo={**outputs[0].metainfo, 'window': (0, 0, 30, 20)})
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 20, 30, dtype=torch.long))
    run(LabelMapHook(str(tmp_path / 'out')), dataset, [sample])
    assert [path.name for path in (tmp_path / 'out').rglob('*.tif')] == ['town.v2.tif']
