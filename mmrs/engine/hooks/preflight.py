from __future__ import annotations

import copy
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmrs.datasets.stream import stream_of
from mmrs.models.widths import failing_module
from mmrs.registry import HOOKS
from mmrs.utils.errors import ConfigError, OutputError, UserError, lost_others
from mmrs.utils.wrappers import unwrapped

#: Name of the checkpoint that is written to see whether that works, and removed at once; as of an unfinished one.
TRIAL = '.preflight.part.pth'


@HOOKS.register_module()
class PreflightHook(Hook):
    """Tries before the first iteration what a training comes to only later, and leaves no trace of it.

    One training batch goes through the model (losses and backward pass), one validation sample through model and
    metrics, the scores that other hooks wait for are looked for, and a checkpoint is written and removed. Then the run
    is as it was, bit for bit: weights, gradients, running statistics, random generators, the order of the data. It
    needs no more memory than a step of the training and of the validation. What those keep for later anyway stays:
    compiled backbones, and feature maps in a `feature_cache`.

    Raises:
        ConfigError: Something of that does not work; the message says what, and where in the model.
        DataError: A file cannot be used.
        OutputError: The checkpoint cannot be written.
    """

    priority = 'LOWEST'  # the other hooks are ready then

    def before_train(self, runner: Runner) -> None:
        """Try it."""
        start = time.perf_counter()
        tried = []
        with _untouched(runner):
            loss = _try_training(runner)
            if loss is not None:
                tried.append(f'a training batch (loss {loss:.4g})')
            scores = _try_validation(runner)
            if scores is not None:
                tried.append(f'a validation sample ({len(scores)} scores)')
            elif runner.val_loop is not None:
                tried.append('a validation sample')
            if scores is not None or runner.val_loop is None:
                _check_monitored(runner, scores)
            size = _try_saving(runner)
            if size:
                tried.append(f'a checkpoint ({size / 2**20:.0f} MB)')
        runner.logger.info(
            f'preflight: {", ".join(tried) or "nothing to try"}: all right, in {time.perf_counter() - start:.1f} s'
        )


# No trace -------------------------------------------------------------------------------------------------------------


@contextmanager
def _untouched(runner: Any) -> Iterator[None]:
    """Whatever a trial does inside, the run is afterwards as it was; the log stays quiet."""
    model = unwrapped(runner.model)
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    held = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    # Modes, and what a module of the user's own may count.
    plain = [
        (module, {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))})
        for module in model.modules()
    ]
    metrics = [(metric, {name: _kept(value) for name, value in vars(metric).items()}) for metric in _metrics(runner)]
    level = runner.logger.level
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        runner.logger.setLevel(max(level, logging.WARNING))
        with runner.aside():
            yield
    finally:
        runner.logger.setLevel(level)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for own, names in held:
            own.clear()
            own.update(names)
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, values in plain:
            vars(module).update(values)
        for metric, before in metrics:
            vars(metric).clear()
            vars(metric).update(before)


def _kept(value: Any) -> Any:
    """What a metric may change in place, copied."""
    return copy.copy(value) if isinstance(value, (dict, list, set)) else value


def _metrics(runner: Any) -> Sequence[Any]:
    return () if runner.val_loop is None else runner.val_loop.evaluator.metrics


@contextmanager
def _explained(what: str, model: nn.Module) -> Iterator[None]:
    """Turn what goes wrong into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if lost_others(error):
            raise
        name, module, _ = failing_module(error, model)
        place = f' in {_failing_transform(error)}' if module is None else f' in model.{name} ({type(module).__name__})'
        if isinstance(error, torch.cuda.OutOfMemoryError):
            reason = 'the memory of the device is too small. Take a smaller batch or crop, --amp, or with_cp'
        else:
            text = ' '.join(str(error).split())
            reason = f'{type(error).__name__}: {text if len(text) < 500 else text[:500] + " ..."}'
        raise ConfigError(
            f'{what} fails{place}: {reason} (MMRS_TRACEBACK=1 shows where; --no-preflight leaves out this trial)'
        ) from error


def _failing_transform(error: BaseException) -> str:
    owners = [frame.f_locals.get('self') for frame, _ in traceback.walk_tb(error.__traceback__)]
    kinds = [type(owner).__name__ for owner in owners if isinstance(owner, BaseTransform)]
    return f'{kinds[-1]} of the pipeline' if kinds else 'the data set'


# The trials -----------------------------------------------------------------------------------------------------------


def _first_batch(loop: Any) -> Any:
    """The batch that the training begins with (a resumed one: began with), or another one of its data set."""
    loader = loop.dataloader
    stream = stream_of(loader)
    if stream is None:
        samples = [loader.dataset[i] for i in range(min(loader.batch_size or 1, len(loader.dataset)))]
        return loader.collate_fn(samples)
    stream.reseed(loop._seed)
    draws = next(iter(loader.batch_sampler))
    return loader.collate_fn([loader.dataset[draw] for draw in draws])[0]


def _try_training(runner: Any) -> float | None:
    """One batch, forwards and backwards; the loss. None for a model that steps in a way of its own."""
    model = unwrapped(runner.model)
    if type(model).train_step is not BaseModel.train_step:
        return None
    # The run's optimizer wrapper and its counts are not touched: the trial step counts on a copy.
    wrapper = copy.copy(getattr(runner.optim_wrapper, 'lead', runner.optim_wrapper))
    model.train()
    with _explained('a training batch', model):
        batch = _first_batch(runner.train_loop)
        with wrapper.optim_context(model):
            losses = model._run_forward(model.data_preprocessor(batch, True), mode='loss')
        loss, _ = model.parse_losses(losses)
        if not loss.requires_grad:
            raise ConfigError('no loss of a training batch depends on a parameter that is trained')
        loss.backward()
        if runner.distributed and not getattr(runner.model, 'find_unused_parameters', True):
            unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                raise ConfigError(
                    f'{len(unused)} parameters take no part in the loss, the first is {unused[0]}: several processes '
                    'would wait for their gradients. Set find_unused_parameters=True'
                )
    return float(loss.detach())


def _try_validation(runner: Any) -> Mapping[str, Any] | None:
    """One sample through model and metrics; the scores. None where nothing is validated, or one sample is too few."""
    loop = runner.val_loop
    if loop is None:
        return None
    model, loader = unwrapped(runner.model), loop.dataloader
    with _explained('a validation sample', model), torch.no_grad(), ExitStack() as stack:
        if getattr(loop, 'fp16', False):
            stack.enter_context(torch.autocast(next(model.parameters()).device.type))
        batch = (loader.collate_fn or pseudo_collate)([loader.dataset[0]])
        model.eval()
        outputs = model.val_step(batch)
        for metric in _metrics(runner):
            metric.results = []
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        try:
            scores: Mapping[str, Any] = loop.evaluator.evaluate(len(outputs) * get_world_size())
        except Exception as error:
            # A metric of the user's own may need more samples than one, or all classes.
            own = [type(metric) for metric in _metrics(runner) if not type(metric).__module__.startswith('mmrs.')]
            if not own or isinstance(error, UserError) or lost_others(error):
                raise
            runner.logger.warning(
                f'preflight: {" or ".join(kind.__name__ for kind in own)} of val_evaluator cannot score a single '
                f'sample ({type(error).__name__}: {error}); so its scores are not known yet'
            )
            return None
    return scores


def _check_monitored(runner: Runner, scores: Mapping[str, Any] | None) -> None:
    """Look for the scores by which checkpoints are kept, a training is stopped or a rate falls."""
    wanted: list[tuple[str, str]] = []
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            wanted += [('default_hooks.checkpoint.save_best', name) for name in hook.save_best or ()]
        elif isinstance(name := getattr(hook, 'monitor', None), str):
            wanted.append((f'{type(hook).__name__}.monitor', name))
    schedules: Any = runner.param_schedulers or []
    for schedule in chain(*schedules.values()) if isinstance(schedules, dict) else schedules:
        if isinstance(name := getattr(schedule, 'monitor', None), str):
            wanted.append((f'param_scheduler: {type(schedule).__name__}.monitor', name))
    for key, name in wanted:
        if scores is None:
            raise ConfigError(f'{key} is {name!r}, but nothing is validated: there is no val_dataloader')
        if name not in scores and name != 'auto':
            raise ConfigError(f'{key} is {name!r}, which no metric gives. The metrics give {", ".join(scores)}')


def _try_saving(runner: Any) -> int:
    """Write a checkpoint where the others will be, and remove it; its size in bytes, in the first process."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if hook is None or runner.rank != 0 or '://' in str(hook.out_dir):
        return 0
    path = Path(hook.out_dir) / TRIAL
    parts = dict(save_optimizer=hook.save_optimizer, save_param_scheduler=hook.save_param_scheduler)
    with _explained('saving a checkpoint', unwrapped(runner.model)):
        try:
            runner.save_checkpoint(str(path.parent), path.name, by_epoch=hook.by_epoch, **parts)
            return path.stat().st_size
        except OSError as error:
            raise OutputError(f'checkpoints in {path.parent} cannot be written: {error.strerror or error}') from error
        finally:
            with suppress(OSError):
                os.remove(path)
