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
        profile = dict(driver=driver, height=height, width=width, count=count, dtype=array.dtype)
        with rasterio.open(path, 'w', **profile) as raster:
            raster.write(array.transpose(2, 0, 1))


@pytest.mark.parametrize('tool', ['potsdam', 'vaihingen', 'color_masks', 'gid', 'city_osm', 'landcovernet'])
def test_help_has_examples(run, tool):
    result = run(tool, '--help')
    assert result.returncode == 0
    assert f'python tools/dataset_converters/{tool}.py' in result.stdout
    for option in ('--workers', '--dry-run', '--overwrite'):
        assert option in result.stdout
    assert '--force' not in result.stdout
    for option in ('--clip-size', '--stride', '--edge', '--tolerance'):
        assert (option in result.stdout) == (tool != 'landcovernet')


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
    assert missing.returncode == 2
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
    shifted = [*options, '--edge', 'shift', '--allow-missing']
    refused = run(tool, *shifted)
    assert refused.returncode == 2
    assert '--overwrite' in refused.stderr
    for spelling in ('--overwrite', '--force'):
        assert run(tool, *shifted, spelling).returncode == 0
        assert run(tool, *options, '--allow-missing', spelling).returncode == 0


def test_color_masks(run, tmp_path, monkeypatch):
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
    assert bad.returncode == 2
    assert 'error: 4 of 4 masks hold colours that are no class: #FFFFFF' in bad.stderr
    monkeypatch.setenv('MMRS_TRACEBACK', '1')
    with pytest.raises(ValueError, match='4 of 4 masks hold colours'):
        runpy.run_path(str(TOOLS / 'color_masks.py'), run_name='__main__')
    assert run('color_masks', 'in').returncode == 2


def written(out):
    return {path.relative_to(out).as_posix() for path in out.rglob('*') if path.suffix in ('.png', '.tif')}


def test_gid(run, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        name = f'GF2_PMS1__L1A000100000{i}-MSS1'
        write(tmp_path / f'in/image_NirRGB/{name}.tif', rng.integers(1, 1024, (70, 70, 4)).astype(np.uint16))
        write(tmp_path / f'in/label_5classes/{name}_label.tif', np.full((70, 70, 3), (0, 0, 255), np.uint8))
    result = run('gid', 'in', '-o', 'out', '--clip-size', '64', '--seed', '1')
    assert result.returncode == 0, result.stderr
    assert len(written(tmp_path / 'out')) == 6
    assert len(list((tmp_path / 'out/img_dir/val').glob('*.png'))) == 1
    options = ['--bands', 'nirrgb', '--scaling', 'none', '--clip-size', '32']
    (tmp_path / 't.txt').write_text('GF2_PMS1__L1A0001000002-MSS1_32_0_64_32\n')
    (tmp_path / 'v.txt').write_text('GF2_PMS1__L1A0001000002-MSS1_0_0_32_32\n')
    result = run('gid', 'in', '-o', 'lists', *options, '--split-list', 'train=t.txt', 'val=v.txt')
    assert result.returncode == 0, result.stderr
    assert written(tmp_path / 'lists') == {
        f'{folder}/GF2_PMS1__L1A0001000002-MSS1_{clip}'
        for folder, clip in (
            ('img_dir/train', '32_0_64_32.tif'),
            ('img_dir/val', '0_0_32_32.tif'),
            ('ann_dir/train', '32_0_64_32.png'),
            ('ann_dir/val', '0_0_32_32.png'),
        )
    }
    for wrong in (['t.txt'], ['train=t.txt', 'train=v.txt'], ['../train=t.txt']):
        bad = run('gid', 'in', '-o', 'bad', '--split-list', *wrong)
        assert bad.returncode == 2
        assert f"error: --split-list '{wrong[-1]}': NAME=FILE was expected, each name once" in bad.stderr
    assert not (tmp_path / 'bad').exists()


def test_city_osm(run, tmp_path):
    for i in (1, 2):
        write(tmp_path / f'in/paris/paris{i}_image.png', np.full((40, 70, 3), 9, np.uint8))
        write(tmp_path / f'in/paris/paris{i}_labels.png', np.full((40, 70, 3), 255, np.uint8))
    options = ['in', '-o', 'out', '--city', 'paris', '--clip-size', '32', '--val-share', '0.5']
    counted = run('city_osm', *options, '--dry-run')
    assert counted.returncode == 0
    assert 'CITY-OSM Paris' in counted.stdout
    assert not (tmp_path / 'out').exists()
    assert run('city_osm', *options).returncode == 0
    assert len(list((tmp_path / 'out/ann_dir/train').iterdir())) == 2
    other = run('city_osm', 'in', '-o', 'other', '--city', 'chicago')
    assert other.returncode == 2
    assert 'error: in holds no file of CITY-OSM Chicago.' in other.stderr
    assert run('city_osm', 'in', '-o', 'out').returncode == 2


def test_landcovernet(run, tmp_path):
    chip = np.arange(64, dtype=np.uint16).reshape(8, 8, 1) + 1
    for tile in ('35JNN', '35LMC'):
        folder = tmp_path / f'in/{tile}/00/S2'
        write(folder / f'{tile}_00_2018_LC_10m.tif', (chip % 8).astype(np.uint8).repeat(2, axis=-1))
        (folder / f'{tile}_00_labeling_dates.csv').write_text(f',{tile}\n0,20180105\n')
        for band in ('B02', 'B03', 'B04', 'B08'):
            write(folder / f'{tile}_00_20180105/{tile}_00_20180105_{band}_10m.tif', chip)
    missing = run('landcovernet', 'in', '-o', 'out')
    assert missing.returncode == 2
    assert '35JQG: no chip' in missing.stderr
    options = ['--bands', 'B08', 'B04', '--scaling', 'percentile', '--min-consensus', '4']
    result = run('landcovernet', 'in', '-o', 'out', '--split', 'train=35JNN', 'val=35LMC', *options)
    assert result.returncode == 0, result.stderr
    assert written(tmp_path / 'out') == {
        'img_dir/train/35JNN_00_20180105.tif',
        'img_dir/val/35LMC_00_20180105.tif',
        'ann_dir/train/35JNN_00_20180105.png',
        'ann_dir/val/35LMC_00_20180105.png',
    }
    bad = run('landcovernet', 'in', '-o', 'out', '--bounds', '5', '5')
    assert bad.returncode == 2
    assert 'error: Bounds are 5 5; 0 <= LOW < HIGH was expected.' in bad.stderr
