import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from mmrs.apis import SegInferencer, init_model
from mmrs.models.batch_statistics import adapt_batch_statistics
from mmrs.prediction.parts import PartStore
from mmrs.prediction.scenes import SceneStatistics, scene_windows
from mmrs.prediction.window_grid import WindowGrid
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY, quick_start, write_clips, write_config  # noqa: F401
from tools import predict

OPTIONS = dict(device='cpu', window=64, overlap=0.0, batch_size=3)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A configuration, and a checkpoint of it."""
    root = tmp_path_factory.mktemp('source')
    config, checkpoint = write_config(root / 'plain.py', write_clips(root / 'data')), root / 'iter_2.pth'
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    torch.save(dict(meta=dict(dataset_meta=model.dataset_meta), state_dict=model.state_dict()), checkpoint)
    return config, checkpoint


@pytest.fixture
def scene(tmp_path):
    def write(name, image):
        with rasterio.open(
            tmp_path / name, 'w', 'GTiff', image.shape[1], image.shape[0], 3, dtype=image.dtype, crs='EPSG:32633',
            transform=from_origin(500000, 5000000, 0.5, 0.5), nodata=np.nan if image.dtype == np.float32 else None,
        ) as file:  # fmt: skip
            file.write(image.transpose(2, 0, 1))
        return tmp_path / name

    return write


def picture(seed, height=128, width=192, mean=120):
    random = np.random.default_rng(seed)
    blocks = np.kron(random.integers(-60, 60, (height // 8, width // 8, 3)), np.ones((8, 8, 1), int))
    return (blocks + mean).clip(0, 255).astype(np.uint8)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def command(source, *arguments):
    window = ['--window', '64', '--batch-size', '3', '--device', 'cpu']
    return [*map(str, source), *map(str, arguments), *window]


@pytest.mark.parametrize('adapt', ['bn', 'prior', 'tent'])
def test_each_raster_starts_from_the_checkpoint_and_its_windows_alone_change_the_map(source, scene, tmp_path, adapt):
    first, second = scene('a.tif', picture(1)), scene('b.tif', picture(2, mean=60))
    inferencer = SegInferencer(*source, adapt=adapt, **OPTIONS)
    before = {key: value.clone() for key, value in inferencer.predictor.model.state_dict().items()}
    inferencer.predict_rasters([first, second], tmp_path / 'both', progress=False)
    after = inferencer.predictor.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    SegInferencer(*source, adapt=adapt, **OPTIONS).predict_rasters([second], tmp_path / 'alone', progress=False)
    assert (tmp_path / 'both' / 'b.tif').read_bytes() == (tmp_path / 'alone' / 'b.tif').read_bytes()
    SegInferencer(*source, **OPTIONS).predict_rasters([second], tmp_path / 'plain', progress=False)
    assert (read(tmp_path / 'plain' / 'b.tif') != read(tmp_path / 'alone' / 'b.tif')).any()
    whole = inferencer.predict(picture(2, mean=60))
    np.testing.assert_array_equal(whole.labels, read(tmp_path / 'alone' / 'b.tif'))


def test_statistics_are_those_of_all_windows_of_a_small_scene(source, scene, tmp_path):
    image = picture(3)
    model = init_model(*source, device='cpu')
    windows = [image[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
    order = np.random.default_rng(0).permutation(6)
    tensors = [(torch.from_numpy(windows[i].transpose(2, 0, 1)).float()[None] - 120) / 60 for i in order]
    adapt_batch_statistics(model, [(own, None) for own in tensors], 0.7)
    torch.save(dict(meta=dict(dataset_meta=model.dataset_meta), state_dict=model.state_dict()), tmp_path / 'other.pth')
    expected = SegInferencer(source[0], tmp_path / 'other.pth', **OPTIONS).predict(image)
    found = SegInferencer(*source, adapt='bn', adapt_weight=0.7, **OPTIONS).predict(image)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_entropy_is_minimised_by_a_step_of_each_window(source):
    image, model = picture(11, 64, 128), init_model(*source, device='cpu')
    windows = [image[:, x : x + 64] for x in (0, 64)]
    order = np.random.default_rng(0).permutation(2)
    batches = [(torch.from_numpy(windows[i].transpose(2, 0, 1)).float()[None] - 120) / 60 for i in order]
    adapt_batch_statistics(model, [(batch, None) for batch in batches], 0.5)
    norms = [m for m in model.modules() if isinstance(m, (torch.nn.LayerNorm, torch.nn.BatchNorm2d))]
    optimizer = torch.optim.Adam([p for m in norms for p in m.parameters()], 1e-3)
    for batch in batches:
        optimizer.zero_grad()
        p = model.encode_decode(batch, [dict(img_shape=(64, 64))]).softmax(1)
        (-(p * p.log()).sum(1)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        expected = [model.encode_decode(batch, [dict(img_shape=(64, 64))]).softmax(1)[0].numpy() for batch in batches]
    found = SegInferencer(*source, adapt='tent', **OPTIONS).predict(image).probabilities
    for i, own in zip(order, expected):
        np.testing.assert_allclose(found[:, :, 64 * i : 64 * i + 64], own, atol=1e-4)


def test_the_prior_of_a_scene_is_the_mean_prediction_under_equal_shares(source):
    image = picture(4)
    plain = SegInferencer(*source, **OPTIONS).predict(image).probabilities.astype(np.float64)
    inferencer = SegInferencer(*source, adapt='prior', prior_strength=0.8, **OPTIONS)
    trained = inferencer._scenes.trained[:, None, None]
    assert trained.sum() == pytest.approx(1)
    neutral = plain / trained
    shares = 0.99 * (neutral / neutral.sum(0)).mean((1, 2)) + 0.01 / 6
    expected = plain * (shares[:, None, None] / trained) ** 0.8
    expected /= expected.sum(0)
    np.testing.assert_allclose(inferencer.predict(image).probabilities, expected, atol=1e-5)


def test_a_sequence_goes_on_with_statistics_and_shares_of_the_scenes_before(source, scene, tmp_path):
    images = {name: picture(seed, 64, 64, mean) for name, seed, mean in (('a.tif', 21, 120), ('b.tif', 22, 60))}
    files = [scene(*item) for item in images.items()]
    tensors = [(torch.from_numpy(own.transpose(2, 0, 1)).float()[None] - 120) / 60 for own in images.values()]
    model = init_model(*source, device='cpu')
    with torch.no_grad():
        for own in tensors:
            adapt_batch_statistics(model, [(own, None)], 0.4)
        expected = model.encode_decode(tensors[1], [dict(img_shape=(64, 64))])[0].argmax(0)
    inferencer = SegInferencer(*source, adapt='bn', adapt_weight=0.4, continual=True, **OPTIONS)
    inferencer.predict_rasters(files, tmp_path / 'bn', progress=False)
    np.testing.assert_array_equal(read(tmp_path / 'bn' / 'b.tif'), expected)
    alone = SegInferencer(*source, adapt='bn', adapt_weight=0.4, **OPTIONS).predict(images['b.tif']).labels
    assert (alone != expected.numpy()).any()
    np.testing.assert_array_equal(inferencer.predict(images['b.tif']).labels, alone)  # an image is no sequence

    plain = SegInferencer(*source, **OPTIONS)
    inferencer = SegInferencer(*source, adapt='prior', prior_strength=1, continual=True, **OPTIONS)
    trained = inferencer._scenes.trained[:, None, None]
    own = [plain.predict(image).probabilities.astype(np.float64) / trained for image in images.values()]
    shares = 0.99 * np.mean([(each / each.sum(0)).mean((1, 2)) for each in own], 0) + 0.01 / 6
    inferencer.predict_rasters(files, tmp_path / 'prior', progress=False)
    np.testing.assert_array_equal(read(tmp_path / 'prior' / 'b.tif'), (own[1] * shares[:, None, None]).argmax(0))


def test_a_sequence_knows_what_was_before_and_ends_where_a_scene_cannot_be_read(source, scene, tmp_path, capsys):
    first, second = scene('a.tif', picture(23, 64, 64)), scene('b.tif', picture(24, 64, 64))
    options = ['-o', tmp_path / 'maps', '--adapt', 'bn', '--continual']
    assert predict.main(command(source, first, second, *options)) == 0
    scene('a.tif', picture(25, 64, 64))
    capsys.readouterr()
    assert predict.main(command(source, second, *options, '--resume')) == 2
    assert 'rasters_before' in capsys.readouterr().err
    first.write_bytes(first.read_bytes()[:200])
    assert predict.main(command(source, first, second, *options, '--overwrite')) == 2
    assert 'a.tif' in capsys.readouterr().err


def test_a_scene_of_one_class_a_small_one_and_one_without_data(source, scene, tmp_path):
    nothing = scene('nan.tif', np.full((128, 128, 3), np.nan, np.float32))
    flat, small = scene('flat.tif', np.full((128, 96, 3), 77, np.uint8)), scene('small.tif', picture(5, 40, 24))
    part = picture(6, 128, 192).astype(np.float32)
    part[:, 70:] = np.nan
    half = scene('half.tif', part)
    for adapt in ('bn', 'prior', 'tent'):
        inferencer = SegInferencer(*source, adapt=adapt, **OPTIONS)
        report = inferencer.predict_rasters([nothing, flat, small, half], tmp_path / adapt, progress=False)
        assert not report.failed
        assert (read(tmp_path / adapt / 'nan.tif') == 255).all()
        assert (read(tmp_path / adapt / 'half.tif') == 255).sum() == 128 * 122
        assert all((read(tmp_path / adapt / name) < 6).all() for name in ('flat.tif', 'small.tif'))


def test_windows_are_looked_for_until_there_are_enough_with_data():
    class Half:
        read = staticmethod(lambda window: window if window[0] >= 640 else None)

    grid = WindowGrid((640, 1280), (64, 64), overlap=0.0)
    found = list(scene_windows(Half(), grid))
    assert len(found) == len(set(found)) == 50  # a quarter of them all
    large = WindowGrid((1280, 1280), (64, 64), overlap=0.0)
    assert len(list(scene_windows(Half(), large))) == 64
    assert len(list(scene_windows(Half(), WindowGrid((64, 1280), (64, 64), overlap=0.0)))) == 8
    inside = WindowGrid((640, 1280), (64, 64), overlap=0.0, area=(700, 0, 760, 64))
    assert set(scene_windows(Half(), inside)) == {(640, 0, 704, 64), (704, 0, 768, 64)}


@pytest.mark.parametrize('adapt', [['bn'], ['tent', '--continual']])
def test_a_stopped_run_goes_on_with_the_same_settings_and_no_others(
    source, scene, tmp_path, monkeypatch, capsys, adapt
):
    inputs = scene('a.tif', picture(7)), scene('b.tif', picture(8, 192, 192, 60))
    assert predict.main(command(source, *inputs, '-o', tmp_path / 'steady', '--adapt', *adapt)) == 0
    again = command(source, *inputs, '-o', tmp_path / 'maps', '--adapt', *adapt, '--resume')
    written = []

    def write(store, window, arrays, wrapped=PartStore.write):
        if len(written) == 2:
            raise KeyboardInterrupt
        if store.folder.name == '.b.parts':
            written.append(window)
        wrapped(store, window, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(PartStore, 'write', write)
        assert predict.main(again) == 130
    assert predict.main(again) == 0
    for name in ('a.tif', 'b.tif'):
        assert (tmp_path / 'maps' / name).read_bytes() == (tmp_path / 'steady' / name).read_bytes()
    with rasterio.open(tmp_path / 'maps' / 'a.tif') as file:
        assert any("'adapt'" in value or '"adapt"' in value for value in file.tags().values())
    capsys.readouterr()
    for other in (['--adapt', 'bn', '--adapt-weight', '0.4'], []):
        assert predict.main(command(source, *inputs, '-o', tmp_path / 'maps', '--resume', *other)) == 1
        assert 'adapt' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('adapt', [['tent', '--continual'], ['prior']])
def test_two_processes_make_the_same_adapted_maps(source, scene, tmp_path, adapt):
    inputs = scene('a.tif', picture(9, 192, 256)), scene('b.tif', picture(10, 128, 192, 60))
    arguments = command(source, *inputs, '--adapt', *adapt)
    assert predict.main([*arguments, '-o', str(tmp_path / 'one')]) == 0
    launcher = ['timeout', '300', sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run(
        [*launcher, 'tools/predict.py', *arguments, '-o', str(tmp_path / 'two')],
        cwd=REPOSITORY, env={**os.environ, 'PYTHONPATH': str(REPOSITORY), 'OMP_NUM_THREADS': '1'}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ('a.tif', 'b.tif'):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()


def test_what_makes_no_sense_is_refused(source):
    for options, words in (
        (dict(adapt='tend'), 'adapt'),
        (dict(adapt_weight=0.5), 'adapt_weight'),
        (dict(continual=True), 'continual'),
        (dict(adapt='bn', adapt_weight=1.5), 'adapt_weight'),
        (dict(adapt='bn', backend='onnx'), 'onnx|ONNX'),
        (dict(adapt='prior', class_prior='uniform'), 'class_prior'),
    ):
        with pytest.raises(ConfigError, match=words):
            SegInferencer(*source, **OPTIONS, **options)
    with pytest.raises(ConfigError, match='LayerNorm'):
        SceneStatistics(SimpleNamespace(model=torch.nn.LayerNorm(3)))
