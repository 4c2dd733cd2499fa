"""Command-line options that several tools have."""

from __future__ import annotations

import argparse
import ast
import functools
import re
from collections.abc import Callable
from typing import Any, NoReturn

from mmengine.config import DictAction

from mmrs.utils.errors import wait_for_turn

__all__ = [
    'Options',
    'add_axes',
    'add_cfg_options',
    'add_class_prior',
    'add_launcher',
    'add_overwrite',
    'add_trust',
    'report_once',
    'seconds',
]


class Options(DictAction):
    """MMEngine's action for ``KEY=VALUE``, with dicts, and a message where an argument is none. Nothing is evaluated.

    A dict is ``dict(a=1,b=[x,dict(c=None)])`` or ``{"a":1}``, alone or in brackets. Words in it need no quotes where
    they are names, numbers and ``true``, ``false`` and ``None`` mean what they do elsewhere.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Parse the values, and add them to the dict."""
        try:
            super().__call__(*args, **kwargs)
        except (ValueError, AssertionError, RecursionError, MemoryError) as error:
            raise argparse.ArgumentError(self, f'KEY=VALUE with closed brackets was expected ({error})') from error

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip()
        if not (re.match(r'[\[({]|dict\(', text) and re.search(r'\{|\bdict\(', text)):
            return DictAction._parse_iterable(val)
        try:
            return _literal(ast.parse(text, mode='eval').body)
        except (SyntaxError, ValueError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise ValueError(
                f'{text} is no dict: {reason}. Write dict(key=1,list=[1,2],path="a/b"), or set its keys one by one, '
                'KEY.key=1'
            ) from error


def _literal(node: ast.expr) -> Any:
    """What a piece of Python's syntax says, if it is a value and no program."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return (list if isinstance(node, ast.List) else tuple)(map(_literal, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand)
        if isinstance(number, (int, float)):
            return -number
    if isinstance(node, ast.Name):
        return None if node.id == 'null' else DictAction._parse_int_float_bool(node.id)  # as JSON has it
    if isinstance(node, ast.Attribute):  # a.b, as types have it
        return f'{_literal(node.value)}.{node.attr}'
    pairs: list[tuple[Any, ast.expr]] | None = None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        keys = [key.id if isinstance(key, ast.Name) else key and _literal(key) for key in node.keys]
        pairs = list(zip(keys, node.values))
    if pairs is None or not all(isinstance(key, str) for key, _ in pairs):
        raise ValueError(f'{ast.unparse(node)[:100]} is no plain value')
    if twice := [key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])]:
        raise ValueError(f'the key {twice[0]} is there twice')
    return {key: _literal(value) for key, value in pairs}


def add_axes(parser: argparse.ArgumentParser) -> None:
    """Add ``--task``, ``--network`` and ``--schedule``, for a configuration that is a method's file."""
    group = parser.add_argument_group('with the file of a method, such as configs/st_dasegnet/method.py')
    group.add_argument('--task', metavar='NAME', help='data: a file of configs/_base_/tasks, or one of your own')
    group.add_argument('--network', metavar='NAME', help='likewise of configs/_base_/networks')
    group.add_argument(
        '--schedule', metavar='NAME', help="likewise of configs/_base_/schedules (default: the network's own)"
    )


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, a dict of dotted keys and values; None where it is not given."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='override the config: a.b=1, list="[1,2]" or list=1,2, "c=dict(d=1,e=x)" (no blanks inside, quotes around '
        'brackets)',
    )


def add_class_prior(parser: argparse.ArgumentParser) -> None:
    """Add ``--class-prior``, ``--prior-strength`` and ``--source-shares``."""
    group = parser.add_argument_group(
        'shares of the classes (docs/class_shares.md)',
        'for data whose shares of the classes are others than in training. The right shares raise overall accuracy; '
        'equal ones raise rare classes and may lower overall accuracy; where shares are alike, both cost a little.',
    )
    group.add_argument(
        '--class-prior',
        metavar='PRIOR',
        help="uniform: equal shares; source: the source's (puts them back where training was prior-neutral); or a "
        'table: TABLE.yaml or .json (CLASS: SHARE), AREAS.csv of predict.py --areas',
    )
    group.add_argument(
        '--prior-strength', type=float, metavar='S', help='0 (nothing) to 1 (all of the correction); default: 0.5'
    )
    group.add_argument(
        '--source-shares',
        metavar='FILE',
        help="such a table of the source's training labels; by default they are counted, once",
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


def seconds(text: str) -> float:
    """The seconds of a time such as ``2h``, ``1h30m``, ``90m`` or ``45s``.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    parts = re.fullmatch(r'(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?', text.strip())
    try:
        if parts is None or not any(parts.groups()):
            raise ValueError
        return sum(factor * float(part) for factor, part in zip((3600, 60, 1), parts.groups()) if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} was found; a time such as 2h, 1h30m or 90m was expected') from None
