"""Several processes that work together: what the launcher says of them, and their group on the CPU."""

from __future__ import annotations

import atexit
import datetime
import gc
import os
import socket
import subprocess

import torch
import torch.distributed as dist
from mmengine.device import get_device
from torch.distributed.constants import default_pg_timeout

from mmrs.utils.errors import ConfigError
from mmrs.utils.ranks import VARIABLES

__all__ = ['init_cpu_group', 'launcher_environment', 'on_cpu']


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
    # The threads end with the group, and the distributed model that holds it is part of a cycle.
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def on_cpu() -> bool:
    """Whether there is no accelerator."""
    return torch.device(get_device()).type == 'cpu'
