"""Which clips belong to which split."""

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeVar

import numpy as np
from rich.console import Console

from mmrs.geo.folders import RASTER_SUFFIXES
from mmrs.utils.errors import ConfigError, DataError, require_file, require_number, some

#: Names of splits, which become names of folders.
SPLIT_NAME = re.compile(r'[\w-]+')

Item = TypeVar('Item')


def deal(items: Sequence[Item], shares: Mapping[str, float], seed: int, group: str = '') -> dict[str, list[Item]]:
    """Deals items to splits at random.

    Args:
        items: The items, in an order that does not change.
        shares: Part of the items (above 0, all together up to 1) by split.
        seed: Seed of the order in which they are dealt.
        group: A name that changes the order, so that groups are dealt independently.

    Returns:
        The items of each split, in the order of `items`.
    """
    order = np.random.default_rng([seed, zlib.crc32(group.encode())]).permutation(len(items))
    dealt: dict[str, list[Item]] = {}
    begin, total = 0, 0.0
    for name, share in shares.items():
        total += share
        end = round(total * len(items))
        dealt[name] = [items[i] for i in sorted(order[begin:end])]
        begin = end
    return dealt


def digest(names: Iterable[str]) -> str:
    """A hash that tells sets of names apart."""
    return hashlib.sha256('\n'.join(sorted(names)).encode()).hexdigest()


class Splits(Protocol):
    """A way to choose splits."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the splits."""

    def assign(self, clips: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Split by clip; clips of no split are absent.

        Args:
            clips: Names of the clips of each tile.
        """

    def settings(self) -> dict[str, Any]:
        """What decides about the splits, as JSON."""


@dataclass(frozen=True)
class FixedSplits:
    """Splits by tile.

    Args:
        tiles: Names of the tiles of each split.

    Raises:
        ConfigError: A tile is in two splits.
    """

    tiles: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        every = [tile for tiles in self.tiles.values() for tile in tiles]
        if twice := sorted({tile for tile in every if every.count(tile) > 1}):
            raise ConfigError(f'Tile {twice[0]} is in several splits: {", ".join(self.tiles)}. It belongs to one.')

    @property
    def names(self) -> tuple[str, ...]:
        """See `Splits`."""
        return tuple(self.tiles)

    def assign(self, clips: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """See `Splits`."""
        split_of = {tile: split for split, tiles in self.tiles.items() for tile in tiles}
        return {clip: split_of[tile] for tile, own in clips.items() if tile in split_of for clip in own}

    def settings(self) -> dict[str, Any]:
        """See `Splits`."""
        return {split: list(tiles) for split, tiles in self.tiles.items()}


@dataclass(frozen=True)
class RandomSplits:
    """Splits at random by tile, so that all clips of one tile are on the same side.

    Args:
        val_share: Part of the tiles that goes to validation, 0 to below 1.
        seed: Seed of the choice.

    Raises:
        ConfigError: The share is out of range.
    """

    val_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        require_number('val_share', self.val_share, at_least=0, below=1)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Splits`."""
        return ('train', 'val') if self.val_share else ('train',)

    def assign(self, clips: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """See `Splits`; raises ConfigError if a split would be empty."""
        shares = dict(zip(self.names, (1 - self.val_share, self.val_share)))
        dealt = deal(sorted(clips), shares, self.seed)
        if empty := [name for name, tiles in dealt.items() if not tiles]:
            raise ConfigError(
                f'A share of {shares[empty[0]]:g} of {len(clips)} images leaves none for {empty[0]}. Choose another '
                '--val-share; 0 puts all images to train.'
            )
        return FixedSplits({name: tuple(tiles) for name, tiles in dealt.items()}).assign(clips)

    def settings(self) -> dict[str, Any]:
        """See `Splits`."""
        return dict(val_share=self.val_share, seed=self.seed)


class SplitLists:
    """Splits that text files list, one name of a clip a line, with or without suffix.

    Args:
        files: The list of each split.
        allow_missing: Whether names of clips that are not there are left out, as long as some are there.

    Raises:
        DataError: A list is missing, empty or no text, or a clip is in several.
    """

    def __init__(self, files: Mapping[str, Path], allow_missing: bool = False) -> None:
        self._files, self._allow_missing = dict(files), allow_missing
        self._split_of: dict[str, str] = {}
        listed = [(name, split) for split, file in self._files.items() for name in _read_list(file)]
        for name, split in listed:
            self._split_of.setdefault(name, split)
        if several := [name for name, split in listed if self._split_of[name] != split]:
            raise DataError(
                f'{len(several)} clips are in several of the lists {", ".join(map(str, self._files.values()))}: '
                f'{some(several, 3)}. A clip belongs to one split; take them out of the others.'
            )

    @property
    def names(self) -> tuple[str, ...]:
        """See `Splits`."""
        return tuple(self._files)

    def assign(self, clips: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """See `Splits`; raises DataError if a list names what is no clip."""
        clip_of = {_plain(clip): clip for own in clips.values() for clip in own}
        unknown: dict[str, list[str]] = {split: [] for split in self._files}
        for name, split in self._split_of.items():
            if name not in clip_of:
                unknown[split].append(name)
        for split, names in unknown.items():
            total = sum(own == split for own in self._split_of.values())
            about = f'{self._files[split]}: {len(names)} of its {total} names are no clips: {some(names, 3)}.'
            if names and self._allow_missing and len(names) < total:
                Console(stderr=True, markup=False, highlight=False).print(f'{about} They are left out.')
            elif names:
                example = next(iter(clip_of.values()), 'nothing')
                raise DataError(
                    f'{about} The {len(clip_of)} clips are named like {example}. Is the list of this data set and clip '
                    'size, and is every image there? --allow-missing leaves out what is not.'
                )
        return {clip_of[name]: split for name, split in self._split_of.items() if name in clip_of}

    def settings(self) -> dict[str, Any]:
        """See `Splits`."""
        result = {}
        for split in self._files:
            own = [name for name, other in self._split_of.items() if other == split]
            result[split] = dict(clips=len(own), sha256=digest(own))
        return result


def _read_list(file: Path) -> list[str]:
    what = 'a list of clips, one name a line,'
    require_file(file, what)
    try:
        lines = Path(file).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{file} is no text: {error}; {what} was expected') from error
    names = [_plain(line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f'{file} is empty; {what} was expected')
    return names


def _plain(name: str) -> str:
    """A clip's name without folders, suffix, and the `_RGB` that some lists leave out."""
    name = PurePath(name).name
    suffix = next((suffix for suffix in RASTER_SUFFIXES if name.lower().endswith(suffix)), '')
    return name[: len(name) - len(suffix)].removesuffix('_RGB')
