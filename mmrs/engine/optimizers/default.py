from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor as MMEngineConstructor
from torch import nn

from mmrs.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor(MMEngineConstructor):
    """MMEngine's constructor, with one parameter group per set of options instead of one per parameter.

    The mathematics is the same; a fused optimizer then makes a few large updates instead of hundreds of small ones.
    Frozen modules, such as a reference network, are left out without MMEngine's warning for each of their parameters.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: object) -> None:
        """Add the groups of a module and its children."""
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return
        super().add_params(params, module, prefix, **kwargs)
        if prefix:  # called for a child
            return
        merged: dict[tuple, dict] = {}
        for group in params:
            options = tuple(sorted((key, repr(value)) for key, value in group.items() if key != 'params'))
            merged.setdefault(options, {**group, 'params': []})['params'] += group['params']
        params[:] = merged.values()
