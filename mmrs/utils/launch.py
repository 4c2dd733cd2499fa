"""``torchrun`` for ``tools/dist_*.sh``: its options, and the exit status of the process that failed first.

Torch starts and ends the processes. Instead of its report there is one line about a process that cannot have explained
its end itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from mmrs.utils.errors import LOST_OTHERS, ConfigError, report_errors, require_number

__all__ = ['main']

# A launcher that is killed can end nothing: the kernel does it (PR_SET_PDEATHSIG).
_END_WITH_PARENT = 'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])'

_HINTS = {
    signal.SIGKILL: 'often by the kernel because memory ran out (dmesg says so), or by a limit of the job or container',
    signal.SIGSEGV: 'a crash of compiled code; PYTHONFAULTHANDLER=1 shows where',
    signal.SIGABRT: 'compiled code gave up; what it printed is above',
    signal.SIGBUS: 'often because shared memory (/dev/shm) is full: it is what data-loader workers use',
}


def _explain(rank: int, processes: int, status: int) -> None:
    """Say how a process ended, where it cannot have said so itself."""
    if status in (2, LOST_OTHERS, 128 + signal.SIGINT):
        return
    if status > 0:
        text = f'ended with exit status {status}; what it printed is above'
    else:
        hint = _HINTS.get(-status)  # type: ignore[call-overload]
        text = f'was ended by {signal.Signals(-status).name}' + (f', {hint}' if hint else '')
    print(
        f'error: rank {rank} of {processes} processes (host {socket.gethostname()}) {text}. All processes of this '
        'machine are stopped',
        file=sys.stderr,
    )


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a Python script in several processes.

    Returns:
        0 where all have succeeded, else the exit status of the first that failed, or 128 and the number of the signal
        that has ended it.

    Raises:
        ConfigError: There are no such processes, or the port is in use.
    """
    args = parse_args(argv)
    given = (args.nproc_per_node, args.nnodes.removeprefix('1:'))  # torch's default of the latter is a range
    number, machines = (int(text) if text.isdecimal() else text for text in given)
    require_number('nproc_per_node', number, at_least=1, whole=True)
    require_number('nnodes', machines, at_least=1, whole=True)
    require_number('node_rank', args.node_rank, at_least=0, below=machines)
    args.standalone = machines == 1 and args.master_port is None  # torch takes a free port
    args.monitor_interval, args.shutdown_timeout = 0.1, 5
    # By Ctrl-C, Python's own way out; and under nohup, the end of the terminal is ignored.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    args.signals_to_handle = 'SIGTERM' if ignored else 'SIGTERM,SIGHUP'
    command = [sys.executable, args.training_script, *args.training_script_args]
    if sys.platform == 'linux':
        command = [sys.executable, '-c', _END_WITH_PARENT, *command]
    args.no_python, (args.training_script, *args.training_script_args) = True, command
    # Each process would take all cores else.
    threads = os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // number)))
    os.environ.setdefault('MKL_NUM_THREADS', threads)
    logging.disable(logging.ERROR)  # what torch says of each process that it ends
    try:
        run(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        _explain(rank, number * machines, failure.exitcode)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        print(f'{error.sigval.name} came: all processes are stopped', file=sys.stderr)
        return 128 + error.sigval
    except RuntimeError as error:
        if 'server socket' not in str(error):
            raise
        raise ConfigError(
            f'port {args.master_port} of {args.master_addr} cannot be used ({str(error).splitlines()[0]}), perhaps for '
            'another run has it; set PORT to another one, on all machines'
        ) from error
    return 0


if __name__ == '__main__':
    sys.exit(main())
