import shutil
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
from mmrs.registry import DATASETS
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


def maps(folder):
    """The label maps below a folder by their place in it."""
    found = {}
    for path in sorted(folder.rglob('*.tif')):
        with rasterio.open(path) as raster:
            found[str(path.relative_to(folder))] = raster.read(1)
    return found


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
    assert list(maps(tmp_path / 'out')) == ['sub/town.v2.tif']


def unlabelled(path, bands=None, **kwargs):
    pipeline = [dict(type='LoadRasterImage', bands=bands), dict(type='PackRasterInputs')]
    return RasterDataset(data_prefix=dict(img_path=str(path)), test_mode=True, pipeline=pipeline, **kwargs)


def zeros(dataset):
    samples = [item['data_samples'] for item in dataset]
    for sample in samples:
        sample.pred_sem_seg = PixelData(data=torch.zeros(1, *sample.ori_shape, dtype=torch.long))
    return samples


def test_a_class_without_counterpart_takes_no_others_id(tmp_path, dataset):
    """Ids 1 and 2 are the data set's b and a; the class without one has the index 1, which would be taken for b."""
    meta = dict(classes=('a', 'none', 'b'), no_counterpart=('none',))
    one = unlabelled(tmp_path / 'images', metainfo=meta)
    one.label_map = {2: 0, 1: 2}
    samples = zeros(one)
    for sample in samples:
        sample.pred_sem_seg.data[0, 0, :3] = torch.tensor([0, 1, 2])
    run(LabelMapHook(str(tmp_path / 'out')), one, samples)
    (values,) = maps(tmp_path / 'out').values()
    assert values[0, :3].tolist() == [0, 1, 2]  # training indices


def test_bands_that_the_model_does_not_see_hide_nothing(tmp_path, dataset):
    path = next((tmp_path / 'images').rglob('*.tif'))
    with rasterio.open(path, 'r+') as raster:
        raster.write(np.full((1, 40, 60), np.nan, np.float32), [2])
    one = unlabelled(tmp_path / 'images', [1], metainfo=dict(classes=('a',)))
    run(LabelMapHook(str(tmp_path / 'out')), one, zeros(one))
    (values,) = maps(tmp_path / 'out').values()
    assert np.argwhere(values == 255).tolist() == [[30, 50], [30, 51], [31, 50], [31, 51]]


@pytest.mark.parametrize('ids', [(1000, 5), (-1, 5), (255, 5)])
def test_ids_beyond_8_bits_give_way_to_training_indices(tmp_path, dataset, ids, monkeypatch):
    said = []
    monkeypatch.setattr('mmrs.visualization.prediction_hooks.print_log', lambda message, **_: said.append(message))
    (tmp_path / 'classes.yaml').write_text(f'classes: [{{name: x, id: {ids[0]}}}, {{name: y, id: {ids[1]}}}]')
    whole = unlabelled(tmp_path / 'images', classes_file=str(tmp_path / 'classes.yaml'))
    run(LabelMapHook(str(tmp_path / 'out')), whole, zeros(whole))
    (values,) = maps(tmp_path / 'out').values()
    assert np.unique(values).tolist() == [0, 255]
    assert f'the data set has ids from {min(ids)} to {max(ids)}' in said[0]


def test_images_of_several_data_sets_do_not_meet(tmp_path, dataset):
    (tmp_path / 'more').mkdir()
    shutil.copy(next((tmp_path / 'images').rglob('*.tif')), tmp_path / 'more' / 'town.v2.tif')
    parts = [unlabelled(tmp_path / name, metainfo=dict(classes=('a',))) for name in ('images/sub', 'more')]
    both = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    run(LabelMapHook(str(tmp_path / 'out')), both, zeros(both))
    assert list(maps(tmp_path / 'out')) == ['images/sub/town.v2.tif', 'more/town.v2.tif']
