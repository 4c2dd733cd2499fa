"""Checkpoints: read without running foreign code, and never loaded in silence when they do not fit.

Importing this module replaces the loaders of MMEngine's `CheckpointLoader`, which fall back to full unpickling, by ones
that do not, unless :func:`trusting_checkpoints` says so. Everything that loads through MMEngine (`load_from`, a resumed
run, `init_cfg=dict(type='Pretrained')`) is then covered.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import importlib
import logging
import pickle
import re
import tarfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pooch
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
from packaging.version import Version
from torch import Tensor, nn
from torch._weights_only_unpickler import _get_allowed_globals

from mmrs.registry import WEIGHT_INITIALIZERS
from mmrs.utils.errors import CheckpointError, some

__all__ = [
    'Match',
    'dataset_meta_of',
    'download',
    'expand_bands',
    'load_matching',
    'read_checkpoint',
    'require_resumable',
    'state_dict_of',
    'trusting_checkpoints',
]

_REMOTE = ('http://', 'https://')


# What checkpoints may hold --------------------------------------------------------------------------------------------


def _history_buffer_method(owner: Any, name: Any) -> Any:
    """What `getattr` may do while a checkpoint is read: name a statistic of MMEngine's log buffer."""
    # Any other attribute leads on: from `__getattribute__` to the globals of a function, and to everything.
    known = {'min', 'max', 'current', 'mean', *HistoryBuffer._statistics_methods}
    if owner is not HistoryBuffer or not isinstance(name, str) or name not in known:
        raise UnpicklingError(f'getattr on {owner!r} is refused')
    return getattr(HistoryBuffer, name)


def _number_dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """What `numpy.dtype` may do: name numbers. An array of objects is made of what bytes say are addresses."""
    if not re.fullmatch(r'[?b]|[biuf]\d{1,2}', str(name)):
        raise UnpicklingError(f'numpy.dtype {str(name)[:20]!r} is refused')
    return np.dtype(name, bool(align), bool(copy))


def _no_bytes() -> bytes:
    """What `bytes` may do: stand for none, those of an empty array."""
    return b''


@functools.cache
def _known_types() -> dict[str, Any]:
    """What MMEngine's checkpoints hold besides tensors, by the name in the file: log buffers and numpy's numbers."""
    core = importlib.import_module('numpy._core' if int(np.__version__.split('.')[0]) >= 2 else 'numpy.core')
    known: dict[str, Any] = {
        f'{HistoryBuffer.__module__}.HistoryBuffer': HistoryBuffer,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': _number_dtype,
        'builtins.getattr': _history_buffer_method,
        '_codecs.encode': codecs.encode,  # bytes are pickled as text to encode
        'builtins.bytes': _no_bytes,
        'builtins.set': set,
    }
    # numpy 2 moved these; a file names them as the numpy that wrote it did.
    for package in ('numpy._core', 'numpy.core'):
        known[f'{package}.multiarray._reconstruct'] = core.multiarray._reconstruct
        known[f'{package}.multiarray.scalar'] = core.multiarray.scalar
    for dtype in map(np.dtype, ('bool', 'uint8', 'int32', 'int64', 'uint32', 'float16', 'float32', 'float64')):
        known[f'numpy.dtypes.{type(dtype).__name__}'] = type(dtype)
    return known


#: From this version on torch takes names for what it may load besides tensors.
_TAKES_NAMES = Version(torch.__version__) >= Version('2.7')

_OPERATIONS = frozenset(
    b'\x80.(t\x85\x86\x87)]}ea\x8fsuN\x88\x89JKMGX\x8aUTQhjqrc\x81Rb'  # those that pickle's protocol 2 writes
)


_PythonUnpickler: Any = vars(pickle)['_Unpickler']  # the one in C has no operations to restrict


class _RestrictedUnpickler(_PythonUnpickler):
    """What ``weights_only=True`` does, for torch before :data:`_TAKES_NAMES`.

    Only what is on the list is named, called or given a state. That is more than to forbid other names: a state can
    replace the attributes of a class, and a function can return what calls anything.
    """

    #: Bytes of the file; no storage can have more.
    size = 0

    dispatch = {key: load for key, load in _PythonUnpickler.dispatch.items() if key in _OPERATIONS}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._allowed = {**_get_allowed_globals(), **_known_types()}
        self._allowed.update({str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)})

    def find_class(self, module: str, name: str) -> Any:
        path = f'{dict(__builtin__="builtins").get(module, module)}.{name}'
        if path not in self._allowed:
            raise UnpicklingError(f'Unsupported global: GLOBAL {path}')
        return self._allowed[path]

    def _require(self, value: Any) -> None:
        if not any(value is allowed for allowed in self._allowed.values()):
            raise UnpicklingError(f'an object of {value!r} is refused')

    def load_reduce(self) -> None:
        self._require(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        self._require(self.stack[-2])
        super().load_newobj()

    def load_build(self) -> None:
        self._require(type(self.stack[-2]))
        super().load_build()

    def load_binpersid(self) -> None:
        kind, storage, _, _, number = self.stack[-1][:5]
        if kind != 'storage' or not 0 <= number * torch._utils._element_size(storage.dtype) <= self.size:
            raise UnpicklingError(f'a storage of {number} values is more than the file has')
        super().load_binpersid()

    dispatch.update({b'R'[0]: load_reduce, 0x81: load_newobj, b'b'[0]: load_build, b'Q'[0]: load_binpersid})


def _load_weights(path: Path, map_location: Any) -> Any:
    if _TAKES_NAMES:
        with torch.serialization.safe_globals([(value, name) for name, value in _known_types().items()]):
            return torch.load(path, map_location=map_location, weights_only=True)

    class Unpickler(_RestrictedUnpickler):
        size = path.stat().st_size

    def load(file: Any, **kwargs: Any) -> Any:
        return Unpickler(file, **kwargs).load()

    # The part of the module `pickle` that torch uses.
    restricted = SimpleNamespace(Unpickler=Unpickler, load=load, __name__='restricted')
    return torch.load(path, map_location=map_location, pickle_module=restricted, weights_only=False)


def _require_weights(path: Path) -> None:
    """Raise UnpicklingError for formats that hold programs, and CheckpointError for those of others.

    `torch.load` itself does not refuse the former in all versions, ``weights_only=True`` or not.
    """
    with open(path, 'rb') as file:
        head = file.read(512)
    what = ''
    if not head:
        what = 'is empty: what was to write it has failed'
    elif head.lstrip()[:1] == b'<':
        what = 'is a web page (HTML or XML), not the file itself. Download it again'
    elif re.match(rb'.{8}\{"', head, re.DOTALL):
        what = 'is in the format safetensors. Convert it: torch.save(safetensors.torch.load_file(FILE), "FILE.pth")'
    elif path.suffix.lower() == '.onnx':
        what = 'is a model in ONNX format; only predict.py takes it, with --backend onnx'
    if what:
        raise CheckpointError(f'checkpoint {path} {what}')
    if head.startswith(b'PK\x03\x04'):
        # Torch's own reader: another one might see other members.
        if 'constants.pkl' in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise UnpicklingError('it is a TorchScript archive, which holds a program')
        return
    with suppress(tarfile.TarError), tarfile.open(path, 'r:'):
        raise UnpicklingError('it is in the tar format of torch before 0.1.10, which is not read safely')


_trusting: ContextVar[bool] = ContextVar('trusting', default=False)


@contextmanager
def trusting_checkpoints(trust: bool = True) -> Iterator[None]:
    """Unpickle a local checkpoint fully inside of the `with` block where the safe way is refused: it may run any code.

    Args:
        trust: Off: as if the block were not there, inside of a trusting one too.
    """
    token = _trusting.set(trust)
    try:
        yield
    finally:
        _trusting.reset(token)


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a local checkpoint with ``weights_only=True``.

    Besides tensors, only what MMEngine's own checkpoints hold is allowed: log buffers and numpy arrays of numbers. See
    :func:`trusting_checkpoints` for the others.

    Raises:
        CheckpointError: The file is missing, is no checkpoint, or holds objects of other classes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        names = [p.name for p in folder.glob('*.pth')]
        near = names if path.is_dir() else difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
        hint = f'; that folder has {some(sorted(near), 3)}' if near else ''
        problem = 'is a folder, where a file was expected' if path.is_dir() else 'does not exist'
        raise CheckpointError(f'checkpoint {path} {problem}{hint}')
    try:
        _require_weights(path)
        checkpoint = _load_weights(path, map_location)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        reason = str(error.__context__ or error)  # torch puts a page of advice around it
        found = re.search(r'GLOBAL (\S+)', reason)
        what = f'it holds an object of {found.group(1)}' if found else reason.splitlines()[0]
        if not _trusting.get():
            raise CheckpointError(
                f'checkpoint {path} is refused: {what}, and loading that could run foreign code. If it is a checkpoint '
                'and you trust those who made it, pass --trust-checkpoint (trust_checkpoint=True); or save its '
                'state_dict alone with torch.save, and use that file'
            ) from error
        print_log(f'{path}: {what}. It is trusted, and loaded fully', logger='current', level=logging.WARNING)
        checkpoint = _load_everything(path, map_location)
    except Exception as error:  # of any class: nothing says what the bytes of a broken file lead to
        raise _unreadable(path, error) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, where a dict of weights is expected')
    return dict(checkpoint)


def _load_everything(path: Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except Exception as error:  # whatever the classes in it raise, and those that cannot be imported
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    lines = str(error).splitlines() or ['']
    return CheckpointError(
        f'{path} is no readable PyTorch checkpoint ({type(error).__name__}: {lines[0][:200]}): is it complete, and a '
        '.pth file?'
    )


def state_dict_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, with or without the ``state_dict`` level, less a leading ``module.``.

    Raises:
        CheckpointError: There are none.
    """
    inner = checkpoint.get('state_dict', checkpoint)
    named = inner.items() if isinstance(inner, Mapping) else ()
    weights = {re.sub(r'^module\.', '', str(k)): v for k, v in named if isinstance(v, Tensor)}
    if not weights:
        raise CheckpointError(f'{source} holds no weights; its keys are {", ".join(map(str, list(checkpoint)[:8]))}')
    return weights


def dataset_meta_of(checkpoint: Mapping[str, Any], source: str | Path) -> Mapping[str, Any]:
    """Classes and palette that a checkpoint names; empty if it names none.

    Raises:
        CheckpointError: They are none.
    """
    meta = checkpoint.get('meta')
    known = (meta.get('dataset_meta') or {}) if isinstance(meta, Mapping) else {}
    try:
        names, colours = known.get('classes') or (), known.get('palette') or ()
        valid = all(isinstance(name, str) for name in names)
        valid &= all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in colours)
    except (AttributeError, TypeError, ValueError):
        valid = False
    if not valid:
        raise CheckpointError(
            f'{source}: meta.dataset_meta is {textwrap.shorten(repr(known), 100)}; names (classes) and colours '
            '(palette) were expected. Save its state_dict alone with torch.save; the configuration has the names'
        )
    return dict(known)


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

    The part of its SHA-256 checksum that a name such as ``resnet50-0676ba61.pth`` holds is compared, of a file in the
    cache too.

    Args:
        url: ``https://...``, or a name that :func:`resolve_url` knows.
        key: Where the configuration names it, for the message.

    Raises:
        CheckpointError: It cannot be had, or is another file; the message says how to go on without.
    """
    resolved = resolve_url(url)
    cached = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(resolved).path).name
    checksum = _checksum_in(cached.name)
    problem = ''
    if not cached.is_file() and get_rank() % max(torch.cuda.device_count(), 1) == 0:
        cached.parent.mkdir(parents=True, exist_ok=True)
        unchecked = '' if checksum else '; its name holds no checksum to compare'
        print_log(f'downloading {resolved} to {cached}{unchecked}', logger='current')
        try:
            torch.hub.download_url_to_file(resolved, str(cached), checksum)
        except (OSError, RuntimeError) as error:  # urllib's errors and time-outs are OSErrors, the other a checksum's
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
    if checksum and not (found := pooch.file_hash(str(cached))).startswith(checksum):
        raise CheckpointError(
            f'{cached} has the SHA-256 checksum {found}, but by its name it begins with {checksum}: it is cut short or '
            f'another file. Remove it, and run the same command again to download {url}'
        )
    return cached


def _checksum_in(name: str) -> str | None:
    """The first digits of the SHA-256 checksum in a file's name, as torchvision and OpenMMLab write them."""
    match = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)
    if match is None or re.fullmatch(r'(19|20)\d{6}', match[1]):  # a date
        return None
    return match[1]


# MMEngine logs these functions' names, less `load_from_`.
def load_from_file(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    return read_checkpoint(filename, map_location)


def load_from_cache(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    with trusting_checkpoints(False):  # who says so names a file that they have
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
        print_log(f'{source} fits the model in part: {match}', logger='current', level=logging.WARNING)
    else:
        print_log(f'{source}: {match}', logger='current')
    return match


def require_resumable(checkpoint: Mapping[str, Any], source: str | Path) -> None:
    """Check that a checkpoint holds the state of a run, not its weights only.

    Raises:
        CheckpointError: Optimizer, iteration or log state is not there.
    """
    keys = ('meta', 'state_dict', 'optimizer', 'message_hub')
    lacking = [key for key in keys if not isinstance(checkpoint.get(key), Mapping)]
    if not lacking and not isinstance(checkpoint['meta'].get('iter'), int):
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
