"""A generator and a discriminator of a few parameters, for what must hold of any model that is trained in parts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.engine.optimizers import JointOptimWrapperConstructor, OptimWrapper

PARTS: dict[str, dict] = dict(
    segmentor=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
    discriminator=dict(optimizer=dict(type='Adam', lr=0.01)),
)


class ToyGAN(BaseModel):
    """Detaches as an adaptor does; `factor` and `offset` spoil a loss. `dtypes` are those that were computed in."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.segmentor = nn.Sequential(nn.Linear(3, 2), *([nn.BatchNorm1d(2)] if norm else []))
        self.discriminator = nn.Linear(2, 1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor, factor: float = 1.0, offset: float = 0.0, mode: str = 'loss') -> dict[str, Tensor]:
        fake = self.segmentor(x)
        self.dtypes.append(fake.dtype)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = torch.func.functional_call(self.discriminator, frozen, (fake,))
        precision = torch.promote_types(fake.dtype, torch.float32)
        return dict(
            loss_seg=factor * fake.to(precision).square().mean() + offset,
            loss_adv=F.softplus(-fooled.to(precision)).mean(),
            loss_disc=F.softplus(self.discriminator(fake.detach()).to(precision)).mean(),
        )


def single(model: nn.Module, **options: Any) -> OptimWrapper:
    """One optimizer for all of it."""
    return OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.1), **options)


def joint(model: nn.Module, **options: Any) -> Any:
    """An optimizer for each part; options of a part are merged into :data:`PARTS`."""
    init_default_scope('mmrs')
    parts = {name: {**PARTS[name], **options.pop(name, {})} for name in PARTS}
    return JointOptimWrapperConstructor({**parts, **options})(model)


def batches(number: int, size: int = 4) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [dict(x=torch.randn(size, 3, generator=generator)) for _ in range(number)]


def state(model: nn.Module, wrapper: Any) -> dict[str, Any]:
    """A copy of what a checkpoint holds."""
    return copy.deepcopy(dict(model=model.state_dict(), optimizer=wrapper.state_dict()))
