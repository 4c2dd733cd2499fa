"""Errors that are meant for the person at the keyboard.

A command-line tool prints such an error as ``error: ...`` and exits with status 2. Any other exception is a defect of
the code and keeps its traceback. Messages name the file or configuration key, the value found, the value expected, and
what to do.

Functions that check their arguments may as well raise Python's own ValueError, TypeError or OSError: a tool treats one
that a `raise` statement of this package raised in the same way.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = [
    'CheckpointError',
    'ConfigError',
    'DataError',
    'OutputError',
    'UserError',
    'describe',
    'is_user_error',
    'report_errors',
    'some',
]


class UserError(Exception):
    """Something that the user can put right."""


class ConfigError(UserError, ValueError):
    """A value in a configuration, or a command-line option, that cannot work."""


class DataError(UserError, ValueError):
    """A data-set file that is missing, unreadable or not what it should be."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be had, cannot be read or does not fit the model."""


class OutputError(UserError, OSError):
    """An output that would overwrite something, or cannot be written."""


def some(names: Sequence[str], number: int = 5) -> str:
    """The first few of some names, for a message."""
    return ', '.join(names[:number]) + (', ...' if len(names) > number else '')


_FRAME = re.compile(r'File "([^"]+)", line \d+, in \S+\n\s+(.+)')
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


def _from_worker(error: BaseException) -> bool:
    return str(error).startswith('Caught ') and 'Original Traceback' in str(error)


def is_user_error(error: BaseException) -> bool:
    """Whether an exception is addressed to the user: a :class:`UserError`, or a check of this package that failed."""
    if isinstance(error, UserError):
        return True
    if not isinstance(error, (ValueError, TypeError, OSError)):
        return False
    if _from_worker(error):
        frames = _FRAME.findall(str(error))
        file, line = frames[-1] if frames else ('', '')
    else:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = last.filename, last.line or ''
    return os.path.abspath(file).startswith(_PACKAGE) and line.startswith('raise')


def describe(error: BaseException) -> str:
    """The message of an error, without the traceback that a data-loader worker wraps around it."""
    message = str(error)
    if _from_worker(error):
        message = re.split(rf'^[\w.]*{type(error).__name__}: ', message, flags=re.MULTILINE)[-1]
    return message.strip()


def report_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn a tool's ``main(argv)`` into one that reports the user's errors on stderr and returns 2.

    Success returns 0, an interrupt by the keyboard 130. Set ``MMRS_TRACEBACK=1`` to see the traceback of every error.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> int:
        try:
            return main(*args, **kwargs) or 0
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr)
            return 130
        except Exception as error:
            if os.environ.get('MMRS_TRACEBACK') == '1' or not is_user_error(error):
                raise
            print(f'error: {describe(error)}', file=sys.stderr)
            return 2

    return wrapped
