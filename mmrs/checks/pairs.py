"""What will bite in training on pairs: findings about which images are paired, and how they fit."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmrs.checks.files import OTHER_PLACE
from mmrs.checks.report import Finding
from mmrs.datasets.geographic_pairs import GeographicPairedDataset
from mmrs.datasets.paired import PairedDataset
from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import open_raster
from mmrs.geo.statistics import Advance, map_files
from mmrs.utils.errors import UnreadableError


def pair_summary(dataset: PairedDataset, name: str) -> dict[str, Any]:
    """What is paired in a data set of pairs; see `Report.pairs`."""
    unpaired = {domain: len(names) for domain, names in dataset.unpaired.items()}
    summary: dict[str, Any] = dict(name=name, text=f'{len(dataset)} pairs', pairs=len(dataset), unpaired=unpaired)
    if isinstance(dataset, GeographicPairedDataset):
        summary.update(text=str(dataset.area), area=dataset.area.as_dict())
    if any(unpaired.values()):
        left = ', '.join(f'{number} of the {domain}' for domain, number in unpaired.items() if number)
        summary['text'] += f'; without a counterpart: {left}'
    return summary


def check_pairs(
    dataset: PairedDataset, name: str, sample: int | None = None, seed: int = 0, workers: int = 0, progress: bool = True
) -> Iterator[Finding]:
    """Findings about a data set of pairs; what is wrong with single images is not among them.

    Args:
        dataset: The data set.
        name: Its name in the report.
        sample: Number of pairs to check, drawn at random; all by default.
        seed: Of that draw.
        workers: Number of threads.
        progress: Whether to show a progress bar.
    """
    for domain, names in dataset.unpaired.items():
        if names:
            yield Finding('unpaired', f'{name} {domain}', tuple(names))
    if isinstance(dataset, GeographicPairedDataset):  # all images are brought to one size and place
        return
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    files = list(dict.fromkeys((info['source']['img_path'], info['target']['img_path']) for info in infos))
    if sample is not None and sample < len(files):
        files = random.Random(seed).sample(files, sample)
    found = map_files(_compare, files, [1] * len(files), workers, 'Comparing pairs', progress)
    for pair, (kind, texts) in zip(files, found):
        if kind:
            yield Finding(kind, name, pair, *texts)


def _compare(files: tuple[str, str], _: Advance) -> tuple[str, tuple[str, ...]]:
    """Kind of what is wrong with a pair, and what was found and expected; empty where nothing is."""
    try:
        grids = []
        for path in files:
            with open_raster(path, quiet=True) as raster:
                grids.append(RasterGrid.of(raster))
    except UnreadableError:  # a finding about that file
        return '', ()
    first, second = grids
    if first.shape != second.shape:
        return 'pair_size', tuple(f'{grid.width} x {grid.height} pixels (width x height)' for grid in (second, first))
    if not (first.is_georeferenced and second.is_georeferenced) or None in (first.crs, second.crs):
        return '', ()
    if first.crs != second.crs:
        return 'pair_place', (f'target in {second.crs}', str(first.crs))
    offset = first.offset(second)
    if np.isfinite(offset) and offset <= OTHER_PLACE:
        return '', ()
    return 'pair_place', (f'corners {offset:.3g} pixels apart', f'at most {OTHER_PLACE}')
