"""Training in several processes: on the CPU, where MMEngine has no wrapper, and batch statistics that go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.registry import HOOKS

__all__ = ['BatchNormSyncHook', 'CPUDistributedDataParallel']


@MODEL_WRAPPERS.register_module()  # MMEngine's own registry, the only one in which its runner looks
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` for modules on the CPU, where torch wants no `device_ids` and MMEngine gives some."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module=module, **kwargs)


@HOOKS.register_module()
class BatchNormSyncHook(Hook):
    """Makes the running statistics of batch normalisation the means over the processes, after each step.

    The processes then validate one and the same model, and what is saved is not of the first one's images alone. As the
    statistics are moving averages, it is the same as averaging those of the batches. Layers in evaluation mode and
    those of `SyncBN`, which go together anyway, are left alone.
    """

    priority = 'HIGH'  # before what looks at the model

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | tuple | list | None = None, outputs: Any = None
    ) -> None:
        """Average what the step has changed."""
        statistics = [
            value
            for module in runner.model.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
            # A momentum of 0, as of a teacher, changes nothing.
            if module.training and module.track_running_stats and module.momentum != 0
            for value in (module.running_mean, module.running_var)
            if value is not None
        ]
        if statistics:
            _average(statistics)


def _average(tensors: Sequence[torch.Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    all_reduce(flat, 'mean')
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(mean.view_as(tensor))
