"""Potsdam and Vaihingen, as the ISPRS publishes them, to clips in the standard layout."""

import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import rasterio
from rich.console import Console
from rich.table import Table

from mmrs.datasets.converters.clips import (
    Clip,
    check_clipping,
    clip_grid,
    georeference,
    read_clip,
    write_raster,
)
from mmrs.datasets.converters.encoding import UNKNOWN, MaskEncoder
from mmrs.datasets.converters.running import advance, is_written, prepare_output, run_tasks
from mmrs.datasets.rasters import open_raster

#: Label id by colour (RGB). 0, the boundary between objects, is ignored.
LABEL_OF_COLOUR = {
    (0, 0, 0): 0,
    (255, 255, 255): 1,
    (0, 0, 255): 2,
    (0, 255, 255): 3,
    (0, 255, 0): 4,
    (255, 255, 0): 5,
    (255, 0, 0): 6,
}

# Enough for the blocks under a row of clips, where files are tiled or striped; GDAL would take 5 % of the memory for
# each process.
_CACHE_MEGABYTES = 256


@dataclass(frozen=True)
class Archive:
    """One of the two data sets.

    Attributes:
        name: Its name.
        splits: The tiles of each split, as the file names have them.
        overlap: Share of a clip that the next one repeats, where no stride is asked for.
        clip_name: What stands in front of the pixel coordinates in a clip's name.
        files: What to look for, for messages: by kind of file, the archive that has it.
    """

    name: str
    splits: dict[str, tuple[str, ...]]
    overlap: float
    clip_name: str
    files: dict[str, str]

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """Kind (`irrg`, `rgb`, `eroded`, `full`) and tile of a file of the archives, None for all others."""
        raise NotImplementedError


class PotsdamArchive(Archive):
    """Potsdam: 38 tiles, RGB and IRRG images."""

    _IMAGE = re.compile(r'top_potsdam_0*(\d+)_0*(\d+)_(RGB|IRRG)\.tiff?', re.IGNORECASE)
    _LABEL = re.compile(r'top_potsdam_0*(\d+)_0*(\d+)_label(_noBoundary)?\.tiff?', re.IGNORECASE)

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """See `Archive`."""
        if match := self._IMAGE.fullmatch(path.name):
            return match[3].lower(), f'{match[1]}_{match[2]}'
        if match := self._LABEL.fullmatch(path.name):
            return 'eroded' if match[3] else 'full', f'{match[1]}_{match[2]}'
        return None


class VaihingenArchive(Archive):
    """Vaihingen: 33 areas, IRRG images."""

    _FILE = re.compile(r'top_mosaic_09cm_area(\d+)(_noBoundary)?\.tiff?', re.IGNORECASE)

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """See `Archive`. Images and full labels have the same names: the images are those in a folder `top`."""
        match = self._FILE.fullmatch(path.name)
        if match is None:
            return None
        if match[2]:
            return 'eroded', match[1]
        return 'irrg' if path.parent.name == 'top' else 'full', match[1]


POTSDAM = PotsdamArchive(
    name='Potsdam',
    splits=dict(
        train=tuple(
            '2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 '
            '7_7 7_8 7_9 7_10 7_11 7_12'.split()
        ),
        val=tuple('2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13'.split()),
    ),
    overlap=0.0,
    clip_name='',
    files=dict(
        rgb='2_Ortho_RGB.zip (top_potsdam_2_10_RGB.tif, ...)',
        irrg='3_Ortho_IRRG.zip (top_potsdam_2_10_IRRG.tif, ...)',
        eroded='5_Labels_all_noBoundary.zip (top_potsdam_2_10_label_noBoundary.tif, ...)',
        full='5_Labels_all.zip (top_potsdam_2_10_label.tif, ...)',
    ),
)

VAIHINGEN = VaihingenArchive(
    name='Vaihingen',
    splits=dict(
        train=tuple('1 3 4 6 10 11 12 14 15 16 17 21 23 26 27 28 29 30 31 32 33 34 35 37 38'.split()),
        val=tuple('2 5 7 8 13 20 22 24'.split()),
    ),
    overlap=0.5,
    clip_name='area',
    files=dict(
        irrg='ISPRS_semantic_labeling_Vaihingen.zip (top/top_mosaic_09cm_area1.tif, ...)',
        eroded='ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip '
        '(top_mosaic_09cm_area1_noBoundary.tif, ...)',
        full='ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE.zip '
        '(top_mosaic_09cm_area1.tif, ..., in a folder of any name but `top`)',
    ),
)


class Tile(NamedTuple):
    """What one process works on at a time."""

    image: str
    labels: str
    out: Path
    split: str
    prefix: str
    clips: tuple[Clip, ...]
    tolerance: int

    def paths(self, clip: Clip) -> tuple[Path, Path]:
        """Where the image and the label map of a clip go."""
        name = f'{self.prefix}_{clip}.png'
        return self.out / 'img_dir' / self.split / name, self.out / 'ann_dir' / self.split / name


@dataclass
class Conversion:
    """The conversion of one archive.

    Args:
        archive: `POTSDAM` or `VAIHINGEN`.
        source: Folder of the archive's zip files, or of what was in them, at any depth.
        out: Folder that gets `img_dir/{train,val}` and `ann_dir/{train,val}`.
        bands: `irrg` or `rgb`.
        labels: `eroded` (boundaries between objects ignored) or `full`; by default eroded where there are any.
        clip_size: Pixels of a clip's side.
        stride: Pixels from one clip to the next; by default the published one: the clip size for Potsdam, half of it
            for Vaihingen.
        edge: `drop` (published) or `shift`; see `clip_origins`.
        tolerance: How far a label colour may be from a class's in each channel (0 to 255).
        allow_missing: Whether to convert the tiles that are there when others are not.
    """

    archive: Archive
    source: Path
    out: Path
    bands: str = 'irrg'
    labels: str | None = None
    clip_size: int = 512
    stride: int | None = None
    edge: str = 'drop'
    tolerance: int = 0
    allow_missing: bool = False
    missing: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.source, self.out = Path(self.source), Path(self.out)
        if self.stride is None:
            self.stride = max(1, round(self.clip_size * (1 - self.archive.overlap)))
        check_clipping(self.clip_size, self.stride, self.edge)

    def run(self, workers: int = 1, dry_run: bool = False, force: bool = False) -> dict[str, int]:
        """Converts what is not yet converted.

        Args:
            workers: Number of processes.
            dry_run: Only count.
            force: Replace the results of an earlier conversion.

        Returns:
            Number of clips by split, whether converted now or before.

        Raises:
            FileNotFoundError: Tiles are missing, or there are none at all.
            FileExistsError: `out` holds something else.
            OSError: A file cannot be read.
            ValueError: A tile is smaller than a clip, image and labels differ in size, or a colour is no class.
        """
        tiles = self.plan()
        counts = {split: sum(len(t.clips) for t in tiles if t.split == split) for split in self.archive.splits}
        self._report(tiles, counts, dry_run)
        if not dry_run:
            prepare_output(self.out, self._settings(), force)
            for split in counts:
                for kind in ('img_dir', 'ann_dir'):
                    (self.out / kind / split).mkdir(parents=True, exist_ok=True)
            run_tasks(convert_tile, tiles, workers, sum(counts.values()), f'{self.archive.name} clips')
        return counts

    def plan(self) -> list[Tile]:
        """Finds the tiles and lays out their clips; reads no more than the sizes."""
        self.missing = []
        found = find_files(self.archive, self.source)
        labels = self.labels or ('eroded' if found.get('eroded') or not found.get('full') else 'full')
        images, masks = found.get(self.bands, {}), found.get(labels, {})
        self.labels = labels
        tiles = []
        for split, names in self.archive.splits.items():
            for name in names:
                if name in images and name in masks:
                    tiles.append(self._lay_out(name, split, images[name], masks[name]))
                else:
                    lacking = [kind for kind, there in ((self.bands, images), (labels, masks)) if name not in there]
                    self.missing.append(f'{self.archive.clip_name}{name} ({split}): no {" and no ".join(lacking)} file')
        if self.missing and (not tiles or not self.allow_missing):
            raise FileNotFoundError(self._missing_message(len(tiles), labels))
        return tiles

    def _lay_out(self, name: str, split: str, image: str, labels: str) -> Tile:
        with open_raster(image, quiet=True) as raster:
            width, height = raster.width, raster.height
        with open_raster(labels, quiet=True) as raster:
            if (raster.width, raster.height) != (width, height):
                raise ValueError(
                    f'{image} has {width} x {height} pixels (width x height), but its labels {labels} have '
                    f'{raster.width} x {raster.height}. They must be of one size.'
                )
        if min(width, height) < self.clip_size:
            raise ValueError(
                f'{image} has {width} x {height} pixels, less than a clip of {self.clip_size}. Choose a smaller '
                '--clip-size.'
            )
        assert self.stride is not None
        clips = tuple(clip_grid(width, height, self.clip_size, self.stride, self.edge))
        return Tile(image, labels, self.out, split, f'{self.archive.clip_name}{name}', clips, self.tolerance)

    def _settings(self) -> dict:
        names = ('bands', 'labels', 'clip_size', 'stride', 'edge', 'tolerance')
        return dict(data=self.archive.name, **{name: getattr(self, name) for name in names})

    def _missing_message(self, tiles_found: int, labels: str) -> str:
        message = f'{self.source} lacks {len(self.missing)} of the tiles of {self.archive.name}:\n  '
        message += '\n  '.join(self.missing)
        message += '\nExpected there, as zip files or unpacked:'
        message += ''.join(f'\n  {kind}: {self.archive.files[kind]}' for kind in (self.bands, labels))
        if nested := [path for path in self.source.rglob('*.zip') if _has_nested_zip(path)]:
            message += f'\n{nested[0]} holds further zip files: unpack it first.'
        return message + ('\nTo convert the other tiles alone, add --allow-missing.' if tiles_found else '')

    def _report(self, tiles: list[Tile], counts: dict[str, int], dry_run: bool) -> None:
        table = Table(title=f'{self.archive.name}, {self.bands}, {self.labels} labels', title_justify='left')
        for heading in ('split', 'tiles', 'clips', 'already there'):
            table.add_column(heading, justify='left' if heading == 'split' else 'right')
        for split, count in counts.items():
            own = [tile for tile in tiles if tile.split == split]
            done = sum(all(map(is_written, tile.paths(clip))) for tile in own for clip in tile.clips)
            table.add_row(split, f'{len(own)} of {len(self.archive.splits[split])}', str(count), str(done))
        console = Console()
        console.print(table)
        if self.missing:
            names = ', '.join(text.partition(' (')[0] for text in self.missing)
            console.print(f'Left out {len(self.missing)} tiles: {names}', highlight=False)
        if dry_run:
            console.print(f'Dry run: nothing is written to {self.out}.', highlight=False)


def find_files(archive: Archive, source: str | Path) -> dict[str, dict[str, str]]:
    """GDAL paths of an archive's files by kind and tile; unpacked files go before those in zip files.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: A zip file is broken.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such folder; the zip files of {archive.name} were expected there')
    found: dict[str, dict[str, str]] = {}
    for gdal_path, path in (*_unpacked(source), *_zipped(source)):
        if kind_and_tile := archive.classify(path):
            found.setdefault(kind_and_tile[0], {}).setdefault(kind_and_tile[1], gdal_path)
    return found


def _unpacked(source: Path) -> Iterator[tuple[str, PurePosixPath]]:
    for path in sorted(source.rglob('*.[tT][iI][fF]*')):
        # Absolute, so that the folder `top` counts even where it is the one that was named.
        yield str(path), PurePosixPath(Path(os.path.abspath(path)).as_posix())


def _zipped(source: Path) -> Iterator[tuple[str, PurePosixPath]]:
    for path in sorted(source.rglob('*.[zZ][iI][pP]')):
        for member in _members(path):
            # Braces keep GDAL from guessing where the name of the zip file ends.
            yield f'/vsizip/{{{path.resolve()}}}/{member}', PurePosixPath(path.stem) / member


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise OSError(f'{path} is no whole zip file: {error}. Download it again.') from error


def _has_nested_zip(path: Path) -> bool:
    return any(member.lower().endswith('.zip') for member in _members(path))


def convert_tile(tile: Tile) -> None:
    """Writes the clips of one tile that are not there yet."""
    todo = [clip for clip in tile.clips if not all(map(is_written, tile.paths(clip)))]
    advance(len(tile.clips) - len(todo))
    if not todo:
        return
    encoder = MaskEncoder(LABEL_OF_COLOUR, tile.tolerance)
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES),
        open_raster(tile.image, quiet=True) as image,
        open_raster(tile.labels, quiet=True) as labels,
    ):
        for clip in todo:
            ids = encoder.encode(encoder.read(labels, clip.window))
            if (ids == UNKNOWN).any():
                _, unknown = encoder.survey(labels)
                raise ValueError(
                    f'{tile.labels} has colours that are no class: '
                    f'{encoder.describe_unknown(unknown, labels.width * labels.height)} of the pixels. Expected: '
                    f'{encoder.known}. If they are slightly off, '
                    '--tolerance N takes them for the nearest class, up to N away in each channel.'
                )
            image_path, label_path = tile.paths(clip)
            write_raster(image_path, read_clip(image, clip), **georeference(image, clip))
            write_raster(label_path, ids, **georeference(image, clip))
            advance()
