import numpy as np
import pytest
from PIL import Image

from tools.analysis_tools import show_camera_changes


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def run(*arguments):
    return show_camera_changes.main([str(argument) for argument in arguments])


def test_a_picture_is_written_and_not_overwritten(image, tmp_path, capsys):
    out = tmp_path / 'grid.png'
    options = ['--changes', 'camera', 'shift', '--strengths', 1, '--seed', 4, '--crop', 5, 5, 45, 35, '--size', 60]
    assert run(image, '-o', out, *options, '--bands', 3, 2, 1) == 0
    assert capsys.readouterr().out.strip() == str(out)
    first = np.asarray(Image.open(out))
    assert run(image, '-o', out, *options) == 2
    assert 'exists already' in capsys.readouterr().err
    assert run(image, '-o', out, *options, '--overwrite', '--per-row', 2) == 0
    assert np.asarray(Image.open(out)).shape[1] > 1.5 * first.shape[1]


def test_errors_of_one_line(image, tmp_path, capsys):
    assert run(tmp_path / 'b.png', '-o', tmp_path / 'grid.png') == 2
    assert 'b.png: no such file' in capsys.readouterr().err
    assert run(image, '-o', tmp_path / 'grid.png', '--strengths', 0) == 2
    assert 'numbers above 0' in capsys.readouterr().err
    assert not (tmp_path / 'grid.png').exists()
