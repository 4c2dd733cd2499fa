"""Command-line options that several tools have."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any, NoReturn

from mmengine.config import DictAction

from mmrs.utils.errors import wait_for_turn

__all__ = ['Options', 'add_cfg_options', 'add_launcher', 'add_overwrite', 'add_trust', 'report_once']


class Options(DictAction):
    """MMEngine's action for ``KEY=VALUE``, with a message where an argument is none. Nothing is evaluated."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Parse the values, and add them to the dict."""
        try:
            super().__call__(*args, **kwargs)
        except (ValueError, AssertionError, RecursionError) as error:
            raise argparse.ArgumentError(self, f'KEY=VALUE with closed brackets was expected ({error})') from error


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, a dict of dotted keys and values; None where it is not given."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override the config: a.b=1, list="[1,2]" or list=1,2 (no blanks inside, quotes around brackets)',
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    report_once(parser)


def report_once(parser: argparse.ArgumentParser) -> None:
    """Let one of several processes report what is wrong with the command line, which they have in common."""
    parser.error = functools.partial(_error_of_one, parser.error)  # type: ignore[method-assign]


def _error_of_one(report: Callable[[str], NoReturn], message: str) -> NoReturn:
    wait_for_turn()
    report(message)


def add_overwrite(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--overwrite``, and its former name ``--force``."""
    parser.add_argument('--overwrite', action='store_true', help=what)
    parser.add_argument('--force', action='store_true', dest='overwrite', help=argparse.SUPPRESS)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load local checkpoints that hold other objects than weights and logs, too: they can run any code',
    )
