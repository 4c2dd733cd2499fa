"""What a consensus is worth: masks that are known, three careless annotators of each, and what becomes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import shift

from mmrs.apis.comparison import Spread, markdown_table
from mmrs.apis.consensus import make_consensus
from mmrs.evaluation.iou_metric import confusion_matrix, scores
from mmrs.geo.classes import IGNORE_INDEX, load_classes
from mmrs.geo.folders import list_rasters
from mmrs.geo.grids import RasterGrid
from mmrs.geo.headers import read_header
from mmrs.geo.labels import label_facts, read_labels
from mmrs.geo.masks import holds_colours
from mmrs.geo.rasters import PathLike, read_image, read_label_map
from mmrs.preparation.consensus.annotators import data_costs
from mmrs.utils.errors import DataError, require_number
from mmrs.utils.files import new_directory, write_json, write_text
from mmrs.utils.progress import progress_bar
from mmrs.visualization.panels import class_colours, colour_labels, compose, to_display, write_picture

__all__ = ['CORRUPTIONS', 'consensus_study', 'corrupted']

#: Share of the labelled pixels that blobs and exchanges of classes spoil, and pixels by which borders are moved.
BLOBS, SWAPS, SHIFT = 0.2, 0.3, 3

#: Smallest and largest radius of what is spoilt at once, in pixels.
_RADII = 8, 40

_MOST_DISCS = 10_000


def with_blobs(mask: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Discs of any class on a mask ``(H, W)``, until a share `BLOBS` of the labelled pixels is wrong."""
    return _in_discs(mask, BLOBS, rng, lambda here: np.full_like(here, rng.integers(classes)))


def with_swaps(mask: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Discs in which two classes of the mask are exchanged, until a share `SWAPS` of the labelled pixels is wrong."""
    present = np.intersect1d(mask, np.arange(classes))

    def swap(here: np.ndarray) -> np.ndarray:
        a, b = rng.choice(present, 2, replace=False)
        return np.where(here == a, b, np.where(here == b, a, here))

    return mask.copy() if len(present) < 2 else _in_discs(mask, SWAPS, rng, swap)


def with_shift(mask: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """All borders `SHIFT` pixels away in a diagonal direction; what is not annotated stays as it is."""
    moved = shift(mask, SHIFT * rng.choice([-1, 1], 2), order=0, mode='nearest')
    return np.where((mask < classes) & (moved < classes), moved, mask)


def _in_discs(
    mask: np.ndarray, share: float, rng: np.random.Generator, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What a change of the mask in discs makes of it; where they overlap, the last one counts."""
    spoilt, labelled = mask.copy(), mask != IGNORE_INDEX
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    for _ in range(_MOST_DISCS):
        radius, row, column = rng.integers(*_RADII), rng.integers(mask.shape[0]), rng.integers(mask.shape[1])
        disc = ((rows - row) ** 2 + (columns - column) ** 2 < radius**2) & labelled
        spoilt[disc] = change(mask[disc])
        if (spoilt != mask)[labelled].mean() >= share:
            break
    return spoilt


#: The three careless annotators.
CORRUPTIONS = dict(shift=with_shift, blobs=with_blobs, swaps=with_swaps)


def corrupted(mask: np.ndarray, classes: int, seed: int) -> dict[str, np.ndarray]:
    """What each of `CORRUPTIONS` makes of a mask ``(H, W)`` of class indices."""
    return {name: spoil(mask, classes, np.random.default_rng([seed, i])) for i, (name, spoil) in
            enumerate(CORRUPTIONS.items())}  # fmt: skip


def consensus_study(
    images: PathLike,
    masks: PathLike,
    classes: PathLike,
    out: PathLike,
    seeds: Sequence[int] = (0, 1, 2),
    every: int = 1,
    size: int = 512,
    overwrite: bool = False,
) -> str:
    """Corrupt masks in three ways, make one of the three again, and score it against the mask that they are of.

    Args:
        images: Folder of images.
        masks: Folder of masks on their grids, of the same names.
        classes: Table of the classes.
        out: Folder for ``study.json``, ``study.md`` and ``sample.jpg``, a picture of the first image.
        seeds: Of the corruptions.
        every: Take each n-th image only.
        size: Side in pixels of the upper left part of each image that is taken.
        overwrite: Write into a folder that is not empty.

    Returns:
        The table, Markdown.

    Raises:
        DataError: No image has a mask, or a file cannot be used.
        OutputError: The folder is not empty, or cannot be written.
    """
    require_number('every', every, at_least=1, whole=True)
    require_number('size', size, at_least=1, whole=True)
    table, folder = load_classes(classes), new_directory(out, overwrite)
    known, drawn = list_rasters(images), list_rasters(masks)
    pairs = [(Path(images, known[n]), Path(masks, drawn[n])) for n in sorted(known.keys() & drawn.keys())][::every]
    if not pairs:
        raise DataError(f'no image of {images} is called like a mask of {masks}')
    found: dict[int, dict[str, Any]] = {}
    with progress_bar(transient=True) as bar, warnings.catch_warnings(), TemporaryDirectory() as work:
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        Path(work, 'classes.yaml').write_text(table.converted().to_yaml(), encoding='utf-8')
        task = bar.add_task('images', total=len(pairs) * len(seeds))
        for seed in seeds:
            results = []
            for n, (image, mask) in enumerate(pairs):
                results.append(_one(image, mask, table, size, 1000 * seed + n, Path(work)))
                picture = results[-1].pop('picture')
                if not found and not n:
                    write_picture(folder / 'sample.jpg', picture, overwrite=True)
                bar.advance(task)
            found[seed] = _pooled(results)
    rows = _rows(found)
    text = markdown_table(['', 'value'], [[name, str(Spread(values))] for name, values in rows.items()])
    text += f'\n{len(pairs)} images of at most {size} x {size} pixels, seeds {", ".join(map(str, seeds))}.\n'
    write_json(dict(images=[str(image) for image, _ in pairs], size=size, seeds=found), folder / 'study.json', True)
    write_text(text, folder / 'study.md', True)
    return text


def _one(image: Path, mask: Path, table: Any, size: int, seed: int, work: Path) -> dict[str, Any]:
    """Confusion matrices of annotators, votes and consensus of one image, and how consistent the annotators are."""
    number, header = len(table.names), read_header(str(image), find_empty=False)
    window = 0, 0, min(size, header.grid.width), min(size, header.grid.height)
    facts = dict(img_path=str(image), seg_map_path=str(mask), grid_shape=header.grid.shape, classes=table.names)
    facts |= label_facts(table, {c.name: table.training_index(c) for c in table.classes})
    planes = read_header(str(mask), find_empty=False).planes
    facts['by_colour'] = holds_colours(str(mask), planes, facts['label_colours'], table.by_colour)
    truth = read_labels(dict(facts, window=window))
    grid = header.grid.window(window)
    pixels, _ = read_image(image, window=window)
    _write(work / 'image.tif', pixels.transpose(2, 0, 1), grid)
    drawn = corrupted(truth, number, seed)
    for name, own in drawn.items():
        _write(work / f'{name}.tif', own[None], grid)
    files = [work / f'{name}.tif' for name in drawn]
    maps = dict(drawn)
    equal = data_costs(np.stack(list(drawn.values())).reshape(len(drawn), -1), np.ones((len(drawn), number)))
    maps['majority vote'] = equal.argmin(axis=1).reshape(truth.shape)
    for name, smoothness in (('weighted vote', 0), ('consensus', 0.3)):
        report = make_consensus(
            work / 'image.tif', files, work / 'out.tif', work / 'classes.yaml', smoothness=smoothness, overwrite=True
        )
        maps[name] = read_label_map(work / 'out.tif')[0]
    labels = torch.from_numpy(truth)
    counts = {
        name: confusion_matrix(torch.from_numpy(own.astype(np.uint8)), labels, number, IGNORE_INDEX).numpy()
        for name, own in maps.items()
    }
    colours = class_colours(dict(classes=table.names, palette=table.palette))
    shown = [
        (name, colour_labels(own, colours))
        for name, own in dict(truth=truth, **maps).items()
        if name != 'weighted vote'
    ]
    confidence = np.repeat(read_label_map(work / 'out_confidence.tif')[0][..., None], 3, axis=-1)
    picture = [('image', to_display(pixels)), *shown, ('confidence', confidence)]
    return dict(
        counts=counts,
        consistency=[annotator.share for annotator in report.annotators],
        picture=compose([picture[:2], picture[2:5], picture[5:]], table.names, colours, size=300),
    )


def _write(path: Path, values: np.ndarray, grid: RasterGrid) -> None:
    profile = dict(driver='GTiff', count=len(values), dtype=values.dtype, height=grid.height, width=grid.width)
    with rasterio.open(path, 'w', crs=grid.crs, transform=grid.transform, **profile) as file:
        file.write(values)


def _pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the images of one seed say together, in percent."""
    counts = {name: sum(result['counts'][name] for result in results) for name in results[0]['counts']}
    accuracy = np.array([[_accuracy(r['counts'][name]) for name in CORRUPTIONS] for r in results])
    consistency = np.array([r['consistency'] for r in results])
    return dict(
        mIoU={name: float(np.nanmean(scores(matrix)['IoU'])) for name, matrix in counts.items()},
        ranked=100 * float((accuracy.argsort(axis=1) == consistency.argsort(axis=1)).all(axis=1).mean()),
        worst=100 * float((accuracy.argmin(axis=1) == consistency.argmin(axis=1)).mean()),
        better=100 * float(np.mean([_accuracy(r['counts']['consensus']) > _accuracy(r['counts']['majority vote'])
                                    for r in results])),
        error=100 * float(np.abs(consistency - accuracy).mean()),
    )  # fmt: skip


def _accuracy(matrix: np.ndarray) -> float:
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def _rows(found: dict[int, dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    first = next(iter(found.values()))
    rows = {f'mIoU of {name}': tuple(own['mIoU'][name] for own in found.values()) for name in first['mIoU']}
    gains = [own['mIoU']['consensus'] - own['mIoU']['majority vote'] for own in found.values()]
    rows['consensus over majority vote'] = tuple(gains)
    titles = dict(
        better='images where the consensus is right on more pixels than the majority vote, %',
        ranked='images where all annotators are ranked rightly, %',
        worst='images where the worst annotator is found, %',
        error='error of the weights: self-consistency beside the share of right pixels, points',
    )
    return rows | {title: tuple(own[key] for own in found.values()) for key, title in titles.items()}
