from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.utils.errors import require_number

from ..binary import two_logits

__all__ = ['ContrastDraws', 'PixelContrast', 'PixelsByClass']


class PixelsByClass(NamedTuple):
    """The pixels of a batch, sorted by their classes; within a class they keep their order.

    Attributes:
        order: ``(P,)``: places of the pixels.
        start: ``(K,)``: where a class begins in `order`.
        size: ``(K,)``: how many pixels it has.
    """

    order: Tensor
    start: Tensor
    size: Tensor

    @classmethod
    def of(cls, label: Tensor, num_classes: int) -> PixelsByClass:
        """Sort labels ``(P,)``; those of `num_classes` and more are no class."""
        size = (label == torch.arange(num_classes, device=label.device)[:, None]).sum(1)
        order = label.clamp(max=num_classes).argsort(stable=True)
        return cls(order, size.cumsum(0) - size, size)

    def pick(self, classes: Tensor, uniform: Tensor) -> Tensor:
        """Places of pixels of some classes, each by a number of 0 to below 1; any place, if the class has no pixel."""
        rank = (uniform * self.size[classes]).long()
        return self.order[(self.start[classes] + rank).clamp(max=len(self.order) - 1)]


class ContrastDraws(NamedTuple):
    """What is drawn for a contrast of pixels: numbers from 0 to 1, 1 not included, in float64.

    Attributes:
        query: ``(K, Q)``: which of the hard pixels of a class are its queries.
        other: ``(K, Q, M)``: of which class a negative is.
        negative: ``(K, Q, M)``: which pixel of that class it is.
    """

    query: Tensor
    other: Tensor
    negative: Tensor


class PixelContrast(nn.Module):
    """Pixels of a class become alike in all domains, and unlike those of the classes that are nearest to it.

    Features are projected to unit vectors. The prototype of a class is the mean of its pixels, carried on from step to
    step, so that a class of which a batch shows little has a steady one. Queries are pixels of the class in which the
    network is not sure of it. Each is to be near the prototype, and far from negatives: pixels of other classes, of
    similar classes more often. Only the queries have a gradient.

    Prototypes are those of all processes together, which therefore have to call this module at the same time. All is
    drawn from torch's generator of the CPU, whose state a checkpoint holds.

    Args:
        channels: C, of the features.
        num_classes: K.
        weight: Factor on the loss.
        width: D, channels of the projection.
        queries: Q, for each class.
        negatives: M, for each query.
        temperature: Divides the cosines, in the loss and where classes are drawn.
        sure: From this probability of its class on, a pixel is no query.
        confident: From this confidence of the teacher on, a pixel of the target counts as one of its class.
        momentum: What a step leaves of the prototypes before it; 0: they are those of the batch.

    Raises:
        ConfigError: A number out of its range.

    Reference:
        Liu et al., ReCo, arXiv 2104.04465; You et al., ACTION, arXiv 2206.02307, stage 3.
    """

    prototypes: Tensor
    seen: Tensor

    def __init__(
        self,
        channels: int,
        num_classes: int,
        weight: float = 0.01,
        width: int = 64,
        queries: int = 64,
        negatives: int = 128,
        temperature: float = 0.5,
        sure: float = 0.97,
        confident: float = 0.7,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        for name, number in dict(width=width, queries=queries, negatives=negatives).items():
            require_number(f'contrast.{name}', number, at_least=1, whole=True)
        for name, share in dict(sure=sure, confident=confident).items():
            require_number(f'contrast.{name}', share, at_least=0, at_most=1)
        require_number('contrast.weight', weight, at_least=0)
        require_number('contrast.temperature', temperature, above=0)
        require_number('contrast.momentum', momentum, at_least=0, below=1)
        self.weight, self.queries, self.negatives, self.temperature = weight, queries, negatives, temperature
        self.sure, self.confident, self.momentum = sure, confident, momentum
        self.project = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.register_buffer('prototypes', torch.zeros(num_classes, width))
        self.register_buffer('seen', torch.zeros(num_classes, dtype=torch.bool))

    def draw(self) -> ContrastDraws:
        """Draw queries and negatives."""
        shape = len(self.seen), self.queries
        query = torch.rand(shape, dtype=torch.float64)
        return ContrastDraws(query, *torch.rand(2, *shape, self.negatives, dtype=torch.float64))

    def forward(self, features: Tensor, logits: Tensor, label: Tensor, draws: ContrastDraws | None = None) -> Tensor:
        """The loss, with its factor, and a step of the prototypes.

        Args:
            features: ``(N, C, h, w)``.
            logits: The network's, ``(N, K, h, w)``, or one channel for two classes.
            label: ``(N, h, w)``: the class of a pixel; K and more: it has none, and takes no part.
            draws: What was drawn; None: see :meth:`draw`.
        """
        vectors = self.project(features)
        with torch.autocast(vectors.device.type, enabled=False):  # half precision is too coarse for what is drawn
            vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32)).movedim(1, -1).flatten(0, 2)
            return self.weight * self._loss(vectors, logits, label, draws or self.draw())

    def _loss(self, vectors: Tensor, logits: Tensor, label: Tensor, draws: ContrastDraws) -> Tensor:
        """Of vectors ``(P, D)``."""
        number, flat = len(self.seen), label.flatten()
        with torch.no_grad():
            probabilities = two_logits(logits).to(vectors.dtype).softmax(1)
            own = probabilities.gather(1, label.clamp(max=number - 1)[:, None]).flatten()
            pixels = PixelsByClass.of(flat, number)
            hard = PixelsByClass.of(flat.masked_fill(own >= self.sure, number), number)
            prototypes = self._moved(vectors, flat)
            draws = ContrastDraws(*(part.to(vectors.device, non_blocking=True) for part in draws))
            classes = torch.arange(number, device=vectors.device)
            negatives = pixels.pick(self._others(prototypes, pixels.size, draws.other), draws.negative)
            keys = F.normalize(vectors, dim=1)[negatives]  # (K, Q, M, D)
        queries = F.normalize(vectors[hard.pick(classes[:, None], draws.query)], dim=-1)  # (K, Q, D)
        near = (queries * prototypes[:, None]).sum(-1, keepdim=True)
        far = torch.einsum('kqd,kqmd->kqm', queries, keys)
        cosines = torch.cat((near, far), -1) / self.temperature
        of_class = (cosines.logsumexp(-1) - cosines[..., 0]).mean(1)
        shown = pixels.size > 0
        usable = (hard.size > 0) & (shown.sum() > 1)
        return (of_class * usable).sum() / shown.sum().clamp(min=1)

    def _moved(self, vectors: Tensor, label: Tensor) -> Tensor:
        """The prototypes ``(K, D)`` as unit vectors, after a batch of pixels."""
        member = (label == torch.arange(len(self.seen), device=label.device)[:, None]).to(vectors.dtype)
        total, count = member @ vectors, member.sum(1, keepdim=True)
        all_reduce(total)
        all_reduce(count)
        mean, shown = total / count.clamp(min=1), count[:, 0] > 0
        momentum = torch.where(self.seen & shown, self.momentum, (~shown).to(mean.dtype))
        self.prototypes.copy_(torch.lerp(mean, self.prototypes.to(mean.dtype), momentum[:, None]))
        self.seen |= shown
        return F.normalize(self.prototypes.to(mean.dtype), dim=1)

    def _others(self, prototypes: Tensor, count: Tensor, uniform: Tensor) -> Tensor:
        """Classes ``(K, Q, M)`` of the negatives of each class, by numbers from 0 to 1."""
        cosines = prototypes @ prototypes.T / self.temperature
        excluded = torch.eye(len(count), dtype=torch.bool, device=count.device) | (count == 0)
        share = cosines.double().masked_fill(excluded, -torch.inf).softmax(1).cumsum(1)
        found = torch.searchsorted(share, (uniform * share[:, -1:, None]).flatten(1), right=True)
        return found.clamp(max=len(count) - 1).view_as(uniform)
