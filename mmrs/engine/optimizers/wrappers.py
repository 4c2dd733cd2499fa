from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper as MMEngineOptimWrapper
from torch import Tensor, nn

from mmrs.registry import OPTIM_WRAPPERS
from mmrs.utils.errors import ConfigError, require, require_one_of


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(MMEngineOptimWrapper):
    """MMEngine's wrapper, which takes no step on numbers that are not finite.

    Where a loss or a gradient of the step is NaN or infinite, parameters and optimizer stay as they are, and the
    model's buffers, such as the running statistics of batch normalisation, go back to what they were before the step.
    All processes do so alike. With accumulated gradients, one bad batch costs the step that it is part of; a run that
    is stopped between two steps and resumed keeps the gradients that it has (in a single process).

    Attributes:
        rejected: The first parameter with a gradient that was not finite, where the last step was skipped for that;
            else None.
    """

    #: Scales the loss in mixed precision.
    loss_scaler: Any = None
    _scale_update_param: float | None = None

    rejected: nn.Parameter | None = None
    _loss_is_finite: Tensor | None = None
    _buffers: Sequence[Tensor] = ()
    _buffers_before: list[Tensor] | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all groups."""
        return [parameter for group in self.optimizer.param_groups for parameter in group['params']]

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of the forward pass: mixed precision and, between accumulated batches, no synchronisation."""
        self._buffers = list(model.buffers())
        if self._buffers_before is None:
            self._buffers_before = [buffer.clone() for buffer in self._buffers]
        with MMEngineOptimWrapper.optim_context(self, model), self.autocast():
            yield

    def autocast(self) -> AbstractContextManager[None]:
        """The context that casts to another precision; here none."""
        return nullcontext()

    def backward(self, loss: Tensor, **kwargs: object) -> None:
        """Propagate a loss (a scalar); a loss that is not finite makes every gradient NaN that it reaches."""
        # NaN gradients tell the other processes, without another exchange. A factor of 1 changes no bit.
        finite = loss.detach().isfinite()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite
        super().backward(loss, gradient=torch.where(finite, 1.0, torch.nan).to(loss), **kwargs)

    def step(self, **kwargs: object) -> None:
        """Clip the gradients as configured and step the optimizer, unless a gradient is not finite."""
        self.step_together([self], **kwargs)

    def step_together(self, parts: Sequence[OptimWrapper], **kwargs: object) -> None:
        """Step the optimizers of several wrappers, this one's among them: all of them or none.

        Args:
            parts: Wrappers that share this one's loss scaler.
            **kwargs: For the optimizers' ``step``.
        """
        if self.loss_scaler is not None:
            for part in parts:
                self.loss_scaler.unscale_(part.optimizer)
        bad = _first_not_finite([parameter for part in parts for parameter in part.parameters])
        self.rejected = None
        if bad is None:
            for part in parts:
                if part.clip_grad_kwargs:
                    part._clip_grad()
                part.optimizer.step(**kwargs)
        else:
            for buffer, before in zip(self._buffers, self._buffers_before or ()):
                buffer.copy_(before)
            self.rejected = None if self._scale_was_too_large() else bad
        self._buffers_before = self._loss_is_finite = None
        if self.loss_scaler is not None:
            self.loss_scaler.update(self._scale_update_param)

    def _scale_was_too_large(self) -> bool:
        """Whether gradients overflowed due to the loss scale, which is normal: the scale falls until none does."""
        scaler = self.loss_scaler
        if scaler is None or not scaler.is_enabled() or self._scale_update_param is not None:
            return False
        finite = torch.as_tensor(self._loss_is_finite).float()
        all_reduce(finite, 'min')  # an exchange only where a step is lost anyway
        return bool(finite) and scaler.get_scale() >= 1

    # Resuming between two steps -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, with the gradients and what else the step has so far where some are accumulated."""
        state = super().state_dict()
        if not self.should_update() and get_world_size() == 1:  # of several processes, each has its own gradients
            state['step_so_far'] = dict(
                gradients=[parameter.grad for parameter in self.parameters],
                buffers_before=self._buffers_before,
                loss_is_finite=self._loss_is_finite,
            )
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        state_dict = dict(state_dict)
        begun = state_dict.pop('step_so_far', None)
        super().load_state_dict(state_dict)
        if begun is not None and get_world_size() == 1:
            self._buffers_before, self._loss_is_finite = begun['buffers_before'], begun['loss_is_finite']
            for parameter, gradient in zip(self.parameters, begun['gradients']):
                parameter.grad = None if gradient is None else gradient.to(parameter, copy=True)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Tell where the run stands, for gradient accumulation."""
        kept = any(parameter.grad is not None for parameter in self.parameters)
        # MMEngine would warn of gradients lost between two steps, but these were loaded.
        super().initialize_count_status(model, 0 if kept else init_counts, max_counts)
        self._inner_count = init_counts


def _first_not_finite(parameters: Sequence[nn.Parameter]) -> nn.Parameter | None:
    """The first parameter whose gradient has a NaN, an infinity or an infinite sum of squares."""
    having = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    if not having:
        return None
    # Norms, as a gradient with an infinite square would leave Adam's second moment infinite for good.
    norms = torch._foreach_norm([gradient for _, gradient in having])
    finite = torch.stack(list(norms)).isfinite()
    # The only value that a step waits for. MMEngine's hooks wait for every loss in each iteration.
    if finite.all():
        return None
    return having[int(finite.int().argmin())][0]


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper, MMEngineAmpOptimWrapper):
    """MMEngine's wrapper for automatic mixed precision, on CPUs too, with the checks of :class:`OptimWrapper`.

    A step whose gradients overflow due to the loss scale alone is skipped, and does not count as failed while the
    scale falls.

    Args:
        loss_scale: For float16 only (bfloat16 has the range of float32): ``dynamic``, a fixed number, or a dict of
            arguments of torch's GradScaler.
        dtype: ``float16`` or ``bfloat16``; by default bfloat16 on a CPU and float16 elsewhere.
        **kwargs: As :class:`OptimWrapper`'s.

    Raises:
        ConfigError: An argument cannot work, or float16 is asked for on a CPU where torch (before 2.3) has none.
    """

    def __init__(
        self,
        loss_scale: str | float | Mapping[str, Any] = 'dynamic',
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        MMEngineOptimWrapper.__init__(self, **kwargs)  # MMEngineAmpOptimWrapper's refuses CPUs
        device = get_device()
        name = str(dtype or ('bfloat16' if device == 'cpu' else 'float16')).removeprefix('torch.')
        require_one_of('optim_wrapper: dtype', name, ('float16', 'bfloat16'))
        self.cast_dtype = getattr(torch, name)
        enabled = name == 'float16'
        if isinstance(loss_scale, (int, float)) and loss_scale > 0:
            options: dict[str, Any] = dict(init_scale=float(loss_scale))
            self._scale_update_param = float(loss_scale) if enabled else None
        else:
            valid = loss_scale == 'dynamic' or isinstance(loss_scale, Mapping)
            require(valid, 'optim_wrapper: loss_scale', loss_scale, "'dynamic', a positive number or a dict")
            options = dict(loss_scale) if isinstance(loss_scale, Mapping) else {}
        if hasattr(torch.amp, 'GradScaler'):
            self.loss_scaler = torch.amp.GradScaler(device, enabled=enabled, **options)
        elif enabled and device == 'cpu':
            raise ConfigError(
                f'optim_wrapper: float16 on a CPU needs torch 2.3 or newer, this is {torch.__version__}; take '
                'dtype=bfloat16'
            )
        else:
            self.loss_scaler = torch.cuda.amp.GradScaler(enabled=enabled, **options)

    def autocast(self) -> AbstractContextManager[None]:
        """The context that casts to the other precision."""
        return torch.autocast(get_device(), dtype=self.cast_dtype)  # MMEngine's refuses float16 on a CPU

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; where it has no loss scale, as after a run in another precision, the present scale stays."""
        state_dict = dict(state_dict)
        if not state_dict.get('loss_scaler'):
            state_dict.pop('loss_scaler', None)
        super().load_state_dict(state_dict)
