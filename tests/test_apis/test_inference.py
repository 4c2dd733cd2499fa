import numpy as np
import pytest
import torch
from PIL import Image

from mmrs.apis import SegInferencer, init_model
from mmrs.utils import CheckpointError, ConfigError
from mmrs.weights import read_checkpoint
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools import test as test_tool
from tools import train as train_tool


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Configuration, checkpoint and clips of a finished run."""
    folder = tmp_path_factory.mktemp('run')
    clips = write_clips(folder / 'clips')
    config = write_config(folder / 'tiny.py', clips)
    assert train_tool.main([str(config), '--work-dir', str(folder / 'run')]) == 0
    return config, folder / 'run' / 'iter_2.pth', clips


def test_predicts_what_the_test_tool_predicts(run, tmp_path):
    config, checkpoint, clips = run
    model = init_model(config, checkpoint, device='cpu')
    assert model.dataset_meta['classes'][4] == 'car'
    assert not model.training
    image = np.asarray(Image.open(clips / 'img_dir' / 'val' / 'clip0.png'))
    prediction = SegInferencer(config, checkpoint, device='cpu').predict(image)
    predicted = prediction.labels
    assert predicted.shape == image.shape[:2]
    assert predicted.dtype == np.uint8
    assert prediction.classes == model.dataset_meta['classes']
    assert np.array_equal(prediction.probabilities.argmax(0), predicted)
    assert np.array_equal(prediction.confidence, prediction.probabilities.max(0))
    options = ['--work-dir', str(tmp_path / 'work'), '--out', str(tmp_path / 'out')]
    assert test_tool.main([str(config), str(checkpoint), *options]) == 0
    # Label maps hold the data set's own ids, from 1.
    assert np.array_equal(predicted + 1, np.asarray(Image.open(tmp_path / 'out' / 'clip0.png')))


def test_pixels_of_a_file_that_are_said_to_have_no_data(run):
    config, checkpoint, clips = run
    file = clips / 'img_dir' / 'val' / 'clip0.png'
    valid = np.ones(np.asarray(Image.open(file)).shape[:2], bool)
    valid[:5] = False
    labels = SegInferencer(config, checkpoint, device='cpu').predict(file, valid).labels
    np.testing.assert_array_equal(labels == 255, ~valid)


def test_classes_of_the_config_where_the_checkpoint_has_none(run, tmp_path):
    config, checkpoint, _ = run
    torch.save(read_checkpoint(checkpoint)['state_dict'], tmp_path / 'weights.pth')
    assert init_model(config, tmp_path / 'weights.pth', 'cpu').dataset_meta['classes'][1] == 'building'
    assert init_model(config, device='cpu').dataset_meta['palette'][1] == [0, 0, 255]


def test_checkpoint_that_lacks_weights_that_predict(run, tmp_path):
    state = read_checkpoint(run[1])['state_dict']
    name = next(name for name in state if name.startswith('decode_head.conv_seg'))
    torch.save({**state, name: torch.zeros(3)}, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match=rf'1 weights that predict are not in it, or have another shape \({name}'):
        init_model(run[0], tmp_path / 'part.pth', 'cpu')
    torch.save({**state, 'teacher.extra': torch.zeros(3)}, tmp_path / 'more.pth')
    init_model(run[0], tmp_path / 'more.pth', 'cpu')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('CHECKPOINT', None, 'cpu'), r'ends in \.py was expected'),
        (('CONFIG', None, 'cpu', {'model.foo': 1}), r"cannot be built: .*unexpected keyword argument 'foo'"),
        (('CONFIG', None, 'cpu', {'model': None}), 'needs model'),
        (('CONFIG', None, 'foo'), "device 'foo'"),
        (('CONFIG', None, 'cuda:99'), "device 'cuda:99'"),
    ],
)
def test_what_cannot_be(run, arguments, message):
    files = dict(CONFIG=run[0], CHECKPOINT=run[1])
    with pytest.raises(ConfigError, match=message):
        init_model(
            *(files.get(argument, argument) if isinstance(argument, str) else argument for argument in arguments)
        )


def test_images_in_another_order_of_bands_than_in_training(run, tmp_path):
    config, checkpoint, _ = run
    other = tmp_path / 'bgr.py'
    other.write_text(
        f"_base_ = '{config}'\ntrain_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))\n"
    )
    with pytest.raises(ConfigError, match=r'BGR.*RGB'):
        SegInferencer(other, checkpoint, device='cpu')
    assert test_tool.main([str(other), str(checkpoint), '--work-dir', str(tmp_path / 'work')]) == 2


def test_processes_that_were_not_started_together(run, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ConfigError, match='WORLD_SIZE is 4, but RANK'):
        SegInferencer(*run[:2], device='cpu')


def test_checkpoint_that_matches_nothing(run, tmp_path):
    torch.save(dict(a=torch.zeros(1)), tmp_path / 'foreign.pth')
    with pytest.raises(CheckpointError, match='none of its 1 weights'):
        init_model(run[0], tmp_path / 'foreign.pth', 'cpu')
