"""Classes of data sets and checkpoints, which are the same where their names are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.logging import print_log

from mmrs.utils.errors import ConfigError

__all__ = ['class_names', 'difference', 'is_wrapper', 'match_classes', 'same_names', 'with_inner']


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names of a data set's classes in the order of their indices; empty where it has none."""
    return tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())


def same_names(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether two lists have the same names, in whatever order."""
    return sorted(first) == sorted(second)


def difference(first: Sequence[str], second: Sequence[str]) -> str:
    """In which names two lists of classes differ, and which of them are spelt alike, for a message."""
    only = [[name for name in own if name not in other] for own, other in ((first, second), (second, first))]
    bare = {_bare(name): name for name in only[1]}
    pairs = [(name, bare[_bare(name)]) for name in only[0] if _bare(name) in bare]
    if pairs:
        hint = f'; {" and ".join(map(repr, pairs[0]))} are spelt differently'
    else:
        near = [(name, close[0]) for name in only[0] if (close := difflib.get_close_matches(name, only[1], 1, 0.7))]
        hint = f'; is {near[0][0]!r} meant to be {near[0][1]!r}?' if near else ''
    shown = [f'{", ".join(names) or "none"} only in the {place}' for names, place in zip(only, ('first', 'second'))]
    return ', '.join(shown) + hint


def _bare(name: str) -> str:
    return re.sub(r'[\W_]+', '', name.casefold())


def match_classes(dataset: Any, classes: Sequence[str], where: str, whose: str) -> bool:
    """Let a data set count its classes in another order, that of a model's outputs, by their names.

    Args:
        dataset: A data set, in any wrappers. Without class names it stays as it is.
        classes: The names in the wanted order; nothing happens without any.
        where: What the data set is called in messages, its configuration key.
        whose: To what `classes` belong, likewise.

    Returns:
        Whether the order was another one.

    Raises:
        ConfigError: The names differ, or a data set of another package has them in another order.
    """
    own = class_names(dataset)
    if not own or not classes or own == tuple(classes):
        return False
    if not same_names(own, classes):
        raise ConfigError(
            f'{where} has the classes {", ".join(own)}, but {whose} has {", ".join(classes)} '
            f'({difference(own, classes)}). Classes are matched by name: rename those of the data set in its '
            'classes_file or metainfo, or say with class_map=dict(NEW=OWN, ...) which of its classes is which'
        )
    parts = list(with_inner(dataset))
    for part in parts:
        if hasattr(part, 'order_classes'):
            part.order_classes(classes)
        elif not is_wrapper(part):
            raise ConfigError(
                f'{where} has the classes {", ".join(own)}, and {whose} the same in another order: '
                f'{", ".join(classes)}. A {type(part).__name__} cannot change its order; set its '
                'metainfo=dict(classes=[...]) to the second one'
            )
    for part in reversed(parts):  # wrappers keep a copy of the meta information of what is inside
        if is_wrapper(part) and '_metainfo' in vars(part):
            absent = part._metainfo.get('no_counterpart', ())  # in all that is inside
            part._metainfo = {**next(_inner(part)).metainfo, 'no_counterpart': tuple(c for c in classes if c in absent)}
    print_log(f'{where}: its classes are taken in the order of {whose}: {", ".join(classes)}', logger='current')
    return True


def _inner(dataset: Any) -> Iterator[Any]:
    for name in ('source', 'labelled', 'target', 'dataset'):
        if getattr(dataset, name, None) is not None:
            yield getattr(dataset, name)
    yield from getattr(dataset, 'datasets', ())


def is_wrapper(dataset: Any) -> bool:
    """Whether there are data sets inside of a data set."""
    return next(_inner(dataset), None) is not None


def with_inner(dataset: Any) -> Iterator[Any]:
    """A data set, and all that are inside of it."""
    yield dataset
    for part in _inner(dataset):
        yield from with_inner(part)
