import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmrs.apis.class_weights import fill_class_weights
from mmrs.apis.inference import init_model
from mmrs.utils import ConfigError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools import train as train_tool


def config(**model):
    return Config(dict(model=dict(model)))


@pytest.fixture
def weights(tmp_path):
    np.save(tmp_path / 'w.npy', np.array([1.0, 2.0, 0.5]))
    return str(tmp_path / 'w.npy')


def test_files_become_numbers_wherever_they_are(weights):
    head = dict(num_classes=3, loss_decode=[dict(type='L', class_weight=weights), dict(type='L')])
    head['target'] = dict(loss_decode=dict(class_weight=weights))
    cfg = config(decode_head=head, self_training=dict(class_weight=weights))
    fill_class_weights(cfg)
    assert cfg.model.decode_head.loss_decode[0].class_weight == [1.0, 2.0, 0.5]
    assert cfg.model.decode_head.target.loss_decode.class_weight == [1.0, 2.0, 0.5]
    assert cfg.model.self_training.class_weight == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ('model', 'key'),
    [
        (dict(decode_head=dict(num_classes=4, loss_decode=dict(class_weight='W'))), 'model.decode_head.loss_decode'),
        (
            dict(decode_head=dict(num_classes=4, loss_decode=dict(class_weight=[1, 2, 3]))),
            'model.decode_head.loss_decode',
        ),
        (
            dict(auxiliary_head=[dict(num_classes=4, loss_decode=[dict(class_weight='W')])]),
            'model.auxiliary_head.0.loss_decode.0',
        ),
        (
            dict(decode_head=dict(num_classes=4, target=dict(loss_decode=dict(class_weight='W')))),
            'model.decode_head.target.loss_decode',
        ),
        (dict(decode_head=dict(num_classes=4), self_training=dict(class_weight='W')), 'model.self_training'),
    ],
)
def test_wrong_numbers_are_named(weights, model, key):
    text = json.dumps(model).replace('"W"', json.dumps(weights))
    with pytest.raises(ConfigError) as caught:
        fill_class_weights(Config(dict(model=json.loads(text))))
    assert str(caught.value).startswith(f'{key}.class_weight')
    assert 'has 3 entries for 4 classes' in str(caught.value)
    assert ('w.npy' in str(caught.value)) == ('W' in repr(model))


def test_one_output_for_two_classes_may_have_one_weight(weights):
    """mmseg's losses take the weight of the second class."""
    loss = dict(class_weight=[2.0])
    fill_class_weights(config(decode_head=dict(num_classes=2, out_channels=1, loss_decode=loss)))


def test_a_run_with_a_file(tmp_path, capsys):
    """mmseg's loss gets the numbers, the configuration of the run too, and a pickle is not opened."""
    config = write_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips'))
    file = tmp_path / 'w.json'
    file.write_text('[1, 2, 3, 4, 5, 6]')
    run = [str(config), '--work-dir', str(tmp_path / 'run'), '--cfg-options']
    option = 'model.decode_head.loss_decode.class_weight='
    assert train_tool.main([*run, f'{option}{file}']) == 0
    file.unlink()
    model = init_model(tmp_path / 'run' / 'tiny.py', tmp_path / 'run' / 'iter_2.pth', 'cpu')
    assert model.decode_head.loss_decode.class_weight == [1, 2, 3, 4, 5, 6]

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'was here',)

    (tmp_path / 'w.pkl').write_bytes(pickle.dumps(Evil()))
    assert train_tool.main([*run[:2], str(tmp_path / 'other'), run[3], f'{option}{tmp_path / "w.pkl"}']) == 2
    assert 'w.pkl: a pickle can run foreign code' in capsys.readouterr().err
    assert not (tmp_path / 'was here').exists()
