import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from mmrs.apis import SegInferencer, init_model
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError, DataError
from tests.test_engine.test_distributed import environment
from tests.tiny_runs import REPOSITORY
from tools import predict


@pytest.fixture(scope='module')
def raster(tmp_path_factory):
    """An image in colour, with a hole."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(1, 255, (3, 30, 25)), np.ones((8, 8), int)).astype(np.uint8)
    image[:, 50:90, 20:130] = 0
    path = tmp_path_factory.mktemp('raster') / 'in.tif'
    with rasterio.open(
        path, 'w', driver='GTiff', count=3, height=240, width=200, dtype='uint8', nodata=0, crs='EPSG:32633',
        transform=from_origin(500000, 5000000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(image)
    return path


def _predict(run, *arguments):
    return predict.main([str(run.config), str(run.checkpoint), *map(str, arguments), '--device', 'cpu'])


def _labels(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_one_window_is_what_the_model_says_of_the_image(finished, raster, tmp_path, capsys):
    assert _predict(finished, raster, '-o', tmp_path / 'map.tif', '--window', 256) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / 'map.tif')
    with rasterio.open(raster) as file:
        image = file.read().transpose(1, 2, 0)
    labels = _labels(tmp_path / 'map.tif')
    assert len(np.unique(labels)) > 3
    np.testing.assert_array_equal(labels == 255, ~image.any(-1))
    # An array declares nothing to be nodata.
    inferencer = SegInferencer(finished.config, finished.checkpoint, device='cpu')
    np.testing.assert_array_equal(inferencer.predict(image, image.any(-1)).labels, labels)
    assert (inferencer.predict(image).labels < 255).all()


@pytest.mark.slow
def test_two_processes_make_the_same_map_to_the_last_byte(finished, raster, tmp_path):
    options = ['--window', '64', '--batch-size', '3', '--extra', 'confidence', '--device', 'cpu']
    command = [str(finished.config), str(finished.checkpoint), str(raster), *options]
    assert predict.main([*command, '-o', str(tmp_path / 'one')]) == 0
    # `timeout` lets the launcher end its processes; Python's would kill it, and they would wait for one another.
    launcher = ['timeout', '120', sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run(
        [*launcher, 'tools/predict.py', *command, '-o', str(tmp_path / 'two')],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('in.tif') == 1  # one process reports
    names = sorted(os.listdir(tmp_path / 'one'))
    files = ['in.qml', 'in.tif', 'in.tif.aux.xml', 'in_confidence.qml', 'in_confidence.tif']
    assert names == sorted(os.listdir(tmp_path / 'two')) == files
    for name in names:
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes(), name


def test_exit_codes_and_messages(finished, raster, tmp_path, capsys):
    (tmp_path / 'bad.tif').write_bytes(b'no raster')
    assert _predict(finished, raster, tmp_path / 'bad.tif', tmp_path / 'none.tif', '-o', tmp_path / 'maps') == 1
    said = capsys.readouterr()
    assert str(tmp_path / 'maps' / 'in.tif') in said.out
    assert 'bad.tif cannot be read as an image' in said.err
    assert 'none.tif: no such file' in said.err
    assert _predict(finished, raster, '-o', tmp_path / 'maps') == 2
    assert 'pass --resume' in capsys.readouterr().err
    assert _predict(finished, raster, '-o', tmp_path / 'maps', '--resume') == 0
    assert 'finished before' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--overlap', '1'], 'overlap is 1.0'),
        (['--window', '0'], 'window'),
        (['--batch-size', '0'], 'batch'),
        (['--gsd', '-1'], 'gsd is -1'),
        (['--bands', '1', '2', '9'], 'bands [9]'),
        (['--bands', '1'], 'trained on 3'),
        (['--aoi', 'none.gpkg'], 'none.gpkg'),
        (['--bbox', '1', '2', '3', '4', '--bbox-crs', 'EPSG:0'], "'EPSG:0' is no CRS"),
        (['--vector', 'areas.shp'], 'gpkg'),
        (['--backend', 'onnx'], 'ONNX'),
    ],
)
def test_options_that_cannot_work(finished, raster, tmp_path, capsys, options, message):
    assert _predict(finished, raster, '-o', tmp_path / 'maps', *options) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'maps' / 'in.tif').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['model.pth', '--min-area', '5'], 'for polygons: --vector'),
        (['model.pth', '--simplify', '1'], 'for polygons: --vector'),
        (['model.pth', '--bbox-crs', 'EPSG:4326'], 'the CRS of --bbox'),
        (['model.pth', '--aoi-layer', 'town'], 'the layer of --aoi'),
        (['model.onnx'], 'pass --backend onnx'),
    ],
)
def test_options_that_need_another_one(capsys, arguments, message):
    with pytest.raises(SystemExit) as status:
        predict.main(['config.py', *arguments[:1], 'in.tif', '-o', 'maps', *arguments[1:]])
    assert status.value.code == 2
    assert message in capsys.readouterr().err


def test_one_of_several_processes_reports_a_mistyped_command(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr('mmrs.utils.errors.time.sleep', lambda _: waited.append(capsys.readouterr().err))
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        with pytest.raises(SystemExit):
            predict.parse_args(['config.py'])
        assert len(waited) == int(rank)
        capsys.readouterr()
    assert waited == ['']  # nothing is said before


def test_configuration_says_window_bands_and_resolution(finished, tmp_path):
    options = {
        'model.test_cfg': dict(mode='slide', crop_size=(96, 96), stride=(64, 64)),
        'test_dataloader.dataset.pipeline': [dict(type='LoadRasterImage', bands=[3, 2, 1])],
        'test_dataloader.dataset.gsd': 0.5,
    }  # fmt: skip
    inferencer = SegInferencer(finished.config, finished.checkpoint, device='cpu', cfg_options=options)
    assert inferencer.settings['window'] == 96
    assert inferencer.settings['bands'] == (3, 2, 1)
    assert inferencer.gsd == 0.5
    assert inferencer.classes[0] == 'impervious_surface'


def test_configuration_with_several_test_sets(finished):
    cfg = load_config(finished.config)
    steps = [dict(type='Resize', scale_factor=0.5), dict(type='PackRasterInputs')]
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadRasterImage', bands=[3, 2, 1]), *steps]
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset] * 2)
    inferencer = SegInferencer(cfg, finished.checkpoint, device='cpu')
    assert inferencer.settings['bands'] == (3, 2, 1)
    assert inferencer.steps == steps[:1]


def test_loaders_with_another_order_of_bands_are_refused(finished):
    other = [dict(type='LoadImageFromFile'), dict(type='PackRasterInputs')]
    options = {f'{split}_dataloader.dataset.pipeline': other for split in ('train', 'val', 'test')}
    with pytest.raises(ConfigError, match=r'has no LoadRasterImage \(it has LoadImageFromFile'):
        SegInferencer(finished.config, finished.checkpoint, device='cpu', cfg_options=options)


def test_flips_are_averaged(finished, raster):
    with rasterio.open(raster) as file:
        image = file.read().transpose(1, 2, 0)[100:164, :64]
    plain = SegInferencer(finished.config, finished.checkpoint, device='cpu')
    mean = sum(
        np.flip(plain.predict(np.flip(image, axes).copy()).probabilities, [a + 1 for a in axes])
        for axes in ([], [0], [1], [0, 1])
    )
    averaged = SegInferencer(finished.config, finished.checkpoint, device='cpu', tta=True).predict(image)
    np.testing.assert_allclose(averaged.probabilities, mean / 4, atol=1e-6)


def test_half_precision_hardly_changes_the_probabilities(finished, raster):
    with rasterio.open(raster) as file:
        image = file.read().transpose(1, 2, 0)[100:164, :64]
    full, half = (
        SegInferencer(finished.config, finished.checkpoint, device='cpu', amp=amp).predict(image).probabilities
        for amp in (False, True)
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.05


def test_arrays_that_are_no_images(finished):
    inferencer = SegInferencer(finished.config, finished.checkpoint, device='cpu')
    with pytest.raises(DataError, match=r'\(H, W, C\)'):
        inferencer.predict(np.zeros((20, 20), np.uint8))
    with pytest.raises(ValueError, match='trained on 3'):
        inferencer.predict(np.zeros((20, 20, 4), np.uint8))


def test_floods(finished, real_data, tmp_path, capsys):
    """Chips in degrees, with pixels without data in one and nothing but such in another."""
    options = {
        'model.backbone.in_channels': 2,
        'model.data_preprocessor.mean': [-11.0, -18.0],
        'model.data_preprocessor.std': [4.0, 6.0],
    }
    model = init_model(finished.config, device='cpu', cfg_options=options)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), tmp_path / 'two.pth')
    chips = [real_data / 'sen1floods11' / 'S1' / f'{name}_S1Hand.tif' for name in ('Nigeria_812045', 'Paraguay_34417')]
    arguments = [finished.config, tmp_path / 'two.pth', *chips, '-o', tmp_path / 'maps', '--window', 256]
    arguments += ['--quicklook', '--vector', tmp_path / 'areas.gpkg', '--device', 'cpu', '--cfg-options']
    arguments += [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
    assert predict.main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    for chip in chips:
        with rasterio.open(chip) as image, rasterio.open(tmp_path / 'maps' / chip.name) as labels:
            assert (labels.crs, labels.transform, labels.bounds) == (image.crs, image.transform, image.bounds)
            np.testing.assert_array_equal(labels.read(1) == 255, ~np.isfinite(image.read()).all(0))
        assert (tmp_path / 'maps' / f'{chip.stem}_quicklook.png').is_file()
    assert (tmp_path / 'areas.gpkg').is_file()
