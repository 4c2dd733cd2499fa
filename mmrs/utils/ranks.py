"""Which process of several this one is, as the launcher's variables say."""

from __future__ import annotations

import os

__all__ = ['VARIABLES', 'rank_and_number']

#: The variables that each launcher sets: rank, rank on the machine, number of processes.
VARIABLES = {
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}


def rank_and_number() -> tuple[int, int]:
    """Rank of this process and number of all; ``(0, 1)`` where no launcher has started it."""
    for rank, _, number in VARIABLES.values():
        if rank in os.environ and number in os.environ:
            return int(os.environ[rank]), int(os.environ[number])
    return 0, 1
