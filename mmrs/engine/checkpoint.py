"""Checkpoints: read without running foreign code, and never loaded in silence when they do not fit.

Importing this module replaces the loaders of MMEngine's `CheckpointLoader`, which fall back to full unpickling, by ones
that never do. Everything that loads through MMEngine (`load_from`, a resumed run, `init_cfg=dict(type='Pretrained')`)
is then covered.
"""

from __future__ import annotations

import codecs
import difflib
import importlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_torchvision_models,
)
from torch import Tensor, nn
from torch._weights_only_unpickler import _get_allowed_globals

from mmrs.registry import WEIGHT_INITIALIZERS
from mmrs.utils.errors import CheckpointError, some

__all__ = [
    'Match',
    'download',
    'expand_bands',
    'load_matching',
    'read_checkpoint',
    'require_resumable',
    'state_dict_of',
]

_REMOTE = ('http://', 'https://')


def _history_buffer_method(owner: type, name: str) -> Any:
    """What `getattr` may do while a checkpoint is read: name a method of MMEngine's log buffer."""
    if owner is not HistoryBuffer:
        raise UnpicklingError(f'getattr on {owner!r} is refused')
    return getattr(owner, name)


def _safe_globals() -> list[Any]:
    # MMEngine's message hub holds HistoryBuffer objects: numpy arrays and references to the class's own methods.
    core = importlib.import_module('numpy._core' if int(np.__version__.split('.')[0]) >= 2 else 'numpy.core')
    arrays = [(core.multiarray._reconstruct, '_reconstruct'), (core.multiarray.scalar, 'scalar')]
    # numpy 2 moved these; a file names them as the numpy that wrote it did.
    named = [(f, f'{package}.multiarray.{name}') for f, name in arrays for package in ('numpy._core', 'numpy.core')]
    dtypes = {type(np.dtype(t)) for t in ('bool', 'uint8', 'int32', 'int64', 'uint32', 'float16', 'float32', 'float64')}
    # Bytes are pickled as text to encode.
    plain = [(_history_buffer_method, 'builtins.getattr'), (codecs.encode, '_codecs.encode')]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *named, *plain]


class _RestrictedUnpickler(pickle.Unpickler):
    """What ``weights_only=True`` does, for torch before 2.5, where its list of classes cannot be added to."""

    def find_class(self, module: str, name: str) -> Any:
        module = {'__builtin__': 'builtins'}.get(module, module)
        allowed = dict(_get_allowed_globals())
        for item in _safe_globals():
            entry, key = item if isinstance(item, tuple) else (item, f'{item.__module__}.{item.__qualname__}')
            allowed[key] = entry
        if f'{module}.{name}' not in allowed:
            raise UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
        return allowed[f'{module}.{name}']


class _RestrictedPickle:
    """The part of the `pickle` module that ``torch.load`` uses, restricted."""

    Unpickler = _RestrictedUnpickler

    @staticmethod
    def load(file: Any, **kwargs: Any) -> Any:
        return _RestrictedUnpickler(file, **kwargs).load()


def _torch_load(path: Path, map_location: Any) -> Any:
    if hasattr(torch.serialization, 'safe_globals'):
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(path, map_location=map_location, weights_only=True)
    return torch.load(path, map_location=map_location, pickle_module=_RestrictedPickle, weights_only=False)


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a local checkpoint with ``weights_only=True``.

    Besides tensors, only what MMEngine's own checkpoints hold is allowed: log buffers and numpy arrays.

    Raises:
        CheckpointError: The file is missing, is no checkpoint, or holds objects of other classes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob('*.pth')], n=3, cutoff=0.4)
        hint = f'; that folder has {", ".join(near)}' if near else ''
        raise CheckpointError(f'checkpoint {path} does not exist{hint}')
    try:
        checkpoint = _torch_load(path, map_location)
    except UnpicklingError as error:
        reason = str(error.__context__ or error)  # torch puts a page of advice around it
        found = re.search(r'GLOBAL (\S+)', reason)
        what = f'it holds an object of {found.group(1)}' if found else reason.splitlines()[0]
        raise CheckpointError(
            f'checkpoint {path} is refused: {what}, and loading that could run foreign code. '
            'Save its state_dict alone with torch.save, where you trust it, and use that file'
        ) from error
    except (EOFError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'{path} is no readable PyTorch checkpoint ({type(error).__name__}): is it complete, and a .pth file?'
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, where a dict of weights is expected')
    return dict(checkpoint)


def state_dict_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, with or without the ``state_dict`` level, less a leading ``module.``.

    Raises:
        CheckpointError: There are none.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {re.sub(r'^module\.', '', str(k)): v for k, v in weights.items() if isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f'{source} holds no weights; its keys are {", ".join(map(str, list(checkpoint)[:8]))}')
    return weights


# Remote files -------------------------------------------------------------------------------------------------------


def resolve_url(name: str) -> str:
    """Turn ``open-mmlab://NAME`` or ``torchvision://NAME`` into its URL; anything else stays as it is."""
    scheme, separator, model = name.partition('://')
    if not separator or scheme in ('http', 'https'):
        return name
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

    Args:
        url: ``https://...``, or a name that :func:`resolve_url` knows.
        key: Where the configuration names it, for the message.

    Raises:
        CheckpointError: It cannot be had; the message says how to go on without.
    """
    resolved = resolve_url(url)
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(resolved).path).name
    problem = ''
    if not cached.is_file() and get_rank() % max(torch.cuda.device_count(), 1) == 0:
        cached.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'downloading {resolved} to {cached}', logger='current')
        try:
            torch.hub.download_url_to_file(resolved, str(cached))
        except OSError as error:  # urllib's errors and time-outs are OSErrors
            problem = str(error)
    if get_world_size() > 1:
        dist.barrier()
    if not cached.is_file():
        raise CheckpointError(
            f'pretrained weights {url} cannot be downloaded ({problem or "see the first process"}). Either\n'
            '  - train from random initialisation: --no-pretrained\n'
            f'  - use a file you have: --cfg-options {key}=FILE\n'
            f'  - or put the file in the cache by hand: {resolved} -> {cached}'
        )
    return cached


# MMEngine logs these functions' names, less `load_from_`.
def load_from_file(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    return read_checkpoint(filename, map_location)


def load_from_cache(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    return read_checkpoint(download(filename), map_location)


CheckpointLoader.register_scheme('', load_from_file, force=True)
CheckpointLoader.register_scheme([*_REMOTE, r'\S+://'], load_from_cache, force=True)
# Longer prefixes win, so MMEngine's own have to be replaced one by one.
CheckpointLoader.register_scheme([s for s in CheckpointLoader._schemes if s], load_from_cache, force=True)


# Loading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """How the keys of a checkpoint met those of a model; `loaded` counts, the rest lists."""

    loaded: int
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def complete(self) -> bool:
        """Whether every weight of the one has met one of the other."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        parts = [f'{self.loaded} weights fit']
        for name, keys in (
            ('missing from the file', self.missing),
            ('in the file only', self.unexpected),
            ('of another shape', self.misshapen),
        ):
            if keys:
                parts.append(f'{len(keys)} {name} ({some(keys, 3)})')
        return ', '.join(parts)


def load_matching(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    strict: bool = False,
    partial_source: bool = False,
) -> Match:
    """Load what fits by name and shape, and say what did not.

    Args:
        model: A module, or a wrapper of one (data-parallel, test-time augmentation).
        weights: Tensors by name.
        source: Name of the file, for messages.
        strict: Demand that everything fits.
        partial_source: The file is expected to hold more than the model, a classifier's last layer for example:
            keys that the model lacks are no reason for a warning.

    Raises:
        CheckpointError: Nothing matched, or, with `strict`, not everything.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    own = model.state_dict()
    misshapen = [k for k, v in weights.items() if k in own and own[k].shape != v.shape]
    fitting = {k: v for k, v in weights.items() if k not in misshapen}
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    # A counter that old checkpoints lack; nothing here depends on it.
    missing = [k for k in missing if k not in misshapen and not k.endswith('num_batches_tracked')]
    match = Match(len(fitting) - len(unexpected), missing, list(unexpected), misshapen)

    if not match.loaded:
        raise CheckpointError(
            f'{source} does not fit the model: none of its {len(weights)} weights matches by name and shape. '
            f'The file has {some(list(weights), 3)}; the model has {some(list(own), 3)}. '
            'Is it a checkpoint of this configuration? Weights of other code need converting first '
            '(tools/model_converters)'
        )
    if strict and not match.complete:
        examples = [f'{k}: file {tuple(weights[k].shape)}, model {tuple(own[k].shape)}' for k in misshapen[:3]]
        raise CheckpointError(
            f'{source} does not fit the model: {match}' + (f' [{"; ".join(examples)}]' if examples else '')
        )
    if missing or misshapen or (unexpected and not partial_source):
        print_log(f'{source} fits the model in part: {match}', logger='current', level=30)
    else:
        print_log(f'{source}: {match}', logger='current')
    return match


def require_resumable(checkpoint: Mapping[str, Any], source: str | Path) -> None:
    """Check that a checkpoint holds the state of a run, not its weights only.

    Raises:
        CheckpointError: Optimizer, iteration or log state is not there.
    """
    lacking = [key for key in ('meta', 'state_dict', 'optimizer', 'message_hub') if key not in checkpoint]
    if not lacking and 'iter' not in checkpoint['meta']:
        lacking = ['meta.iter']
    if lacking:
        raise CheckpointError(
            f'cannot resume from {source}: it has no {", ".join(lacking)}, so it is not the state of a training run '
            f'(its keys are {some(list(map(str, checkpoint)), 6)}). To start a new run from its weights: '
            f'--cfg-options load_from={source}'
        )


def expand_bands(weight: Tensor, bands: int) -> Tensor:
    """Make a first convolution for RGB into one for any number of bands.

    For one band the three are summed, so that a grey image has the answer of its RGB copy. For more, they are repeated
    in turn (R, G, B, R, ...) and scaled by ``3 / bands``, so that activations keep their size; the weights of bands
    that are not R, G and B are a start, not knowledge.

    Args:
        weight: ``(out, 3, h, w)``.
        bands: Number of input bands.

    Returns:
        ``(out, bands, h, w)``.
    """
    if bands == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(bands) % 3] * (3 / bands)


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class CheckedPretrainedInit(PretrainedInit):
    """MMEngine's ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)`` with the checks of this module.

    A first convolution for RGB is expanded to the bands of the model, see :func:`expand_bands`.
    """

    def __call__(self, module: nn.Module) -> None:
        weights = state_dict_of(CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location), self.checkpoint)
        if self.prefix is not None:
            prefix = self.prefix.rstrip('.') + '.'
            inner = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            if not inner:
                raise CheckpointError(f'{self.checkpoint} has no {prefix}*; it has {some(list(weights), 3)}')
            weights = inner
        own = module.state_dict()
        for key, weight in weights.items():
            bands = own[key].shape[1] if key in own and own[key].dim() == 4 else 3
            if bands != 3 and weight.shape == (own[key].shape[0], 3, *own[key].shape[2:]):
                weights[key] = expand_bands(weight, bands)
                print_log(f'{self.checkpoint}: {key} expanded from 3 to {bands} bands', logger='current')
        load_matching(module, weights, self.checkpoint, partial_source=True)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
