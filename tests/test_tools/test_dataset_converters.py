"""The converters as a user runs them."""

import runpy
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / 'tools/dataset_converters'


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs a tool in this process, for another would spend most of its time importing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '120')

    def run_tool(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
        return Result(caught.value.code, *capfd.readouterr())

    return run_tool


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {'.png': 'PNG', '.tif': 'GTiff'}[path.suffix]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        height, width, count = array.shape
        profile = dict(driver=driver, height=height, width=width, count=count, dtype='uint8')
        with rasterio.open(path, 'w', **profile) as raster:
            raster.write(array.transpose(2, 0, 1))


@pytest.mark.parametrize('tool', ['potsdam', 'vaihingen', 'color_masks'])
def test_help_has_examples(run, tool):
    result = run(tool, '--help')
    assert result.returncode == 0
    assert f'python tools/dataset_converters/{tool}.py' in result.stdout
    for option in ('--clip-size', '--stride', '--edge', '--tolerance', '--workers', '--dry-run', '--force'):
        assert option in result.stdout


@pytest.mark.parametrize(
    ('tool', 'image', 'label', 'clip'),
    [
        ('potsdam', '2_Ortho_RGB/top_potsdam_2_10_RGB.tif', 'top_potsdam_2_10_label_noBoundary.tif', '2_10_0_0_64_64'),
        ('vaihingen', 'top/top_mosaic_09cm_area1.tif', 'top_mosaic_09cm_area1_noBoundary.tif', 'area1_0_0_64_64'),
    ],
)
@pytest.mark.filterwarnings('error::rasterio.errors.NotGeoreferencedWarning')
def test_isprs(run, tmp_path, tool, image, label, clip):
    rng = np.random.default_rng(0)
    write(tmp_path / 'in' / image, rng.integers(0, 256, (100, 100, 3), np.uint8))
    write(tmp_path / 'in' / label, np.full((100, 100, 3), 255, np.uint8))
    options = ['in', '-o', 'out', '--clip-size', '64', *(['--bands', 'rgb'] if tool == 'potsdam' else [])]
    missing = run(tool, *options)
    assert missing.returncode == 1
    assert 'error: in lacks ' in missing.stderr
    assert 'Traceback' not in missing.stderr
    counted = run(tool, *options, '--allow-missing', '--dry-run')
    assert counted.returncode == 0
    assert 'Dry run: nothing is written' in counted.stdout
    assert not (tmp_path / 'out').exists()
    done = run(tool, *options, '--allow-missing')
    assert done.returncode == 0, done.stderr
    for folder in ('img_dir', 'ann_dir'):
        assert (tmp_path / f'out/{folder}/train/{clip}.png').is_file()
    assert run(tool, *options, '--edge', 'shift', '--allow-missing').returncode == 1


def test_color_masks(run, tmp_path):
    rng = np.random.default_rng(0)
    for name in 'abcd':
        write(tmp_path / f'in/images/{name}.png', rng.integers(0, 256, (20, 20, 3), np.uint8))
        write(tmp_path / f'in/masks/{name}.png', rng.choice([0, 255], (20, 20, 1)).astype(np.uint8).repeat(3, axis=-1))
    (tmp_path / 'y.yaml').write_text("classes: [{name: dark, color: '#000000'}, {name: light, color: '#FFFFFF'}]\n")
    options = ['in', 'y.yaml', '-o', 'out', '--split', 'train=*:0.75', '--split', 'val=*:0.25', '--workers', '2']
    result = run('color_masks', *options)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / 'out/img_dir/train').iterdir())) == 3
    assert len(list((tmp_path / 'out/ann_dir/val').iterdir())) == 1
    assert 'train: 3 samples' in result.stdout
    (tmp_path / 'y.yaml').write_text("classes: [{name: dark, color: '#000000'}]\n")
    bad = run('color_masks', *options)
    assert bad.returncode == 1
    assert 'error: 4 of 4 masks hold colours that are no class: #FFFFFF' in bad.stderr
    assert run('color_masks', 'in').returncode == 2
