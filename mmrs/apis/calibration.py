"""Calibration of a checkpoint by labelled images of the source, and what it is worth there and on the target."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.models import BaseSegmentor
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from mmrs.apis.inference import init_model
from mmrs.apis.statistics import domain_leaves, leaves, loading, steps_between
from mmrs.datasets.class_names import match_classes
from mmrs.datasets.transforms import PackRasterInputs
from mmrs.evaluation.calibration import (
    BINS,
    METHODS,
    calibration_figures,
    fit_scaling,
    reliability,
)
from mmrs.evaluation.label_free import observe, predicted_logits
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, OutputError, require_number, require_one_of
from mmrs.utils.files import write_json
from mmrs.version import __version__
from mmrs.visualization.reliability import plot_reliability

__all__ = ['SPLITS', 'calibrate', 'labelled_leaves', 'labelled_pixels']

SPLITS = ('train', 'val', 'test')


def calibrate(
    config: str | Path | Config,
    checkpoint: str | Path,
    out: str | Path,
    method: str = METHODS[0],
    data: str = 'train',
    target: str | None = None,
    number: int = 100,
    pixels: int = 5000,
    seed: int = 0,
    picture: str | Path | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fit a scaling of a model's logits to labels of the source, and write it for ``predict.py --calibrated``.

    Figures of the source are cross-fitted: those of each half of the images are under the scaling that the other half
    gives. What is written is fitted to both.

    Args:
        config: A configuration or its file.
        checkpoint: Weights.
        out: File to write (JSON).
        method: ``temperature`` or ``vector``, see :func:`fit_scaling`.
        data: Which images of the configuration are labelled ones of the source: ``train`` (of two domains the source),
            ``val`` or ``test``. Best are those that the model was not trained on.
        target: ``val`` or ``test``: labelled images of the target, to report what the scaling is worth there; they
            change nothing.
        number: Images that are looked at, drawn by the seed; all, where there are fewer.
        pixels: Labelled pixels that are drawn in each.
        seed: Which images and pixels, and which half they are of.
        picture: File for the reliability diagrams.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.
        overwrite: Replace `out` and `picture`.

    Returns:
        What was written: the calibration, what it was made with, and :func:`calibration_figures` ``before`` and
        ``after`` of the ``source`` and, if asked for, of the ``target``.

    Raises:
        ConfigError: The configuration has no such labelled data, or an option makes no sense.
        CheckpointError: The checkpoint cannot be read or does not fit.
        DataError: There are too few images or labels.
        OutputError: An output exists already or cannot be written.
    """
    require_one_of('method', method, METHODS)
    require_one_of('data', data, SPLITS)
    require_one_of('target', target, (None, *SPLITS[1:]))
    if target == data:
        raise ConfigError(f'data and target are both {data}: the images of one split are of one domain')
    require_number('number', number, at_least=2, whole=True)
    require_number('pixels', pixels, at_least=1, whole=True)
    require_number('seed', seed, at_least=0, whole=True)
    for path in (out, picture):
        if path is not None and Path(path).exists() and not overwrite:
            raise OutputError(f'{path} exists already; choose another name, or pass --overwrite')
    model = init_model(config, checkpoint, device, cfg_options, trust_checkpoint)
    classes = tuple(model.dataset_meta.get('classes') or ())
    if not classes:
        raise ConfigError(f'{checkpoint}: neither it nor the test_dataloader of its configuration names the classes')
    if data == 'train':
        print_log(
            'calibrated on the images that the model was trained on, whose labels it knows better than others: '
            'probabilities of others will still be too sure. Labelled images of the source that training did not have '
            'are better: --data val or test, --cfg-options val_dataloader.dataset.data_root=...',
            logger='current',
            level=logging.WARNING,
        )
    options = dict(number=number, pixels=pixels, seed=seed)
    logits, label, image = labelled_pixels(model, labelled_leaves(model.cfg, data, 'source'), 'source', **options)
    half = np.random.default_rng(seed).permutation(int(image.max()) + 1) % 2 == 1
    second = torch.from_numpy(half)[image]
    if not second.any() or second.all():
        raise DataError(f'{data}: labelled pixels in two images at least were expected, one half to try the other on')
    crossed = torch.empty_like(logits)
    for own in (second, ~second):
        crossed[own] = fit_scaling(logits[~own], label[~own], method, classes)(logits[own])
    scaling = fit_scaling(logits, label, method, classes)
    shown = dict(source=_compared(logits, crossed, label))
    if target is not None:
        logits, label, _ = labelled_pixels(model, labelled_leaves(model.cfg, target, 'target'), 'target', **options)
        shown['target'] = _compared(logits, scaling(logits), label)
    found: dict[str, Any] = dict(
        method=method,
        classes=classes,
        scale=dict(zip(classes, scaling.scale)),
        offset=dict(zip(classes, scaling.offset)),
        weights=pooch.file_hash(str(checkpoint)),
        checkpoint=Path(checkpoint).name,
        mmrs=__version__,
        data=data,
        target_data=target,
        bins=BINS,
        **options,
    )
    for domain, pair in shown.items():
        found[domain] = {when: _figures(*own, classes) for when, own in pair.items()}
    write_json(found, out, overwrite)
    if picture is not None:
        panels = {
            domain: {when: (*(part.numpy() for part in reliability(*own)), found[domain][when]['ece'])
                     for when, own in pair.items()}
            for domain, pair in shown.items()
        }  # fmt: skip
        plot_reliability(panels, picture, overwrite)
    return found


def labelled_pixels(
    model: BaseSegmentor, parts: list[dict[str, Any]], domain: str, number: int, pixels: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a sample of the labelled pixels of a sample of images, one image in memory at a time.

    Args:
        model: From :func:`init_model`.
        parts: Configurations of data sets with labels.
        domain: Whose mean, deviation and range of values hold.
        number: Of images.
        pixels: Of each.
        seed: Which.

    Returns:
        ``(M, K)`` logits, float64, ``(M,)`` labels and ``(M,)`` numbers of the images, on the CPU.

    Raises:
        DataError: There is no image, or no labelled pixel.
    """
    sets = [_dataset(model, part) for part in parts]
    places = [(own, i) for own in sets for i in range(len(own))]
    chosen = np.random.default_rng(seed).permutation(len(places))[:number]
    samples = (own[i] for own, i in (places[place] for place in sorted(chosen)))
    found: list[tuple[Tensor, Tensor]] = []
    for sample in track(samples, f'labelled images of the {domain}', len(chosen), console=Console(stderr=True)):
        label = sample['data_samples'].gt_sem_seg.data[0].long()
        (seen,) = observe(model, [sample], domain)
        known = torch.nonzero(label.flatten() != IGNORE_INDEX).flatten().numpy()
        drawn = torch.from_numpy(np.random.default_rng((seed, len(found))).permutation(known)[:pixels])
        with torch.inference_mode():
            height, width = sample['inputs'].shape[-2:]
            logits = predicted_logits(model, seen.image[None])[..., :height, :width]  # without what a test pads
            if logits.shape[-2:] != label.shape:  # the pipeline resizes images
                logits = F.interpolate(logits, label.shape, mode='bilinear', align_corners=model.align_corners)
            logits = logits[0].flatten(1)[:, drawn.to(logits.device)].T
        found.append((logits.double().cpu(), label.flatten()[drawn]))
    if not any(len(label) for _, label in found):
        raise DataError(f'the {len(found)} images of the {domain} have no labelled pixel')
    logits, label = (torch.cat(column) for column in zip(*found))
    return logits, label, torch.repeat_interleave(torch.tensor([len(own) for _, own in found]))


def labelled_leaves(config: Config, split: str, domain: str) -> list[dict[str, Any]]:
    """Configurations of labelled data sets, with the pipeline that their labels are read by."""
    dataset = (config.get(f'{split}_dataloader') or {}).get('dataset')
    found = domain_leaves(dataset) if dataset else {}
    parts = found.get('' if '' in found or split != 'train' else domain)
    if not parts:
        raise ConfigError(
            f'config {config.filename}: there is no {split}_dataloader.dataset of the {domain} alone, by whose labels '
            'something could be measured'
        )
    test = next(leaves(config.test_dataloader.dataset)) if config.get('test_dataloader') else {}
    between = steps_between(test)
    if domain == 'source':  # other steps may turn images into those of the target
        between = [step for step in between if 'Resize' in str(step['type'])]
    labelled = []
    for part in parts:
        labels = [step for step in part.get('pipeline', ()) if 'Annotation' in str(step['type'])]
        if not labels or ('data_prefix' in part and 'seg_map_path' not in part['data_prefix']):
            raise ConfigError(
                f'config {config.filename}: the {domain} of {split}_dataloader.dataset ({part.get("type")} '
                f'{part.get("data_root", "")}) is read without labels: seg_map_path in data_prefix and '
                'LoadRasterAnnotations in the pipeline were expected'
            )
        pipeline = [*loading(part), *between, *labels, PackRasterInputs()]
        labelled.append({**part, 'pipeline': pipeline, 'test_mode': True})
    return labelled


def _dataset(model: BaseSegmentor, part: Mapping[str, Any]) -> Any:
    dataset = DATASETS.build(part)
    where = f'{part.get("type")} {part.get("data_root", "")}'
    match_classes(dataset, model.dataset_meta['classes'], where, 'the checkpoint')
    return dataset


def _compared(before: Tensor, after: Tensor, label: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return dict(before=(before.softmax(1), label), after=(after.softmax(1), label))


def _figures(probability: Tensor, label: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    figures = calibration_figures(probability, label)
    return {**figures, 'classwise': dict(zip(classes, figures['classwise']))}
