"""Several processes without a GPU. Where there is one, MMEngine's own path is taken."""

from __future__ import annotations

import datetime
import os
import socket
import subprocess
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed.constants import default_pg_timeout

from mmrs.utils.errors import ConfigError

__all__ = ['CPUDistributedDataParallel', 'init_cpu_group', 'launcher_environment']

_VARIABLES = {
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}


def launcher_environment(launcher: str) -> dict[str, str]:
    """The variables that torch's rendezvous reads, from those that the launcher sets.

    Raises:
        ConfigError: The process was not started by that launcher.
    """
    names = _VARIABLES[launcher]
    absent = [name for name in names if name not in os.environ]
    if absent:
        raise ConfigError(
            f'--launcher {launcher}, but {", ".join(absent)} is not set: this process was not started by it. '
            'Use tools/dist_train.sh or tools/slurm_train.sh, or --launcher none for a single process'
        )
    found = dict(zip(_VARIABLES['pytorch'], (os.environ[name] for name in names)))
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
    """Join the process group that the environment describes with gloo. MMEngine would call for a CUDA device first.

    Args:
        timeout: Seconds that a collective operation may take.
        join_timeout: Seconds to wait for the other processes to come; by default as many.
    """
    limit = default_pg_timeout if timeout is None else datetime.timedelta(seconds=timeout)
    if join_timeout is None:
        dist.init_process_group('gloo', timeout=limit)
        return
    joining = datetime.timedelta(seconds=join_timeout)
    store, rank, processes = next(dist.rendezvous('env://', timeout=joining))
    dist.init_process_group('gloo', store=store, rank=rank, world_size=processes, timeout=limit)


def on_cpu() -> bool:
    return torch.device(get_device()).type == 'cpu'


@MODEL_WRAPPERS.register_module()  # MMEngine's own registry, the only one in which its runner looks
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` for modules on the CPU, where torch wants no `device_ids` and MMEngine gives some."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module=module, **kwargs)
