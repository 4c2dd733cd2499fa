"""All that this project changes in MMEngine, which importing it does not do."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmrs.utils.config import find_registered, import_registry
from mmrs.utils.shipped import shipped_config
from mmrs.weights.remote import load_from_cache, load_from_file

__all__ = ['install']


@functools.cache
def install() -> None:
    """Keep MMEngine from running code that a checkpoint holds, or that a value in a configuration names; and so on.

    The runner, and whatever in `mmrs.apis`, `mmrs.studies` and `tools` reads a configuration, calls this first. A
    second call changes nothing.

    - Its loaders of checkpoints fall back to full unpickling. They give way to :func:`mmrs.weights.load_checkpoint`,
      for what loads through MMEngine by itself: a stock backbone's ``init_cfg``, for example.
    - Its registries import, and call, what a `type` names by its path. A configuration file is a program, but a value
      in it, which an option can change, shall only name what is registered.
    - A `_base_` may be ``mmrs::NAME``. MMEngine knows only packages that were there when it was written.
    """
    CheckpointLoader.register_scheme('', load_from_file, force=True)
    # Longer prefixes win, so MMEngine's own have to be replaced one by one.
    own = [scheme for scheme in CheckpointLoader._schemes if scheme]
    CheckpointLoader.register_scheme(['http://', 'https://', r'\S+://', *own], load_from_cache, force=True)
    # `Registry.get` imports `SCOPE.registry` for a type SCOPE.NAME, and at last whatever module has that path.
    registering: Any = import_module('mmengine.registry.registry')
    registering.get_object_from_string = find_registered
    registering.import_module = import_registry
    find: Any = Config._get_cfg_path
    Config._get_cfg_path = staticmethod(
        lambda base, file: (shipped, None) if (shipped := shipped_config(base)) != base else find(base, file)
    )
