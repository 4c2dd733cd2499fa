"""Numbers of channels: what parts of a network take, and what they get."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.utils import to_2tuple
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from mmrs.utils.config import look_up

__all__ = [
    'bands_of',
    'failing_module',
    'fill_channels',
    'last_stride',
    'misfits_explained',
    'parts_of_model',
    'require_stages',
    'run_once',
    'widths',
]

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


# Channels that a configuration leaves open ----------------------------------------------------------------------------

#: Side of the image, in pixels, on which widths are read.
_SIDE = 128


class _NumbersOnCPU(TorchFunctionMode):
    """Rates of stochastic depth are read back from a tensor, which the meta device has no values for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault('device', 'cpu')
        return func(*args, **kwargs)


def _without_values(config: Mapping[str, Any]) -> nn.Module:
    """Build a module on the meta device, which costs neither memory nor random numbers."""
    shared = {key: value for key, value in config.items() if key not in ('source', 'target')}
    with torch.device('meta'), _NumbersOnCPU():
        return revert_sync_batchnorm(MODELS.build(shared))


def _with_zeros(module: nn.Module) -> nn.Module:
    """The same module on the CPU, to be run."""
    module.to_empty(device='cpu')
    for tensor in (*module.parameters(), *module.buffers()):  # what serves as an index must be valid
        tensor.data.zero_()
    module.eval()  # of which mmseg's ResNet returns nothing
    return module


@torch.no_grad()
def _run(backbone: Mapping[str, Any]) -> tuple[tuple[int, int], list[Tensor]]:
    """Size of an image, and the maps that a backbone returns of it."""
    built = _with_zeros(_without_values(backbone))
    # Some transformers take images of one size only.
    size = to_2tuple(getattr(built, 'img_size', _SIDE))
    maps = built(torch.zeros(1, backbone.get('in_channels') or 3, *size))
    return size, [maps] if isinstance(maps, Tensor) else list(maps)


def widths(backbone: Mapping[str, Any]) -> list[int]:
    """Channels of the maps that a backbone returns: its `out_channels`, else those of a run.

    Args:
        backbone: Its configuration; what `source` and `target` in it change, for a method with two of them, is left
            out.
    """
    known = getattr(_without_values(backbone), 'out_channels', None)
    return list(known) if isinstance(known, Sequence) else [stage.shape[1] for stage in _run(backbone)[1]]


def _neck_widths(neck: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[int]:
    built = _without_values(neck)
    known = getattr(built, 'out_channels', None)
    if isinstance(known, Sequence):
        return list(known)
    with torch.no_grad():
        return [stage.shape[1] for stage in _with_zeros(built)(_run(backbone)[1])]


def last_stride(backbone: Mapping[str, Any]) -> float:
    """Pixels of an image for each of the last map that a backbone returns."""
    size, maps = _run(backbone)
    return max(side / own for side, own in zip(size, maps[-1].shape[2:]))


def parts_of_model(model: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts of a model's configuration under a key, which may have a list of them, each with its dotted key."""
    part = model.get(kind)
    if isinstance(part, dict):
        yield f'model.{kind}', part
    elif isinstance(part, (list, tuple)):
        yield from ((f'model.{kind}.{i}', own) for i, own in enumerate(part) if isinstance(own, dict))


def fill_channels(model: dict[str, Any]) -> None:
    """Put numbers where a model's configuration has ``in_channels=None``, in place.

    The backbone's are the bands that the data preprocessor has a mean for. A neck and a discriminator take
    what the backbone returns, the latter its last map; heads take what the neck returns, at their `in_index`, and
    `c1_in_channels` is the first of these maps. Nothing is built where nothing is asked.

    Raises:
        ConfigError: The widths cannot be found out, or a head reads a map that is not there.
    """
    backbone = model.get('backbone')
    if not isinstance(backbone, dict):
        return
    _fill_bands(backbone, model.get('data_preprocessor') or {})
    necks, discriminators = (list(parts_of_model(model, kind)) for kind in ('neck', 'discriminator'))
    heads = [own for kind in ('decode_head', 'auxiliary_head') for own in parts_of_model(model, kind)]
    variants = [own for key, head in heads for own in _variants(key, head)]
    asking = [key for key, part in (*necks, *discriminators, *variants) if _asks(part)]
    if not asking:
        return
    try:
        stages = maps = widths(backbone)
        for _, neck in necks:
            if _asks(neck):
                neck['in_channels'] = list(stages)
            maps = _neck_widths(neck, backbone)
    except ConfigError:
        raise
    except Exception as error:  # of any class: networks have their own ways to reject an image
        raise ConfigError(
            f'{asking[0]}.in_channels is None, but the widths of {backbone.get("type")} cannot be found out '
            f'({type(error).__name__}: {error}): set in_channels to numbers'
        ) from error
    for _, discriminator in discriminators:
        if _asks(discriminator):
            discriminator['in_channels'] = stages[-1]
    kind = look_up(MODELS, model.get('type'))
    for key, head in variants:
        from_neck = 'auxiliary_head' not in key or getattr(kind, 'auxiliary_heads_read_neck', True)
        _fill_head(key, head, maps if from_neck else stages)


def _asks(part: Mapping[str, Any]) -> bool:
    return any(key in part and part[key] is None for key in ('in_channels', 'c1_in_channels'))


def _fill_bands(backbone: dict[str, Any], preprocessor: Mapping[str, Any]) -> None:
    if 'in_channels' in backbone and backbone['in_channels'] is None:
        mean = preprocessor.get('mean')
        if isinstance(mean, Sequence) and not isinstance(mean, str):
            backbone['in_channels'] = len(mean)
        else:
            del backbone['in_channels']  # its own default


def _variants(key: str, head: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A head, and what `source` and `target` in it change, where that is which maps it reads."""
    yield key, head
    for domain in ('source', 'target'):
        own = head.get(domain)
        if isinstance(own, dict) and 'in_index' in own:
            own.setdefault('in_channels', None)
            yield f'{key}.{domain}', own


def _fill_head(key: str, head: dict[str, Any], maps: Sequence[int]) -> None:
    if 'in_channels' in head and head['in_channels'] is None:
        index = head.get('in_index', -1)  # the last, as mmseg's heads have it
        indices = [index] if isinstance(index, int) else list(index)
        if unknown := [i for i in indices if not -len(maps) <= i < len(maps)]:
            raise ConfigError(
                f'{key}.in_index has {unknown[0]}, but it gets {len(maps)} feature maps, 0 to {len(maps) - 1}, of '
                f'{list(maps)} channels'
            )
        head['in_channels'] = maps[index] if isinstance(index, int) else [maps[i] for i in indices]
    if 'c1_in_channels' in head and head['c1_in_channels'] is None:
        head['c1_in_channels'] = maps[0]
