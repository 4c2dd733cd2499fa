"""Optimizers and schedules of a resumed run: whether they are those of its checkpoint, and a change to others."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler

__all__ = ['differences', 'optimizer_names', 'other_optimizers', 'settings', 'take_over', 'waiting_for_scores']

#: Of a group of parameters: what it holds, and what changes the speed alone.
_NO_SETTINGS = ('params', 'param_names', 'fused', 'foreach', 'capturable', 'differentiable')

Schedulers = Sequence[_ParamScheduler] | Mapping[str, Sequence[_ParamScheduler]] | None


def _parts(wrapper: OptimWrapper | Mapping[str, Any]) -> dict[str, Any]:
    """Optimizer wrappers, or their states, by the end of their key in a configuration."""
    several = isinstance(wrapper, (OptimWrapperDict, Mapping)) and 'param_groups' not in wrapper
    return {f'.{name}': part for name, part in wrapper.items()} if several else {'': wrapper}


def _by_part(schedulers: Any) -> dict[str, Sequence[Any]]:
    """Schedulers, or their states, by the same."""
    if isinstance(schedulers, Mapping):
        return {f'.{name}': own for name, own in schedulers.items()}
    return {'': schedulers or []}


def optimizer_names(wrapper: OptimWrapper) -> dict[str, str]:
    """Class of each part's optimizer, by the end of the part's key in a configuration."""
    return {part: type(own.optimizer).__name__ for part, own in _parts(wrapper).items()}


def _group_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters; of scheduled ones the values that the schedules begin with."""
    found = {key: group.get(f'initial_{key}', value) for key, value in group.items()}
    if 'betas' in group:  # of which a schedule's momentum is the first
        found['betas'] = (found.pop('momentum', group['betas'][0]), *group['betas'][1:])
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in found.items()
        if key not in _NO_SETTINGS and not key.startswith('initial_')
    }


def _scheduler_settings(scheduler: _ParamScheduler, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a scheduler's constructor was given, as far as its state has it."""
    names = {
        name
        for kind in type(scheduler).__mro__
        for name in inspect.signature(vars(kind).get('__init__', object)).parameters
    }
    return {
        name: state.get(name) for name in sorted(names - {'self', 'optimizer', 'last_step', 'verbose'}) if name in state
    }


def _family(group: Mapping[str, Any]) -> str:
    return 'betas' if 'betas' in group else 'momentum' if 'momentum' in group else ''


def other_optimizers(wrapper: OptimWrapper, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Optimizers of another class than a checkpoint's, whose states they could not use; as :func:`differences`."""
    names, states = checkpoint['meta'].get('optimizers', {}), _parts(checkpoint['optimizer'])
    for part, kind in optimizer_names(wrapper).items():
        groups = states.get(part, {}).get('param_groups') or [{}]
        own = _parts(wrapper)[part].optimizer.param_groups[0]
        # Earlier checkpoints do not say the class, but these tell the families apart.
        alike = not groups[0] or _family(own) == _family(groups[0])
        if names.get(part, kind) != kind or not alike:
            yield f'optim_wrapper{part}.optimizer is {kind}, was {names.get(part, "another")}'


def differences(wrapper: OptimWrapper, schedulers: Schedulers, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """How the optimizers and schedules of a configuration differ from what a checkpoint was trained with.

    Args:
        wrapper: The configuration's optimizer wrapper, before any step.
        schedulers: Its schedules, likewise.
        checkpoint: Of MMEngine.

    Yields:
        Sentences with the configuration's key and both values.
    """
    states = _parts(checkpoint['optimizer'])
    for part, own in _parts(wrapper).items():
        key = f'optim_wrapper{part}.optimizer'
        seen = set[str]()
        for ours, theirs in zip(own.optimizer.param_groups, states.get(part, {}).get('param_groups', [])):
            after, before = _group_settings(ours), _group_settings(theirs)
            for name in sorted(after.keys() & before.keys() - seen):
                if after[name] != before[name]:
                    seen.add(name)
                    yield f'{key}.{name} is {after[name]}, was {before[name]}'
    saved = _by_part(checkpoint.get('param_schedulers'))
    own_schedulers = _by_part(schedulers)
    for part in dict.fromkeys((*own_schedulers, *saved)):
        ours, theirs = own_schedulers.get(part, []), saved.get(part, [])
        if len(ours) != len(theirs):
            yield f'param_scheduler has {len(ours)} schedules, the checkpoint has {len(theirs)}'
        for i, (scheduler, state) in enumerate(zip(ours, theirs)):
            after, before = (_scheduler_settings(scheduler, s) for s in (scheduler.state_dict(), state))
            for name in sorted(after.keys() | before.keys()):
                if (a := after.get(name)) != (b := before.get(name)):
                    yield f'param_scheduler.{i}.{name} ({type(scheduler).__name__}) is {a}, was {b}'


def waiting_for_scores(schedulers: Schedulers) -> bool:
    """Whether one of the schedules goes by the scores of validations."""
    return any(getattr(own, 'need_val_args', False) for group in _by_part(schedulers).values() for own in group)


def settings(wrapper: OptimWrapper, schedulers: Schedulers) -> Any:
    """Optimizers' and schedules' settings before any step, for :func:`take_over`."""
    groups = {
        part: [{key: value for key, value in group.items() if key != 'params'} for group in own.param_groups]
        for part, own in _parts(wrapper).items()
    }
    states = {part: [dict(own.state_dict()) for own in group] for part, group in _by_part(schedulers).items()}
    return groups, states


def take_over(wrapper: OptimWrapper, schedulers: Schedulers, fresh: Any, iterations: int, epochs: int) -> None:
    """Give optimizers and schedules, in place, the settings that a run from the beginning would have here.

    What the optimizers have learnt, such as Adam's moments, stays.

    Args:
        wrapper: The optimizer wrapper, with a checkpoint's state.
        schedulers: The schedules, likewise.
        fresh: What :func:`settings` returned before that was loaded.
        iterations: How many have been trained.
        epochs: The same in epochs.
    """
    groups, states = fresh
    by_part = _by_part(schedulers)
    for part, own in _parts(wrapper).items():
        for group, values in zip(own.param_groups, groups[part]):
            group.update(values)
        for scheduler, state in zip(by_part.get(part, ()), states.get(part, ())):
            scheduler.load_state_dict(state)
        _advance(by_part.get(part, ()), own.param_groups, iterations, epochs)


def _advance(
    schedulers: Sequence[_ParamScheduler], groups: Sequence[dict[str, Any]], iterations: int, epochs: int
) -> None:
    """Step schedules that have not begun, from step to step, for they are chained."""
    schedulers = [own for own in schedulers if not getattr(own, 'need_val_args', False)]  # those wait for scores
    # Groups with the same values go the same way; there may be hundreds of them, and a hundred thousand steps.
    names = [scheduler.param_name for scheduler in schedulers]
    keys = [tuple(group[f'initial_{name}'] for name in names) for group in groups]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    small: Any = SimpleNamespace(param_groups=[groups[i] for i in first.values()], _global_step=0, step=lambda: None)
    own = [(scheduler, scheduler.optimizer, scheduler.base_values) for scheduler in schedulers]
    for scheduler, _, values in own:
        scheduler.optimizer, scheduler.base_values = small, [values[i] for i in first.values()]
        scheduler._last_value = [scheduler._last_value[i] for i in first.values()]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that no optimizer has stepped
        length = max(1, iterations // max(epochs, 1))
        for step in range(1, iterations + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch or (step % length == 0 and step // length <= epochs):
                    scheduler.step()
    for group, key in zip(groups, keys):
        group.update({name: groups[first[key]][name] for name in (*names, 'betas') if name in group})
    for scheduler, optimizer, values in own:
        last = dict(zip(first, scheduler._last_value))
        scheduler.optimizer, scheduler.base_values, scheduler._last_value = optimizer, values, [last[k] for k in keys]
