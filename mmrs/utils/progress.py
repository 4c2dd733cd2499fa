from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ['progress_bar', 'quiet_log']


def progress_bar(percent: bool = False, console: Console | None = None, **options: Any) -> Progress:
    """A bar: what is done, how much of it, the time so far and the time left.

    Args:
        percent: Show the share that is done, for totals that mean nothing to a reader.
        console: Where to; by default stderr.
        **options: Of rich's `Progress`.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        TaskProgressColumn() if percent else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        **options,
    )


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keep what is logged as information from standard output; warnings still appear."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
