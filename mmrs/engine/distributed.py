"""Several processes: without a GPU, where MMEngine has no path of its own, and batch statistics that go together."""

from __future__ import annotations

import atexit
import datetime
import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.registry import HOOKS
from mmrs.utils.errors import ConfigError
from mmrs.utils.ranks import VARIABLES

__all__ = ['BatchNormSyncHook', 'CPUDistributedDataParallel', 'init_cpu_group', 'launcher_environment']


def launcher_environment(launcher: str) -> dict[str, str]:
    """The variables that torch's rendezvous reads, from those that the launcher sets.

    Raises:
        ConfigError: The process was not started by that launcher.
    """
    names = VARIABLES[launcher]
    absent = [name for name in names if name not in os.environ]
    if absent:
        raise ConfigError(
            f'--launcher {launcher}, but {", ".join(absent)} is not set: this process was not started by it. '
            'Use tools/dist_train.sh or tools/slurm_train.sh, or --launcher none for a single process'
        )
    found = dict(zip(VARIABLES['pytorch'], (os.environ[name] for name in names)))
    address = os.environ.get('MASTER_ADDR')
    if address is None and launcher == 'slurm':
        nodes = subprocess.run(
            ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], capture_output=True, text=True, check=True
        )
        address = nodes.stdout.split()[0]
    found['MASTER_ADDR'] = address or socket.gethostname()
    found['MASTER_PORT'] = os.environ.get('MASTER_PORT', '29500')
    return found


def init_cpu_group(timeout: float | None = None, join_timeout: float | None = None) -> None:
    """Join the process group that the environment describes with gloo, and leave it when the process ends.

    MMEngine would call for a CUDA device first, and leaves no group.

    Args:
        timeout: Seconds that a collective operation may take.
        join_timeout: Seconds to wait for the other processes to come; by default as many.
    """
    atexit.register(_leave_group)
    limit = default_pg_timeout if timeout is None else datetime.timedelta(seconds=timeout)
    if join_timeout is None:
        dist.init_process_group('gloo', timeout=limit)
        return
    joining = datetime.timedelta(seconds=join_timeout)
    store, rank, processes = next(dist.rendezvous('env://', timeout=joining))
    dist.init_process_group('gloo', store=store, rank=rank, world_size=processes, timeout=limit)


def _leave_group() -> None:
    # A thread of gloo that lets go of its last message's tensors while the interpreter ends would abort the process.
    if dist.is_initialized():
        dist.destroy_process_group()


def on_cpu() -> bool:
    return torch.device(get_device()).type == 'cpu'


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
