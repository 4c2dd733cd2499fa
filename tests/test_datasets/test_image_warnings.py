import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset

from mmrs.apis.statistics import applies_scale, fill_statistics
from mmrs.datasets import DomainAdaptationDataset, RasterDataset, RemoteSensingDataset
from mmrs.datasets.image_warnings import file_warnings, image_warnings

LABELLED = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]
UNLABELLED = [LABELLED[0], LABELLED[2]]
CLASSES = dict(classes=('a', 'b', 'c'))


def reading(**loading):
    return [dict(type='LoadRasterImage', **loading), dict(type='PackRasterInputs')]


@pytest.fixture
def images(tmp_path, write, rng):
    """Writes a few images of a kind into a folder."""

    def make(folder, alpha=None, scale=1, offset=0, number=6):
        for i in range(number):
            values = rng.integers(1, 255, (40, 40, 4), np.uint8)
            if alpha is not None:
                values[..., 3] = alpha
            path = write(tmp_path / folder / 'img_dir' / f'{i}.tif', values, photometric='RGB', alpha='YES')
            write(tmp_path / folder / 'ann_dir' / f'{i}.png', rng.integers(0, 3, (40, 40), np.uint8))
            with rasterio.open(path, 'r+') as raster:
                raster.scales, raster.offsets = (scale,) * 4, (offset,) * 4
        return str(tmp_path / folder)

    return make


def data_set(root, kind=RemoteSensingDataset, pipeline=UNLABELLED, **settings):
    prefix = dict(img_path='img_dir')
    if pipeline is LABELLED:
        prefix['seg_map_path'] = 'ann_dir'
    return kind(data_root=root, data_prefix=prefix, metainfo=CLASSES, pipeline=pipeline, **settings)


def test_an_alpha_band_that_looks_like_data_is_named_once(images):
    infrared, opaque = images('infrared'), images('opaque', alpha=255)
    for wrapped in (
        data_set(infrared),
        data_set(infrared, kind=RasterDataset, windows=dict(size=16)),
        RepeatDataset(data_set(infrared), 2),
        ConcatDataset([data_set(opaque), data_set(infrared)]),
        DomainAdaptationDataset(data_set(opaque, pipeline=LABELLED), data_set(infrared)),
        DomainAdaptationDataset(data_set(infrared, pipeline=LABELLED), data_set(infrared)),
    ):
        (text,) = image_warnings(wrapped)
        assert 'infrared/img_dir/0.tif' in text
        assert 'LoadRasterImage(bands=...)' in text
    for without in (
        data_set(opaque),
        data_set(infrared, pipeline=reading(bands=(4, 1, 2))),
        data_set(infrared, pipeline=[]),
    ):
        assert image_warnings(without) == []


def test_files_that_are_looked_at_are_few(images, monkeypatch):
    root, opened = images('many', number=30), []
    dataset = data_set(root)
    from mmrs.datasets import image_warnings as module

    original = module.open_raster
    monkeypatch.setattr(module, 'open_raster', lambda path, **kw: opened.append(path) or original(path, **kw))
    image_warnings(dataset)
    assert len(opened) == module.FILES


def test_scales_that_differ_between_domains(images):
    old, new = images('old', 255, 1e-4), images('new', 255, 1e-4, -0.1)
    pair = DomainAdaptationDataset(data_set(old, pipeline=LABELLED), data_set(new))
    (text,) = image_warnings(pair)
    assert 'scale 0.0001, offset 0 (' in text
    assert 'scale 0.0001, offset -0.1 (' in text
    assert 'apply_scale=True' in text
    assert image_warnings(data_set(new)) == []  # the same everywhere
    applied = [data_set(root, pipeline=reading(apply_scale=True)) for root in (old, new)]
    assert image_warnings(ConcatDataset(applied)) == []


def test_what_is_to_be_predicted(images):
    paths = [f'{images("new", 255, 1e-4, -0.1)}/img_dir/{i}.tif' for i in range(3)]
    (text,) = file_warnings(paths, None, apply_scale=False)
    assert 'scale 0.0001, offset -0.1' in text
    assert paths[0] in text
    assert file_warnings(paths, None, apply_scale=True) == []
    assert len(file_warnings([f'{images("infrared")}/img_dir/0.tif'], None, False)) == 1
    assert file_warnings([f'{images("plain", 0)}/img_dir/0.tif', 'nowhere.tif'], None, False) == []


def test_statistics_of_reflectance(tmp_path, write, rng):
    """The same reflectance in files with and without an offset: one mean, and it is the reflectance's."""
    values = rng.integers(200, 3000, (2, 30, 40, 2)).astype(np.uint16)
    for i, (added, offset) in enumerate(((0, 0.0), (1000, -0.1))):
        path = write(tmp_path / 'img_dir' / f'{i}.tif', values[i] + np.uint16(added), nodata=0)
        with rasterio.open(path, 'r+') as raster:
            raster.scales, raster.offsets = (1e-4,) * 2, (offset,) * 2
    dataset = dict(
        type='RemoteSensingDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='img_dir'),
        metainfo=CLASSES,
        pipeline=reading(apply_scale=True),
    )
    assert applies_scale(dataset)
    auto = dict(type='DomainAdaptationDataPreprocessor', mean='auto', std='auto')
    config = Config(dict(model=dict(data_preprocessor=auto), train_dataloader=dict(dataset=dataset)))
    fill_statistics(config)
    found = config.model.data_preprocessor
    np.testing.assert_allclose(found['mean'], (values * 1e-4).mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(found['std'], (values * 1e-4).std(axis=(0, 1, 2)), rtol=1e-4)
