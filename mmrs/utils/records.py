"""What results were made with, so that they are not taken for the results of other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrs.utils.files import write_json

__all__ = ['Record', 'differences', 'flatten', 'shown']


def flatten(node: Any, prefix: str = '') -> dict[str, Any]:
    """The values in nested dicts and lists by their dotted keys."""
    if not isinstance(node, (dict, list)) or not node:
        return {prefix: node}
    leaves = {}
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        leaves.update(flatten(child, f'{prefix}.{key}' if prefix else str(key)))
    return leaves


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """``KEY was X, is Y`` for each setting that differs, by dotted keys in alphabetical order.

    Args:
        found: What a result was made with, as JSON gives it back.
        wanted: What it would be made with now. Tuples equal lists, and NaN equals NaN.
    """
    old, new = (flatten(_as_json(settings)) for settings in (found, wanted))
    return [
        f'{key} was {old.get(key)!r}, is {new.get(key)!r}'
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def shown(different: Sequence[str], number: int = 3) -> str:
    """The first few of some differences, for a message."""
    more = f' and {len(different) - number} more' if len(different) > number else ''
    return '; '.join(different[:number]) + more


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str), parse_constant=str)


class Record:
    """The JSON file in which settings are kept, beside the result that they made.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __bool__(self) -> bool:
        """Whether there is such a file."""
        return self.path.is_file()

    def read(self) -> dict[str, Any]:
        """The settings in the file.

        Raises:
            ValueError: They cannot be read; the message says why, without the path.
        """
        try:
            found = json.loads(self.path.read_text(encoding='utf-8'))
        except OSError as error:
            raise ValueError(error.strerror) from error
        if not isinstance(found, dict):
            raise ValueError(f'it holds a {type(found).__name__}, not settings')
        return found

    def differences(self, wanted: Mapping[str, Any]) -> list[str]:
        """See :func:`differences`; also says if there is no record, or none that can be read."""
        if not self:
            return [f'there is no {self.path.name} that would tell']
        try:
            return differences(self.read(), wanted)
        except ValueError as error:
            return [f'{self.path.name}, which would tell, cannot be read: {error}']

    def write(self, settings: Mapping[str, Any]) -> None:
        """Keep settings; the file appears when it is complete, and replaces the one before.

        Raises:
            OutputError: It cannot be written.
        """
        write_json(_as_json(settings), self.path, overwrite=True)
