"""What a configuration says and a training would not do: refused before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.runner import IterBasedTrainLoop

from mmrs.apis.statistics import domain_leaves
from mmrs.datasets.transforms import LoadRasterImage
from mmrs.registry import DATA_SAMPLERS, LOOPS, PARAM_SCHEDULERS, TRANSFORMS
from mmrs.utils.errors import ConfigError

__all__ = ['check_config', 'check_loaders', 'final_rate']


def check_config(config: Config) -> None:
    """Refuse what a training would ignore, or never come to the end of.

    Raises:
        ConfigError: A schedule that never moves, or ends in a rate of 0 too early; a sampler without an end where an
            epoch must have one; a score to save by, where nothing is scored; loaders of different orders of bands.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmrs')):
        _check_schedules(config)
        _check_samplers(config)
        _check_scores(config)
        check_loaders(config)


def _where(config: Config) -> str:
    return f'config {config.filename}: '


def _by_iteration(config: Config) -> bool:
    loop = LOOPS.get(kind) if isinstance(kind := config.train_cfg.get('type'), str) else kind
    if loop is None:  # the two that MMEngine knows without a type
        return not config.train_cfg.get('by_epoch', True)
    return isinstance(loop, type) and issubclass(loop, IterBasedTrainLoop)


# Schedules ------------------------------------------------------------------------------------------------------------


def _schedules(node: Any, key: str = 'param_scheduler') -> Iterator[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """The schedules that go together, each with its key: one group, or one for each part of a joint optimizer."""
    if isinstance(node, Mapping) and 'type' not in node:
        for part, own in node.items():
            yield from _schedules(own, f'{key}.{part}')
    elif isinstance(node, Mapping):
        yield key, [(key, node)]
    elif isinstance(node, (list, tuple)):
        yield key, [(f'{key}.{i}', schedule) for i, schedule in enumerate(node) if isinstance(schedule, Mapping)]


def _check_schedules(config: Config) -> None:
    by_iteration = _by_iteration(config)
    unit = 'iterations' if by_iteration else 'epochs'
    length = config.train_cfg.get('max_iters' if by_iteration else 'max_epochs')
    if not isinstance(length, int) or length < 1:
        return  # an error elsewhere
    for _, group in _schedules(config.get('param_scheduler')):
        for key, schedule in group:
            kind, end = schedule.get('type'), schedule.get('end', math.inf)
            converted = schedule.get('convert_to_iter_based', False)
            waits = 'Plateau' in str(kind)  # it moves after a validation
            if by_iteration and schedule.get('by_epoch', True) and not (converted or waits):
                raise ConfigError(
                    f'{_where(config)}{key} ({kind}) counts epochs, and in a training of {length} iterations no epoch '
                    f'ends: it would never move. Set {key}.by_epoch=False, and its begin and end in iterations'
                )
            if (schedule.get('by_epoch', True) and not converted) == by_iteration:
                continue  # counts in the other unit
            if schedule.get('begin', 0) >= length:
                raise ConfigError(
                    f'{_where(config)}{key} ({kind}) begins at {schedule["begin"]}, but the training ends after '
                    f'{length} {unit}: it would never move'
                )
            if math.isfinite(end) and end > length + 1:
                print_log(
                    f'{key} ({kind}) ends at {end}, but the training after {length} {unit}: it is cut off there. A '
                    f'shorter training with the whole schedule needs {key}.end={length + 1}',
                    logger='current',
                    level=30,
                )
        _check_final_rate(config, group, length, unit)


def _check_final_rate(config: Config, group: Sequence[tuple[str, Mapping[str, Any]]], length: int, unit: str) -> None:
    """Refuse schedules that have brought the rate to 0 while there is much left of the training."""
    last = max((schedule.get('end', math.inf) for _, schedule in group), default=math.inf)
    # They are chained, and have no closed form. While one of them goes on there is nothing to look for.
    if last >= length or any(schedule.get('convert_to_iter_based') for _, schedule in group):
        return
    if final_rate([schedule for _, schedule in group], int(last)) == 0:
        key, schedule = max(group, key=lambda own: own[1]['end'])
        raise ConfigError(
            f'{_where(config)}{key} ({schedule["type"]}) ends at {last} with a learning rate of 0, but the training '
            f'has {length} {unit}: nothing is learnt in the last {length - last + 1} of them. Set '
            f'{key}.end={length + 1}, or a shorter training'
        )


def final_rate(schedules: Sequence[Mapping[str, Any]], steps: int) -> float:
    """The learning rate after some steps of all schedules, as a multiple of the one that the optimizer is given."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    built = [PARAM_SCHEDULERS.build(dict(schedule), default_args=dict(optimizer=optimizer)) for schedule in schedules]
    optimizer.step()  # a schedule warns where it is the first to step
    for _ in range(steps):
        for schedule in built:
            schedule.step()
    return float(optimizer.param_groups[0]['lr'])


# Samplers and scores --------------------------------------------------------------------------------------------------


def _check_samplers(config: Config) -> None:
    loaders = ['val_dataloader', *([] if _by_iteration(config) else ['train_dataloader'])]
    for key in loaders:
        sampler = (config.get(key) or {}).get('sampler') or {}
        kind = DATA_SAMPLERS.get(name) if isinstance(name := sampler.get('type'), str) else name
        if isinstance(kind, type) and issubclass(kind, InfiniteSampler):
            loop = 'a training by epochs' if key.startswith('train') else 'a validation'
            raise ConfigError(
                f'{_where(config)}{key}.sampler is {kind.__name__}, which never ends, and {loop} waits for its end. '
                f'Set {key}.sampler.type=DefaultSampler'
                + (", or train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)" if key.startswith('train') else '')
            )


def _check_scores(config: Config) -> None:
    checkpoint = (config.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best') and config.get('val_dataloader') is None:
        raise ConfigError(
            f'{_where(config)}default_hooks.checkpoint.save_best is {checkpoint["save_best"]!r}, but there is no '
            'val_dataloader whose scores could choose the best checkpoint. Set save_best=None: the last one counts'
        )


# Bands ----------------------------------------------------------------------------------------------------------------


def check_loaders(config: Config) -> None:
    """Compare the order in which the pipelines of all data sets read the bands of a colour image.

    Raises:
        ConfigError: Some read red first, as the file has it, and others blue, as OpenCV does.
    """
    found: dict[str, str] = {}
    for role in ('train', 'val', 'test'):
        dataset = (config.get(f'{role}_dataloader') or {}).get('dataset')
        for domain, own in domain_leaves(dataset).items() if isinstance(dataset, Mapping) else ():
            for leaf in own:
                for step in leaf.get('pipeline') or ():
                    if order := _order(step):
                        place = f'{role}_dataloader.dataset{"." + domain if domain else ""}.pipeline'
                        found.setdefault(order, f'{place} ({getattr(step["type"], "__name__", step["type"])})')
    if len(found) > 1:
        raise ConfigError(
            f'{_where(config)}{found["BGR"]} reads BGR, blue first, but {found["RGB"]} RGB, as the file has it: one '
            'network would see both. Take LoadRasterImage, LoadRasterAnnotations and PackRasterInputs everywhere'
        )


def _order(step: Any) -> str | None:
    """RGB or BGR, where a transform reads a colour image."""
    name = step.get('type') if isinstance(step, Mapping) else None
    kind = TRANSFORMS.get(name) if isinstance(name, str) else name
    if not isinstance(kind, type):
        return None
    if issubclass(kind, LoadRasterImage):
        return 'RGB'
    if issubclass(kind, LoadImageFromFile) and step.get('color_type', 'color') == 'color':
        return 'BGR'
    return None
