"""What users say about their own data, and which files and splits follow from it."""

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmrs.geo.classes import ClassTable, parse_classes, read_yaml
from mmrs.geo.folders import RASTER_SUFFIXES, other_rasters
from mmrs.preparation.converters.splits import SPLIT_NAME, deal
from mmrs.utils.errors import ConfigError, DataError, require, require_folder, require_number, require_one_of, some


class PathPattern:
    """Paths with named parts, such as `{group}/images/{name}.jpg`.

    `{part}` stands for any text within one folder's or file's name, `*` for such text without a name, `**/` for any
    folders in between. Without a suffix, every common image suffix fits.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.fields = tuple(re.findall(r'{(\w+)}', pattern)) if isinstance(pattern, str) else ()
        valid = bool(self.fields) and len(set(self.fields)) == len(self.fields)
        require(valid, 'a path pattern', pattern, 'text with parts in braces, each once ({group}/images/{name}),')
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
        _require_known(where, value, ('groups', 'share'))
        groups, share = value.get('groups', '*'), value.get('share')
        if share is not None:
            require_number(f'{where}: share', share, above=0, at_most=1)
        return cls(tuple(map(str, groups if isinstance(groups, list) else [groups])), share)

    @classmethod
    def parse_argument(cls, text: str) -> tuple[str, 'Split']:
        """From the command line: `NAME=GROUP,GROUP,...` or `NAME=GROUP,...:SHARE`."""
        name, equals, rest = text.partition('=')
        match = re.fullmatch(r'(.*):([0-9.]+)', rest)
        groups, share = (match[1], float(match[2])) if match else (rest, None)
        require(bool(equals and groups), '--split', text, 'NAME=GROUP,GROUP,... or NAME=GROUP,...:SHARE')
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
        require_number('seed', self.seed, at_least=0, whole=True)
        if self.masks is not None:
            # They say which mask belongs to which image.
            same, parts = set(self.masks.fields) == set(self.images.fields), f'the parts of {self.images.pattern!r}'
            require(same, 'the pattern of masks', self.masks.pattern, f'{parts}, the pattern of images,')
        for name in self.splits:
            # It becomes a folder.
            require(bool(SPLIT_NAME.fullmatch(name)), 'a split', name, 'a name of letters, digits, _ and -')


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
        ConfigError: Something in it is not as it should be; the message says what.
    """
    content = read_yaml(path)
    classes = parse_classes(content, str(path))
    known = ('classes', 'images', 'masks', 'encoding', 'splits', 'seed', 'allow_overlap')
    _require_known(str(path), content, known)
    for key, kind, words in (
        ('splits', dict, 'a mapping'),
        ('seed', int, 'a whole number'),
        ('allow_overlap', bool, 'true or false'),
    ):
        value = content.get(key)
        require(not value or isinstance(value, kind), f'{path}: {key}', value, words)
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


def _require_known(where: str, value: dict[Any, Any], known: Sequence[str]) -> None:
    unknown = [str(key) for key in value if key not in known]
    require(not unknown, f'a key of {where}', some(unknown), f'one of {", ".join(known)}')


def _encoding(value: Any, classes: ClassTable, where: str) -> str:
    lacking = {
        'color': [c.name for c in classes.classes if not c.colours],
        'id': [c.name for c in classes.classes if not c.ids],
    }
    possible = [name for name, without in lacking.items() if not without]
    if value is None:
        expected = 'color or id, for the classes have both,' if possible else 'a `color` or an `id` for every class'
        require(len(possible) == 1, f'{where}: encoding', value, expected)
        return possible[0]
    require_one_of(f'{where}: encoding', value, lacking)
    require(value in possible, f'{where}: encoding', value, f'an entry `{value}` for {", ".join(lacking[value])}')
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
        DataError: There is no such folder, no image fits, or two files stand for the same image.
    """
    require_folder(root, 'a folder of images and masks')
    images: dict[tuple, str] = {}
    masks: dict[tuple, str] = {}
    for path in _walk(root):
        for pattern, found in ((recipe.images, images), (recipe.masks, masks)):
            if pattern is not None and (parts := pattern.match(path)) is not None:
                key = tuple(parts[name] for name in recipe.images.fields)
                if key in found:
                    raise DataError(
                        f'{root}: {found[key]} and {path} both fit {pattern.pattern} alike. Remove one of them.'
                    )
                found[key] = path
    if not images:
        others = other_rasters(root)
        raise DataError(
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
            raise DataError(f'{root}: {stems[stem]} and {path} would both be named {stem}. Rename one of them.')
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
        ConfigError: A group that a split names does not exist, shares exceed 1, an image gets into two splits without
            `allow_overlap`, or a split stays empty.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.group, []).append(pair)
    for name, split in recipe.splits.items():
        for pattern in split.groups:
            found = any(_fits(group, pattern) for group in groups)
            require(found, f'a group of split {name}', pattern, f'one of {", ".join(sorted(groups))}')
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
            raise ConfigError(
                f'The images of group {group!r} would be in several splits: {", ".join(wanted)}. Give each a share, '
                'or allow it (allow_overlap, --allow-overlap), as for an unlabelled target that is also evaluated.'
            )
        if sum(shares.values()) > 1 + 1e-9:
            raise ConfigError(f'Group {group!r}: the shares of {", ".join(shares)} add up to more than 1.')
        for name in whole:
            splits[name] += members
        # By the group's name and the seed alone, so that other groups may come and go.
        for name, dealt in deal(members, shares, recipe.seed, group).items():
            splits[name] += dealt
    if empty := [name for name, chosen in splits.items() if not chosen]:
        raise ConfigError(f'No image is left for the split {empty[0]}: choose its groups or a larger share.')
    used = {pair.stem for chosen in splits.values() for pair in chosen}
    return splits, [Dropped(pair.image, 'in no split') for pair in pairs if pair.stem not in used]


def _fits(group: str, pattern: str) -> bool:
    return group == pattern or fnmatch.fnmatchcase(group, pattern)
