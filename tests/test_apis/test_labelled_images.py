import os

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmrs.apis import train
from mmrs.apis.labelled_images import check_labelled
from mmrs.utils.errors import ConfigError, DataError
from tests.conformance import METHODS
from tests.tiny_runs import quick_start, write_clips  # noqa: F401


@pytest.fixture
def config(tmp_path):
    """A tiny run that learns labels of two images of the split that it validates on."""
    data = write_clips(tmp_path / 'data', val=4)
    config = Config.fromfile(METHODS['source and labelled'].write(tmp_path / 'tiny.py', data, data))
    config.train_dataloader.dataset.labelled.data_prefix = dict(img_path='img_dir/val', seg_map_path='ann_dir/val')
    return config


def test_images_that_are_learnt_are_not_scored(config, tmp_path):
    with pytest.raises(ConfigError, match=r'2 of the 2 .*val_dataloader.*clip0\.png.*clip1\.png.*leave_out'):
        train(config, tmp_path / 'run', preflight=False)
    assert not list(tmp_path.glob('run/*.pth'))
    config.val_dataloader.dataset.leave_out = ['clip0', 'clip1']
    with pytest.raises(ConfigError, match=r'2 of the 2 .*test_dataloader'):
        check_labelled(config)
    config.test_dataloader = None
    check_labelled(config)
    train(config, tmp_path / 'run')
    assert (tmp_path / 'run' / 'iter_2.pth').is_file()


def test_another_name_for_a_folder_hides_nothing(config, tmp_path):
    os.symlink(tmp_path / 'data', tmp_path / 'alias')
    config.val_dataloader.dataset.data_root = str(tmp_path / 'alias')
    with pytest.raises(ConfigError, match=r'2 of the 2 .*val_dataloader'):
        check_labelled(config)


def test_a_test_that_is_not_there_yet_hinders_no_training(config):
    config.val_dataloader.dataset.leave_out = ['clip0', 'clip1']
    config.test_dataloader.dataset.data_root = 'nowhere'
    check_labelled(config)
    config.val_dataloader.dataset.data_root = 'nowhere'
    with pytest.raises(DataError, match='nowhere'):
        check_labelled(config)


def test_void_masks_end_a_training_before_its_first_iteration(config, tmp_path):
    config.val_dataloader = config.test_dataloader = None
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / 'data/ann_dir/val/clip1.png')  # 0 is no class there
    with pytest.raises(DataError, match=r'1 of 2 .*clip1\.png'):
        train(config, tmp_path / 'run')
