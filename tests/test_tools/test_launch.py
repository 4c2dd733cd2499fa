"""What the launcher adds to torchrun, on programs that start faster than a training does."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmrs.utils import DataError
from mmrs.utils.errors import LOST_OTHERS, lost_others, report_errors
from mmrs.utils.launch import main
from mmrs.utils.ranks import rank_and_number
from tests.tiny_runs import REPOSITORY

LAUNCHED = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'OMP_NUM_THREADS')
PREFIX = """\
import os, signal, subprocess, sys, time
rank = int(os.environ['RANK'])

def say(*words):  # in one piece
    os.write(1, (' '.join(map(str, words)) + '\\n').encode())

"""


@pytest.fixture
def start(tmp_path):
    """Starts processes of a program; they are gone when the test ends."""
    launchers = []
    # A shell starts background jobs with it ignored, and so everything below them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(text, number=2, *options):
        file = tmp_path / 'program.py'
        file.write_text(PREFIX + text)
        known = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        launcher = subprocess.Popen(
            [sys.executable, '-m', 'mmrs.utils.launch', f'--nproc_per_node={number}', *options, str(file)],
            env={**known, 'PYTHONPATH': str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        launchers.append(launcher)
        return launcher

    yield start
    signal.signal(signal.SIGINT, before)
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()


def run(start, *arguments):
    """Exit status, lines on stdout and on stderr."""
    launcher = start(*arguments)
    out, err = launcher.communicate(timeout=100)
    return launcher.returncode, sorted(out.splitlines()), err.splitlines()


def ended(pid: int) -> bool:
    """Whether a process is gone, or will be in a moment."""
    for _ in range(100):
        status = Path(f'/proc/{pid}/status')
        try:
            if re.search(r'^State:\s+[ZX]', status.read_text(), re.MULTILINE):
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_what_the_processes_know(start):
    text = "say(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')), os.environ['OMP_NUM_THREADS'] > '0')"
    assert run(start, text, 3) == (0, [f'{i} {i} 3 True' for i in range(3)], [])


@pytest.mark.parametrize(
    ('deaf', 'death', 'status', 'message'),
    [
        (  # torch waits for half a minute
            'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n', 'os.kill(os.getpid(), signal.SIGKILL)',
            137, 'was ended by SIGKILL, often by the kernel because memory ran',
        ),
        ('', 'sys.exit(3)', 3, 'ended with exit status 3; what it printed is above'),
    ],
)  # fmt: skip
def test_one_that_dies_ends_all(start, deaf, death, status, message):
    """The others too, if they do not listen."""
    started = time.monotonic()
    program = f'{deaf}say(os.getpid())\nif rank == 1:\n    time.sleep(1)\n    {death}\ntime.sleep(300)'
    found, out, err = run(start, program)
    assert found == status
    (line,) = err
    assert line.startswith(f'error: rank 1 of 2 processes (host {socket.gethostname()}) {message}')
    assert len(out) == 2
    assert all(ended(int(pid)) for pid in out)
    assert time.monotonic() - started < 150


@pytest.mark.parametrize(
    ('number', 'status', 'message'),
    [
        (signal.SIGINT, 130, ['interrupted']),
        (signal.SIGTERM, 143, ['SIGTERM came: all processes are stopped']),
        (signal.SIGKILL, -9, []),
    ],
)
def test_the_launcher_leaves_nothing_behind(start, number, status, message):
    launcher = start('say(os.getpid())\ntime.sleep(60)')
    pids = [int(launcher.stdout.readline()) for _ in range(2)]
    launcher.send_signal(number)
    _, err = launcher.communicate(timeout=30)
    assert (launcher.returncode, err.splitlines()) == (status, message)
    assert all(ended(pid) for pid in pids)


@pytest.mark.parametrize(('handler', 'status'), [(signal.SIG_DFL, 129), (signal.SIG_IGN, 0)])
def test_the_end_of_the_terminal_stops_all_but_under_nohup(start, handler, status):
    before = signal.signal(signal.SIGHUP, handler)  # is inherited
    try:
        launcher = start('say(os.getpid())\ntime.sleep(1)')
    finally:
        signal.signal(signal.SIGHUP, before)
    for _ in range(2):
        launcher.stdout.readline()
    launcher.send_signal(signal.SIGHUP)
    launcher.communicate(timeout=30)
    assert launcher.returncode == status


def test_mistakes(capsys, monkeypatch):
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        monkeypatch.setenv(name, '1')
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, message in (
            ([f'--master_port={port}'], f'error: port {port} of 127.0.0.1 cannot be used'),
            (['--nproc_per_node=0'], 'nproc_per_node is 0'),
            (['--nproc_per_node=--amp'], "nproc_per_node is '--amp'"),
            (['--nnodes=2', '--node_rank=2'], 'node_rank is 2; a number of at least 0 and below 2'),
        ):
            assert main(['--nproc_per_node=1', *arguments, 'x.py']) == 2
            assert message in capsys.readouterr().err
    logging.disable(logging.NOTSET)


REPORT = """\
from mmrs.utils import DataError, errors
errors._PATIENCE, errors._LONG_PATIENCE = 1.0, 6.0

@errors.report_errors
def main():
    {}

sys.exit(main())
"""


def test_one_of_several_reports(start):
    mistake = REPORT.format("raise DataError('a.tif is torn')")
    assert run(start, mistake, 3) == (2, [], ['error: a.tif is torn'])
    defect = REPORT.format("if rank in (1, 2): int('x')\n    time.sleep(60)")
    status, _, err = run(start, defect, 3)
    assert status == 1
    assert [line for line in err if not line.startswith(' ')] == [
        'Traceback (most recent call last):',
        "ValueError: invalid literal for int() with base 10: 'x'",
        f'error: rank 1 of 3 processes (host {socket.gethostname()}) ended with exit status 1; '
        'what it printed is above. All processes of this machine are stopped',
    ]


GLOO = REPORT.format("""\
import torch
    from mmrs.utils.process_group import init_cpu_group
    init_cpu_group(60)
    torch.distributed.all_reduce(torch.ones(1))
    if rank == 1: {}
    for _ in range(1000): torch.distributed.all_reduce(torch.ones(1))
""")
needs_distributed = pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without torch.distributed')


@needs_distributed
def test_the_others_have_nothing_to_add(start):
    status, _, err = run(start, GLOO.format("raise DataError('a.tif is torn')"), 3)
    assert (status, err) == (2, ['error: a.tif is torn'])


@needs_distributed
def test_one_that_leaves_the_others(start):
    status, _, err = run(start, GLOO.format('sys.exit(0)'))
    assert status == LOST_OTHERS
    (lost,) = (line for line in err if line.startswith('error: '))
    assert lost.startswith('error: rank 0 of 2 processes')
    assert 'cannot go on without the others' in lost
    assert 'Traceback' not in ''.join(err)


class DistError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (RuntimeError('[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1'), True),
        (RuntimeError('[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv'), True),
        (DistError('NCCL error ... ncclRemoteError: A call failed possibly due to a network error or a remote process '
                   'exiting prematurely. remote process exited or there was a network error'), True),
        (DistError('Failed to recv, got 0 bytes. Connection was likely closed.'), True),
        (DistError('Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000'), False),
        (RuntimeError('shape mismatch'), False),
        (RuntimeError('DataLoader timed out after 5 seconds'), False),
        (DataError('https://host: connection refused'), False),
    ],
)  # fmt: skip
def test_what_tells_of_a_lost_process(error, expected):
    assert lost_others(error) is expected


def test_rank_of_a_process(monkeypatch):
    for name in (*LAUNCHED, 'SLURM_PROCID', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    assert rank_and_number() == (0, 1)
    monkeypatch.setenv('SLURM_PROCID', '3')
    assert rank_and_number() == (0, 1)
    monkeypatch.setenv('SLURM_NTASKS', '4')
    assert rank_and_number() == (3, 4)
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert rank_and_number() == (1, 2)


def test_only_the_first_says_that_it_was_interrupted(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank, expected in (('0', 'interrupted\n'), ('1', '')):
        monkeypatch.setenv('RANK', rank)
        assert report_errors(interrupted)() == 130
        assert capsys.readouterr().err == expected
