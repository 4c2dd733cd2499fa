"""What a configuration says and a training would not do: refused before anything is built."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import IterBasedTrainLoop

from mmrs.apis.statistics import domain_leaves
from mmrs.datasets.transforms import LoadRasterImage
from mmrs.registry import DATA_SAMPLERS, LOOPS, PARAM_SCHEDULERS, TRANSFORMS
from mmrs.utils.config import look_up, where_in
from mmrs.utils.errors import ConfigError

__all__ = ['check_config', 'check_loaders', 'final_rate']

#: An end beyond any training, as MMEngine's default is; and how many steps schedules are followed for, which takes some
#: seconds.
_FOR_EVER, _FOLLOWED = 10**7, 10**6


def check_config(config: Config) -> None:
    """Refuse what a training would ignore, or never come to the end of.

    Raises:
        ConfigError: A schedule that never moves, or ends in a rate of 0 too early; a sampler without an end where an
            epoch must have one; loaders of different orders of bands.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmrs')):
        _check_schedules(config)
        _check_samplers(config)
        check_loaders(config)


# Values of the wrong kind pass here: where they are used, the message says what was expected.


def _dict(node: Any) -> Mapping[str, Any]:
    return node if isinstance(node, Mapping) else {}


def _number(node: Mapping[str, Any], key: str, default: float) -> float:
    value = node.get(key, default)
    return value if isinstance(value, (int, float)) and not math.isnan(value) else default


def _class(registry: Registry, node: Any) -> type:
    """What the `type` of a dict names; `object` where that is nothing."""
    kind = look_up(registry, _dict(node).get('type'))
    return kind if isinstance(kind, type) else object


def _by_iteration(config: Config) -> bool:
    if _dict(config.train_cfg).get('type') is None:  # the two loops that MMEngine knows without a type
        return not _dict(config.train_cfg).get('by_epoch', True)
    return issubclass(_class(LOOPS, config.train_cfg), IterBasedTrainLoop)


# Schedules ------------------------------------------------------------------------------------------------------------


def _schedules(node: Any, key: str = 'param_scheduler') -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """The schedules that go together, each with its key: one group, or one for each part of a joint optimizer."""
    if isinstance(node, Mapping) and 'type' not in node:
        for part, own in node.items():
            yield from _schedules(own, f'{key}.{part}')
    elif isinstance(node, Mapping):
        yield [(key, node)]
    elif isinstance(node, (list, tuple)):
        yield [(f'{key}.{i}', schedule) for i, schedule in enumerate(node) if isinstance(schedule, Mapping)]


def _check_schedules(config: Config) -> None:
    by_iteration = _by_iteration(config)
    unit, key = ('iterations', 'max_iters') if by_iteration else ('epochs', 'max_epochs')
    length = _number(_dict(config.train_cfg), key, 0)
    if length < 1:
        return  # an error elsewhere
    without_use: list[str | None] = []  # of each group
    for group in _schedules(config.get('param_scheduler')):
        counted, late = [], []  # what goes by the unit of the training, and what of it comes too late
        for key, schedule in group:
            kind = _class(PARAM_SCHEDULERS, schedule)
            begin, end = _number(schedule, 'begin', 0), _number(schedule, 'end', math.inf)
            name = f'{key} ({kind.__name__})'
            by_epoch = schedule.get('by_epoch', True) and not schedule.get('convert_to_iter_based')
            if getattr(kind, 'need_val_args', False):
                continue  # it moves after a validation
            if by_iteration and by_epoch:
                raise ConfigError(
                    f'{where_in(config)}{name} counts epochs, and in a training of {length} iterations no epoch ends: '
                    f'it would never move. Set {key}.by_epoch=False, and its begin and end in iterations'
                )
            if by_epoch == by_iteration or schedule.get('convert_to_iter_based'):
                continue
            counted.append((key, schedule))
            if begin >= length:
                late.append(f'{name} begins at {begin}, but the training ends after {length} {unit}: it never moves')
            elif length + 1 < end < _FOR_EVER:
                _warn(
                    f'{name} ends at {end}, but the training after {length} {unit}: it is cut off there. A shorter '
                    f'training with the whole schedule needs {key}.end={length + 1}'
                )
        if late and len(late) == len(counted):
            raise ConfigError(f'{where_in(config)}{late[0]}. Set its begin and end to fit, or a longer training')
        for text in late:
            _warn(text)
        without_use.append(_idle(counted, length, unit))
    # One part of a joint optimizer may stop early.
    if without_use and all(without_use):
        raise ConfigError(f'{where_in(config)}{without_use[0]}')


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def _idle(group: Sequence[tuple[str, Mapping[str, Any]]], length: float, unit: str) -> str | None:
    """What is wrong with schedules that bring the rate to 0 while there is much left of the training."""
    key, schedule = max(group, key=lambda own: _number(own[1], 'end', math.inf), default=('', {}))
    last = _number(schedule, 'end', math.inf)
    # A schedule that comes to 0 at its very end may end a little early, by a rounded number.
    idle = length - last + 1
    if idle <= max(1, length / 100) or last > _FOLLOWED:
        return None
    try:  # they are chained, and have no closed form
        rate = final_rate([own for _, own in group], int(last))
    except Exception:  # what cannot be built is explained where it is
        return None
    if rate != 0:
        return None
    return (
        f'{key} ({_class(PARAM_SCHEDULERS, schedule).__name__}) ends at {last} with a learning rate of 0, but the '
        f'training has {length} {unit}: nothing is learnt in the last {idle} of them. Set {key}.end={length + 1}, or a '
        'shorter training'
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


# Samplers -------------------------------------------------------------------------------------------------------------


def _check_samplers(config: Config) -> None:
    loaders = ['val_dataloader', *([] if _by_iteration(config) else ['train_dataloader'])]
    for key in loaders:
        kind = _class(DATA_SAMPLERS, _dict(config.get(key)).get('sampler'))
        if issubclass(kind, InfiniteSampler):
            training = key.startswith('train')
            raise ConfigError(
                f'{where_in(config)}{key}.sampler is {kind.__name__}, which never ends, and a '
                f'{"training by epochs" if training else "validation"} waits for its end. Set {key}.sampler.type='
                + (
                    "DefaultSampler, or train_cfg=dict(type='IterBasedTrainLoop', ...)"
                    if training
                    else 'DefaultSampler'
                )
            )


# Bands ----------------------------------------------------------------------------------------------------------------


def check_loaders(config: Config, tta: bool = False) -> None:
    """Compare the order in which the pipelines of all data sets read the bands of a colour image.

    Args:
        config: The configuration.
        tta: Whether its `tta_pipeline` is used, too.

    Raises:
        ConfigError: Some read red first, as the file has it, and others blue, as OpenCV does.
    """
    pipelines = {'tta_pipeline': config.get('tta_pipeline') or ()} if tta else {}
    for role in ('train', 'val', 'test'):
        dataset = _dict(_dict(config.get(f'{role}_dataloader')).get('dataset'))
        for domain, own in domain_leaves(dataset).items():
            key = f'{role}_dataloader.dataset{"." + domain if domain else ""}.pipeline'
            pipelines[key] = [step for leaf in own for step in leaf.get('pipeline') or ()]
    found: dict[str, str] = {}
    for key, steps in pipelines.items():
        for step in steps:
            if order := _order(step):
                found.setdefault(order, f'{key} ({_class(TRANSFORMS, step).__name__})')
    if len(found) > 1:
        raise ConfigError(
            f'{where_in(config)}{found["BGR"]} reads BGR, blue first, but {found["RGB"]} RGB, as the file has it: one '
            'network would see both. Take LoadRasterImage, LoadRasterAnnotations and PackRasterInputs everywhere'
        )


def _order(step: Any) -> str | None:
    """RGB or BGR, where a transform reads a colour image."""
    kind = _class(TRANSFORMS, step)
    if issubclass(kind, LoadRasterImage):
        return 'RGB'
    if issubclass(kind, LoadImageFromFile) and step.get('color_type') != 'grayscale':
        return 'RGB' if step.get('imdecode_backend') == 'tifffile' else 'BGR'
    return None
