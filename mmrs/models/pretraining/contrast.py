from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError, require_number, require_one_of

from ..adaptors.base import Adaptor, Domain
from ..backbones.multi_resolution import MultiResolutionBackbone
from ..decode_heads.hrda_head import classifying
from ..losses.contrast import (
    Contrasted,
    dense_contrast,
    nt_xent,
    of_all,
    smoothed,
    spread,
    unified_views,
    uniformity,
    whole,
)
from ..parts.features import LAST, extract_features, feature_widths
from ..parts.views import RandomViews, View, cell_size, centres, move, read_at
from ..widths import bands_of, run_once

__all__ = ['Contrast', 'GlobalContrast', 'LocalContrast', 'Seen']

#: Losses of whole windows.
_GLOBAL = ('nt_xent', 'uniformity', 'unified')


def _projector(width: int, hidden: int, out: int) -> nn.Sequential:
    # By layer, not by batch: the statistics of a batch tell which views belong together.
    return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, out))


def _wide(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def pool(maps: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Means over the cells that have data, ``(N, C)``; and whether there are any, ``(N,)``, 1 or 0."""
    counts = (view.share(maps) >= 0.5).to(maps.dtype)
    number = counts.sum((1, 2))
    return torch.einsum('nchw,nhw->nc', maps, counts) / number.clamp(min=1)[:, None], number.clamp(max=1)


class GlobalContrast(nn.Module):
    """Whole windows are told apart by the mean of the backbone's last map.

    Args:
        width: Channels of that map.
        loss: ``nt_xent``; ``uniformity``; or ``unified``, see :mod:`mmrs.models.losses.contrast`.
        weight: Factor on the loss.
        temperature: Of ``nt_xent``. A low one goes after single windows, where there are few.
        gamma: Sharpness of ``unified``.
        exclude: Windows whose centres are nearer to each other than so many times their side are no negatives; of
            ``nt_xent`` and ``unified``.
        sigma: Of ``uniformity``: windows share their centroids by a Gaussian of their distance with this standard
            deviation, in sides of a window; None: they do not.
        channels: Width of the embedding.

    Raises:
        ConfigError: A number is out of its range, or there is no such loss.
    """

    def __init__(
        self,
        width: int,
        loss: str = 'nt_xent',
        weight: float = 1.0,
        temperature: float = 0.5,
        gamma: float = 16.0,
        exclude: float = 1.0,
        sigma: float | None = None,
        channels: int = 128,
    ) -> None:
        super().__init__()
        require_one_of('model.global_loss.loss', loss, _GLOBAL)
        for name, value in dict(weight=weight, temperature=temperature, gamma=gamma).items():
            require_number(f'model.global_loss.{name}', value, above=0)
        require_number('model.global_loss.exclude', exclude, at_least=0)
        if sigma is not None:
            require_number('model.global_loss.sigma', sigma, above=0)
            if loss != 'uniformity':
                raise ConfigError(
                    f"model.global_loss.sigma={sigma} is for loss='uniformity', but the loss is {loss!r}, which leaves "
                    'out neighbours by exclude'
                )
        self.loss, self.weight, self.temperature, self.gamma = loss, weight, temperature, gamma
        self.exclude, self.sigma = exclude, sigma
        self.head = _projector(width, min(width, 512), channels)

    def embed(self, maps: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Unit vectors ``(N, D)``, and which of them have any data, ``(N,)``, 1 or 0."""
        pooled, known = pool(maps, view)
        return F.normalize(self.head(pooled), dim=1), known

    def forward(self, maps: tuple[Tensor, Tensor], views: tuple[View, View]) -> tuple[Contrasted, Tensor]:
        """Loss and recall; and how far the embeddings of the batch are spread, 0 (they are all one) to 1."""
        found = [self.embed(own, view) for own, view in zip(maps, views)]
        first, second = (of_all(rows) for rows, _ in found)
        weight = of_all(found[0][1] * found[1][1])
        distance = self._distances(views[0]).to(first.dtype)
        if self.loss == 'uniformity':
            mixing = None
            if self.sigma is not None:
                kernel = (-((distance / self.sigma) ** 2) / 2).exp()
                alive = weight[:, None] * weight + torch.diag(1 - weight)
                mixing = smoothed(kernel * alive, 0.01)
            loss = uniformity(torch.stack([first, second], 1), mixing, weight)
            contrasted = Contrasted(loss, nt_xent(first, second, 1.0, None, weight).recall)
        elif self.loss == 'unified':
            contrasted = unified_views(first, second, self.gamma, distance < self.exclude, weight)
        else:
            contrasted = nt_xent(first, second, self.temperature, distance < self.exclude, weight)
        loss = whole(contrasted.loss) * self.weight
        return Contrasted(loss, contrasted.recall), spread(torch.cat([first, second]))

    @staticmethod
    def _distances(view: View) -> Tensor:
        """Between the windows of all processes, in sides of them, ``(N, N)``; infinite where there is none to say."""
        places = view.places
        middle = move(places.to_ground, places.to_ground.new_full((1, 2), view.size / 2))[:, 0]
        middle, side = of_all(middle), of_all(cell_size(places.to_ground, view.size))
        ground = of_all(places.ground)
        distance = torch.linalg.vector_norm(middle[:, None] - middle[None], dim=-1)
        distance = distance / torch.maximum(side[:, None], side[None])
        return distance.masked_fill(ground[:, None] != ground[None], math.inf)


class LocalContrast(nn.Module):
    """Cells of the decode head's map are told apart: the same ground in both views, and other ground of the window.

    Args:
        width: Channels of that map.
        weight: Factor on the loss.
        temperature: Divides the cosines.
        points: Cells of the first view that are drawn, of those that both views show.
        distance: Places that are further apart than so many cells are negatives.
        tolerance: The counterpart of a cell is the most similar of so many by so many cells: 1, or an odd number for
            images that do not lie on each other exactly.
        channels: Width of the embedding.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        width: int,
        weight: float = 1.0,
        temperature: float = 0.2,
        points: int = 64,
        distance: float = 2.0,
        tolerance: int = 1,
        channels: int = 64,
    ) -> None:
        super().__init__()
        for name, value in dict(weight=weight, temperature=temperature).items():
            require_number(f'model.local_loss.{name}', value, above=0)
        require_number('model.local_loss.points', points, whole=True, at_least=2)
        require_number('model.local_loss.distance', distance, at_least=0)
        require_number('model.local_loss.tolerance', tolerance, whole=True, at_least=1)
        if tolerance % 2 == 0:
            raise ConfigError(f'model.local_loss.tolerance is {tolerance}; an odd number was expected')
        self.weight, self.temperature, self.points = weight, temperature, points
        self.distance, self.tolerance = distance, tolerance
        self.head = _projector(width, min(width, 512), channels)

    def forward(self, maps: tuple[Tensor, Tensor], views: tuple[View, View]) -> tuple[Contrasted, Tensor]:
        """Loss and recall, means over the cells of all processes; and how far the embeddings are spread, 0 to 1."""
        own, places, weight, negatives = self._drawn(maps[0], views)
        first = F.normalize(self.head(own), dim=-1)
        contrasted = dense_contrast(
            first, self._counterparts(first, maps[1], places, views[1]), negatives, self.temperature
        )
        number = weight.sum()
        all_reduce(number, 'mean')
        loss, recall = ((values * weight).sum() / number.clamp(min=1e-6) for values in contrasted)
        return Contrasted(loss * self.weight, recall), spread(first.flatten(0, 1))

    def _drawn(self, maps: Tensor, views: tuple[View, View]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cells of the first view that the second one shows.

        Returns:
            What the map has there, ``(N, M, C)``; where they are in the second view, ``(N, M, 2)``, in its pixels;
            ``(N, M)``, 1 or 0 for what fills up where there are too few; and which are negatives, ``(N, M, M)``.
        """
        one, two = views
        number, _, height, width = maps.shape
        stride = one.size / width
        with torch.no_grad():
            to_second = one.to(two).to(maps.dtype)
            here = (centres(width, maps) * stride).expand(number, -1, -1)
            there = move(to_second, here)
            shown = ((there > 0) & (there < two.size)).all(-1)
            shown &= one.share(maps).flatten(1) >= 0.5
            shown &= read_at(two.share(maps)[:, None], there, two.size)[..., 0] >= 0.5
            order = torch.rand(number, height * width).to(maps, non_blocking=True) + shown.to(maps.dtype)
            cells = order.topk(min(self.points, height * width)).indices
            here, there = (places.gather(1, cells[..., None].expand(-1, -1, 2)) for places in (here, there))
            weight = shown.gather(1, cells).to(maps.dtype)
            # The coarser cells of the two views, in pixels of the first one.
            cell = stride / cell_size(to_second, 1.0).clamp(max=1)
            apart = torch.linalg.vector_norm(here[:, :, None] - here[:, None], dim=-1)
            negatives = (apart > self.distance * cell[:, None, None]) & (weight[:, None] > 0)
        own = maps.flatten(2).mT.gather(1, cells[..., None].expand(-1, -1, maps.shape[1]))
        return own, there, weight, negatives

    def _counterparts(self, first: Tensor, maps: Tensor, places: Tensor, view: View) -> Tensor:
        """Unit vectors of what the second view has at these places, or near them."""
        steps = torch.arange(self.tolerance, device=maps.device) - self.tolerance // 2
        offsets = torch.cartesian_prod(steps, steps).to(maps.dtype) * view.size / maps.shape[-1]
        near = (places[:, :, None] + offsets).flatten(1, 2)
        rows = F.normalize(self.head(read_at(maps, near, view.size)), dim=-1).unflatten(1, (places.shape[1], -1))
        if self.tolerance == 1:
            return rows[:, :, 0]
        best = torch.einsum('nmd,nmkd->nmk', first, rows).argmax(-1)
        return rows.gather(2, best[..., None, None].expand(-1, -1, 1, rows.shape[-1]))[:, :, 0]


class Seen(NamedTuple):
    """What a network makes of the views of windows, all of them in evaluation.

    Attributes:
        features: ``(2, N, C)``, means of the backbone's last map.
        recall_cells: A scalar, 0 to 1; None: cells are not looked at.
    """

    features: Tensor
    recall_cells: Tensor | None


@MODELS.register_module()
class Contrast(Adaptor):
    """Pre-training without labels on images of both domains: a network learns to know the same ground again.

    Two views of a window are to be alike and those of different windows to differ (the global loss, which trains the
    backbone), and the same for the cells of a window (the local loss, which trains backbone, neck and decode head up to
    its classifier). A checkpoint of it can be the start of any method: what lies under ``pretext`` is left out then,
    and the rest fits completely, see :func:`load_matching`. Decode heads that no loss trains are left out, too.

    Args:
        views: Arguments of :class:`RandomViews`.
        global_loss: Arguments of :class:`GlobalContrast`; None: without it.
        local_loss: Arguments of :class:`LocalContrast`; None: without it.
        auxiliary_head: Not built, for nothing would train it.
        **network: As of mmseg's encoder-decoder.

    Raises:
        ConfigError: There is no loss, an argument makes no sense, or the network sees windows at several resolutions.

    Reference:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709; Chaitanya
        et al., Contrastive learning of global and local features for medical image segmentation with limited
        annotations, arXiv 2006.10511. Correspondence by place instead of a fixed lattice, and negatives by their
        distance on the ground, are this project's.
    """

    learns_from_labels = False
    without_target = (
        'a pre-training takes images of both domains, but the batch has one image set: use a DomainAdaptationDataset '
        'or a PairedDataset; for one collection name it as source and as target'
    )

    def __init__(
        self,
        *,
        views: Mapping[str, Any] | None = None,
        global_loss: Mapping[str, Any] | None = {},
        local_loss: Mapping[str, Any] | None = {},
        auxiliary_head: Any = None,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        if global_loss is None and local_loss is None:
            raise ConfigError('model.global_loss and model.local_loss are both None: there is nothing to learn')
        if isinstance(self.backbone, MultiResolutionBackbone):
            raise ConfigError(
                'model.backbone.type is MultiResolution, of which a pre-training would see the context alone: '
                'pre-train the plain network, and name its checkpoint in model.backbone.init_cfg with '
                "prefix='backbone.'; the weights are the same"
            )
        self.views = RandomViews(**(views or {}))
        bands = bands_of(self) or 3
        self._last = f'stage{run_once(self.backbone, lambda image: len(self.backbone(image)), bands, _probe(self))}'
        names = [self._last, *([] if local_loss is None else [LAST])]
        widths = feature_widths(self, names, bands)
        self._names = names if global_loss is not None else [LAST]
        # The name of each is that of the part up to which it trains.
        self.pretext = nn.ModuleDict()
        if global_loss is not None:
            self.pretext['backbone'] = GlobalContrast(widths[self._last], **global_loss)
        if local_loss is not None:
            self.pretext[LAST] = LocalContrast(widths[LAST], **local_loss)
            classifying(self.decode_head).conv_seg.requires_grad_(False)
        else:
            for part in (self.decode_head, *([self.neck] if self.with_neck else [])):
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Contrast:
        """Set the mode; dropouts of the decode head stay off, for they would make cells differ from themselves."""
        super().train(mode)
        for module in self.decode_head.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        return self

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_global`` and ``loss_local``; ``accuracy_global`` and ``accuracy_local``, how often the right view or
        cell is the most similar one; ``share_spread_global`` and ``share_spread_local``, 0 after a collapse.
        """
        views = self.views(source, target, self.data_preprocessor)
        maps = self._maps(views, self._names)
        losses = {}
        with torch.autocast(views[0].images.device.type, enabled=False):
            for name, part, key in (('global', 'backbone', self._last), ('local', LAST, LAST)):
                if part not in self.pretext:
                    continue
                found, losses[f'share_spread_{name}'] = self.pretext[part](maps[key], views)
                losses[f'loss_{name}'], losses[f'accuracy_{name}'] = found.loss, found.recall.detach()
        return losses

    def _maps(self, views: tuple[View, View], names: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Maps of the first and of the second views, by name."""
        found = extract_features(self, torch.cat([view.images for view in views]), names)
        halves = {name: _wide(maps).chunk(2) for name, maps in found.items()}
        return {name: (first, second) for name, (first, second) in halves.items()}

    @torch.no_grad()
    def see(self, source: Domain | None, target: Domain) -> Seen:
        """Look at views of images that were not trained on: of a pair, or of the target alone."""
        views = self.views(source, target, self.data_preprocessor)
        maps = self._maps(views, list(dict.fromkeys([self._last, *self._names])))
        pooled = [pool(own, view)[0] for own, view in zip(maps[self._last], views)]
        cells = self.pretext[LAST](maps[LAST], views)[0].recall if LAST in self.pretext else None
        return Seen(torch.stack(pooled), cells)

    def predict(self, inputs: Any, data_samples: Any = None) -> Any:
        """Segment images, by a classifier that nothing has trained; of pairs, the target's."""
        if not isinstance(inputs, Tensor):
            inputs, data_samples = inputs['target'], data_samples['target']
        return super().predict(inputs, data_samples)


def _probe(model: Any) -> tuple[int, int]:
    """The size of an image that the backbone takes."""
    size = getattr(model.backbone, 'img_size', 128)
    return (size, size) if isinstance(size, int) else (size[0], size[1])
