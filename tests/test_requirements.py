"""The requirements files agree with each other."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

FOLDER = Path(__file__).resolve().parents[1] / 'requirements'
# No build of the lowest torch without CUDA in the package index; the default mm stack needs numpy 2.
ABOVE_ITS_BOUND = {'torch', 'numpy'}


def read(name: str) -> dict[str, Requirement]:
    lines = (line.split('#')[0].strip() for line in (FOLDER / name).read_text(encoding='utf-8').splitlines())
    return {r.name.lower(): r for r in map(Requirement, filter(None, lines))}


def bound(requirement: Requirement, operator: str) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == operator, f'{requirement} should have the form {requirement.name}{operator}...'
    return Version(specifier.version)


def test_minimum_pins_every_lower_bound_of_runtime():
    runtime = {name: bound(r, '>=') for name, r in read('runtime.txt').items()}
    minimum = {name: bound(r, '==') for name, r in read('minimum.txt').items()}
    assert set(runtime) - set(minimum) <= {'torch'}
    assert {n: v for n, v in minimum.items() if n not in ABOVE_ITS_BOUND} == {
        n: v for n, v in runtime.items() if n not in ABOVE_ITS_BOUND
    }
    assert minimum['numpy'] >= runtime['numpy']


@pytest.mark.parametrize('name', ['runtime.txt', 'mminstall.txt', 'minimum.txt'])
def test_mm_stack_and_opencv_stay_apart(name):
    required = set(read(name))
    assert 'opencv-python' not in required, 'only the headless build works without libGL'
    if name != 'mminstall.txt':
        assert not [r for r in required if re.match(r'(onedl-)?mm(cv|engine|segmentation)', r)]


def test_every_lower_bound_says_why():
    lines = (FOLDER / 'runtime.txt').read_text(encoding='utf-8').splitlines()
    assert not [line for line in lines if '>=' in line and '#' not in line]
