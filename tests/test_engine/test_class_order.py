"""Classes of checkpoint, training set and validation set are matched by name."""

import json

import numpy as np
import pytest
import torch

from mmrs.apis import init_model, train
from mmrs.datasets import PotsdamDataset
from mmrs.utils.errors import ConfigError
from mmrs.weights import read_checkpoint
from tests.conformance import changes
from tests.tiny_runs import quick_start, write_clips, write_config, write_regression_config  # noqa: F401

NAMES = PotsdamDataset.METAINFO['classes']
TURNED = {name: name for name in reversed(NAMES)}
OTHERS = {'lake' if name == 'car' else name: name for name in NAMES}


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'))


@pytest.fixture(scope='module')
def config(tmp_path_factory, clips):
    return write_config(tmp_path_factory.mktemp('config') / 'tiny.py', clips)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp('run')
    train(config, folder)
    return folder


def scores(folder) -> dict:
    (file,) = folder.glob('*/vis_data/scalars.json')
    found = json.loads(file.read_text().splitlines()[-1])
    return {key: value for key, value in found.items() if key.startswith(('IoU', 'mIoU', 'aAcc'))}


def options(part, class_map, **others):
    return {f'{part}_dataloader.dataset.class_map': class_map, **others}


def test_validation_takes_the_order_of_the_training_set(config, finished, tmp_path):
    train(config, tmp_path, cfg_options=options('val', TURNED))
    assert scores(tmp_path) == scores(finished)
    weights = (read_checkpoint(folder / 'iter_2.pth')['state_dict'] for folder in (tmp_path, finished))
    assert changes(*weights) == set()
    # The comparison can fail: as it was before, it would be these.
    assert len({scores(finished)[f'IoU.{name}'] for name in NAMES}) > 1


def test_a_written_configuration_keeps_the_order(config, tmp_path):
    train(config, tmp_path / 'first', cfg_options=options('train', TURNED))
    train(tmp_path / 'first' / config.name, tmp_path / 'again')
    for folder in ('first', 'again'):
        meta = read_checkpoint(tmp_path / folder / 'iter_2.pth')['meta']['dataset_meta']
        assert tuple(meta['classes']) == tuple(TURNED)
    assert scores(tmp_path / 'first') == scores(tmp_path / 'again')


def test_validation_of_other_classes(config, tmp_path):
    with pytest.raises(ConfigError, match=r'val_dataloader\.dataset has .*lake.*but train_dataloader\.dataset has'):
        train(config, tmp_path, cfg_options=options('val', OTHERS))
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('resume', [True, False])
def test_training_from_a_checkpoint(config, finished, tmp_path, resume):
    checkpoint = str(finished / 'iter_1.pth')
    how = dict(resume=checkpoint) if resume else {}
    start = {} if resume else dict(load_from=checkpoint)
    with pytest.raises(ConfigError, match=r'in another order\. .*class_map=') as error:
        train(config, tmp_path / 'a', cfg_options=options('train', TURNED, **start), **how)
    assert str(dict(zip(NAMES, NAMES))) in str(error.value)  # it can be pasted
    others = {**options('train', OTHERS, **start), **options('val', OTHERS)}
    if resume:
        with pytest.raises(ConfigError, match=r'lake only in the first, car only in the second.*load_from='):
            train(config, tmp_path / 'b', cfg_options=others, **how)
    else:
        train(config, tmp_path / 'b', cfg_options=others)
        (log,) = (tmp_path / 'b').glob('*/*.log')
        assert 'its heads start from weights of other classes' in log.read_text()
    train(config, tmp_path / 'c', cfg_options=options('train', dict(zip(NAMES, NAMES)), **start), **how)


def test_a_transfer_has_the_classes_of_its_reference(clips, finished, tmp_path):
    regression = write_regression_config(tmp_path / 'own.py', clips, clips)
    turned = {f'train_dataloader.dataset.{part}.class_map': TURNED for part in ('source', 'target')}
    train(regression, tmp_path / 'run', reference=finished / 'iter_2.pth', cfg_options=turned)
    meta = read_checkpoint(tmp_path / 'run' / 'iter_2.pth')['meta']['dataset_meta']
    assert tuple(meta['classes']) == NAMES
    assert [tuple(colour) for colour in meta['palette']] == [tuple(c) for c in PotsdamDataset.METAINFO['palette']]
    first = tmp_path / 'run' / 'iter_1.pth'
    train(regression, tmp_path / 'resumed', resume=first, cfg_options=turned)
    weights = (read_checkpoint(tmp_path / name / 'iter_2.pth')['state_dict'] for name in ('run', 'resumed'))
    assert changes(*weights) == set()
    parts = [
        f'{name}_dataloader.dataset.{part}.class_map' for name in ('train', 'val') for part in ('source', 'target')
    ]
    others = dict.fromkeys(parts, OTHERS)
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset has .*lake.*but the reference has'):
        train(regression, tmp_path / 'b', reference=finished / 'iter_2.pth', cfg_options=others)


def test_names_that_the_configuration_gives(config, finished, tmp_path):
    """Of weights without names: those that its test set ends up with."""
    torch.save(read_checkpoint(finished / 'iter_2.pth')['state_dict'], tmp_path / 'weights.pth')
    model = init_model(config, tmp_path / 'weights.pth', 'cpu', options('test', TURNED))
    assert tuple(model.dataset_meta['classes']) == NAMES[::-1]
    np.testing.assert_array_equal(model.dataset_meta['palette'], PotsdamDataset.METAINFO['palette'][::-1])
    named = init_model(config, finished / 'iter_2.pth', 'cpu', options('test', TURNED))
    assert tuple(named.dataset_meta['classes']) == NAMES
