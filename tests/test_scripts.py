"""The scripts for contributors start as their pages say, from anywhere and without any help from the environment."""

import os
import subprocess
import sys

import pytest

from tests.tiny_runs import REPOSITORY


@pytest.mark.parametrize('script', ['breakages', 'parity', 'soak'])
def test_they_start(script, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    command = [sys.executable, REPOSITORY / 'tests' / f'{script}.py', '--help']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'usage: {script}.py')
