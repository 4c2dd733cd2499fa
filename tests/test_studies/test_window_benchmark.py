import numpy as np
import pytest
import rasterio

from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.geo.classes import load_classes
from mmrs.studies.window_benchmark import format_rates, make_large_raster, measure_windows
from mmrs.utils.errors import ConfigError


def test_made_raster_is_read_by_window_and_can_be_learned(tmp_path):
    path = make_large_raster(tmp_path, side=700, bands=3)
    with rasterio.open(path) as image, rasterio.open(tmp_path / 'labels' / 'scene.tif') as labels:
        assert (image.shape, image.count, image.dtypes[0], image.block_shapes[0]) == (
            (700, 700),
            3,
            'uint16',
            (512, 512),
        )
        assert labels.transform == image.transform
        pixels, classes = image.read().astype(float), labels.read(1)
    # Where classes are, their means differ by more than the noise in some band.
    means = np.stack(
        [pixels[:, classes == i].mean(axis=1) for i in range(len(load_classes(tmp_path / 'classes.yaml').names))]
    )
    noise = np.stack([pixels[:, classes == i].std(axis=1) for i in range(len(means))])
    for i in range(len(means)):
        for j in range(i):
            assert (np.abs(means[i] - means[j]) > noise.max()).any()
    dataset = RasterDataset(
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        classes_file='classes.yaml',
        windows=dict(size=256),
        pipeline=[dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')],
    )
    assert len(dataset) == 9
    assert dataset[4]['data_samples'].gt_sem_seg.shape == (256, 256)
    with pytest.raises(OSError, match=r'scene\.tif exists already'):
        make_large_raster(tmp_path, side=64)

    rates = measure_windows(tmp_path / 'images', size=128, number=30, rounds=2)
    assert (rates.rasters, rates.windows, rates.size) == (1, 30, (128, 128))
    assert 5 < rates.bare < 1e6
    assert 5 < rates.dataset < 1e6
    assert 1e7 < rates.peak_bytes < 1e11
    assert f'{rates.dataset / rates.bare:.2f} of it' in format_rates(rates)


def test_nothing_to_measure(tmp_path):
    with pytest.raises(ConfigError, match='number is 0'):
        measure_windows(tmp_path, number=0)
