"""Starts the processes of a run on one machine, and ends them all as soon as one of them fails.

It takes the place of ``torchrun`` in ``tools/dist_*.sh``: what the processes get to know is the same (``RANK`` and so
on), but when one ends in a way that it could not explain itself, there is one line about it. ``python -m
mmrs.utils.launch --help`` has the options.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from mmrs.utils.errors import LOST_OTHERS, ConfigError, report_errors

__all__ = ['free_port', 'main', 'run_processes']

#: Seconds between two looks at the processes, and seconds that they have to end in before they are killed.
_INTERVAL, _GRACE = 0.1, 5.0

# A launcher that is killed can end nothing: the kernel does it (PR_SET_PDEATHSIG). Not as a `preexec_fn`, in which a
# process forked off one with threads may wait for ever.
_END_WITH_PARENT = 'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])'

_HINTS = {
    signal.SIGKILL: 'often by the kernel because memory ran out (dmesg says so), or by a limit of the job or container',
    signal.SIGSEGV: 'a crash of compiled code; PYTHONFAULTHANDLER=1 shows where',
    signal.SIGABRT: 'compiled code gave up; what it printed is above',
    signal.SIGBUS: 'often because shared memory (/dev/shm) is full: it is what data-loader workers use',
}


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('', port))
        except OSError as error:
            raise ConfigError(
                f'port {port} of this machine cannot be used ({error.strerror}), perhaps for another run has it; set '
                'PORT to another one, on all machines'
            ) from error


def run_processes(command: Sequence[str], environments: Sequence[dict[str, str]]) -> int:
    """Run a command several times at once; when one fails or a signal comes, end all.

    Args:
        command: The command line.
        environments: What each process gets beside the environment of this one; it has ``RANK`` and ``WORLD_SIZE``.

    Returns:
        0 where all have succeeded, else the exit status of the first that failed, or 128 and the number of the signal
        that has ended it.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _leave) for number in numbers}
    if sys.platform == 'linux':
        command = [sys.executable, '-c', _END_WITH_PARENT, *command]
    running: dict[int, subprocess.Popen] = {}
    early: list[int] = []
    try:
        for i, environment in enumerate(environments):
            # In a session of its own, so that Ctrl-C comes here alone, and its data-loader workers end with it.
            running[i] = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
        while running:
            ended = {i: process.returncode for i, process in running.items() if process.poll() is not None}
            for i in ended:
                _signal_group(running.pop(i), signal.SIGKILL)
            failed = {i: status for i, status in ended.items() if status}
            if failed:
                # Of several at once, not one that has merely lost another.
                first = min(failed, key=lambda i: failed[i] == LOST_OTHERS)
                _explain(environments[first], failed[first], [environments[i] for i in early])
                return failed[first] if failed[first] > 0 else 128 - failed[first]
            early += ended
            time.sleep(_INTERVAL)
        return 0
    finally:
        for number in before:  # an impatient second Ctrl-C is not to leave processes behind
            signal.signal(number, signal.SIG_IGN)
        _end(list(running.values()))
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: Any) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    print(f'{signal.Signals(number).name} came: all processes are stopped', file=sys.stderr)
    sys.exit(128 + number)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):  # nothing is left of it
        os.killpg(process.pid, number)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _name(environment: dict[str, str]) -> str:
    return f'rank {environment["RANK"]} of {environment["WORLD_SIZE"]} processes (host {socket.gethostname()})'


def _explain(environment: dict[str, str], status: int, early: Sequence[dict[str, str]]) -> None:
    """Say how a process ended, where it cannot have said so itself."""
    if status == LOST_OTHERS and early:
        text = f'{" and ".join(map(_name, early))} ended with exit status 0 before the others were done'
    elif status in (2, LOST_OTHERS, 128 + signal.SIGINT):
        return
    elif status > 0:
        text = f'{_name(environment)} ended with exit status {status}; what it printed is above'
    else:
        hint = _HINTS.get(-status)  # type: ignore[call-overload]
        text = f'{_name(environment)} was ended by {signal.Signals(-status).name}' + (f', {hint}' if hint else '')
    print(f'error: {text}. All processes of this machine are stopped', file=sys.stderr)


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m mmrs.utils.launch', description=__doc__.split('\n\n')[0])
    parser.add_argument('--nproc_per_node', type=int, required=True, help='processes on this machine')
    parser.add_argument('--nnodes', type=int, default=1, help='machines')
    parser.add_argument('--node_rank', type=int, default=0, help='number of this machine, from 0')
    parser.add_argument('--master_addr', default='127.0.0.1', help='name or address of machine 0')
    parser.add_argument('--master_port', type=int, help='its port (default: a free one; 29500 for several machines)')
    parser.add_argument('command', nargs=argparse.REMAINDER, help='Python script and its arguments')
    args = parser.parse_args(argv)
    for name, least in (('nproc_per_node', 1), ('nnodes', 1), ('node_rank', 0)):
        if getattr(args, name) < least:
            parser.error(f'{name} is {getattr(args, name)}; at least {least} is expected')
    if args.node_rank >= args.nnodes:
        parser.error(f'node_rank is {args.node_rank}; with {args.nnodes} machines 0 to {args.nnodes - 1} are expected')
    if not args.command:
        parser.error('there is no command')
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a Python script in several processes.

    Raises:
        ConfigError: The port is in use.
    """
    args = _parse_args(argv)
    number, port = args.nproc_per_node, args.master_port
    if port is None:
        port = free_port() if args.nnodes == 1 else 29500
    elif args.node_rank == 0:
        _require_free(port)
    # Each process would take all cores else.
    threads = os.environ.get('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // number)))
    shared = dict(
        WORLD_SIZE=str(number * args.nnodes),
        LOCAL_WORLD_SIZE=str(number),
        MASTER_ADDR=args.master_addr,
        MASTER_PORT=str(port),
        OMP_NUM_THREADS=threads,
        MKL_NUM_THREADS=os.environ.get('MKL_NUM_THREADS', threads),
    )
    return run_processes(
        [sys.executable, *args.command],
        [dict(shared, RANK=str(args.node_rank * number + i), LOCAL_RANK=str(i)) for i in range(number)],
    )


if __name__ == '__main__':
    sys.exit(main())
