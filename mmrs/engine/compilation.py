"""`torch.compile` for the part of a training step where it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmrs.models.backbones.multi_resolution import MultiResolutionBackbone
from mmrs.utils.errors import ConfigError, require

__all__ = ['compile_backbones']


def compile_backbones(model: nn.Module, options: bool | Mapping[str, Any] | None) -> list[str]:
    """Compile the backbones of a model in place, on their first batch; the rest of the step stays as it is.

    Losses, teachers, several optimizers and hooks on feature maps take more graphs than they are worth: MMEngine's own
    `compile`, of the whole step, is still compiling after minutes.

    Args:
        model: Any module with submodules named ``backbone``; a wrapper of one serves too.
        options: Arguments of `torch.compile`, or True for none; None or False compiles nothing.

    Returns:
        The names of the compiled modules.

    Raises:
        ConfigError: `options` is something else, or a backbone recomputes activations.
    """
    if options is None or options is False:
        return []
    valid = options is True or isinstance(options, Mapping)
    require(valid, 'compile', options, 'True, False or a dict of arguments of torch.compile')
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if name.rpartition('.')[2] == 'backbone':
            domains = module.items() if isinstance(module, nn.ModuleDict) else ()  # ST-DASegNet has one for each
            found.update({f'{name}.{domain}': part for domain, part in domains} or {name: module})
    for where, backbone in found.items():
        if any(getattr(part, 'recomputed', getattr(part, 'with_cp', False)) for part in backbone.modules()):
            raise ConfigError(f'compile and with_cp of model.{where} do not go together: set one of them to False')
        name = 'encode' if isinstance(backbone, MultiResolutionBackbone) else 'forward'  # boxes are drawn outside
        compiled = torch.compile(getattr(backbone, name), **(options if isinstance(options, Mapping) else {}))
        setattr(backbone, name, compiled)
    return list(found)
