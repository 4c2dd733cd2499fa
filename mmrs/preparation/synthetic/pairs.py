"""Writes pairs: each town seen twice, by two cameras in two seasons, in the standard layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmrs.geo.statistics import default_workers
from mmrs.preparation.converters.clips import write_raster
from mmrs.preparation.converters.conversion import Sample
from mmrs.preparation.converters.running import advance, prepare_output, run_tasks
from mmrs.preparation.synthetic.archives import RGB, erode_boundaries
from mmrs.preparation.synthetic.rendering import render
from mmrs.preparation.synthetic.town import MINIMUM_SIZE, lay_out
from mmrs.preparation.synthetic.worlds import SOURCE_WORLD, world_at
from mmrs.utils.errors import require, require_number

#: Raised whenever the same parameters would give other pixels.
VERSION = 1
#: Metres per pixel.
GSD = 0.125
SPLITS = ('train', 'val', 'test')


def make_pair(number: int, size: int, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One town in the source's world and in another.

    Streets, houses, trees and cars are the same; sun, season and camera differ.

    Args:
        number: Number of the town.
        size: Width and height in pixels of `GSD`.
        gap: How far the second world is, see `world_at`.
        seed: Seed of all towns.

    Returns:
        Both images, uint8 `(H, W, 3)` red, green, blue, and class ids 1 to 6, uint8 `(H, W)`.
    """
    scene = lay_out((size * GSD,) * 2, SOURCE_WORLD, np.random.default_rng([seed, number]))
    source, target = (
        # The ground keeps its texture; the noise of two exposures is not the same.
        render(scene, world, GSD, np.random.default_rng([seed, number, 0]), np.random.default_rng([seed, number, i]))
        for i, world in enumerate((SOURCE_WORLD, world_at(gap)), start=1)
    )
    return source.image[..., RGB], target.image[..., RGB], source.label


class _Town(NamedTuple):
    number: int
    size: int
    gap: float
    seed: int
    samples: tuple[Sample, ...]


def _write(town: _Town) -> None:
    if not all(sample.is_written for sample in town.samples):
        cv2.setNumThreads(1)  # the processes share the cores already
        *images, label = make_pair(town.number, town.size, town.gap, town.seed)
        for sample, image in zip(town.samples, images):
            write_raster(sample.image, np.moveaxis(image, -1, 0))
            write_raster(sample.labels, erode_boundaries(label))
    advance()


def write_pairs(
    out: str | os.PathLike,
    gap: float = 0.75,
    seed: int = 0,
    towns: Sequence[int] = (48, 8, 16),
    size: int = 512,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Makes the two data sets `OUT/source` and `OUT/target`, whose images have the same names and show the same towns.

    The same arguments give the same pixels. What is there already stays, so that an interrupted run goes on.

    Args:
        out: Their folder.
        gap: Domain gap, 0 to 1.5.
        seed: Seed of every random choice.
        towns: Number of pairs for train, val and test.
        size: Width and height of an image in pixels of `GSD`.
        workers: Number of processes; None for one per core, at most 8.
        overwrite: Replace pairs of other settings.

    Raises:
        ConfigError: A number is out of range.
        OutputError: A folder holds pairs of other settings and `overwrite` is off, or files of unknown origin.
    """
    world_at(gap)  # checks it
    valid = len(towns) == len(SPLITS) and min(towns) >= 0 and sum(towns) > 0
    require(valid, 'towns', list(towns), f'a number of pairs for each of {", ".join(SPLITS)}')
    require_number('size', size, at_least=MINIMUM_SIZE / GSD, unit='pixels', whole=True)
    require_number('seed', seed, at_least=0, whole=True)
    settings: dict[str, Any] = dict(data='synthetic pairs', version=VERSION, gap=gap, seed=seed, size=size, towns=towns)
    folders = [Path(out) / domain for domain in ('source', 'target')]
    for folder in folders:
        prepare_output(folder, dict(settings, domain=folder.name), overwrite, SPLITS)
    split_of = np.repeat(SPLITS, towns).tolist()
    tasks = [
        _Town(i, size, gap, seed, tuple(Sample.place(folder, split, f'town_{i:03d}', '.png') for folder in folders))
        for i, split in enumerate(split_of)
    ]
    run_tasks(_write, tasks, workers or default_workers(), len(tasks), 'Synthetic pairs')
