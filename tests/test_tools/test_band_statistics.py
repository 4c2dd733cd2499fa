"""Numbers for the data preprocessor, printed by the tool and put into configurations."""

import json

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image

from mmrs.apis.statistics import fill_statistics
from tools.analysis_tools import band_statistics


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMRS_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('COLUMNS', '160')


def _write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.png':
        Image.fromarray(image).save(path)
        return
    profile = dict(driver='GTiff', count=image.shape[-1], height=image.shape[0], width=image.shape[1])
    profile |= dict(crs='EPSG:32633', transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5e6))
    with rasterio.open(path, 'w', dtype=image.dtype, **profile) as raster:
        raster.write(image.transpose(2, 0, 1))


@pytest.fixture
def images(tmp_path):
    """Two images of each domain, four bands of uint16; by domain."""
    rng = np.random.default_rng(0)
    found = {}
    for i, domain in enumerate(('source', 'target')):
        found[domain] = rng.integers(100 * i, 1000 + 2000 * i, (2, 20, 30, 4)).astype(np.uint16)
        for name, image in zip('ab', found[domain]):
            _write(tmp_path / domain / 'img_dir' / 'train' / f'{name}.tif', image)
    return found


def expected(images, *bands):
    pixels = images.reshape(-1, images.shape[-1])[:, [band - 1 for band in bands]].astype(float)
    return pixels.mean(0), pixels.std(0)


def _dataset(tmp_path, domain, bands=(4, 3, 2), **extra):
    return dict(
        type='RemoteSensingDataset',
        data_root=str(tmp_path / domain),
        # There are no such labels: they must not be looked for.
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=[dict(type='LoadRasterImage', bands=bands), dict(type='LoadRasterAnnotations')],
        **extra,
    )


def _config(tmp_path, preprocessor, dataset=None):
    dataset = dataset or dict(
        type='DomainAdaptationDataset',
        source=_dataset(tmp_path, 'source'),
        target=_dataset(tmp_path, 'target', (1, 2, 3)),
    )
    return Config(dict(model=dict(data_preprocessor=preprocessor), train_dataloader=dict(dataset=dataset)))


AUTO = dict(mean='auto', std='auto', source_mean='auto', source_std='auto')


def test_numbers_of_both_domains_in_a_configuration(tmp_path, images):
    config = _config(tmp_path, dict(type='DomainAdaptationDataPreprocessor', **AUTO, size_divisor=32))
    fill_statistics(config)
    settings = config.model.data_preprocessor
    for prefix, values in (('', expected(images['target'], 1, 2, 3)), ('source_', expected(images['source'], 4, 3, 2))):
        np.testing.assert_allclose([settings[prefix + 'mean'], settings[prefix + 'std']], values, rtol=1e-5)
    assert settings.size_divisor == 32
    assert 'auto' not in config.pretty_text
    again = _config(tmp_path, dict(AUTO))
    fill_statistics(again)
    assert again.model.data_preprocessor == {name: settings[name] for name in AUTO}


def test_wrapped_data_sets_and_single_values(tmp_path, images):
    parts = [_dataset(tmp_path, domain) for domain in ('source', 'target')]
    dataset = dict(type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=parts))
    config = _config(tmp_path, dict(mean=[1, 2, 3], std='auto'), dataset)
    fill_statistics(config)
    both = np.concatenate([images['source'], images['target']])
    assert config.model.data_preprocessor.mean == [1, 2, 3]
    np.testing.assert_allclose(config.model.data_preprocessor.std, expected(both, 4, 3, 2)[1], rtol=1e-5)


@pytest.mark.parametrize('wrapped', [False, True])
def test_both_domains_of_pairs(tmp_path, images, wrapped):
    dataset = dict(
        type='PairedDataset',
        source=_dataset(tmp_path, 'source'),
        target=_dataset(tmp_path, 'target', (1, 2, 3)),
        pipeline=[dict(type='RandomFlip', prob=0.5)],
    )
    if wrapped:
        dataset = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset, dataset]))
    config = _config(tmp_path, dict(AUTO), dataset)
    fill_statistics(config)
    settings = config.model.data_preprocessor
    np.testing.assert_allclose(settings.mean, expected(images['target'], 1, 2, 3)[0], rtol=1e-5)
    np.testing.assert_allclose(settings.source_mean, expected(images['source'], 4, 3, 2)[0], rtol=1e-5)


def test_nothing_to_fill_reads_nothing():
    config = Config(dict(model=dict(data_preprocessor=dict(mean=[1], std=[2]))))
    fill_statistics(config)
    fill_statistics(Config(dict()))
    assert config.model.data_preprocessor == dict(mean=[1], std=[2])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c, p: c.pop('train_dataloader'), 'no train_dataloader.dataset'),
        (lambda c, p: c.train_dataloader.__setitem__('dataset', _dataset(p, 'source')), 'has no source and target'),
        (lambda c, p: c.train_dataloader.dataset.target.update(pipeline=[]), r'no LoadRasterImage \(it has nothing\)'),
        (lambda c, p: c.train_dataloader.dataset.target.pipeline[0].update(bands=(7,)), r'bands \[7\] were asked for'),
        (lambda c, p: c.train_dataloader.dataset.target.update(data_root='nowhere'), 'images.*is missing: nowhere'),
        (lambda c, p: c.train_dataloader.dataset.target.update(type='RemoteSensingData'), 'did you mean RemoteSensing'),
    ],
)
def test_what_cannot_be_filled(tmp_path, images, change, message):
    config = _config(tmp_path, dict(AUTO))
    change(config, tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        fill_statistics(config)


def test_a_constant_band_is_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 9, (5, 6, 3)).astype(np.uint8)
    image[..., 1] = 7
    _write(tmp_path / 'source' / 'img_dir' / 'train' / 'a.png', image)
    with pytest.raises(ValueError, match='train: band 2 of those that are loaded is 7 everywhere'):
        fill_statistics(_config(tmp_path, dict(mean='auto', std='auto'), _dataset(tmp_path, 'source', None)))


def run(capsys, *arguments):
    code = band_statistics.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _pasted(out):
    line = next(line for line in out.splitlines() if line.startswith('data_preprocessor'))
    return eval(line.partition('= ')[2])


def test_tool_on_two_folders(tmp_path, images, capsys):
    file = tmp_path / 'numbers.json'
    code, out, _ = run(capsys, tmp_path / 'source', tmp_path / 'target', '--bands', 4, 3, 2, '-o', file)
    assert code == 0
    settings = _pasted(out)
    for prefix, domain in (('', 'target'), ('source_', 'source')):
        values = expected(images[domain], 4, 3, 2)
        np.testing.assert_allclose([settings[prefix + 'mean'], settings[prefix + 'std']], values, rtol=1e-5)
    written = json.loads(file.read_text())
    assert list(written) == ['source', 'target']
    np.testing.assert_allclose(written['source']['mean'], expected(images['source'], 4, 3, 2)[0], rtol=1e-13)
    assert written['source']['valid_pixels'] == [1200, 1200, 1200]
    assert run(capsys, tmp_path / 'source', '-o', file)[0] == 2
    assert run(capsys, tmp_path / 'source', '-o', file, '--overwrite', '--no-cache')[0] == 0
    assert list(json.loads(file.read_text())) == ['source']


def test_tool_on_a_configuration_agrees_with_auto(tmp_path, images, capsys):
    config = _config(tmp_path, dict(AUTO))
    config.dump(tmp_path / 'config.py')
    code, out, _ = run(capsys, tmp_path / 'config.py')
    assert code == 0
    fill_statistics(config)
    assert _pasted(out) == dict(config.model.data_preprocessor)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], 'nowhere: no such folder'),
        (['config.py', 'nowhere'], 'one configuration was expected, or one or more folders'),
        (['config.py'], 'config config.py does not exist'),
        (['configs', 'tests/../configs'], 'the same folder was given twice'),
        (['configs'], 'configs holds no images with suffix .png'),
    ],
)
def test_tool_errors(arguments, message, capsys):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
