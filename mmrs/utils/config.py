"""Reading a configuration, what command-line options do to it, and walking through it."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, cast

from mmengine import registry as mmengine_registry
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry
from mmengine.runner import Runner

import mmrs.registry
from mmrs.utils.composition import (
    FOLDED,
    compose,
    fold,
    fold_class_prior,
    fold_label_free_validation,
    fold_labelled_images,
    fold_rare_classes,
    is_method,
)
from mmrs.utils.errors import ConfigError
from mmrs.utils.shipped import shipped_config

__all__ = [
    'TYPE_KEYS',
    'all_registries',
    'enable_amp',
    'find_registered',
    'import_registry',
    'kind_at',
    'load_config',
    'look_up',
    'merge_options',
    'name_types',
    'pretrained_files',
    'registries_by_name',
    'remove_pretrained',
    'require_keys',
]


def load_config(
    config: str | Path | Config | Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    *,
    task: str | None = None,
    network: str | None = None,
    schedule: str | None = None,
) -> Config:
    """Read a configuration file and apply ``--cfg-options``; or take a configuration, to which no options apply.

    In either, what its axes say becomes MMEngine's keys, see :mod:`mmrs.utils.composition`, and a class under `type`
    gives way to its name, see :func:`name_types`.

    Args:
        config: A configuration or its file (``mmrs::NAME``: that comes with mmrs); or a dict of the latter, `config`,
            and the arguments below.
        options: Dotted keys and values.
        task: With a method's file: the task, by its name or file.
        network: Likewise.
        schedule: Likewise; the network's default where there is none.

    Raises:
        ConfigError: The file or one of its `_base_` is missing, no valid Python or fails, or an option is misspelt.
    """
    axes = dict(task=task, network=network, schedule=schedule)
    if isinstance(config, Config):
        if any(axes.values()):
            config = compose(config, **axes)
        fold(config)
        name_types(config)
        _fold_last(config)
        return config
    if isinstance(config, Mapping):
        if 'config' not in config or (set(config) - {'config', *axes}):
            raise ConfigError(f'{dict(config)} was found; dict(config=FILE, task=NAME, network=NAME) was expected')
        given = {key: value for key, value in axes.items() if value}
        return load_config(**{**config, **given}, options=options)
    path = Path(shipped_config(str(config)))
    if path.suffix != '.py':
        raise ConfigError(f'{path} is no configuration file: one that ends in .py was expected')
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob('*.py')], n=3)
        hint = f'; did you mean {", ".join(str(path.parent / name) for name in near)}?' if near else ''
        raise ConfigError(f'config {path} does not exist{hint}')
    try:
        config = Config.fromfile(path)
        if any(axes.values()) or is_method(config):
            config = compose(config, **axes)
    except ConfigError:
        raise
    except SyntaxError as error:
        where = error.filename if error.filename and Path(error.filename).is_file() else path
        raise ConfigError(f'config {where}, line {error.lineno}: {error.msg}') from error
    except FileNotFoundError as error:
        raise ConfigError(f'config {path}: {error}; check its _base_') from error
    except OSError as error:
        raise ConfigError(f'config {path} cannot be read: {error}') from error
    except Exception as error:  # it is a program, which can raise anything
        frames, own = traceback.extract_tb(error.__traceback__), str(path.absolute())
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == own]
        where = f', line {lines[-1]}' if lines else ''
        raise ConfigError(f'config {path}{where}: {type(error).__name__}: {error}') from error
    fold(config)
    name_types(config)
    if options:
        merge_options(config, options)
    _fold_last(config)
    return config


#: Keys that any configuration may have, and that are folded last.
_LAST = ('class_prior', 'labelled_images', 'label_free_validation', 'rare_class_sampling')


def _fold_last(config: Config) -> None:
    fold_class_prior(config)
    fold_labelled_images(config)
    fold_label_free_validation(config)  # of the source's images as they are
    fold_rare_classes(config)


def name_types(config: Config) -> None:
    """Put registered names where a configuration has classes, as pure Python configurations do, in place.

    A name means the most special class of that name, so that MMEngine's `IterBasedTrainLoop` becomes this project's.
    One that is not registered stays, as does a class that shares its name with an unrelated one.
    """
    registries = registries_by_name()
    for path, node in walk(config):
        for key in TYPE_KEYS:
            if isinstance(node.get(key), (type, FunctionType)):
                kind = kind_at(path) if key == 'type' else None
                cast('dict', node)[key] = _name_of(node[key], kind, registries)


def _name_of(given: Any, kind: str | None, registries: Mapping[str, Registry]) -> Any:
    """The name under which one of some registries has a class, or one of the same name that derives from it."""
    for registry in [registries[kind]] if kind is not None else registries.values():
        found = registry.get(given.__name__)
        if found is given or (isinstance(found, type) and isinstance(given, type) and issubclass(found, given)):
            return given.__name__
    path = f'{given.__module__}.{given.__name__}'
    return path if find_registered(path) is given else given


def look_up(registry: Registry, kind: Any) -> Any:
    """What a `type` stands for: itself where it is a class, else what a registry has under that name, or None."""
    return registry.get(kind) if isinstance(kind, str) else kind


def merge_options(config: Config, options: Mapping[str, Any]) -> None:
    """Merge dotted options into a configuration. New keys are welcome, misspelt ones are not.

    Raises:
        ConfigError: A part of a key is not there, but something very similar is; or the key is no name, or one that
            makes a configuration file run code; or a value would, in the configuration that the run writes down.
    """
    for key, value in options.items():
        # The configuration is written down as a program, in which a key stands as it is.
        if not all(part.isidentifier() or part.isdecimal() for part in key.split('.')):
            raise ConfigError(f'--cfg-options {key!r}: names or numbers joined by dots were expected')
        if (first := key.split('.')[0]) in ('_base_', 'custom_imports'):
            raise ConfigError(f'--cfg-options {key}: {first} names code to run; write it into the configuration file')
        if first in FOLDED and first not in config:
            raise ConfigError(f'--cfg-options {key}: {first} has become part of {FOLDED[first]}; set that')
        # Where MMEngine reads a file, it replaces {{...}} in its text before it runs it, by any program if need be.
        if '{{' in str(value):
            raise ConfigError(f'--cfg-options {key}: {{{{ is for configuration files, where it stands for other text')
        for name in (name for _, node in walk(value) for name in node if repr(name) != f"'{name}'"):
            raise ConfigError(f'--cfg-options {key}: the key {name!r} was found; text without quotes was expected')
    top_level = {*inspect.signature(Runner.__init__).parameters, *_LAST} - {'self', 'cfg'}
    for key in options:
        node: Any = config
        parts = key.split('.')
        for depth, part in enumerate(parts):
            if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
                continue
            if not isinstance(node, Mapping) and node is not config:
                break
            known = set(node.keys()) | (top_level if depth == 0 else set())
            if part in node:
                if node[part] is None and (depth < len(parts) - 1 or isinstance(options[key], Mapping)):
                    cast('dict', node)[part] = {}  # MMEngine merges into dicts only
                node = node[part]
                continue
            near = [] if part in known else difflib.get_close_matches(part, known, n=3, cutoff=0.8)
            # Two layers of one kind may have similar keys, so the last part of a nested key is left to the class.
            if near and (depth == 0 or depth < len(parts) - 1):
                raise ConfigError(
                    f'--cfg-options {key}: there is no {".".join(parts[: depth + 1])} in the configuration; '
                    f'did you mean {", ".join(".".join([*parts[:depth], name]) for name in near)}?'
                )
            break
        else:
            _check_kind(key, node, options[key])
    try:
        config.merge_from_dict(ConfigDict(options))
    except (KeyError, TypeError, IndexError, AssertionError, AttributeError) as error:
        raise ConfigError(f'--cfg-options {" ".join(options)} cannot be merged: {error}') from error


def _check_kind(key: str, before: Any, value: Any) -> None:
    """Raise ConfigError where an option is no dict, and the configuration has one, or a list of them."""
    dicts = isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value)
    shown = textwrap.shorten(repr(before), 100)
    if isinstance(before, Mapping) and not (value is None or isinstance(value, Mapping) or dicts):
        some_key = next(iter(before), 'key')
        raise ConfigError(
            f'--cfg-options {key}={value}: the configuration has a dict there, {shown}. Set its keys, '
            f'{key}.{some_key}=..., or give a dict, "{key}=dict({some_key}=...)"'
        )
    if isinstance(before, (list, tuple)) and isinstance(value, Mapping) and not all(k.isdecimal() for k in value):
        raise ConfigError(
            f'--cfg-options {key}: the configuration has a list there, {shown}. Set keys of its items, '
            f'{key}.0.KEY=..., or give a list, "{key}=[dict(...)]"'
        )


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All dicts of a configuration, each with its dotted key."""
    if isinstance(node, Config):
        node = node._cfg_dict
    if isinstance(node, Mapping):
        yield path, node
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from walk(child, f'{path}.{key}' if path else str(key))


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, Mapping) and init_cfg.get('type') == 'Pretrained'


def remove_pretrained(node: Any) -> None:
    """Set every ``pretrained=...`` and ``init_cfg=dict(type='Pretrained')`` below `node` to None, in place."""
    for _, found in list(walk(node)):
        if found.get('pretrained') is not None:
            found['pretrained'] = None  # type: ignore[index]
        init_cfg = found.get('init_cfg')
        if _is_pretrained(init_cfg):
            found['init_cfg'] = None  # type: ignore[index]
        elif isinstance(init_cfg, (list, tuple)):
            found['init_cfg'] = [item for item in init_cfg if not _is_pretrained(item)] or None  # type: ignore[index]


def pretrained_files(node: Any, path: str = '') -> dict[str, str]:
    """Pretrained files that a model configuration names: dotted key to file or URL."""
    files = {}
    for key, found in walk(node, path):
        if isinstance(found.get('pretrained'), str):
            files[f'{key}.pretrained'] = found['pretrained']
        if _is_pretrained(found) and 'checkpoint' in found:
            files[f'{key}.checkpoint'] = found['checkpoint']
    return files


def enable_amp(config: Config) -> None:
    """Turn on automatic mixed precision, in each part of a joint optimizer.

    A `dtype` in the configuration stays; by default it is bfloat16 on a CPU and float16 elsewhere.

    Raises:
        ConfigError: An optimizer wrapper has a type of its own.
    """
    wrapper = config.optim_wrapper
    parts = {'optim_wrapper': wrapper}
    if 'optimizer' not in wrapper:  # one part per optimizer
        parts = {f'optim_wrapper.{k}': v for k, v in wrapper.items() if isinstance(v, Mapping) and 'optimizer' in v}
    for key, part in parts.items():
        if part.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ConfigError(
                f'--amp: {key}.type is {part["type"]}; only OptimWrapper can be turned into AmpOptimWrapper'
            )
        part['type'] = 'AmpOptimWrapper'


# Types ---------------------------------------------------------------------------------------------------------------

#: Keys that name what is built.
TYPE_KEYS = ('type', 'constructor', 'runner_type')

#: Registries that a `type` must be in, by its place in a configuration; the first match counts.
_PLACES = {
    r'model(\.(backbone|neck|decode_head|auxiliary_head|data_preprocessor))?': 'model',
    r'\w+_dataloader\.dataset(\.(source|labelled|target|dataset|datasets\.\d+))*': 'dataset',
    r'\w+_dataloader\.dataset\..*pipeline\.\d+': 'transform',
    r'\w+_dataloader\.sampler': 'data sampler',
    r'optim_wrapper\.(\w+\.)?optimizer': 'optimizer',
    r'optim_wrapper(\.\w+)?': 'optim_wrapper',
    r'param_scheduler(\.\w+)*': 'parameter scheduler',
    r'default_hooks\.\w+|custom_hooks\.\d+': 'hook',
    r'(val|test)_evaluator(\.\d+)?': 'metric',
    r'(train|val|test)_cfg': 'loop',
    r'visualizer': 'visualizer',
}


def kind_at(path: str) -> str | None:
    """The registry of the `type` at a dotted key, where it is a usual place."""
    return next((kind for place, kind in _PLACES.items() if re.fullmatch(place, path)), None)


def registries_by_name() -> dict[str, Registry]:
    """MMEngine's registries and this project's, of which the latter see the most."""
    found = {}
    for module in (mmengine_registry, mmrs.registry):  # the last one wins: it sees the most
        found.update({r.name: r for r in vars(module).values() if isinstance(r, Registry)})
    return found


def all_registries() -> Iterator[Registry]:
    """MMEngine's registries and all below them, of packages of the user too."""
    waiting = [value for value in vars(mmengine_registry).values() if isinstance(value, Registry)]
    while waiting:
        registry = waiting.pop()
        yield registry
        waiting.extend(registry.children.values())


def find_registered(path: str) -> Any:
    """What a registry holds, by its path, which is how MMEngine writes down a class that a configuration imports."""
    module, _, name = path.rpartition('.')
    found = getattr(sys.modules.get(module), name, None)
    held = (value for registry in all_registries() for value in registry.module_dict.values())
    return found if any(found is value for value in held) else None


def import_registry(name: str) -> ModuleType:
    """Import a module of a package that is in use, or one of OpenMMLab's."""
    package = name.partition('.')[0]
    if package not in sys.modules and package not in MODULE2PACKAGE:
        raise ImportError(f'{package} is not imported because a `type` names it')
    return import_module(name)


def where_in(config: Config) -> str:
    """How a message about a configuration begins."""
    return f'config {config.filename}: ' if config.filename else ''


def require_keys(config: Config, what: str, *keys: str) -> None:
    """Check that a configuration has what something needs.

    Raises:
        ConfigError: A key is not set.
    """
    for key in keys:
        if config.get(key) is None:
            raise ConfigError(f'{where_in(config)}{what} needs {key}, which is not set')
