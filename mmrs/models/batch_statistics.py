"""Statistics of batch normalisation that follow a target domain, without training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.utils.errors import ConfigError, DataError, require_number
from mmrs.utils.wrappers import unwrapped

__all__ = ['NoBatchStatisticsError', 'adapt_batch_statistics', 'blend_weight', 'kept_batch_statistics', 'running_norms']


class NoBatchStatisticsError(ConfigError):
    """A network without batch normalisation that predicts by running statistics."""


def running_norms(model: nn.Module) -> dict[str, Any]:
    """The layers of batch normalisation that predict by running statistics, by their names.

    Raises:
        NoBatchStatisticsError: There are none.
    """
    norms = {
        name: layer
        for name, layer in unwrapped(model).named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
    if not norms:
        kinds = Counter(type(layer).__name__ for layer in model.modules() if 'Norm' in type(layer).__name__)
        found = ', '.join(f'{number} {kind}' for kind, number in kinds.items()) or 'no normalisation'
        raise NoBatchStatisticsError(
            f'{type(unwrapped(model)).__name__} has no batch normalisation whose statistics could follow the target '
            f'(it has {found}). What remains are other shares of the classes, and training without labels'
        )
    return norms


def blend_weight(images: int, prior: float) -> float:
    """The weight of a target's statistics, ``n / (n + prior)``.

    Args:
        images: n, from 0 on.
        prior: As how many images the source's statistics count, from 0 on; 0: not at all.

    Reference:
        Schneider et al., arXiv 2006.16971, section 3: there n is the number of images of a batch, and the prior N.
    """
    require_number('prior', prior, at_least=0)
    return images / (images + prior) if images else 0.0


@contextmanager
def kept_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Give a model its running statistics back at the end, bit for bit, whatever becomes of them inside."""
    norms = running_norms(model).values()
    kept = [(norm, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    try:
        yield
    finally:
        for norm, mean, variance in kept:
            _set(norm, mean, variance)


@torch.no_grad()
def adapt_batch_statistics(model: Any, images: Iterable[tuple[Tensor, Tensor | None]], weight: float) -> dict[str, int]:
    """Blend the running statistics of batch normalisation with those of a target, in place.

    ``mean = (1 - weight) * source + weight * target``, and the variance likewise. The target's mean and (unbiased)
    variance are those of all values that a layer gets, of all images together: the spread between images counts, and
    the size of batches does not, for images pass one by one.

    One pass suffices: meanwhile each layer normalises by the blend of the source's statistics with those of the images
    so far, the present one among them. So later layers see what they will see afterwards. Statistics of each batch on
    its own, as in training mode, would hide from them how images differ; the source's, what the layers before become.
    With one image it is training mode. The result depends on the order of the images, less the more there are.

    Layers that a prediction does not pass (auxiliary heads, discriminators, a teacher) stay as they are.

    Args:
        model: A segmentor of mmseg or an adaptor, with its weights. Its mode stays.
        images: Batches of images ``(N, C, H, W)``, normalised, as large as the model is given them in prediction; each
            with ``(N, H, W)``, bool, where they have data, or None: everywhere. At a layer, a value counts by the share
            of its pixels that have data; what lies in the receptive field beyond is not known of. Images without data
            are passed over.
        weight: 0 to 1; see :func:`blend_weight`. 0 looks at nothing and leaves the model bit for bit.

    Returns:
        Number of values that each layer got, by its name.

    Raises:
        ConfigError: The model has no such layer.
        DataError: No image has data, a layer got fewer than 2 values, or values that are not finite. The model is as
            it was then.

    Reference:
        Schneider et al., Improving robustness against common corruptions by covariate shift adaptation,
        arXiv 2006.16971, section 3.
    """
    require_number('weight', weight, at_least=0, at_most=1)
    model, norms = unwrapped(model), running_norms(model)
    if not weight:
        return {}
    estimates = {name: _Estimate(norm, weight) for name, norm in norms.items()}
    modes = {child: child.training for child in model.modules()}
    # mmcv's, which join a convolution and its normalisation in evaluation mode and do not call the latter.
    joined = {
        own: own.efficient_conv_bn_eval_forward for own in modes if hasattr(own, 'efficient_conv_bn_eval_forward')
    }
    hooks = [norms[name].register_forward_pre_hook(own) for name, own in estimates.items()]
    try:
        for child in modes:
            child.training = False
        for child in joined:
            child.efficient_conv_bn_eval_forward = None
        for image, valid in _one_by_one(images):
            for own in estimates.values():
                own.valid = valid
            meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), tuple(image.shape[-2:]))
            model.encode_decode(image, [meta])
        _require_usable(estimates)
    except BaseException:
        for own in estimates.values():
            own.restore()
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for child, mode in modes.items():
            child.training = mode
        for child, forward in joined.items():
            child.efficient_conv_bn_eval_forward = forward
    return {name: int(own.count) for name, own in estimates.items() if own.count}


def _one_by_one(images: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images ``(1, C, H, W)`` that have data, each with ``(1, 1, H, W)``, or None where all of its pixels have."""
    for batch, known in images:
        for i in range(len(batch)):
            if known is None or known[i].all():
                yield batch[i, None], None
            elif known[i].any():
                yield batch[i, None], known[i, None, None]


class _Estimate:
    """Mean and variance of what a layer gets, put into the layer while values come.

    Counts, means and sums of squared deviations are merged by Chan's formulas, in float64.
    """

    def __init__(self, norm: Any, weight: float) -> None:
        self.norm, self.weight = norm, weight
        self.valid: Tensor | None = None
        self._source = norm.running_mean.clone(), norm.running_var.clone()
        self.count = 0.0
        self.mean = torch.zeros_like(norm.running_mean, dtype=torch.float64)
        self.squares = torch.zeros_like(self.mean)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        count, mean, squares = _moments(inputs[0], self.valid)
        if not count:
            return
        total, step = self.count + count, mean - self.mean
        self.squares = self.squares + squares + step**2 * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total
        if self.usable:
            _set(
                self.norm,
                *(
                    torch.lerp(source.double(), target, self.weight)
                    for source, target in zip(self._source, (self.mean, self.squares / (total - 1)))
                ),
            )

    @property
    def usable(self) -> bool:
        """Whether there are enough values for a variance."""
        return self.count >= 2

    def restore(self) -> None:
        _set(self.norm, *self._source)


def _moments(values: Tensor, valid: Tensor | None) -> tuple[float, Tensor, Tensor]:
    """Number of values ``(N, C, ...)`` of each channel, their mean and the sum of their squared deviations."""
    axes = [0, *range(2, values.dim())]
    if valid is None or values.dim() != 4 or len(values) != 1:  # several crops of an image weigh alike
        number = values.numel() / values.shape[1]
        values = values.float()
        mean = values.mean(axes, keepdim=True)
        variance = (values - mean).square_().mean(axes)  # six times as fast as torch.var_mean on a CPU
        return number, mean.double().flatten(), variance.double() * number
    share = F.interpolate(valid.double(), values.shape[-2:], mode='area')
    number = float(share.sum()) * len(values)
    doubles = values.double()
    mean = (doubles * share).sum(axes) / max(number, torch.finfo(torch.float64).tiny)
    squares = ((doubles - mean[:, None, None]) ** 2 * share).sum(axes)
    return number, mean, squares


def _set(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _require_usable(estimates: Mapping[str, _Estimate]) -> None:
    seen = {name: own for name, own in estimates.items() if own.count}
    if not seen:
        raise DataError('no image of the target has data: statistics of batch normalisation cannot be taken of it')
    for name, own in seen.items():
        if not own.usable:
            raise DataError(
                f'{name} got {own.count:g} values of each channel from the target, and a variance takes 2 at least: '
                'its map of an image is as small as a pixel. Give at least 2 images with data, or larger ones'
            )
        if not bool((own.mean + own.squares).isfinite().all()):
            raise DataError(f'{name} got values from the target that are not finite: look for infinite or NaN pixels')
