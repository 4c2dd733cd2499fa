"""Checkpoints read without running foreign code."""

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
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from packaging.version import Version
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

from mmrs.utils.errors import CheckpointError, some

__all__ = ['dataset_meta_of', 'read_checkpoint', 'state_dict_of', 'trusting_checkpoints']


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


_PythonUnpickler: Any = vars(pickle)['_Unpickler']  # the unpickler in C has no operations to restrict


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


def _is_safetensors(path: Path) -> bool:
    with open(path, 'rb') as file:
        return re.match(rb'.{8}\{\s*["}]', file.read(512), re.DOTALL) is not None


def _load_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    """Tensors of a file that can hold nothing else."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'checkpoint {path} is in the format safetensors, which needs a package: pip install safetensors'
        ) from error
    return load_file(path, device=str(map_location or 'cpu'))


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
    """Read a local checkpoint: a file in the format safetensors, or any other with ``weights_only=True``.

    Besides tensors, only what MMEngine's own checkpoints hold is allowed: log buffers and numpy arrays of numbers. See
    :func:`trusting_checkpoints` for the others.

    Raises:
        CheckpointError: The file is missing, is no checkpoint, or holds objects of other classes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        names = [p.name for pattern in ('*.pth', '*.safetensors') for p in folder.glob(pattern)]
        near = names if path.is_dir() else difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
        hint = f'; that folder has {some(sorted(near), 3)}' if near else ''
        problem = 'is a folder, where a file was expected' if path.is_dir() else 'does not exist'
        raise CheckpointError(f'checkpoint {path} {problem}{hint}')
    try:
        if _is_safetensors(path):
            return dict(_load_safetensors(path, map_location))
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
        '.pth or .safetensors file?'
    )


def state_dict_of(checkpoint: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, with or without the level ``state_dict`` or ``model``, less a leading ``module.``.

    Raises:
        CheckpointError: There are none.
    """
    levels = (checkpoint.get(key) for key in ('state_dict', 'model'))
    inner = next((level for level in levels if isinstance(level, Mapping)), checkpoint)
    weights = {re.sub(r'^module\.', '', str(k)): v for k, v in inner.items() if isinstance(v, Tensor)}
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
