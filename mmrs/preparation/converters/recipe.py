"""What users say about their own data, and which files and splits follow from it."""

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmrs.geo.classes import ClassTable, parse_classes, read_yaml
from mmrs.geo.rasters import RASTER_SUFFIXES, other_rasters
from mmrs.preparation.converters.splits import SPLIT_NAME, deal


class PathPattern:
    """Paths with named parts, such as `{group}/images/{name}.jpg`.

    `{part}` stands for any text within one folder's or file's name, `*` for such text without a name, `**/` for any
    folders in between. Without a suffix, every common image suffix fits.
    """

    def __init__(self, pattern: str) -> None:
        if not isinstance(pattern, str):
            raise ValueError(f'The path pattern is {pattern!r}; text was expected: {{group}}/images/{{name}}')
        self.pattern = pattern
        self.fields = tuple(re.findall(r'{(\w+)}', pattern))
        if not self.fields or len(set(self.fields)) != len(self.fields):
            raise ValueError(
                f'The path pattern {pattern!r} needs parts in braces, each once: {{group}}/images/{{name}}'
            )
        parts = re.split(r'({\w+}|\*\*/|\*)', pattern)
        special = {'**/': '(?:.*/)?', '*': '[^/]*'}
        expression = ''.join(
            special.get(part) or (f'(?P<{part[1:-1]}>[^/]+)' if part.startswith('{') else re.escape(part))
            for part in parts
        )
        if not pattern.lower().endswith(RASTER_SUFFIXES):
            expression += f'(?:{"|".join(map(re.escape, RASTER_SUFFIXES))})'
        self._expression = re.compile(expression, re.IGNORECASE)

    def match(self, path: str) -> dict[str, str] | None:
        """The named parts of a path, None if it does not fit."""
        match = self._expression.fullmatch(path)
        return match.groupdict() if match else None


class Split(NamedTuple):
    """Which images belong to a split.

    Attributes:
        groups: Names of groups, or patterns with `*` for several.
        share: What part of each group's images is dealt to the split, at random; None for all.
    """

    groups: tuple[str, ...] = ('*',)
    share: float | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> 'Split':
        """From YAML: a group, a list of groups, or a mapping with `groups` and `share`."""
        value = value if isinstance(value, dict) else {'groups': value}
        if unknown := set(value) - {'groups', 'share'}:
            raise ValueError(f'{where} has unknown keys {sorted(map(str, unknown))}; known are groups, share.')
        groups, share = value.get('groups', '*'), value.get('share')
        if share is not None and not (isinstance(share, (int, float)) and share is not True and 0 < share <= 1):
            raise ValueError(f'{where}: share is {share!r}; a number above 0 and up to 1 was expected.')
        return cls(tuple(map(str, groups if isinstance(groups, list) else [groups])), share)

    @classmethod
    def parse_argument(cls, text: str) -> tuple[str, 'Split']:
        """From the command line: `NAME=GROUP,GROUP,...` or `NAME=GROUP,...:SHARE`."""
        name, equals, rest = text.partition('=')
        match = re.fullmatch(r'(.*):([0-9.]+)', rest)
        groups, share = (match[1], float(match[2])) if match else (rest, None)
        if not equals or not groups:
            raise ValueError(f'--split {text!r}: NAME=GROUP,GROUP,... or NAME=GROUP,...:SHARE was expected.')
        return name, cls.parse({'groups': [g.strip() for g in groups.split(',')], 'share': share}, f'--split {text!r}')


@dataclass
class Recipe:
    """What a user's YAML file says about the data.

    Attributes:
        images: Where the images are.
        masks: Where the masks are; None for images without labels.
        classes: The classes.
        encoding: How the masks show the classes: `color` or `id`.
        splits: Splits by name.
        seed: Seed of the dealing by shares.
        allow_overlap: Whether an image may belong to several splits.
    """

    images: PathPattern
    masks: PathPattern | None
    classes: ClassTable
    encoding: str
    splits: dict[str, Split] = field(default_factory=lambda: {'train': Split()})
    seed: int = 0
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f'seed is {self.seed}; 0 or more was expected.')
        if self.masks is not None and set(self.masks.fields) != set(self.images.fields):
            raise ValueError(
                f'The patterns of images ({self.images.pattern}) and masks ({self.masks.pattern}) must have the same '
                'parts in braces, because those say which mask belongs to which image.'
            )
        for name in self.splits:
            if not SPLIT_NAME.fullmatch(name):
                raise ValueError(f'{name!r} is no name for a split: it becomes a folder; use letters, digits, _ and -.')


def load_recipe(
    path: Path, splits: dict[str, Split] | None = None, seed: int | None = None, allow_overlap: bool = False
) -> Recipe:
    """Reads the YAML file that describes the data (see docs/datasets.md).

    Args:
        path: The file.
        splits: Splits instead of those of the file.
        seed: Seed instead of that of the file.
        allow_overlap: Whether an image may belong to several splits, even if the file does not allow it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Something in it is not as it should be; the message says what.
    """
    content = read_yaml(path)
    classes = parse_classes(content, str(path))
    known = {'classes', 'images', 'masks', 'encoding', 'splits', 'seed', 'allow_overlap'}
    if unknown := set(content) - known:
        raise ValueError(f'{path} has unknown keys {sorted(map(str, unknown))}; known are {", ".join(sorted(known))}.')
    expected = dict(splits=(dict, 'a mapping'), seed=(int, 'a whole number'), allow_overlap=(bool, 'true or false'))
    for key, (kind, words) in expected.items():
        if not isinstance(content.get(key) or kind(), kind):
            raise ValueError(f'{path}: {key} is {content[key]!r}; {words} was expected.')
    if splits is None:
        splits = {
            str(k): Split.parse(v, f'{path}: split {k}') for k, v in (content.get('splits') or {'train': '*'}).items()
        }
    masks = content.get('masks', 'masks/{name}')
    return Recipe(
        images=PathPattern(content.get('images', 'images/{name}')),
        masks=None if masks is None else PathPattern(masks),
        classes=classes,
        encoding='' if masks is None else _encoding(content.get('encoding'), classes, str(path)),
        splits=splits,
        seed=(content.get('seed') or 0) if seed is None else seed,
        allow_overlap=allow_overlap or bool(content.get('allow_overlap')),
    )


def _encoding(value: Any, classes: ClassTable, where: str) -> str:
    lacking = {
        'color': [c.name for c in classes.classes if not c.colours],
        'id': [c.name for c in classes.classes if not c.ids],
    }
    if value is None:
        possible = [name for name, classes_without in lacking.items() if not classes_without]
        if len(possible) == 2:
            raise ValueError(f'{where}: the classes have colors and ids. Say `encoding: color` or `encoding: id`.')
        if not possible:
            raise ValueError(f'{where}: give every class a `color`, or every class an `id`, as the masks hold it.')
        return possible[0]
    if value not in list(lacking):
        raise ValueError(f'{where}: encoding is {value!r}; color or id was expected.')
    if lacking[value]:
        raise ValueError(
            f'{where}: encoding is {value}, but these classes have no {value}: {", ".join(lacking[value])}.'
        )
    return value


class Pair(NamedTuple):
    """An image and its mask."""

    image: str
    mask: str | None
    group: str
    stem: str


class Dropped(NamedTuple):
    """A file that is not converted, and why."""

    file: str
    reason: str


def find_pairs(root: Path, recipe: Recipe) -> tuple[list[Pair], list[Dropped]]:
    """Finds images and masks by the recipe's patterns, sorted by path.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: No image fits, or two files stand for the same image.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: no such folder; a folder of images and masks was expected there')
    images: dict[tuple, str] = {}
    masks: dict[tuple, str] = {}
    for path in _walk(root):
        for pattern, found in ((recipe.images, images), (recipe.masks, masks)):
            if pattern is not None and (parts := pattern.match(path)) is not None:
                key = tuple(parts[name] for name in recipe.images.fields)
                if key in found:
                    raise ValueError(
                        f'{root}: {found[key]} and {path} both fit {pattern.pattern} alike. Remove one of them.'
                    )
                found[key] = path
    if not images:
        others = other_rasters(root)
        raise ValueError(
            f'No image in {root} fits the pattern {recipe.images.pattern!r}.'
            + (f' It has {others}: name their suffix in the pattern.' if others else '')
        )
    pairs, dropped = [], [Dropped(path, 'mask without an image') for key, path in masks.items() if key not in images]
    stems: dict[str, str] = {}
    for key, path in images.items():
        if recipe.masks is not None and key not in masks:
            dropped.append(Dropped(path, 'image without a mask'))
            continue
        stem = re.sub(r'\s+', '_', '_'.join(key))
        if stem in stems:
            raise ValueError(f'{root}: {stems[stem]} and {path} would both be named {stem}. Rename one of them.')
        stems[stem] = path
        group = dict(zip(recipe.images.fields, key)).get('group', '')
        mask = str(root / masks[key]) if recipe.masks is not None else None
        pairs.append(Pair(str(root / path), mask, group, stem))
    return pairs, dropped


def _walk(root: Path) -> Iterable[str]:
    for parent, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if not name.startswith('.'):
                yield Path(parent, name).relative_to(root).as_posix()


def assign_splits(pairs: Sequence[Pair], recipe: Recipe) -> tuple[dict[str, list[Pair]], list[Dropped]]:
    """Deals the images to the splits, group by group.

    Raises:
        ValueError: A group that a split names does not exist, shares exceed 1, an image gets into two splits without
            `allow_overlap`, or a split stays empty.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    for name, split in recipe.splits.items():
        for pattern in split.groups:
            if not any(_fits(group, pattern) for group in groups):
                raise ValueError(
                    f'Split {name} names the group {pattern!r}. Groups found: {", ".join(sorted(groups))}.'
                )
    splits: dict[str, list[Pair]] = {name: [] for name in recipe.splits}
    for group, members in groups.items():
        wanted = {
            name: split.share
            for name, split in recipe.splits.items()
            if any(_fits(group, pattern) for pattern in split.groups)
        }
        shares = {name: share for name, share in wanted.items() if share is not None}
        whole = [name for name, share in wanted.items() if share is None]
        if len(whole) + bool(shares) > 1 and not recipe.allow_overlap:
            raise ValueError(
                f'The images of group {group!r} would be in several splits: {", ".join(wanted)}. Give each a share, '
                'or allow it (allow_overlap, --allow-overlap), as for an unlabelled target that is also evaluated.'
            )
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(f'Group {group!r}: the shares of {", ".join(shares)} add up to more than 1.')
        for name in whole:
            splits[name] += members
        # By the group's name and the seed alone, so that other groups may come and go.
        for name, dealt in deal(members, shares, recipe.seed, group).items():
            splits[name] += dealt
    if empty := [name for name, chosen in splits.items() if not chosen]:
        raise ValueError(f'No image is left for the split {empty[0]}: choose its groups or a larger share.')
    used = {pair.stem for chosen in splits.values() for pair in chosen}
    return splits, [Dropped(pair.image, 'in no split') for pair in pairs if pair.stem not in used]


def _fits(group: str, pattern: str) -> bool:
    return group == pattern or fnmatch.fnmatchcase(group, pattern)
