import os
import signal
import threading

import pytest

from mmrs.utils import processes
from mmrs.utils.processes import resident, run_tool, tail


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Writes a tool into a folder of its own; returns its log."""
    monkeypatch.setattr(processes, 'TOOLS', tmp_path / 'tools')
    (tmp_path / 'tools').mkdir()

    def write(code: str):
        (tmp_path / 'tools' / 'tool.py').write_text(code)
        return tmp_path / 'logs' / 'output.log'

    return write


def test_status_and_log(tool):
    log = tool('import sys; print(*sys.argv[1:]); print("oh", file=sys.stderr); sys.exit(3)')
    assert run_tool('tool.py', ['a', 'b c'], log) == 3
    assert run_tool('tool.py', ['again'], log) == 3
    assert sorted(log.read_text().splitlines()) == ['a b c', 'again', 'oh', 'oh']


def test_it_is_looked_after(tool):
    log = tool('import os, time; block = bytearray(1 << 27); print(os.getpid()); time.sleep(0.4)')
    calls: list[tuple[int, int]] = []
    poll = lambda number: calls.append((number, resident('VmHWM', number)))  # noqa: E731
    assert run_tool('tool.py', [], log, poll, interval=0.1) == 0
    assert len(calls) >= 2
    number, most = calls[-1]
    assert number == int(log.read_text())
    assert most is None or 1 << 27 < most < 1 << 29
    assert resident('VmHWM', -1) is None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def interruptible():
    """A shell starts background jobs with SIGINT ignored, and so everything below them: Python then raises nothing."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_it_does_not_outlive_its_caller(tool, number):
    log = tool('import os, time; print(os.getpid(), flush=True); time.sleep(60)')
    handler = signal.getsignal(signal.SIGTERM)

    def poll(_):
        if log.read_text().strip():
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        run_tool('tool.py', [], log, poll, interval=0.05)
    assert not alive(int(log.read_text()))
    assert signal.getsignal(signal.SIGTERM) is handler


def test_other_threads_can_use_it(tool):
    log = tool('print("done")')
    thread = threading.Thread(target=run_tool, args=('tool.py', [], log))
    thread.start()
    thread.join()
    assert log.read_text() == 'done\n'


def test_tail(tmp_path):
    assert tail(tmp_path / 'no') == ''
    (tmp_path / 'log').write_bytes(b'one\ntwo \xff\nthree\n')
    assert tail(tmp_path / 'log', 2) == 'two �\nthree'
