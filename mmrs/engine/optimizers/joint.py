from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DefaultScope
from torch import nn

from mmrs.models.parts.features import Network
from mmrs.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmrs.utils import ConfigError
from mmrs.utils.composition import SHARED
from mmrs.utils.wrappers import unwrapped

from .default import DefaultOptimWrapperConstructor
from .wrappers import OptimWrapper


class JointOptimWrapper(OptimWrapperDict):
    """Several optimizers behind one forward and one backward pass.

    The model's losses are summed and propagated once; then every optimizer steps. An adversarial model keeps its parts
    apart by what it detaches. ``BaseModel.train_step`` and the data-parallel wrappers serve unchanged. With mixed
    precision all parts share one gradient scaler, as there is one backward pass.

    Args:
        **parts: The optimizer wrapper of each part, with the same ``accumulative_counts`` and precision.

    Raises:
        ConfigError: If parts disagree.
    """

    def __init__(self, **parts: OptimWrapper) -> None:
        super().__init__(**parts)
        wrappers = list(parts.values())
        foreign = [name for name, part in parts.items() if not isinstance(part, OptimWrapper)]
        if foreign:
            raise ConfigError(f'optim_wrapper.{foreign[0]}: its type must be OptimWrapper or AmpOptimWrapper of mmrs')
        self.lead = wrappers[0]
        counts = {name: part._accumulative_counts for name, part in parts.items()}
        if len(set(counts.values())) > 1:
            raise ConfigError(f'accumulative_counts differ between the parts of optim_wrapper: {counts}')
        precisions = {name: str(getattr(part, 'cast_dtype', 'full')) for name, part in parts.items()}
        if len(set(precisions.values())) > 1:
            raise ConfigError(f'the parts of optim_wrapper differ in precision: {precisions}')
        for wrapper in wrappers:
            wrapper.loss_scaler = self.lead.loss_scaler

    @property
    def rejected(self) -> nn.Parameter | None:
        """See :class:`OptimWrapper`."""
        return self.lead.rejected

    def should_update(self) -> bool:
        """Whether the optimizers step in this iteration."""
        return self.lead.should_update()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Mixed precision and, between accumulated batches, no gradient synchronisation."""
        with self.lead.optim_context(model):
            yield

    def update_params(
        self, loss: torch.Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """Propagate the summed loss (a scalar) and, every ``accumulative_counts`` calls, step all optimizers."""
        self.backward(self.lead.scale_loss(loss))
        if self.lead.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    def backward(self, loss: torch.Tensor, **kwargs: object) -> None:
        """Propagate once, for all parts."""
        self.lead.backward(loss, **kwargs)
        for wrapper in self.values():
            wrapper._inner_count = self.lead._inner_count

    def step(self, **kwargs: object) -> None:
        """Clip the gradients of each part as configured and step all optimizers, or none: see :class:`OptimWrapper`."""
        self.lead.step_together(list(self.values()), **kwargs)

    def zero_grad(self, **kwargs: object) -> None:
        """Clear the gradients of all parts."""
        for wrapper in self.values():
            wrapper.zero_grad(**kwargs)

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell all parts where the run stands, for gradient accumulation."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of all parts.

        Raises:
            ConfigError: If the state has other parts than this wrapper.
        """
        if set(state_dict) != set(self.keys()):
            raise ConfigError(
                f'the checkpoint has optimizer states for {sorted(state_dict)}, but this run has '
                f'{sorted(self.keys())}: it comes from another kind of run'
            )
        super().load_state_dict(state_dict)


def _without_unsupported_fused(optimizer: dict) -> dict:
    """Drop ``fused``, which changes speed alone, where this torch refuses it (before 2.4: on CPUs, and SGD's)."""
    old = tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 4)
    return {key: value for key, value in optimizer.items() if not (old and key == 'fused')}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class JointOptimWrapperConstructor:
    """Builds a :class:`JointOptimWrapper` from one optimizer wrapper config per part of the model.

    A part is named after a submodule of the model: ``optim_wrapper=dict(constructor='JointOptimWrapperConstructor',
    segmentor=dict(type='OptimWrapper', optimizer=..., paramwise_cfg=...), discriminator=dict(...))``. Names in a part's
    ``paramwise_cfg`` are relative to that submodule. In a model without a submodule ``segmentor`` that part is all that
    no other part has, with names relative to the model. ``type``, ``accumulative_counts``, ``dtype`` and ``loss_scale``
    may stand beside the parts instead, for all of them.

    Raises:
        ConfigError: If the model has no such submodule, or trainable parameters would belong to no part.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg is not None:
            raise ConfigError(
                'paramwise_cfg belongs into a part of optim_wrapper (e.g. segmentor), not beside the parts'
            )
        given = {key: value for key, value in optim_wrapper_cfg.items() if value is not None}
        self.shared = {key: given.pop(key) for key in SHARED if key in given}
        self.parts = given

    def __call__(self, model: nn.Module) -> JointOptimWrapper:
        """Build the wrapper for a model, data-parallel or not."""
        model = unwrapped(model)
        owned = set()
        wrappers = {}
        for name, cfg in self.parts.items():
            part = getattr(model, name, None)
            if part is None and name == 'segmentor':
                part = Network(**{key: child for key, child in model.named_children() if key not in self.parts})
            if not isinstance(part, nn.Module):
                children = ', '.join(child for child, _ in model.named_children())
                raise ConfigError(
                    f'optim_wrapper.{name}: {type(model).__name__} has no such submodule (it has {children}); set '
                    f'optim_wrapper.{name}=None if it was switched off'
                )
            cfg = {
                'type': 'OptimWrapper',
                **self.shared,
                **cfg,
                'optimizer': _without_unsupported_fused(cfg['optimizer']),
            }
            paramwise_cfg = cfg.pop('paramwise_cfg', None)
            with DefaultScope.overwrite_default_scope('mmrs'):  # MMEngine's wrapper has the same name
                wrappers[name] = DefaultOptimWrapperConstructor(cfg, paramwise_cfg)(part)
            owned |= {id(parameter) for parameter in part.parameters()}
        orphans = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
        if orphans:
            raise ConfigError(
                f'{len(orphans)} trainable parameters belong to no part of optim_wrapper '
                f'({", ".join(self.parts)}), the first is {orphans[0]}: add a part for them'
            )
        return JointOptimWrapper(**wrappers)
