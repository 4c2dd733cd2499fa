"""What every converter does around its work: output folders, worker processes, progress."""

import itertools
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from mmrs.geo.rasters import is_whole_png
from mmrs.utils.errors import OutputError
from mmrs.utils.progress import progress_bar
from mmrs.utils.records import Record, differences, shown

Task = TypeVar('Task')
Result = TypeVar('Result')

#: Name of the file that says how a folder was made.
RECORD = 'conversion.json'

# How a task in this process reports its progress; `run_tasks` sets it.
_report: Callable[[int], Any] | None = None


def advance(units: int = 1) -> None:
    """Reports progress from within a task."""
    if _report is not None:
        _report(units)


def _report_by(report: Callable[[int], Any] | None) -> None:
    global _report
    _report = report


def _start_worker(counter: Any) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def count(units: int) -> None:
        with counter.get_lock():
            counter.value += units

    _report_by(count)


def _exit_with_parent() -> None:
    # When the process that feeds it is killed, a worker would otherwise wait for further tasks forever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, total: int, description: str
) -> list[Result]:
    """Runs a function over tasks in several processes, with a progress bar.

    Args:
        function: A function at the top level of its module; it calls `advance` as it gets on.
        tasks: Its arguments.
        workers: Number of processes; with 1 everything runs in this process.
        total: Units that all tasks together will report by `advance`.
        description: What the bar says.

    Returns:
        The results, in the order of the tasks.

    Raises:
        Exception: Whatever the first task to fail raised; what has not begun by then is left undone.
    """
    progress = progress_bar()
    bar = progress.add_task(description, total=total)
    if workers <= 1 or len(tasks) <= 1:
        _report_by(lambda units: progress.advance(bar, units))
        try:
            with progress:
                return [function(task) for task in tasks]
        finally:
            _report_by(None)
    counter = multiprocessing.Value('q', 0)
    with ProcessPoolExecutor(min(workers, len(tasks)), initializer=_start_worker, initargs=(counter,)) as pool:
        # Submitted before the bar starts its thread, so that no process is forked off one with threads.
        futures = [pool.submit(function, task) for task in tasks]
        pending = set(futures)
        try:
            with progress:
                while pending:
                    finished, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                    progress.update(bar, completed=counter.value)
                    for future in finished:
                        future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def prepare_output(out: Path, settings: dict[str, Any], overwrite: bool, splits: Iterable[str] = ()) -> None:
    """Makes sure that a folder can take the results of a conversion with these settings.

    The settings are recorded in the folder. A later run with the same ones continues there; what an earlier one was
    writing when it was killed is removed.

    Args:
        out: The folder.
        settings: Everything that the converted files depend on; must be JSON.
        overwrite: Whether to remove what an earlier conversion with other settings left.
        splits: Splits whose folders are made.

    Raises:
        OutputError: The folder holds the results of other settings, or files that no converter made; the record in it
            is damaged; or it cannot be made.
    """
    record, folders = Record(out / RECORD), [out / name for name in ('img_dir', 'ann_dir')]
    if record:
        try:
            different = differences(record.read(), settings)
        except ValueError as error:
            raise OutputError(
                f'{record.path} cannot be read: {error}. It says how the files beside it were made: restore it, remove '
                'the whole folder, or choose another one with -o.'
            ) from error
        if overwrite:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        elif different:
            raise OutputError(
                f'{out} holds a conversion with other settings ({shown(different)}). Choose another folder with -o, or '
                'replace that conversion with --overwrite.'
            )
    elif any(folder.exists() for folder in folders):
        raise OutputError(
            f'{out} has an img_dir or ann_dir that no converter of mmrs made (there is no {RECORD}). Choose another '
            'folder with -o.'
        )
    for unfinished in (*out.glob('.*.part*'), *(path for folder in folders for path in folder.rglob('.*.part*'))):
        unfinished.unlink()
    record.write(settings)
    for folder, split in itertools.product(folders, splits):
        (folder / split).mkdir(parents=True, exist_ok=True)


def is_written(path: Path) -> bool:
    """Whether an earlier run wrote this file to its end."""
    # Every file gets its name only when complete; but a PNG that was cut later would be read without a word.
    return path.is_file() and (path.suffix != '.png' or is_whole_png(path))
