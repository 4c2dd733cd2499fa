"""Types in a configuration that nobody knows, and messages for what building from one has raised."""

from __future__ import annotations

import difflib
import re
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from mmrs.utils.config import TYPE_KEYS, all_registries, kind_at, registries_by_name, walk, where_in
from mmrs.utils.errors import ConfigError, UserError, lost_others

__all__ = ['check_types', 'explain_error', 'explained_errors']

_UNKNOWN = re.compile(r"'?([\w.]+)'? is not in the (?:(\w+)::)?([\w ]+) registry")


def check_types(config: Config, model: bool = True) -> None:
    """Look up the types in the usual places of a configuration, before anything is built.

    Args:
        config: The configuration.
        model: Whether its model must be whole; data sets can be looked at without.

    Raises:
        ConfigError: One is unknown; the message says where the configuration has it and what is spelt like it. Or no
            registry is of the `default_scope`, the model or a data set is no dict, or images would be unpickled.
    """
    registries = registries_by_name()
    where = where_in(config)
    parts = {'model': config.get('model')} if model else {}
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        parts[f'{key}.dataset'] = loader.get('dataset') if isinstance(loader := config.get(key), Mapping) else None
    for key, part in parts.items():
        if part is not None and not (isinstance(part, Mapping) and 'type' in part):
            raise ConfigError(f'{where}{key} is {textwrap.shorten(repr(part), 100)}; a dict with a type was expected')
    scope = config.get('default_scope', 'mmrs')
    if scope not in (known := {registry.scope for registry in all_registries()}):
        raise ConfigError(
            f'{where}default_scope is {scope!r}; one of {", ".join(sorted(known))} was expected. A package of your own '
            'needs custom_imports = dict(imports=[MODULE]) in the configuration'
        )
    for path, node in walk(config):
        # What mmsegmentation's loaders of biomedical images can be told to do.
        if node.get('decode_backend') == 'pickle':
            raise ConfigError(f"{where}{path}.decode_backend is 'pickle', which can run foreign code; 'numpy' cannot")
        name = node.get('type')
        kind = kind_at(path)
        if name is None or kind is None or callable(name):
            continue
        if not isinstance(name, str) or registries[kind].get(name) is None:
            raise _unknown_type(config, [f'{path}.type'], str(name), kind)


def explain_error(error: BaseException, config: Config) -> ConfigError | None:
    """The message for what building from a configuration has raised: where it has that, and what is wrong with it.

    Args:
        error: A type that no registry knows, say, or a value that some class does not take.
        config: The configuration.

    Returns:
        None if nothing was being built, or `error` says enough itself.
    """
    match = _UNKNOWN.search(str(error))
    if match is not None:
        name, _, kind = match.groups()
        keys = [f'{path}.{key}' if path else key for path, node in walk(config) for key in _type_keys(node, name)]
        return _unknown_type(config, keys, name, kind)
    if (part := _being_built(error, config)) is None or isinstance(error, UserError) or lost_others(error):
        return None
    return ConfigError(
        f'{where_in(config)}{part} cannot be built: {type(error).__name__}: {textwrap.shorten(str(error), 300)}'
    )


@contextmanager
def explained_errors(config: Config) -> Iterator[None]:
    """Turn what building from a configuration raises into a :class:`ConfigError` that says where the mistake is."""
    try:
        yield
    except Exception as error:
        explained = explain_error(error, config)
        if explained is None:
            raise
        raise explained from error


def _being_built(error: BaseException, config: Config) -> str | None:
    """The innermost part of a configuration that MMEngine was building when an exception was raised."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_name
        if name.startswith('build_') and str(frame.f_globals.get('__name__')).startswith('mmengine.'):
            part = frame.f_locals.get('cfg')
            kind = part.get('type') if name == 'build_from_cfg' and isinstance(part, Mapping) else None
            keys = [path for path, node in walk(config) if kind is not None and path and node.get('type') == kind]
            if keys:
                found = f'{" or ".join(keys[:3])} ({kind})'
            elif name != 'build_from_cfg':
                found = f'the {name.removeprefix("build_").removesuffix("_from_cfg").replace("_", " ")}'
    return found


def _unknown_type(config: Config, keys: list[str], name: str, kind: str) -> ConfigError:
    near = _near(name.split('.')[-1], _known_types(registries_by_name().get(kind)))
    message = f'{where_in(config)}{" and ".join(keys) or "a type"} is {name!r}, which is no registered {kind}'
    message += f'; did you mean {" or ".join(near)}?' if near else '.'
    if not near:
        message += ' A class of your own needs custom_imports = dict(imports=[MODULE]) in the configuration'
    return ConfigError(message)


def _type_keys(node: Mapping[str, Any], name: str) -> list[str]:
    return [k for k in TYPE_KEYS if node.get(k) == name]


def _near(name: str, known: Sequence[str] | set[str]) -> list[str]:
    lower = {candidate.lower(): candidate for candidate in known}
    return [lower[hit] for hit in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]


def _known_types(registry: Registry | None) -> set[str]:
    names: set[str] = set()
    while registry is not None:
        registry.import_from_location()
        names |= set(registry.module_dict)
        registry = registry.parent
    return names
