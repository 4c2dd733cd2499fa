from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ['early_backward']


class _Known(torch.autograd.Function):
    """A number whose gradients are known: those of its backward pass are these, times the incoming one."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *(gradient * incoming for gradient in gradients), *(None for _ in gradients)


def early_backward(losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Compute the gradients of some losses now, so that the activations behind them are freed before what comes next.

    A step with several forward passes then never holds the activations of more than one of them, and has still one
    backward pass in the end, which adds these gradients to those of the other losses: with gradient accumulation,
    data-parallel training and bfloat16 as without. It takes no more time.

    Where gradients are scaled, with float16, losses stay as they are, for gradients that were computed before would
    be too small for float16. Nor does it go with backbones that recompute activations by reentrant checkpoints.

    Args:
        losses: Scalars, which are to be summed up.
        parameters: What trains.

    Returns:
        The same numbers. The backward pass of the first of them is that of their sum; the others have none.
    """
    (first, value), *others = losses.items()
    if not value.requires_grad or _works_in_float16(value):
        return dict(losses)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    with torch.autocast(value.device.type, enabled=False):
        found = torch.autograd.grad(torch.stack(list(losses.values())).sum(), trained, allow_unused=True)
    reached = [(parameter, gradient) for parameter, gradient in zip(trained, found) if gradient is not None]
    own = _Known.apply(value.detach(), *(p for p, _ in reached), *(gradient for _, gradient in reached))
    return {first: own, **{name: other.detach() for name, other in others}}


def _works_in_float16(like: Tensor) -> bool:
    one = like.detach().view(1, 1)
    return (one @ one).dtype == torch.float16
