import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests.tiny_runs import write_adaptation_config, write_clips
from tools.analysis_tools import browse_dataset as tool


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('browse')
    return write_adaptation_config(folder / 'tiny.py', write_clips(folder / 'clips'))


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


def test_same_seed_same_pictures(config, tmp_path, capsys):
    for name in 'ab':
        assert run(config, '-o', tmp_path / name, '-n', 2) == 0
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()
    assert run(config, '-o', tmp_path / 'a') == 2
    assert 'is not empty' in capsys.readouterr().err


def test_dry_run_writes_nothing(config, tmp_path, capsys):
    assert run(config, '-o', tmp_path / 'out', '--dry-run') == 0
    assert '4 pictures not written' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--cfg-options', 'train_dataloader.dataset.source.type=Potsdam'], 'did you mean PotsdamDataset'),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], 'has no val_dataloader'),
    ],
)
def test_errors(config, tmp_path, capsys, options, message):
    assert run(config, '-o', tmp_path / 'new', *options) == 2
    assert message in capsys.readouterr().err


PAIRS = """
train_dataloader = dict(dataset=dict(
    _delete_=True, type='PairedDataset', pipeline=[dict(type='Pad', size=(80, 64))], **{{
        name: dict(
            type='RemoteSensingDataset', data_root='{data}', data_prefix=dict(img_path=name), serialize_data=False,
            pipeline=[dict(type='LoadRasterImage')])
        for name in ('source', 'target')}}))
"""


def test_pairs(config, tmp_path):
    """Pictures of one grey level each: what is beside what, and what does not count."""
    for name, grey in (('source', 40), ('target', 200)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((64, 64, 3), grey, np.uint8)).save(tmp_path / name / 'a.png')
    pairs = config.with_name('pairs.py')
    pairs.write_text(f"_base_ = './{config.name}'\n" + PAIRS.format(data=tmp_path))
    assert run(pairs, '-o', tmp_path / 'out') == 0
    picture = np.asarray(Image.open(tmp_path / 'out' / 'train_0.png'))[..., 0]
    # Three panels of 80 x 64 pixels at 2.5 times the size, 64 columns of each with data.
    shares = {grey: (picture == grey).sum() / (160 * 160) for grey in (40, 200)}
    assert shares[40] == pytest.approx(1.5, abs=0.05)
    assert shares[200] == pytest.approx(1.5, abs=0.05)
    assert 3 * 40 * 160 * 0.9 < ((picture == 90) | (picture == 150)).sum() < 3 * 40 * 160 * 1.1
    # Squares of 10 pixels are 25 wide in the picture; a row of the composite has one grey and the other in turn.
    composite = picture[picture.shape[0] // 2, -205:-45]
    changes = np.flatnonzero(np.diff(composite.astype(int)))
    inside = [change for change in changes if {*composite[change : change + 2]} == {40, 200}]
    np.testing.assert_allclose(np.diff(inside), 25, atol=1)
    assert len(inside) >= 5
