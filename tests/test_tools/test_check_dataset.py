"""The check as a user runs it; what it finds is tested in test_checks."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny_runs import REPOSITORY, write_clips, write_config
from tools import check_dataset


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')


@pytest.fixture
def data(tmp_path):
    root = write_clips(tmp_path / 'data')
    names = 'boundary impervious building low tree car clutter'.split()
    lines = [f'  - {{name: {name}, id: {i}{", ignore: true" * (not i)}}}' for i, name in enumerate(names)]
    (root / 'classes.yaml').write_text('classes:\n' + '\n'.join(lines) + '\n')
    return root


def run(capsys, *arguments):
    code = check_dataset.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_clean_folder(data, capsys, tmp_path):
    code, out, err = run(capsys, data, '--figure', tmp_path / 'shift.png')
    assert code == 0
    assert '0 errors, 0 warnings' in out
    assert 'Shift from train to val: bands' in out
    assert 'Reading files' in err
    assert Image.open(tmp_path / 'shift.png').width > 600


def test_errors_end_with_1_and_are_shown_in_part(data, capsys, tmp_path):
    for i in range(4):
        (data / 'ann_dir' / 'train' / f'clip{i}.png').unlink()
        Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(data / 'img_dir' / 'train' / f'constant{i}.png')
    code, out, _ = run(capsys, data, '--json', tmp_path / 'report.json')
    assert code == 1
    assert 'error Image without a label map (8)' in out
    assert 'and 3 more (--all shows them)' in out
    assert out.count('clip') + out.count('constant') < 20
    assert '8 errors, 4 warnings' in out
    report = json.loads((tmp_path / 'report.json').read_text())
    assert (report['errors'], report['warnings'], len(report['findings'])) == (8, 4, 12)
    _, out, _ = run(capsys, data, '--all')
    assert 'more (' not in out
    assert 'constant3.png: 3, 3, 3' in out


def test_json_alone_on_stdout(data, capsys):
    code, out, _ = run(capsys, data, '--json', '-', '-n', 1)
    report = json.loads(out)
    assert code == 0
    assert {'sampled'} <= {finding['kind'] for finding in report['findings']} <= {'sampled', 'class_never_seen'}
    assert [own['images'] for own in report['sets']] == [1, 1]
    assert sum(report['domains']['train']['shares'].values()) == pytest.approx(1)
    assert report['shift_from'] == 'train'
    assert len(report['shifts']['val']['bands']) == 3


def test_what_data_sets_log_stays_out_of_the_json(data, tmp_path):
    config = write_config(tmp_path / 'tiny.py', data)
    # In a process of its own, for the logger keeps the stream that it got first.
    command = [sys.executable, REPOSITORY / 'tools' / 'check_dataset.py', config, '--json', '-', '--cfg-options']
    done = subprocess.run(
        [*command, 'train_dataloader.dataset.class_map.roof=building'], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 1
    assert 'roof <- building' in done.stderr
    assert [finding['kind'] for finding in json.loads(done.stdout)['findings']] == ['classes_differ']


def test_a_configuration_and_its_options(data, capsys, tmp_path):
    config = write_config(tmp_path / 'tiny.py', data)
    code, out, _ = run(capsys, config)
    assert code == 0
    assert 'val, test' in out
    # Ids 1 to 6 without the data set's reduce_zero_label: there is no class 6.
    code, out, _ = run(capsys, config, '--cfg-options', 'train_dataloader.dataset.reduce_zero_label=False')
    assert code == 1
    assert 'error Ids that are no class (4)' in out
    assert 'expected 0, 1, 2, 3, 4, 5, 255' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], 'nowhere: no such folder'),
        (['nowhere.py'], 'config nowhere.py does not exist'),
        (['{data}', '-n', '0'], '--sample is 0'),
        (['{data}', '--labels', '{data}/ann_dir'], 'whose labels are in ann_dir'),
        (['{data}', '{data}', '--labels', '{data}/ann_dir'], '--labels belongs to one folder'),
        (['{data}', '{data}/../data'], 'same folder was given twice'),
        (['{data}', 'a.py'], 'a configuration is checked alone'),
        (['{data}', '--classes', 'none.yaml'], 'none.yaml: no such file'),
        (['{data}', '--json', '{data}/classes.yaml'], 'classes.yaml exists already'),
        (['nowhere', '--figure', 'a.txt'], 'a.txt: the suffix names no picture format'),
        (['{data}/ann_dir/train', '--image-suffix', '.jp2'], 'holds no images with suffix .jp2'),
    ],
)
def test_bad_usage_ends_with_2(data, capsys, arguments, message):
    code, _, err = run(capsys, *(argument.format(data=data) for argument in arguments))
    assert code == 2
    assert message in err
