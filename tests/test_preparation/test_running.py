"""Output folders and worker processes of the converters."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from mmrs.preparation.converters.running import prepare_output
from mmrs.utils.errors import OutputError

SLOW_TASKS = """
import sys, time
from pathlib import Path
from mmrs.preparation.converters.running import run_tasks

def work(file):
    Path(file).touch()
    time.sleep(60)

if __name__ == '__main__':
    run_tasks(work, sys.argv[1:], 2, 2, 'Working')
"""


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    out, settings = tmp_path / 'out', dict(data='x')
    prepare_output(out, settings, overwrite=False)
    unfinished = [
        out / '.conversion.12.part.json',
        out / 'img_dir/train/.a.png.12.part',
        out / 'img_dir/train/.a.png.12.part.aux.xml',
        out / 'ann_dir/train/.a.png.12.part',
    ]
    kept = [out / 'img_dir/train/a.png', out / 'img_dir/train/a.png.aux.xml', out / 'img_dir/train/a.part.png']
    for path in (*unfinished, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(OutputError, match='other settings'):
        prepare_output(out, dict(data='y'), overwrite=False)
    assert all(path.exists() for path in unfinished)
    prepare_output(out, settings, overwrite=False)
    assert not any(path.exists() for path in unfinished)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(('text', 'reason'), [('{"data"', 'Expecting'), ('[]', 'it holds a list, not settings')])
def test_damaged_record(tmp_path, text, reason):
    (tmp_path / 'conversion.json').write_text(text)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=rf'conversion\.json cannot be read: .*{reason}.* -o'):
            prepare_output(tmp_path, dict(data='x'), overwrite)


@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='needs process groups')
def test_workers_end_with_a_killed_parent(tmp_path):
    script, marks = tmp_path / 'tasks.py', [tmp_path / name for name in 'ab']
    script.write_text(SLOW_TASKS)
    command = [sys.executable, str(script), *map(str, marks)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True
    )
    try:
        end = time.monotonic() + 60
        while not all(mark.exists() for mark in marks):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=30)  # to the end of the output, which the workers hold open as well
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
