"""The command `mmrs`, in a checkout and from a wheel."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from mmrs.__main__ import commands, main
from mmrs.checks import installation
from mmrs.install import install
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY


def test_help_lists_every_tool_and_runs_none(capsys):
    assert main([]) == main(['--help']) == 0
    shown = capsys.readouterr().out
    assert set(commands().values()) == set((REPOSITORY / 'tools').rglob('*.py'))
    for name, tool in commands().items():
        summary = tool.read_text().split('"""')[1].partition('\n')[0]
        assert re.search(rf'^{name} +{re.escape(summary)}$', shown, re.MULTILINE)


def test_a_command_is_its_tool(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmrs'])
    assert main(['test', 'no.py', 'no.pth']) == 2
    assert 'no.py does not exist' in capsys.readouterr().err
    assert main(['convert', 'potsdam', '--help']) == 0
    shown = capsys.readouterr().out
    assert shown.startswith('usage: mmrs convert potsdam')
    assert '\n  mmrs convert potsdam downloads/Potsdam' in shown
    assert main(['convert', 'potsdam']) == 2
    capsys.readouterr()
    for wrong, near in (('trian', 'train'), ('convert', 'convert vaihingen'), ('convert posdam', 'convert potsdam')):
        assert main(wrong.split()) == 2
        assert near in capsys.readouterr().err


def test_a_configuration_that_comes_with_mmrs_is_found_from_any_folder(tmp_path, monkeypatch):
    install()
    name = 'st_dasegnet/potsdam2vaihingen.py'
    expected = load_config(REPOSITORY / 'configs' / name)
    monkeypatch.chdir(tmp_path)
    assert load_config(f'mmrs::{name}').to_dict() == expected.to_dict()
    Path('own.py').write_text(f"_base_ = 'mmrs::{name}'\nrandomness = dict(seed=7)\n")
    own = load_config('own.py')
    assert own.pop('randomness')['seed'] == 7
    assert own.to_dict() == {key: value for key, value in expected.to_dict().items() if key != 'randomness'}
    with pytest.raises(ConfigError, match=r'did you mean .*potsdam2vaihingen\.py'):
        load_config('mmrs::st_dasegnet/potsdam2vaihinge.py')


def test_doctor_finds_what_is_missing_old_or_broken(capsys, monkeypatch):
    assert main(['doctor']) == 0
    assert re.search(r'^ +GDAL +\d+\.\d+', capsys.readouterr().out, re.MULTILINE)
    version, load = metadata.version, installation.importlib.import_module

    def other(name):
        if name == 'scipy':
            raise metadata.PackageNotFoundError(name)
        return '1.0.0' if name == 'rich' else version(name)

    def broken(name):
        if name == 'cv2':
            raise ImportError('libGL.so.1: cannot open shared object file')
        return load(name)

    monkeypatch.setattr(metadata, 'version', other)
    monkeypatch.setattr(installation.importlib, 'import_module', broken)
    found = {own.name: own for own in installation.look_around()}
    assert found['scipy'].remedy.startswith("pip install 'scipy>=")
    assert '1.0.0; >=' in found['rich'].state
    assert 'libGL' in found['opencv-python-headless'].state
    assert found['numpy'].remedy == ''


def test_doctor_says_that_mmrs_is_not_installed(capsys, monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'requires', requires)
    assert main(['doctor']) == 1
    assert 'make install' in capsys.readouterr().out


@pytest.mark.parametrize(('command', 'status'), [('train', 2), ('doctor', 1), ('--help', 0)])
def test_without_the_mm_stack_there_is_a_line_and_no_traceback(command, status):
    code = f'import sys, runpy; sys.modules["mmseg"] = None; sys.argv = ["mmrs", "{command}"]; ' \
           'runpy.run_module("mmrs", run_name="__main__")'  # fmt: skip
    done = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == status
    assert 'Traceback' not in done.stderr
    assert ('pip install --no-deps onedl-mmengine' in done.stdout + done.stderr) == (status > 0)


@pytest.mark.slow
def test_a_wheel_has_all_commands_and_configurations(tmp_path):
    checkout, home, empty = tmp_path / 'checkout', tmp_path / 'installed', tmp_path / 'empty'
    checkout.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(REPOSITORY / name, checkout)
    for name in ('mmrs', 'configs', 'tools', 'requirements'):
        shutil.copytree(REPOSITORY / name, checkout / name, symlinks=True)
    pip = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, checkout]
    subprocess.run(pip, check=True, timeout=300)
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as file:
        file.extractall(home)
    assert (home / 'mmrs' / 'py.typed').exists()
    (about,) = home.glob('*.dist-info')
    assert 'mmrs = mmrs.__main__:main' in (about / 'entry_points.txt').read_text()
    assert {'METADATA'} < {path.name for path in about.rglob('*')} >= {'LICENSE'}
    empty.mkdir()
    (empty / 'own.py').write_text("_base_ = 'mmrs::source_only/demo.py'\n")

    def mmrs(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'mmrs', *arguments], cwd=empty, capture_output=True, text=True, timeout=600,
            env={**os.environ, 'PYTHONPATH': str(home)},
        )  # fmt: skip

    script = mmrs('completion', 'bash')  # it reads the help of each command
    assert script.returncode == 0, script.stderr
    for words, expected in (('tr', 'train'), ('train --res', '--resume'), ('convert pot', 'potsdam')):
        line = f'COMP_WORDS=(mmrs {words}); COMP_CWORD={len(words.split())}; _mmrs; echo "${{COMPREPLY[@]}}"'
        shown = subprocess.run(['bash', '-c', script.stdout + line], capture_output=True, text=True)
        assert expected in shown.stdout.split()
    for name in commands():
        assert f'*" {name}") words="--' in script.stdout
    for config in ('mmrs::source_only/demo.py', 'own.py'):
        done = mmrs('train', config)
        assert done.returncode == 2
        assert 'data/synthetic/potsdam_irrg' in done.stderr  # the data, which are not there
