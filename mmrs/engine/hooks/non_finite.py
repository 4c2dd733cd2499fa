from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmrs.registry import HOOKS
from mmrs.utils.errors import TrainingError, require_number
from mmrs.utils.wrappers import unwrapped

#: Scalar of MMEngine's message hub that counts them. Checkpoints hold it.
COUNT = 'train/skipped_steps'


class _Finding(NamedTuple):
    """What one process found; of two, the smaller `order` is nearer to the cause."""

    order: int
    what: str
    files: list[str]


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Reports the steps that the optimizers skipped for a loss or gradient that was NaN or infinite, and counts them.

    A warning names the first value that is not finite, looked for in the images, the parameters and buffers, the losses
    and the gradients, in that order, and the images of the step. The count is logged as ``skipped_steps`` and goes on
    in a resumed run. Optimizer wrappers other than this package's skip nothing.

    Args:
        max_skipped: So many steps of a run, in a row or not, may be skipped. One more ends it.

    Raises:
        ConfigError: `max_skipped` is no number of at least 0.
        TrainingError: In training, when there are more.
    """

    def __init__(self, max_skipped: int = 10) -> None:
        require_number('max_skipped', max_skipped, at_least=0, whole=True)
        self.max_skipped = max_skipped
        self._batches: list[tuple[Any, dict[str, float]]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | Sequence[dict] | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the step that ended."""
        wrapper: Any = runner.optim_wrapper
        if not hasattr(wrapper, 'rejected'):
            return
        hub = runner.message_hub
        # As numbers: MMEngine's RuntimeInfoHook, which runs before, has read them from the device.
        losses = {key: float(hub.get_scalar(f'train/{key}').current()) for key in outputs or () if 'loss' in key}
        self._batches.append((data_batch, losses))
        if not wrapper.should_update():
            return
        batches, self._batches = self._batches, []
        if wrapper.rejected is None:
            return
        own = _find(unwrapped(runner.model), batches, wrapper.rejected)
        # All processes come here, for all skip the same steps.
        findings: list[_Finding] = [_Finding(*finding) for finding in all_gather_object(tuple(own))]
        order, what, _ = min(findings, key=lambda finding: finding.order)
        files = [file for finding in findings if finding.order == order for file in finding.files]

        count = 1 + (int(hub.get_scalar(COUNT).current()) if COUNT in hub.log_scalars else 0)
        hub.update_scalar(COUNT, count)
        message = (
            f'iteration {runner.iter + 1}: the optimizers took no step; {what}. Images of the step: '
            f'{", ".join(files) or "unknown"}'
        )
        if count > self.max_skipped:
            raise TrainingError(
                f'{message}. So many steps were skipped for numbers that are not finite: {count}, and '
                f'default_hooks.non_finite.max_skipped is {self.max_skipped}. Look at these images; if nothing is '
                'wrong with them, lower the learning rate, clip the gradients, or leave mixed precision out. Training '
                'can go on from the last checkpoint'
            )
        runner.logger.warning(f'{message}. Skipped so far: {count}; more than {self.max_skipped} end the run')


def _find(model: nn.Module, batches: Sequence[tuple[Any, Mapping[str, float]]], gradient: nn.Parameter) -> _Finding:
    """What is not finite, nearest to the cause."""
    images = [image for batch, _ in batches for image in _images(batch)]
    files = list(dict.fromkeys(file for _, file in images))
    for image, file in images:
        if not image.isfinite().all():
            return _Finding(0, f'the image {file} has values that are not finite', files)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if not tensor.isfinite().all():
            return _Finding(1, f'{name} of the model has values that are not finite', files)
    for _, losses in batches:
        # `loss` is the sum of the others.
        for name, value in sorted(losses.items(), key=lambda item: item[0] == 'loss'):
            if not torch.tensor(value).isfinite():
                return _Finding(2, f'{name} is {value}', files)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return _Finding(3, f'the gradient of {names.get(id(gradient), "a parameter")} is not finite', files)


def _images(batch: Any) -> Iterator[tuple[Tensor, str]]:
    """The images of a batch of one or two domains, and their files."""
    if not isinstance(batch, Mapping):
        return
    for part in [batch] if 'inputs' in batch else batch.values():
        samples = part.get('data_samples') or [None] * len(part['inputs'])
        for image, sample in zip(part['inputs'], samples):
            yield image, str(getattr(sample, 'img_path', 'of an unknown file'))
