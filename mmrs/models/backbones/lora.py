from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError, require_number

__all__ = ['LoRALinear', 'add_lora', 'merge_lora']


class LoRALinear(nn.Linear):
    """A linear layer whose weights stay as they are, and to which the product of two thin matrices is added.

    ``y = W x + b + alpha / rank * B A x``. B starts at zero, so that the layer starts as the one it is made of. Weight
    and bias keep their names, and the matrices are `lora_a` and `lora_b`; the factor `lora_scale` is kept beside them,
    so that a checkpoint means what it meant in training. A file of the plain layer, or of a merged one, has none of
    them: after it is loaded the layer is what the file says.

    Args:
        linear: The layer that it takes the place of; weight and bias are shared with it.
        rank: Rows of A, columns of B.
        alpha: Numerator of the factor on their product.

    Reference:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685, section 4.1.
    """

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None
    lora_scale: Any

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would draw a weight of its own
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer('lora_scale', self.weight.new_tensor(alpha / rank))
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, self.in_features))
        self.lora_b = nn.Parameter(self.weight.new_zeros(self.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear draws

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        out = F.linear(x, self.weight, self.bias)
        if self.lora_a is None or self.lora_b is None:
            return out
        return out + F.linear(F.linear(x, self.lora_a), self.lora_scale * self.lora_b)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the product to the weight and drop the matrices: from here on it is a plain layer that does not train."""
        if self.lora_a is not None and self.lora_b is not None:
            self.weight += self.lora_scale * (self.lora_b @ self.lora_a)
            self.lora_a = self.lora_b = self.lora_scale = None

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, strict: bool, missing_keys: list[str], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *rest)
        matrices = {f'{prefix}lora_a', f'{prefix}lora_b', f'{prefix}lora_scale'}
        if self.lora_b is not None and f'{prefix}weight' in state_dict and not matrices & state_dict.keys():
            nn.init.zeros_(self.lora_b)
            missing_keys[:] = [key for key in missing_keys if key not in matrices]

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        rank = 'merged' if self.lora_a is None else f'rank={len(self.lora_a)}'
        return f'{super().extra_repr()}, {rank}'


def add_lora(network: nn.Module, rank: int = 8, alpha: float = 16.0, projections: Sequence[str] = ('q', 'v')) -> None:
    """Freeze a network and give its linear layers of some names a part that trains, in place.

    Args:
        network: Any module.
        rank: See :class:`LoRALinear`.
        alpha: Likewise.
        projections: Names that the layers have in their parents.

    Raises:
        ConfigError: No layer has one of the names, or a number makes no sense.
    """
    require_number('lora.rank', rank, at_least=1)
    require_number('lora.alpha', alpha, above=0)
    network.requires_grad_(False)
    layers = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    known = sorted({name for _, name, _ in layers})
    if not projections or (unknown := [name for name in projections if name not in known]):
        named = repr(unknown[0]) if projections else 'nothing'
        raise ConfigError(f'lora.projections has {named}; the linear layers are {", ".join(known)}')
    for parent, name, child in layers:
        if name in projections:
            setattr(parent, name, LoRALinear(child, rank, alpha))


def merge_lora(model: nn.Module) -> None:
    """Merge all of a model's low-rank parts into the weights, in place; see :meth:`LoRALinear.merge`."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.merge()
