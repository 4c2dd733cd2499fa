"""The converters as a user runs them."""

import importlib
from typing import NamedTuple

import numpy as np
import pytest

from tests.small_files import _write as write
from tests.small_files import files_in

RNG = np.random.default_rng(0)


class Result(NamedTuple):
    status: int | str | None
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '120')

    def run_tool(tool, *arguments):
        capfd.readouterr()
        try:
            status = importlib.import_module(f'tools.dataset_converters.{tool}').main(list(map(str, arguments)))
        except SystemExit as end:  # of argparse
            status = end.code
        return Result(status, *capfd.readouterr())

    return run_tool


@pytest.mark.parametrize('tool', ['potsdam', 'vaihingen', 'color_masks', 'gid', 'city_osm', 'landcovernet'])
def test_help_has_examples(run, tool):
    result = run(tool, '--help')
    assert result.status == 0
    assert f'python tools/dataset_converters/{tool}.py' in result.stdout
    for option in ('--workers', '--dry-run', '--overwrite'):
        assert option in result.stdout
    assert '--force' not in result.stdout
    for option in ('--clip-size', '--stride', '--edge', '--tolerance'):
        assert (option in result.stdout) == (tool != 'landcovernet')
    assert run(tool, 'in').status == 2  # without a folder for the result


@pytest.mark.parametrize(
    ('tool', 'image', 'label', 'clip'),
    [
        ('potsdam', '2_Ortho_RGB/top_potsdam_2_10_RGB.tif', 'top_potsdam_2_10_label_noBoundary.tif', '2_10_0_0_64_64'),
        ('vaihingen', 'top/top_mosaic_09cm_area1.tif', 'top_mosaic_09cm_area1_noBoundary.tif', 'area1_0_0_64_64'),
    ],
)
@pytest.mark.filterwarnings('error::rasterio.errors.NotGeoreferencedWarning')
def test_isprs(run, tmp_path, tool, image, label, clip):
    write(tmp_path / 'in' / image, RNG.integers(0, 256, (100, 100, 3), np.uint8), crs=None, transform=None)
    write(tmp_path / 'in' / label, np.full((100, 100, 3), 255, np.uint8), crs=None, transform=None)
    options = ['in', '-o', 'out', '--clip-size', '64', *(['--bands', 'rgb'] if tool == 'potsdam' else [])]
    missing = run(tool, *options)
    assert missing.status == 2
    assert missing.stderr.startswith('error: in lacks ')
    options.append('--allow-missing')
    counted = run(tool, *options, '--dry-run')
    assert counted.status == 0
    assert 'Dry run: nothing is written' in counted.stdout
    assert not (tmp_path / 'out').exists()
    assert run(tool, *options).status == 0
    for folder in ('img_dir', 'ann_dir'):
        assert (tmp_path / f'out/{folder}/train/{clip}.png').is_file()
    shifted = [*options, '--edge', 'shift']
    refused = run(tool, *shifted)
    assert refused.status == 2
    assert '--overwrite' in refused.stderr
    assert run(tool, *shifted, '--overwrite').status == 0
    assert run(tool, *options, '--force').status == 0


def test_color_masks(run, tmp_path):
    for name in 'abcd':
        write(tmp_path / f'in/images/{name}.png', RNG.integers(0, 256, (20, 20, 3), np.uint8))
        write(tmp_path / f'in/masks/{name}.png', RNG.choice([0, 255], (20, 20, 1)).astype(np.uint8).repeat(3, axis=-1))
    recipe = tmp_path / 'y.yaml'
    recipe.write_text("classes: [{name: dark, color: '#000000'}, {name: light, color: '#FFFFFF'}]\n")
    options = ['in', 'y.yaml', '-o', 'out', '--split', 'train=*:0.75', '--split', 'val=*:0.25', '--workers', '2']
    result = run('color_masks', *options)
    assert result.status == 0, result.stderr
    assert [len(files_in(tmp_path / f'out/{folder}')) for folder in ('img_dir/train', 'ann_dir/val')] == [3, 1]
    assert 'train: 3 samples' in result.stdout
    recipe.write_text("classes: [{name: dark, color: '#000000'}]\n")
    bad = run('color_masks', *options)
    assert bad.status == 2
    assert 'error: 4 of 4 masks hold colours that are no class: #FFFFFF' in bad.stderr


def test_gid(run, tmp_path):
    for i in range(3):
        name = f'GF2_PMS1__L1A000100000{i}-MSS1'
        write(tmp_path / f'in/image_NirRGB/{name}.tif', RNG.integers(1, 1024, (70, 70, 4)).astype(np.uint16))
        write(tmp_path / f'in/label_5classes/{name}_label.tif', np.full((70, 70, 3), (0, 0, 255), np.uint8))
    result = run('gid', 'in', '-o', 'out', '--clip-size', '64', '--seed', '1')
    assert result.status == 0, result.stderr
    assert [len(files_in(tmp_path / f'out/img_dir/{split}', '.png')) for split in ('train', 'val')] == [2, 1]
    options = ['--bands', 'nirrgb', '--scaling', 'none', '--clip-size', '32']
    (tmp_path / 't.txt').write_text('GF2_PMS1__L1A0001000002-MSS1_32_0_64_32\n')
    (tmp_path / 'v.txt').write_text('GF2_PMS1__L1A0001000002-MSS1_0_0_32_32\n')
    result = run('gid', 'in', '-o', 'lists', *options, '--split-list', 'train=t.txt', 'val=v.txt')
    assert result.status == 0, result.stderr
    clips = [
        f'{split}/GF2_PMS1__L1A0001000002-MSS1_{clip}'
        for split, clip in (('train', '32_0_64_32'), ('val', '0_0_32_32'))
    ]
    assert files_in(tmp_path / 'lists/img_dir') == [f'{clip}.tif' for clip in clips]
    assert files_in(tmp_path / 'lists/ann_dir') == [f'{clip}.png' for clip in clips]
    for wrong in (['t.txt'], ['train=t.txt', 'train=v.txt'], ['../train=t.txt']):
        bad = run('gid', 'in', '-o', 'bad', '--split-list', *wrong)
        assert bad.status == 2
        assert f"error: --split-list is '{wrong[-1]}'; NAME=FILE" in bad.stderr
    assert not (tmp_path / 'bad').exists()


def test_city_osm(run, tmp_path):
    for i in (1, 2):
        write(tmp_path / f'in/paris/paris{i}_image.png', np.full((40, 70, 3), 9, np.uint8))
        write(tmp_path / f'in/paris/paris{i}_labels.png', np.full((40, 70, 3), 255, np.uint8))
    options = ['in', '-o', 'out', '--city', 'paris', '--clip-size', '32', '--val-share', '0.5']
    assert 'CITY-OSM Paris' in run('city_osm', *options, '--dry-run').stdout
    assert run('city_osm', *options).status == 0
    assert len(files_in(tmp_path / 'out/ann_dir/train')) == 2
    other = run('city_osm', 'in', '-o', 'other', '--city', 'chicago')
    assert other.status == 2
    assert 'error: in holds no file of CITY-OSM Chicago.' in other.stderr


def test_landcovernet(run, tmp_path):
    chip = np.arange(64, dtype=np.uint16).reshape(8, 8, 1) + 1
    for tile in ('35JNN', '35LMC'):
        folder = tmp_path / f'in/{tile}/00/S2'
        write(folder / f'{tile}_00_2018_LC_10m.tif', (chip % 8).astype(np.uint8).repeat(2, axis=-1))
        (folder / f'{tile}_00_labeling_dates.csv').write_text(f',{tile}\n0,20180105\n')
        for band in ('B02', 'B03', 'B04', 'B08'):
            write(folder / f'{tile}_00_20180105/{tile}_00_20180105_{band}_10m.tif', chip)
    missing = run('landcovernet', 'in', '-o', 'out')
    assert missing.status == 2
    assert '35JQG: no chip' in missing.stderr
    options = ['--bands', 'B08', 'B04', '--scaling', 'percentile', '--min-consensus', '4']
    result = run('landcovernet', 'in', '-o', 'out', '--split', 'train=35JNN', 'val=35LMC', *options)
    assert result.status == 0, result.stderr
    chips = ['train/35JNN_00_20180105', 'val/35LMC_00_20180105']
    assert files_in(tmp_path / 'out/img_dir') == [f'{chip}.tif' for chip in chips]
    assert files_in(tmp_path / 'out/ann_dir') == [f'{chip}.png' for chip in chips]
    bad = run('landcovernet', 'in', '-o', 'out', '--bounds', '5', '5')
    assert bad.status == 2
    assert 'error: bounds is (5.0, 5.0); 0 <= LOW < HIGH' in bad.stderr
