"""A real QGIS, which shows files without a screen: tests/qgis_view.py in the Python that it is installed for."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

#: The Python of the system, for which distributions build the bindings.
PYTHON = '/usr/bin/python3'

REASON = 'needs QGIS and its bindings for the Python of the system (Debian: python3-qgis)'

# What the test's own Python is told is not for the other.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'GDAL', 'PROJ'))}


@cache
def is_installed() -> bool:
    """Whether there is one."""
    try:
        return _run('-c', 'import qgis.core').returncode == 0
    except OSError:
        return False


def view(pictures: Path, *files: Path, save: bool = False) -> list[dict[str, Any]]:
    """What QGIS makes of files, see tests/qgis_view.py."""
    pictures.mkdir(exist_ok=True)
    script = Path(__file__).with_name('qgis_view.py')
    done = _run(script, *(['--save'] if save else []), pictures, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _run(*arguments: Any) -> subprocess.CompletedProcess:
    environment = dict(_ENVIRONMENT, QT_QPA_PLATFORM='offscreen')
    command = [PYTHON, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
