"""Tables of classes: names, ids and colours of a data set, as a YAML file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmrs.utils.errors import ConfigError, require, require_file

IGNORE_INDEX = 255

# Whole numbers from here on are not exact in a mask of real numbers, and soon fit no type of pixels.
_LARGEST_ID = 2**53

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelClass:
    """One class.

    Attributes:
        name: Its name.
        ids: The values that stand for it in id masks; may be empty.
        colours: The colours (RGB, 0 to 255) that stand for it in colour masks; may be empty.
        ignore: Whether its pixels count as unlabelled.
    """

    name: str
    ids: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()
    ignore: bool = False


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set; the training index of a class is its position among those that are not ignored."""

    classes: tuple[LabelClass, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes that count, in the order of their training indices."""
        return tuple(c.name for c in self.classes if not c.ignore)

    @property
    def palette(self) -> list[Colour]:
        """The first colour of each class that counts; empty if one has none."""
        colours = [c.colours[:1] for c in self.classes if not c.ignore]
        return [c[0] for c in colours] if all(colours) else []

    def training_index(self, label_class: LabelClass) -> int:
        """Training index of a class, 255 if it is ignored."""
        return IGNORE_INDEX if label_class.ignore else self.names.index(label_class.name)

    @property
    def index_of_id(self) -> dict[int, int]:
        """Training index by mask value. A class without ids stands under its training index."""
        index_of = {self.training_index(c): self.training_index(c) for c in self.classes if not c.ids}
        index_of.update({value: self.training_index(c) for c in self.classes for value in c.ids})
        return index_of

    @property
    def index_of_colour(self) -> dict[Colour, int]:
        """Training index by colour."""
        return {colour: self.training_index(c) for c in self.classes for colour in c.colours}

    @property
    def by_colour(self) -> bool:
        """Whether a mask of one band holds colours: each class that counts has some, and none has an id.

        Otherwise it holds ids. A mask of three bands always holds colours.
        """
        return bool(self.palette) and not any(c.ids for c in self.classes)

    def converted(self) -> 'ClassTable':
        """The same classes under their training indices, ignored ones under 255: how converted masks hold them."""
        return ClassTable(
            tuple(LabelClass(c.name, (self.training_index(c),), c.colours, c.ignore) for c in self.classes)
        )

    def to_yaml(self) -> str:
        """The table as the text of a YAML file that `load_classes` reads."""
        lines = ['classes:']
        for c in self.classes:
            # Quoted, because YAML takes a bare # for a comment and names such as `no` for truth values.
            parts = [f'name: {_quoted(c.name)}']
            if c.ids:
                parts.append(f'id: {_one_or_list([str(i) for i in c.ids])}')
            if c.colours:
                parts.append(f'color: {_one_or_list([_quoted(to_hex(colour)) for colour in c.colours])}')
            if c.ignore:
                parts.append('ignore: true')
            lines.append(f'  - {{{", ".join(parts)}}}')
        return '\n'.join(lines) + '\n'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_or_list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f'[{", ".join(parts)}]'


def to_hex(colour: Sequence[int]) -> str:
    """`#RRGGBB` of an RGB colour."""
    return '#{:02X}{:02X}{:02X}'.format(*(int(value) for value in colour))


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without aliases and keys that appear twice.

    A few lines of aliases stand for more than memory holds; of two equal keys, YAML's reader drops the first.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f'line {self.peek_event().start_mark.line + 1} has an alias (*name); write it out')
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.YAMLError(
                    f'line {key.start_mark.line + 1} has the key {key.value!r} again; remove one of them'
                )
            seen.add(key.value)
        return node


def _whole_number(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    if re.fullmatch('[+-]?0[0-7_]+', node.value):
        raise yaml.YAMLError(
            f'line {node.start_mark.line + 1} has {node.value}, which is an octal number to YAML; write numbers '
            'without leading zeros'
        )
    return loader.construct_yaml_int(node)


_PlainLoader.add_constructor('tag:yaml.org,2002:int', _whole_number)


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML file of plain values; no tag in it makes an object of anything else.

    Raises:
        DataError: There is no such file.
        ConfigError: It is not YAML.
    """
    require_file(path, 'a table of classes (YAML)')
    try:
        with open(path, encoding='utf-8') as file:
            return yaml.load(file, _PlainLoader)
    except Exception as error:  # tags such as !!int raise whatever their text leads to
        raise ConfigError(f'{path} is not YAML: {error or type(error).__name__}') from error


def load_classes(path: str | Path) -> ClassTable:
    """Reads a table of classes.

    Args:
        path: A YAML file with a list `classes` of mappings with `name`, `id` (one or a list; optional), `color` (one or
            a list of `'#RRGGBB'` or `[r, g, b]`; optional) and `ignore` (optional). Other keys of the file are left
            alone.

    Raises:
        DataError: There is no such file.
        ConfigError: The file is not such a table; the message names the entry.
    """
    return parse_classes(read_yaml(path), where=str(path))


def parse_classes(content: Any, where: str) -> ClassTable:
    """Makes a table of the parsed YAML; `where` is the name of its file for messages."""
    entries = content.get('classes') if isinstance(content, dict) else None
    listed = isinstance(entries, list) and entries
    _check(listed, where, 'no list `classes` is there; [{name: road, id: 0}, ...] was expected')
    table = ClassTable(tuple(_parse_class(entry, f'{where}: class {i + 1}') for i, entry in enumerate(entries or ())))
    number = len(table.names)
    _check(number, where, 'every class is ignored; at least one must count')
    _check(number < IGNORE_INDEX - 1, where, f'{number} classes; at most {IGNORE_INDEX - 2} fit into 8-bit label maps')
    counting, ignored = ([v for c in table.classes if c.ignore is flag for v in c.ids] for flag in (False, True))
    named: dict[str, list[Any]] = dict(
        name=[c.name for c in table.classes],
        id=counting,
        color=[to_hex(colour) for c in table.classes for colour in c.colours],
    )
    for what, values in named.items():
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        _check(not twice, where, f'{what} {", ".join(twice)} appears twice')
    both = {*counting} & {*ignored}
    _check(not both, where, f'id {min(both, default=0)} belongs to a class and to an ignored one')
    mixed = len({bool(c.ids) for c in table.classes if not c.ignore}) > 1
    _check(not mixed, where, 'some classes have an `id` and some have none. Give one to all of them, or to none')
    return table


def _check(valid: object, where: str, wrong: str) -> None:
    if not valid:
        raise ConfigError(f'{where}: {wrong}')


def _parse_class(entry: Any, where: str) -> LabelClass:
    require(isinstance(entry, dict) and 'name' in entry, where, entry, 'a mapping with a `name`')
    name = entry['name']
    _require(isinstance(name, str) and name, where, 'name', name, 'text, in quotes where it looks like no or 1,')
    entry = {('color' if key == 'colour' else key): value for key, value in entry.items()}
    where = f'{where} ({name})'
    unknown = sorted(map(str, set(entry) - {'name', 'id', 'color', 'ignore'}))
    _check(not unknown, where, f'the keys {unknown} are unknown; known are name, id, color, ignore')
    ignore, ids = entry.get('ignore', False), entry.get('id', [])
    _require(isinstance(ignore, bool), where, 'ignore', ignore, 'true or false')
    values = ids if isinstance(ids, list) else [ids]
    whole = all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_ID for value in values)
    _require(whole, where, 'id', ids, 'a whole number below 2**53, or a list of them,')
    colours = _parse_colours(entry['color'], where) if 'color' in entry else ()
    return LabelClass(name, tuple(values), colours, ignore)


def _require(valid: object, where: str, key: str, value: object, expected: str) -> None:
    require(bool(valid), f'{where}: {key}', value, expected)


def _parse_colours(value: Any, where: str) -> tuple[Colour, ...]:
    is_triple = isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) for v in value)
    values = [value] if is_triple or not isinstance(value, list) else value
    return tuple(_parse_colour(v, where) for v in values)


def _parse_colour(value: Any, where: str) -> Colour:
    try:
        rgb = tuple(bytes.fromhex(value.lstrip('#')) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        rgb = ()
    # YAML takes a bare # for the beginning of a comment, and what is left is None.
    known = len(rgb) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in rgb)
    _require(known, where, 'color', value, "'#RRGGBB' (in quotes) or [r, g, b] of 0 to 255")
    return rgb[0], rgb[1], rgb[2]
