import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from mmengine.runner import IterBasedTrainLoop
from PIL import Image

from mmrs.apis.adaptation import Adaptation
from mmrs.apis.class_prior import PriorOptions
from mmrs.apis.inference import init_model
from mmrs.apis.target_images import TargetImages
from mmrs.models.batch_statistics import adapt_batch_statistics
from mmrs.utils.errors import ConfigError, DataError, OutputError
from mmrs.weights import read_checkpoint
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tools import adapt


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A configuration, and a checkpoint of it."""
    root = tmp_path_factory.mktemp('source')
    config, checkpoint = write_config(root / 'plain.py', write_clips(root / 'data', val=3)), root / 'iter_2.pth'
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    meta = dict(dataset_meta={key: model.dataset_meta[key] for key in ('classes', 'palette')}, iter=2)
    torch.save(dict(meta=meta, state_dict=model.state_dict(), optimizer={}), checkpoint)
    return config, checkpoint


@pytest.fixture
def adaptation(source, tmp_path):
    def build(targets=('config:test',), **settings):
        own = dict(config=source[0], checkpoint=source[1], out=tmp_path / 'new.pth', device='cpu', size=64, number=3)
        return Adaptation(targets=targets, **{**own, **settings})

    return build


def changed(result, source):
    before, after = (read_checkpoint(path)['state_dict'] for path in (source[1], result.written))
    assert before.keys() == after.keys()
    return {key: after[key] for key in before if not torch.equal(before[key], after[key])}


def test_statistics_are_those_of_the_windows_and_the_file_is_the_checkpoint_otherwise(adaptation, source):
    result = adaptation(weights=[0.5], always=True).run()
    found = changed(result, source)
    assert {key.rpartition('.')[2] for key in found} == {'running_mean', 'running_var'}
    model = init_model(*source, device='cpu')
    images = TargetImages(model.cfg, ['config:test'], model.dataset_meta, 64)
    batches = [sample['inputs'][None].float() for sample in images.samples(3, 0, first=3)]
    adapt_batch_statistics(model, [((batch - 120) / 60, None) for batch in batches], 0.5)
    for key, value in found.items():
        torch.testing.assert_close(value, model.state_dict()[key])
    written = read_checkpoint(result.written)
    assert written['meta']['adaptation']['settings'] == dict(weight=0.5)
    assert written['meta']['adaptation']['verdict'] == result.choice.verdict
    assert 'optimizer' not in written
    init_model(source[0], result.written, 'cpu')


def test_the_prior_is_in_the_bias_of_the_classifier(adaptation, source):
    result = adaptation(method='prior', strengths=[0.5, 1.0], always=True).run()
    (key, bias), *others = changed(result, source).items()
    assert (key, others) == ('decode_head.conv_seg.bias', [])
    model = init_model(*source, device='cpu')
    strength = read_checkpoint(result.written)['meta']['adaptation']['settings']['strength']
    offsets = PriorOptions('uniform', strength).resolve(model.cfg, model.dataset_meta['classes']).offsets
    torch.testing.assert_close(bias, model.decode_head.conv_seg.bias.detach() + torch.tensor(offsets))
    assert [own.name.split()[-1] for own in result.candidates[1:]] == ['0.5', '1']


@pytest.mark.parametrize(
    ('consistencies', 'shares', 'verdict', 'written'),
    [
        ((0.5, 0.7, 0.6), ((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), 'adapted', 'weight 0.5'),
        ((0.5, 0.55, 0.4), ((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), 'kept', None),
        # All that was made of it has lost a class: that is usual among them, but not for the checkpoint.
        ((0.5, 0.9, 0.8), ((0.5, 0.5), (1.0, 0.0), (1.0, 0.0)), 'kept', None),
        ((0.5, 0.9, 0.7), ((0.5, 0.5), (1.0, 0.0), (0.5, 0.5)), 'adapted', 'weight 1'),
    ],
)
def test_what_is_written(adaptation, monkeypatch, consistencies, shares, verdict, written):
    looks = iter(zip(consistencies, shares))

    def look(self, model, crops):
        value, own = next(looks)
        criterion = SimpleNamespace(compute=lambda expected: SimpleNamespace(value=value))
        return criterion, torch.tensor([*own, 0, 0, 0, 0], dtype=torch.float64)

    monkeypatch.setattr(Adaptation, '_look', look)
    expected = torch.tensor([0.5, 0.5, 0, 0, 0, 0])
    monkeypatch.setattr(Adaptation, '_expected', lambda self, model, predicted: (expected, 'a table'))
    result = adaptation(weights=[0.5, 1.0]).run()
    assert result.choice.verdict == verdict
    assert (result.written is not None) == (written is not None)
    (marked,) = (line for line in adapt.report(result).splitlines() if '**' in line)
    assert marked.startswith(f'| statistics, {written} |' if written else '| the checkpoint |')


def test_a_run_has_a_folder_of_its_own(adaptation, source):
    with pytest.raises(ConfigError, match='holds an input'):
        adaptation(method='tent', work_dir=Path(source[1]).parent)
    with pytest.raises(ConfigError, match=r'new\.pth was expected'):
        adaptation(out='new')
    with pytest.raises(ConfigError, match='weights is for bn'):
        adaptation(method='prior', weights=[0.3])
    for name, value in dict(strengths=[0.3], class_prior='source', iterations=5, batch_size=4).items():
        with pytest.raises(ConfigError, match=f'{name} is for'):
            adaptation(**{name: value})
    with pytest.raises(ConfigError, match='strengths is empty'):
        adaptation(method='prior', strengths=[])


@pytest.mark.slow
@pytest.mark.parametrize('method', ['tent', 'shot', 'cotta'])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(adaptation, source, tmp_path, monkeypatch, method):
    settings = dict(method=method, iterations=4, learning_rate=1e-3, always=True)
    steady = adaptation(out=tmp_path / 'steady.pth', **settings).run()
    with monkeypatch.context() as patch:
        step = IterBasedTrainLoop.run_iter

        def stopped(loop, batch):
            if loop._iter == 3:
                raise KeyboardInterrupt
            step(loop, batch)

        patch.setattr(IterBasedTrainLoop, 'run_iter', stopped)
        with pytest.raises(KeyboardInterrupt):
            adaptation(out=tmp_path / 'resumed.pth', **settings).run()
    with pytest.raises(OutputError):
        adaptation(out=tmp_path / 'resumed.pth', **settings).run()
    with pytest.raises(OutputError, match='weight'):
        adaptation(out=tmp_path / 'resumed.pth', resume=True, weights=[0.25], **settings).run()
    resumed = adaptation(out=tmp_path / 'resumed.pth', resume=True, **settings).run()
    found = changed(steady, source)
    assert all(torch.equal(value, found[key]) for key, value in changed(resumed, source).items())
    moved = {key for key in found if 'running' not in key}
    assert any('backbone' in key for key in moved)
    if method == 'tent':
        model = init_model(*source, device='cpu')
        kinds = {type(model.get_submodule(key.rpartition('.')[0])).__name__ for key in moved}
        assert kinds == {'LayerNorm', 'BatchNorm2d'}
    assert ('decode_head.conv_seg.weight' in moved) == (method == 'cotta')


def test_the_checkpoint_stays_unless_maps_are_clearly_more_consistent(adaptation, source, tmp_path, capsys):
    command = [*map(str, source), 'config:test', '-o', str(tmp_path / 'new.pth'), '--size', '64', '--number', '3']
    command += ['--device', 'cpu', '--weights', '0']  # weight 0: the checkpoint itself
    assert adapt.main(command) == 1
    said = capsys.readouterr().out
    assert '| the checkpoint | ' in said
    assert '**stays**' in said
    assert 'Nothing was written' in said
    assert not (tmp_path / 'new.pth').exists()
    assert adapt.main([*command, '--dry-run']) == 0
    assert 'weights [0.0]' in capsys.readouterr().out
    assert not (tmp_path / 'new.pth').exists()
    assert adapt.main([*command, '--always']) == 0
    assert adapt.main(command) == 2  # there is one now


def test_without_the_sources_labels_the_checkpoints_own_classes_are_expected(source, adaptation, tmp_path):
    folder = shutil.copytree(source[0].parent, tmp_path / 'copy')
    shutil.rmtree(folder / 'data' / 'ann_dir')
    config = write_config(folder / 'plain.py', folder / 'data')
    found = [own.run() for own in (adaptation(), adaptation(config=config, targets=[str(folder / 'data/img_dir/val')]))]
    assert [own.expected_from for own in found] == ["the source's labels", "the checkpoint's own maps of the target"]
    assert found[1].dead[0] == []


def write_raster(path, image):
    bands = image.shape[-1] if image.ndim == 3 else 1
    with rasterio.open(path, 'w', 'GTiff', image.shape[1], image.shape[0], bands, dtype=image.dtype) as file:
        file.write(image.transpose(2, 0, 1))
    return str(path)


def test_scenes_that_are_small_of_one_class_or_without_data(adaptation, source, tmp_path):
    random = np.random.default_rng(0)
    nothing = write_raster(tmp_path / 'nan.tif', np.full((80, 80, 3), np.nan, np.float32))
    with pytest.raises(DataError, match='data'):
        adaptation([nothing]).run()
    flat = write_raster(tmp_path / 'flat.tif', np.full((100, 80, 3), 90, np.uint8))
    small = write_raster(tmp_path / 'small.tif', random.integers(0, 255, (40, 33, 3)).astype(np.uint8))
    for targets in ([flat], [small], [flat, small]):
        result = adaptation(targets, weights=[1.0], always=True, overwrite=True).run()
        assert all(value.isfinite().all() for value in changed(result, source).values())
    part = random.integers(0, 255, (64, 64, 3)).astype(np.float32)
    part[:, 20:] = np.nan
    own = write_raster(tmp_path / 'part.tif', part)
    with pytest.raises(DataError, match=r'convs\.3\.bn'):  # one pixel at the coarsest stage, and a bit
        adaptation([own], weights=[1.0], overwrite=True).run()
    again = shutil.copy(own, tmp_path / 'again.tif')
    result = adaptation([own, str(again)], weights=[1.0], always=True, overwrite=True).run()
    assert all(value.isfinite().all() for value in changed(result, source).values())


def test_what_does_not_suit_a_method_is_refused(adaptation, tmp_path, monkeypatch):
    st_dasegnet = write_adaptation_config(tmp_path / 'base.py', write_clips(tmp_path / 'data'))
    model, checkpoint = init_model(st_dasegnet, device='cpu'), tmp_path / 'iter_1.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    own = dict(config=st_dasegnet, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match='STDASegNet'):
        adaptation(method='tent', **own).run()
    assert adaptation(weights=[1.0], always=True, **own).run().written
    for settings, error, words in (
        (dict(method='tend'), ConfigError, 'tend'),
        (dict(weights=[1.5]), ConfigError, 'weights'),
        (dict(weights=[0.5], prior_images=3), ConfigError, 'prior_images'),
        (dict(method='tent', weights=[0.5, 1]), ConfigError, 'weights'),
        (dict(options=dict(diversity=1)), ConfigError, 'options'),
        (dict(), OutputError, 'new.pth'),
    ):
        with pytest.raises(error, match=words):
            adaptation(**settings)
    (tmp_path / 'new.pth').unlink()
    plain = {'model.data_preprocessor': dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3)}
    with pytest.raises(ConfigError, match='SegDataPreProcessor'):
        adaptation(cfg_options=plain).run()
    with pytest.raises(DataError, match='nowhere'):
        adaptation(['nowhere.tif']).run()
    with pytest.raises(ConfigError, match='config:target'):
        adaptation(['config:target']).run()
    for name, value in dict(WORLD_SIZE='2', RANK='0').items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match='torchrun'):
        adaptation()


def test_windows_are_drawn_by_the_seed_and_treated_as_in_the_test(source, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (200, 120, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'scene.png')
    model = init_model(*source, device='cpu')
    steps = model.cfg.test_dataloader.dataset.pipeline
    steps.insert(1, dict(type='Resize', scale_factor=0.5, keep_ratio=True))
    images = TargetImages(model.cfg, [str(tmp_path)], model.dataset_meta, 64)
    first, again, other = ([own['inputs'] for own in images.samples(3, seed)] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))
    assert {own.shape for own in first} == {(3, 32, 32)}  # windows of 64, at half their size
    assert images.count(40) == len(list(images.samples(40, 0))) == 12
