"""Running this project's tools as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmrs.utils.shipped import TOOLS

__all__ = ['resident', 'run_tool', 'tail']


def run_tool(
    tool: str, arguments: Sequence[str], log: Path, poll: Callable[[int], None] | None = None, interval: float = 1.0
) -> int:
    """Run one of the tools; what it prints goes to the end of a file.

    Args:
        tool: Its path below ``tools``.
        arguments: Command line.
        log: File for the output.
        poll: Called every `interval` while the tool runs, with the number of its process.
        interval: Seconds.

    Returns:
        The exit status. Whatever ends the wait for it, Ctrl-C or SIGTERM, ends the tool as well.

    """
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get('PYTHONPATH', '')]
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
    log.parent.mkdir(parents=True, exist_ok=True)
    main_thread = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    before = signal.signal(signal.SIGTERM, _leave) if main_thread else None
    with log.open('ab') as output:
        process = subprocess.Popen(
            [sys.executable, str(TOOLS / tool), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while True:
                try:
                    return process.wait(interval)
                except subprocess.TimeoutExpired:
                    if poll is not None:
                        poll(process.pid)
        finally:
            _end(process)
            if main_thread:
                signal.signal(signal.SIGTERM, before)


def _leave(*_: Any) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def resident(key: str, process: int | str = 'self') -> int | None:
    """Bytes of a process that are in memory; None where the system does not say, as only Linux does.

    Args:
        key: ``VmRSS``: now; ``VmHWM``: at the most so far.
        process: Its number.
    """
    try:
        status = Path(f'/proc/{process}/status').read_text(encoding='utf-8')
        return 1024 * int(status.split(f'{key}:')[1].split()[0])
    except (OSError, IndexError):
        return None


def tail(file: Path, lines: int = 15) -> str:
    """The last lines of a text file; nothing where there is none."""
    if not file.is_file():
        return ''
    return '\n'.join(file.read_text(encoding='utf-8', errors='replace').splitlines()[-lines:])
