"""Writes the demo pair: synthetic scenes in the layout of the ISPRS benchmark's own archives.

The members are GeoTIFFs under the benchmark's names, so whatever reads the real archives reads these:

- Potsdam, 5 cm, EPSG:32633: ``2_Ortho_RGB.zip``, ``3_Ortho_IRRG.zip``, ``5_Labels_all_noBoundary.zip``;
- Vaihingen, 9 cm, near infrared, red, green, EPSG:32632: ``ISPRS_semantic_labeling_Vaihingen.zip``,
  ``ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pooch
import rasterio
from rasterio.transform import Affine

from mmrs.geo.statistics import default_workers
from mmrs.preparation.converters.isprs import LABEL_OF_COLOUR, POTSDAM, VAIHINGEN
from mmrs.preparation.converters.running import advance, run_tasks
from mmrs.preparation.synthetic.rendering import render
from mmrs.preparation.synthetic.town import MINIMUM_SIZE, lay_out
from mmrs.preparation.synthetic.worlds import SOURCE_WORLD, world_at
from mmrs.utils.errors import ConfigError, OutputError, require_number
from mmrs.utils.files import new_directory, write_json
from mmrs.utils.records import differences, shown

#: Raised whenever the same parameters would give other pixels.
VERSION = 1
MANIFEST = 'manifest.json'
_GENERATOR = 'mmrs synthetic ISPRS pair'

_SPLITS = {'potsdam': POTSDAM.splits, 'vaihingen': VAIHINGEN.splits}
_GSD = {'potsdam': 0.05, 'vaihingen': 0.09}
_CRS = {'potsdam': 'EPSG:32633', 'vaihingen': 'EPSG:32632'}

# By label id, 0 (the boundary) to 6.
_COLOURS = np.array(sorted(LABEL_OF_COLOUR, key=lambda colour: LABEL_OF_COLOUR[colour]), np.uint8)

RGB, IRRG = (0, 1, 2), (3, 0, 1)

VAIHINGEN_IMAGES = 'ISPRS_semantic_labeling_Vaihingen.zip'
VAIHINGEN_LABELS = 'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip'
ARCHIVES = ('2_Ortho_RGB.zip', '3_Ortho_IRRG.zip', '5_Labels_all_noBoundary.zip', VAIHINGEN_IMAGES, VAIHINGEN_LABELS)


@dataclass(frozen=True)
class Tile:
    """One tile to be made.

    Attributes:
        domain: ``'potsdam'`` or ``'vaihingen'``.
        name: The benchmark's tile name, such as ``'2_10'`` or ``'1'``.
        subset: ``'train'`` or ``'val'``, by the published split.
        size: Width and height in pixels.
        gap: The domain gap; Potsdam is always at 0.
        seed: Seed of the whole pair.
    """

    domain: str
    name: str
    subset: str
    size: int
    gap: float
    seed: int

    @property
    def gsd(self) -> float:
        """Ground sampling distance, metres per pixel."""
        return _GSD[self.domain]

    @property
    def crs(self) -> str:
        """Coordinate reference system."""
        return _CRS[self.domain]

    @property
    def transform(self) -> Affine:
        """Pixel to map coordinates; tiles stand on a grid of 300 m, wider where they would overlap."""
        pitch = 300.0
        while pitch < self.size * self.gsd:
            pitch += 300.0
        if self.domain == 'potsdam':
            row, column = (int(part) for part in self.name.split('_'))
            west, north = 366000.0 + pitch * (column - 7), 5808600.0 - pitch * (row - 2)
        else:
            area = int(self.name) - 1
            west, north = 496700.0 + pitch * (area % 8), 5420200.0 - pitch * (area // 8)
        return Affine(self.gsd, 0.0, west, 0.0, -self.gsd, north)

    def rng(self) -> np.random.Generator:
        """The tile's own generator: a tile does not depend on which others are made."""
        return np.random.default_rng([self.seed, *f'{self.domain} {self.name}'.encode()])

    def members(self) -> dict[tuple[str, str], tuple[int, ...] | None]:
        """(archive, member) to the bands of the image, or None for the label."""
        if self.domain == 'potsdam':
            stem = f'top_potsdam_{self.name}'
            return {
                (ARCHIVES[0], f'2_Ortho_RGB/{stem}_RGB.tif'): RGB,
                (ARCHIVES[1], f'3_Ortho_IRRG/{stem}_IRRG.tif'): IRRG,
                (ARCHIVES[2], f'{stem}_label_noBoundary.tif'): None,
            }
        stem = f'top_mosaic_09cm_area{self.name}'
        return {
            (VAIHINGEN_IMAGES, f'top/{stem}.tif'): IRRG,
            (VAIHINGEN_LABELS, f'{stem}_noBoundary.tif'): None,
        }


def erode_boundaries(label: np.ndarray, radius: int = 3) -> np.ndarray:
    """Sets pixels within ``radius`` of another class to 0, as in the benchmark's ``noBoundary`` labels.

    Args:
        label: Class ids, uint8 (H, W).
        radius: Radius of the disc in pixels; the benchmark's is 3.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.where(cv2.dilate(label, disc) == cv2.erode(label, disc), label, 0).astype(np.uint8)


def make_tile(tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """The tile's image, uint8 (H, W, 4) red, green, blue, near infrared, and class ids 1 to 6, uint8 (H, W)."""
    rng = tile.rng()
    world = SOURCE_WORLD if tile.domain == 'potsdam' else world_at(tile.gap)
    scene = lay_out((tile.size * tile.gsd,) * 2, world, rng)
    rendering = render(scene, world, tile.gsd, rng)
    return rendering.image, rendering.label


class _Written(NamedTuple):
    """What a worker leaves: the files by (archive, member), and the class shares."""

    files: dict[tuple[str, str], str]
    shares: list[float]


def _write_tile(task: tuple[Tile, str]) -> _Written:
    tile, folder = task
    cv2.setNumThreads(1)  # the processes share the cores already
    image, label = make_tile(tile)
    files = {}
    for (archive, member), bands in tile.members().items():
        pixels = _COLOURS[erode_boundaries(label)] if bands is None else image[..., list(bands)]
        path = os.path.join(folder, os.path.basename(member))
        _write_geotiff(path, pixels, tile)
        files[archive, member] = path
    advance()
    shares = np.bincount(label.ravel(), minlength=7)[1:7] / label.size
    return _Written(files, [round(float(share), 5) for share in shares])


def _write_geotiff(path: str, pixels: np.ndarray, tile: Tile) -> None:
    height, width, count = pixels.shape
    profile = {
        'driver': 'GTiff',
        'height': height,
        'width': width,
        'count': count,
        'dtype': 'uint8',
        'crs': tile.crs,
        'transform': tile.transform,
        'interleave': 'pixel',
        'photometric': 'RGB',
        'compress': 'deflate',
        'predictor': 2,
        'zlevel': 1,
    }
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(np.moveaxis(pixels, -1, 0))


def plan_tiles(
    gap: float = 0.5,
    seed: int = 0,
    potsdam_tiles: tuple[int, int] = (7, 3),
    vaihingen_areas: tuple[int, int] = (8, 4),
    potsdam_size: int = 1536,
    vaihingen_size: int = 1024,
) -> list[Tile]:
    """The tiles of a pair: the first train and the first val tiles of the published splits.

    Raises:
        ConfigError: A number is out of range.
    """
    world_at(gap)  # checks the gap
    require_number('seed', seed, at_least=0, whole=True)
    wanted = {'potsdam': (potsdam_tiles, potsdam_size), 'vaihingen': (vaihingen_areas, vaihingen_size)}
    tiles = []
    for domain, (counts, size) in wanted.items():
        require_number(
            f'the size of {domain} tiles', size, at_least=math.ceil(MINIMUM_SIZE / _GSD[domain]), unit='pixels'
        )
        for (subset, names), count in zip(_SPLITS[domain].items(), counts):
            require_number(f'the number of {subset} tiles of {domain}', count, at_least=0, at_most=len(names))
            gap_here = float(gap) if domain == 'vaihingen' else 0.0
            tiles += [Tile(domain, name, subset, size, gap_here, seed) for name in names[:count]]
    if not tiles:
        raise ConfigError('no tiles asked for: raise potsdam_tiles or vaihingen_areas')
    return tiles


def write_isprs_archives(
    out: str | os.PathLike,
    gap: float = 0.5,
    seed: int = 0,
    potsdam_tiles: tuple[int, int] = (7, 3),
    vaihingen_areas: tuple[int, int] = (8, 4),
    potsdam_size: int = 1536,
    vaihingen_size: int = 1024,
    workers: int | None = None,
    overwrite: bool = False,
) -> bool:
    """Makes the demo pair.

    The same arguments give the same bytes. A folder that already holds exactly this pair is left as it is. Files appear
    in ``out`` whole or not at all, the manifest's list of archives last; what an interrupted run left is completed.

    Args:
        out: Folder of the archives; made if missing.
        gap: Domain gap between Potsdam and Vaihingen, 0 (same statistics) to 1.5; 0.5 is medium.
        seed: Seed of every random choice.
        potsdam_tiles: Number of train and of val tiles, from the start of the published splits.
        vaihingen_areas: Number of train and of val areas, in the same way.
        potsdam_size: Width and height of a Potsdam tile in pixels of 5 cm.
        vaihingen_size: Width and height of a Vaihingen area in pixels of 9 cm.
        workers: Number of processes; None for one per core, at most 8. 1 works in this process.
        overwrite: Replace another synthetic pair in ``out``. Archives of unknown origin are never replaced.

    Returns:
        True if files were written, False if ``out`` already held this pair.

    Raises:
        ConfigError: A number is out of range.
        OutputError: ``out`` holds another pair and ``overwrite`` is off, or archives of unknown origin.
    """
    tiles = plan_tiles(gap, seed, potsdam_tiles, vaihingen_areas, potsdam_size, vaihingen_size)
    manifest = describe(tiles, gap, seed)
    out = Path(out)
    if is_current(out, manifest):
        return False
    check_replaceable(out, manifest, overwrite)
    new_directory(out, overwrite=True)
    scratch = Path(tempfile.mkdtemp(prefix='.partial-', dir=out))
    try:
        tasks = [(tile, str(scratch)) for tile in tiles]
        results = run_tasks(_write_tile, tasks, workers or default_workers(), len(tiles), 'Synthetic scenes')
        members: dict[str, dict[str, str]] = {}
        for tile, written in zip(tiles, results):
            manifest['tiles'][f'{tile.domain}/{tile.name}']['class_shares'] = written.shares
            for (archive, member), path in written.files.items():
                members.setdefault(archive, {})[member] = path
        for archive, files in members.items():
            _zip(scratch / archive, files)
        manifest['archives'] = {archive: pooch.file_hash(str(scratch / archive)) for archive in members}
        # A manifest without archives says: ours, but unfinished. The complete one comes last.
        write_json({**manifest, 'archives': {}}, out / MANIFEST, overwrite=True)
        for archive in set(ARCHIVES) - set(members):
            (out / archive).unlink(missing_ok=True)
        for archive in members:
            os.replace(scratch / archive, out / archive)
        write_json(manifest, out / MANIFEST, overwrite=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def describe(tiles: list[Tile], gap: float, seed: int) -> dict:
    """The manifest of a pair, as far as it is known beforehand."""
    return {
        'generator': _GENERATOR,
        'version': VERSION,
        'gap': float(gap),
        'seed': seed,
        'tiles': {f'{t.domain}/{t.name}': {**asdict(t), 'gsd': t.gsd, 'crs': t.crs} for t in tiles},
    }


def read_manifest(out: str | os.PathLike) -> dict | None:
    """The manifest in ``out``, or None where there is none of this generator's."""
    try:
        manifest = json.loads((Path(out) / MANIFEST).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    ours = isinstance(manifest, dict) and manifest.get('generator') == _GENERATOR and 'archives' in manifest
    return manifest if ours else None


def is_current(out: Path, manifest: dict) -> bool:
    """Whether ``out`` holds the finished pair that ``manifest`` describes."""
    found = read_manifest(out)
    if found is None or _differences(found, manifest):
        return False
    return bool(found['archives']) and all((out / name).is_file() for name in found['archives'])


def _differences(found: dict, manifest: dict) -> list[str]:
    """In what the manifest found differs; what is only known afterwards does not count."""
    tiles = {
        name: {k: v for k, v in tile.items() if k != 'class_shares'} for name, tile in found.get('tiles', {}).items()
    }
    return differences({**{key: found.get(key) for key in manifest}, 'tiles': tiles}, manifest)


def check_replaceable(out: Path, manifest: dict, overwrite: bool) -> None:
    """Raises OutputError if writing to ``out`` would replace something that it must not."""
    if out.exists() and not out.is_dir():
        raise OutputError(f'{out} is a file, expected a folder or a path that does not exist yet')
    present = [name for name in (*ARCHIVES, MANIFEST) if (out / name).exists()]
    if not present:
        return
    found = read_manifest(out)
    if found is None:
        raise OutputError(
            f'{out} holds {", ".join(present)} without the manifest of this generator: they may be the real '
            'archives and are never replaced. Choose another folder or remove them yourself.'
        )
    differs = _differences(found, manifest)
    if differs and not overwrite:
        raise OutputError(
            f'{out} holds another synthetic pair ({shown(differs)}). Choose another folder, or replace it with '
            '--overwrite (overwrite=True).'
        )


def _zip(path: Path, files: dict[str, str]) -> None:
    """Moves files into a new archive: stored, as the GeoTIFFs are deflated, and with a fixed date for equal bytes."""
    with zipfile.ZipFile(path, 'w') as archive:
        for member, file in files.items():
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            with open(file, 'rb') as source, archive.open(info, 'w') as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.remove(file)
