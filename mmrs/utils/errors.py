"""Errors that are meant for the person at the keyboard.

A command-line tool prints a :class:`UserError` as ``error: ...`` and exits with status 2. Any other exception is a
defect of the code and keeps its traceback. Messages name the file or configuration key, the value found, the value
expected, and what to do.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmrs.utils.ranks import rank_and_number

__all__ = [
    'LOST_OTHERS',
    'CheckpointError',
    'ConfigError',
    'DataError',
    'OutputError',
    'TrainingError',
    'UnreadableError',
    'UnusableError',
    'UserError',
    'describe',
    'lost_others',
    'report_errors',
    'require',
    'require_file',
    'require_folder',
    'require_number',
    'require_one_of',
    'some',
    'wait_for_turn',
    'wants_traceback',
]


class UserError(Exception):
    """Something that the user can put right."""


class ConfigError(UserError, ValueError):
    """A value in a configuration, or a command-line option, that cannot work."""


class DataError(UserError, ValueError):
    """A data-set file that is missing, unreadable or not what it should be."""


class UnusableError(DataError):
    """A file that cannot be used, where others can: in training, another sample takes its place."""


class UnreadableError(UnusableError, OSError):
    """A file that is missing, cut or otherwise not to be read."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be had, cannot be read or does not fit the model."""


class OutputError(UserError, OSError):
    """An output that would overwrite something, or cannot be written."""


class TrainingError(UserError, RuntimeError):
    """A training that cannot go on, its numbers being what they are."""


def require(valid: bool, name: str, value: object, expected: str) -> None:
    """Check an argument.

    Args:
        valid: Whether it can work.
        name: Where the user finds it: a configuration key or an option.
        value: What was found there.
        expected: What was expected, with an article; ``were`` follows a plural on its own: ``numbers were``.

    Raises:
        ConfigError: It cannot.
    """
    if not valid:
        verb = '' if expected.endswith(' were') else ' was'
        raise ConfigError(f'{name} is {value!r}; {expected}{verb} expected')


def require_one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Check that an argument is one of a few.

    Raises:
        ConfigError: It is none of them.
    """
    known = list(choices)
    require(value in known, name, value, f'one of {", ".join(map(str, known))}')


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
    unit: str = '',
) -> None:
    """Check that an argument is a finite number within bounds.

    Args:
        name: Where the user finds it.
        value: What was found there.
        above: Lower bound, excluded.
        at_least: Lower bound, included.
        below: Upper bound, excluded.
        at_most: Upper bound, included.
        whole: Whether an `int` is needed.
        unit: Of the number, for the message.

    Raises:
        ConfigError: It is none, or out of bounds.
    """
    kinds = numbers.Integral if whole else numbers.Real
    valid = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    words = []
    for bound, word, holds in (
        (above, 'above', operator.gt),
        (at_least, 'of at least', operator.ge),
        (below, 'below', operator.lt),
        (at_most, 'of at most', operator.le),
    ):
        if bound is not None:
            words.append(f'{word} {bound:g}')
            valid = valid and holds(value, bound)
    kind = ('a whole number' if whole else 'a number') + (f' of {unit}' if unit else '')
    require(valid, name, value, ' '.join((kind, ' and '.join(words))).strip())


def require_file(path: str | os.PathLike, what: str) -> None:
    """Check that a file is there.

    Args:
        path: The file.
        what: What it should be, with an article.

    Raises:
        DataError: It is not there, or a folder.
    """
    if not os.path.isfile(path):
        found = 'is a folder' if os.path.isdir(path) else 'no such file'
        raise DataError(f'{os.fspath(path)}: {found}; {what} was expected there')


def require_folder(path: str | os.PathLike, what: str) -> None:
    """Check that a folder is there.

    Args:
        path: The folder.
        what: What it should hold or be, with an article.

    Raises:
        DataError: It is not there, or a file.
    """
    if not os.path.isdir(path):
        found = 'is a file' if os.path.exists(path) else 'no such folder'
        raise DataError(f'{os.fspath(path)}: {found}; {what} was expected there')


def some(names: Sequence[str], number: int = 5) -> str:
    """The first few of some names, for a message."""
    return ', '.join(names[:number]) + (', ...' if len(names) > number else '')


def wants_traceback() -> bool:
    """Whether the environment asks for the traceback of every error."""
    return os.environ.get('MMRS_TRACEBACK') == '1'


def describe(error: BaseException) -> str:
    """The message of an error, without the traceback that torch puts around it where a data-loader worker raised it."""
    _, worker, message = str(error).rpartition('Original Traceback (most recent call last):')
    if worker:  # torch raises it again by its class
        message = re.split(rf'^[\w.]*{type(error).__name__}: ', message, flags=re.MULTILINE)[-1]
    return message.strip()


#: Exit status of a process that could not go on without the others.
LOST_OTHERS = 75

#: Seconds that a process waits for its end before it reports an error that all may have, and one that it had because
#: another process is gone. torchrun looks at its processes every 5 seconds at most.
_PATIENCE, _LONG_PATIENCE = 6.0, 10.0

# As torch, gloo and NCCL put it.
_LOST = re.compile(
    r'connection (was )?(likely )?(closed|reset|refused)|broken pipe|socket (closed|timeout)|timed out|time ?out|'
    r'remote process (exited|has)|failed to (recv|send)|connect\w* .*failed',
    re.IGNORECASE,
)


def lost_others(error: BaseException) -> bool:
    """Whether an exception says that another process of the run is gone or does not answer."""
    from_torch = any(kind.__name__ == 'DistError' for kind in type(error).__mro__) or 'gloo' in str(error)
    return isinstance(error, RuntimeError) and from_torch and _LOST.search(str(error)) is not None


def wait_for_turn(lost: bool = False) -> None:
    """Let the first of several processes report what all may have to, and its launcher stop this one meanwhile.

    Args:
        lost: There is something to report because another process is gone: it, or its launcher, comes first.
    """
    rank, number = rank_and_number()
    if number > 1 and (rank or lost):
        time.sleep((_LONG_PATIENCE if lost else _PATIENCE) + min(rank, 20) / 2)


def report_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn a tool's ``main(argv)`` into one that reports the user's errors on stderr and returns 2.

    Success returns 0, an interrupt by the keyboard 130. Set ``MMRS_TRACEBACK=1`` to see the traceback of every error.

    Of several processes that have the same error, one reports it: rank 0 does at once, and its end makes the launcher
    stop the others, which wait for that a while before they speak. Each ends without any clean-up that could wait for
    another one. What another process's end has caused is reported by nobody, unless no launcher takes notice.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> int:
        try:
            return main(*args, **kwargs) or 0
        except KeyboardInterrupt:
            if rank_and_number()[0] == 0:
                print('interrupted', file=sys.stderr)
            return 130
        except Exception as error:
            rank, number = rank_and_number()
            defect = wants_traceback() or not isinstance(error, UserError)
            if number == 1:
                if defect:
                    raise
                print(f'error: {describe(error)}', file=sys.stderr)
                return 2
            status = _report_one_of_several(error, defect, rank, number)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    return wrapped


def _report_one_of_several(error: Exception, defect: bool, rank: int, number: int) -> int:
    """Report the error of one of several processes, in its turn; the exit status."""
    lost = lost_others(error)
    wait_for_turn(lost)
    if lost and not wants_traceback():
        seen = re.sub(r'^\[\S+\] ', '', describe(error).splitlines()[0]).split('. ')[0]
        print(
            f'error: rank {rank} of {number} processes (host {socket.gethostname()}) cannot go on without the others: '
            f'one has ended, cannot be reached, or takes longer than env_cfg.dist_cfg.timeout ({seen}). What that one '
            'printed says why',
            file=sys.stderr,
        )
    elif defect:
        traceback.print_exception(error)
    else:
        print(f'error: {describe(error)}', file=sys.stderr)
    return LOST_OTHERS if lost else 1 if defect else 2
