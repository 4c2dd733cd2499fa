"""Numbers of channels: what parts of a network take, and what they get."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mmrs.utils import ConfigError

__all__ = ['bands_of', 'failing_module', 'misfits_explained', 'require_stages', 'run_once']

#: Layers that take a fixed number of channels, the attribute that says how many, and the axis of their input.
_LAYERS = ((_ConvNd, 'in_channels', 1), (_NormBase, 'num_features', 1), (nn.Linear, 'in_features', -1))


@torch.no_grad()
def run_once(module: nn.Module, run: Callable[[Tensor], Any], bands: int, size: tuple[int, int] = (64, 64)) -> Any:
    """Run a network on one small image, in evaluation mode: no running statistic, mode or random number changes.

    Args:
        module: The network.
        run: What to do with an image ``(1, bands, H, W)``.
        bands: Bands of the image.
        size: Its height and width in pixels.

    Returns:
        What `run` returns.
    """
    modes = {child: child.training for child in module.modules()}
    image = next(module.parameters()).new_zeros(1, bands, *size)
    try:
        for child in modes:
            child.training = False
        return run(image)
    finally:
        for child, mode in modes.items():
            child.training = mode


def failing_module(error: BaseException, model: nn.Module) -> tuple[str, nn.Module | None, dict[str, Any]]:
    """The innermost module of a model that was running when an exception was raised.

    Returns:
        Its name, as a configuration has it; the module, None where there is none; and its local variables.
    """
    names = {module: name for name, module in model.named_modules() if name}
    for frame in reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)]):
        module = frame.f_locals.get('self')
        if isinstance(module, nn.Module) and module in names:
            return names[module].removeprefix('segmentor.'), module, frame.f_locals
    return '', None, {}


@contextmanager
def misfits_explained(model: nn.Module, bands: int) -> Iterator[None]:
    """Turn the error of a layer that gets another number of channels than it takes into a ConfigError.

    Args:
        model: The model that runs inside.
        bands: Bands of its image.
    """
    try:
        yield
    except Exception as error:
        name, layer, found = failing_module(error, model)
        given = next((value for value in found.values() if isinstance(value, Tensor)), None)
        for kind, attribute, axis in _LAYERS:
            if isinstance(layer, kind) and given is not None and given.shape[axis] != getattr(layer, attribute):
                text = _misfit(name, layer, getattr(layer, attribute), given.shape[axis], bands)
                raise ConfigError(text) from error
        raise


def _misfit(name: str, layer: nn.Module, takes: int, gets: int, bands: int) -> str:
    part = name.split('.')[0]
    message = f'model.{name} ({type(layer).__name__}) takes {takes} channels, but gets {gets}'
    if part == 'backbone' and gets == bands:
        return (
            f'{message}, one for each number in model.data_preprocessor.mean: set model.backbone.in_channels to '
            f'{gets}, or choose bands with LoadRasterImage(bands=...)'
        )
    return f'{message}: set model.{part}.in_channels, or the argument of it that says this width, to what it gets'


def require_stages(name: str, head: Any, stages: Any) -> None:
    """Compare what one of mmseg's decode heads reads with the feature maps that there are.

    Args:
        name: Configuration key of the head.
        head: The head.
        stages: Maps ``(N, C_i, H_i, W_i)``; anything else, which a head can be made for, is left to it.

    Raises:
        ConfigError: `in_index` or `in_channels` does not fit.
    """
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, Tensor) for stage in stages):
        return
    found = [stage.shape[1] for stage in stages]
    indices = [head.in_index] if isinstance(head.in_index, int) else list(head.in_index)
    if unknown := [i for i in indices if not -len(found) <= i < len(found)]:
        raise ConfigError(
            f'{name}.in_index has {unknown[0]}, but it gets {len(found)} feature maps, 0 to {len(found) - 1}, of '
            f'{found} channels'
        )
    expected: Any = [found[i] for i in indices]
    if head.input_transform is None:
        expected = expected[0]
    elif head.input_transform == 'resize_concat':
        expected = sum(expected)
    takes = head.in_channels if isinstance(head.in_channels, int) else list(head.in_channels)
    if takes != expected:
        raise ConfigError(
            f'{name}.in_channels is {takes}, but the feature maps that it reads (in_index {head.in_index}) have '
            f'{[found[i] for i in indices] if head.input_transform == "resize_concat" else expected} channels'
        )


def bands_of(model: nn.Module) -> int | None:
    """Bands that the data preprocessor of a model normalises; None where it does not say."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    for name in ('target_mean', 'mean'):
        mean = getattr(preprocessor, name, None)
        if isinstance(mean, (Tensor, Sequence)):
            return len(mean)
    return None
