import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.tiny_runs import write_adaptation_config, write_clips
from tools.analysis_tools import browse_dataset as tool


@pytest.fixture
def config(tmp_path):
    return write_adaptation_config(tmp_path / 'tiny.py', write_clips(tmp_path / 'clips'))


def run(*argv):
    return tool.main([str(arg) for arg in argv])


def test_pictures_of_source_and_target(config, tmp_path, capsys):
    assert run(config, '-o', tmp_path / 'out', '-n', 3) == 0
    assert '3 pictures in' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['train_0.png', 'train_2.png', 'train_3.png']
    train = np.asarray(Image.open(tmp_path / 'out' / 'train_0.png'))
    assert run(config, '-o', tmp_path / 'val', '--split', 'val', '-n', 100) == 0
    val = np.asarray(Image.open(tmp_path / 'val' / 'val_0.png'))
    assert len(list((tmp_path / 'val').iterdir())) == 2
    assert train.shape[1] > 1.3 * val.shape[1]  # image, labels and target against image and labels


def test_labels_of_their_own_size(config, tmp_path):
    changed = Config.fromfile(config)
    changed.val_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(32, 32)))
    changed.dump(config.with_name('resized.py'))
    assert run(config.with_name('resized.py'), '-o', tmp_path / 'val', '--split', 'val', '-n', 1) == 0


def test_same_seed_same_pictures(config, tmp_path):
    for name in 'ab':
        assert run(config, '-o', tmp_path / name, '-n', 2) == 0
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()


def test_dry_run_writes_nothing(config, tmp_path, capsys):
    assert run(config, '-o', tmp_path / 'out', '--dry-run') == 0
    assert '4 pictures not written' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists()


def test_errors(config, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'file').touch()
    assert run(config, '-o', tmp_path / 'out') == 2
    assert 'is not empty' in capsys.readouterr().err
    assert run(config, '-o', tmp_path / 'new', '--cfg-options', 'train_dataloader.dataset.source.type=Potsdam') == 2
    assert 'did you mean PotsdamDataset' in capsys.readouterr().err
    assert run(config, '-o', tmp_path / 'new', '--split', 'val', '--cfg-options', 'val_dataloader=None') == 2
    assert 'has no val_dataloader' in capsys.readouterr().err
