"""`import mmrs`: quick, quiet, and one clear sentence where the mm stack is missing."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import mmrs

REPOSITORY = Path(__file__).resolve().parents[1]


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )


def test_version_is_that_of_the_distribution():
    try:
        installed = version('mmrs')
    except PackageNotFoundError:
        pytest.skip('mmrs is not installed, only on the path')
    assert mmrs.__version__ == installed


@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmseg'])
def test_missing_mm_stack_gives_one_error_with_the_command(missing):
    # None in sys.modules is how Python marks a package as not importable.
    result = run_python(f'import sys; sys.modules[{missing!r}] = None; import mmrs')
    assert result.returncode == 1
    assert result.stderr.count('Traceback') == 1, 'the error must not be chained to another'
    message = result.stderr[result.stderr.index('MissingMMStackError') :]
    assert f'mmrs needs {missing}, which' in message
    assert 'make install' in message
    assert 'pip install --no-deps' in message


def test_missing_mm_stack_is_an_import_error():
    code = (
        'import sys\nsys.modules["mmseg"] = None\n'
        'try:\n    import mmrs\nexcept ImportError as error:\n    print(type(error).__name__)'
    )
    assert run_python(code).stdout.strip() == 'MissingMMStackError'


def test_the_command_in_the_message_installs_what_the_requirements_pin():
    pins = [
        line.split('#')[0].strip()
        for line in (REPOSITORY / 'requirements' / 'mminstall.txt').read_text().splitlines()
        if '==' in line.split('#')[0]
    ]
    result = run_python('import sys; sys.modules["mmcv"] = None; import mmrs')
    command = next(line for line in result.stderr.splitlines() if 'pip install' in line)
    assert [word for word in command.split() if '==' in word] == pins


def test_import_loads_no_heavy_package():
    heavy = {'torch', 'cv2', 'mmcv', 'mmseg', 'mmengine', 'matplotlib', 'scipy', 'rasterio'}
    result = run_python('import sys, mmrs; print(*sys.modules)')
    assert result.returncode == 0, result.stderr
    assert not heavy & set(result.stdout.split())


def test_packages_import_quietly():
    packages = ['apis', 'registry', 'datasets', 'models', 'engine', 'evaluation', 'visualization']
    result = run_python(f'import {", ".join(f"mmrs.{name}" for name in packages)}')
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == ('', '')


def test_importing_changes_nothing_in_mmengine():
    code = """\
import importlib, pkgutil, sys
import mmengine.runner, mmengine.optim, mmengine.visualization, mmseg.datasets, mmseg.models
from mmengine.runner.checkpoint import CheckpointLoader

def state():
    found = {('schemes', *item): 0 for item in CheckpointLoader._schemes.items()}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg'):
            found.update({(name, key): id(value) for key, value in vars(module).items()})
            for kind in [value for value in vars(module).values() if isinstance(value, type)]:
                found.update({(name, kind, key): id(value) for key, value in vars(kind).items() if key[:4] != '_abc'})
    return found

before = state()
import mmrs
for module in pkgutil.walk_packages(mmrs.__path__, 'mmrs.'):
    importlib.import_module(module.name)
after = state()
print([key for key in before if after.get(key) != before[key] and 'mmrs' not in str(key)])
from mmrs.install import install
install()
last = state()
print(len([key for key in after if last.get(key) != after[key]]) > 2)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == ['[]', 'True']


def test_what_mmseg_prints_at_import_still_appears_but_for_one_line():
    code = (
        'import sys\n'
        'from importlib.machinery import ModuleSpec\n'
        'class Loader:\n'
        '    def create_module(self, spec): return None\n'
        '    def exec_module(self, module): print("Could not import OneDL"); print("something to know")\n'
        'class Finder:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        return ModuleSpec(name, Loader()) if name == "mmseg.datasets" else None\n'
        'sys.meta_path.insert(0, Finder())\n'
        'import mmrs._quiet'
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'something to know\n'
