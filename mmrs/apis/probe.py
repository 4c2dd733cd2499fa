"""What the features of a backbone are worth by themselves: a linear classifier on them, which takes seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.apis.calibration import SPLITS, labelled_leaves
from mmrs.apis.inference import init_model
from mmrs.evaluation.label_free import observe
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.models.parts.views import read_at
from mmrs.registry import DATASETS
from mmrs.utils.config import load_config
from mmrs.utils.errors import CheckpointError, DataError, require_number, require_one_of
from mmrs.weights import load_checkpoint, load_matching, state_dict_of, trusting_checkpoints

__all__ = ['LinearProbe', 'probe']

_PREFIX = 'backbone.'


def probe(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    data: str = 'val',
    tiles: int = 10,
    number: int = 50,
    pixels: int = 1000,
    seed: int = 0,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    task: str | None = None,
    network: str | None = None,
) -> dict[str, Any]:
    """Train a multinomial logistic regression on frozen features of some labelled images, and score it on others.

    The features of a pixel are what all of the backbone's maps have there. Nothing of the backbone is trained.

    Args:
        config: A configuration with labels, such as the method file of source-only training, or its file.
        checkpoint: Of a pre-training or of any method whose network is that backbone; None: its initialisation, which
            is random where the configuration names no weights.
        data: Whose labelled images: ``val``, ``test``, or ``train`` (of two domains the source).
        tiles: Images that are learnt from.
        number: Other images, at most, that it is scored on.
        pixels: Labelled pixels that are drawn in each image.
        seed: Which images and pixels.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.
        task: With a method's file: the task.
        network: Likewise.

    Returns:
        ``mIoU`` and ``accuracy`` in percent, of the pixels that were drawn; ``tiles``, ``images`` and ``seconds``.

    Raises:
        ConfigError: The configuration has no such labelled data, or an option makes no sense.
        CheckpointError: The checkpoint cannot be read, or its backbone is another one.
        DataError: There are too few images or labels.
    """
    require_one_of('data', data, SPLITS)
    for name, value, least in (('tiles', tiles, 1), ('number', number, 1), ('pixels', pixels, 1), ('seed', seed, 0)):
        require_number(name, value, at_least=least, whole=True)
    start = time.perf_counter()
    cfg = load_config(config, cfg_options, task=task, network=network)
    parts = labelled_leaves(cfg, data, 'source' if data == 'train' else 'target')
    model: Any = _network(cfg, checkpoint, device, seed, trust_checkpoint)
    sets = [DATASETS.build(part) for part in parts]
    places = [(own, i) for own in sets for i in range(len(own))]
    if len(places) <= tiles:
        raise DataError(
            f'{data}: there are {len(places)} images, of which {tiles} are to be learnt from, and others are needed to '
            'score on'
        )
    order = np.random.default_rng(seed).permutation(len(places))[: tiles + number]
    found = [
        _pixels(model, places[place][0][places[place][1]], 'source' if data == 'train' else 'target', pixels, (seed, k))
        for k, place in enumerate(track(order.tolist(), 'features', console=Console(stderr=True)))
    ]
    (features, labels), (others, truth) = (
        [torch.cat(own) for own in zip(*rows)] for rows in (found[:tiles], found[tiles:])
    )
    if not len(labels) or not len(truth):
        raise DataError(f'{data}: no labelled pixel in the images that were drawn; take more images, or another seed')
    predicted = LinearProbe(features, labels, model.num_classes)(others)
    return {**_scores(predicted, truth, model.num_classes), 'tiles': tiles, 'images': len(order) - tiles,
            'seconds': time.perf_counter() - start}  # fmt: skip


def _network(cfg: Config, checkpoint: Any, device: str | None, seed: int, trust: bool) -> nn.Module:
    backbone = cfg.model.get('backbone')
    start = backbone.get('init_cfg') if isinstance(backbone, Mapping) else None
    torch.manual_seed(seed)
    model: Any = init_model(cfg, device=device)
    if checkpoint is None:
        if start is not None:
            model.backbone.init_cfg = start
        model.backbone.init_weights()
        return model
    with trusting_checkpoints(trust):
        weights = state_dict_of(load_checkpoint(str(checkpoint)), checkpoint)
    own = {key.removeprefix(_PREFIX): value for key, value in weights.items() if key.startswith(_PREFIX)}
    if not own:
        raise CheckpointError(f'{checkpoint} has no {_PREFIX}*, the weights of one backbone, that could be probed')
    load_matching(model.backbone, own, checkpoint, strict=True)
    return model


@torch.inference_mode()
def _pixels(model: Any, sample: Any, domain: str, pixels: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Features ``(M, C)``, float64, and labels ``(M,)`` of some labelled pixels of an image, on the CPU."""
    label = sample['data_samples'].gt_sem_seg.data[0].long()
    (seen,) = observe(model, [sample], domain)
    known = torch.nonzero(label.flatten() != IGNORE_INDEX).flatten().numpy()
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(known)[:pixels])
    height, width = label.shape  # of the file, where the pipeline resizes images
    places = torch.stack([(drawn % width + 0.5) / width, (drawn // width + 0.5) / height], -1)[None]
    maps = model.backbone(seen.image[None])
    rows = [read_at(own.float(), places.to(own.device), 1.0)[0] for own in maps]
    return torch.cat(rows, 1).double().cpu(), label.flatten()[drawn]


class LinearProbe:
    """A multinomial logistic regression on standardised features, with a small penalty on its weights.

    Args:
        features: ``(M, C)``, float64.
        labels: ``(M,)``.
        classes: Number of classes.
        penalty: Factor on half of the squared weights, the offsets left out, per feature row.
        steps: Most steps of L-BFGS.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int, penalty: float = 1e-3, steps: int = 200) -> None:
        self.mean, self.deviation = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        rows = self._standardised(features)
        self.weights = features.new_zeros(rows.shape[1], classes, requires_grad=True)
        self.offsets = features.new_zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [self.weights, self.offsets], max_iter=steps, tolerance_grad=1e-6, line_search_fn='strong_wolfe'
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(rows @ self.weights + self.offsets, labels)
            value = value + penalty / 2 * self.weights.square().sum()
            value.backward()
            return value

        optimizer.step(loss)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """The classes ``(M,)`` of features ``(M, C)``."""
        return (self._standardised(features) @ self.weights + self.offsets).argmax(1)

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


def _scores(predicted: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    counts = torch.bincount(truth * classes + predicted, minlength=classes**2).view(classes, classes).double()
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    ious = (hits / union)[union > 0]
    return dict(mIoU=100 * float(ious.mean()), accuracy=100 * float(hits.sum() / counts.sum()))
