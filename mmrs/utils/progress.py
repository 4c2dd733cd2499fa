from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ['progress_bar']


def progress_bar(**options: Any) -> Progress:
    """A bar on stderr: what is done, how much of it, the time so far and the time left.

    Args:
        **options: Of rich's `Progress`.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        **options,
    )
