"""One mask of several: of annotators, models or years."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrs.apis.consensus_report import Annotator, ConsensusReport
from mmrs.geo.classes import IGNORE_INDEX, ClassTable, load_classes
from mmrs.geo.grids import RasterGrid, describe_crs
from mmrs.geo.handles import file_state, scanning
from mmrs.geo.headers import read_header
from mmrs.geo.label_maps import names_classes, own_table
from mmrs.geo.labels import label_facts, read_labels, training_indices
from mmrs.geo.masks import holds_colours
from mmrs.geo.rasters import PathLike, read_image, read_label_map
from mmrs.geo.vector_labels import VectorLabels
from mmrs.geo.vectors import VECTOR_SUFFIXES, is_vector
from mmrs.geo.windows import Window, partition
from mmrs.prediction.maps import STEPS, map_layers
from mmrs.prediction.parts import PartStore
from mmrs.preparation.consensus.annotators import (
    BLOCKS,
    REACH,
    LinearClassifier,
    Moments,
    blocks_of,
    data_costs,
    pixel_features,
    relative_trust,
    self_consistency,
)
from mmrs.preparation.consensus.graph_cuts import Pairs, energy, hold, image_pairs, least_energy, squared_differences
from mmrs.utils.errors import ConfigError, DataError, OutputError, require, require_number
from mmrs.utils.files import write_json, write_text
from mmrs.utils.progress import progress_bar
from mmrs.visualization.panels import class_colours

__all__ = ['make_consensus']

#: Sides in pixels of the windows that are cut, and of what is thrown away of each along its sides.
WINDOW, MARGIN = 256, 32

#: What a wrong class costs at most where nobody annotated.
_COMPLETED = 0.5


def make_consensus(
    image: PathLike,
    masks: Sequence[PathLike],
    out: PathLike,
    classes: PathLike | None = None,
    bands: Sequence[int] | None = None,
    reduce_zero_label: bool = False,
    label_attribute: str | None = None,
    label_class: str | None = None,
    label_layer: str | None = None,
    label_background: str | None = None,
    smoothness: float = 0.3,
    complete: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> ConsensusReport:
    """Make one mask of several masks of an image.

    What those who annotated a pixel agree on stays. Elsewhere the class counts that has more weight behind it, where
    each annotator weighs as much as his labels of one part of the image are borne out by those of the others; and
    borders cost less where the image has an edge (see :mod:`mmrs.preparation.consensus`).

    Args:
        image: The image.
        masks: Two or more: rasters of class ids or colours on the image's grid, or polygons.
        out: GeoTIFF to write, ``NAME.tif``. ``NAME_confidence.tif``, ``NAME.json`` and ``NAME.md`` go beside it.
        classes: Table of the masks' classes, see :func:`mmrs.geo.classes.load_classes`. By default those that the first
            mask names, as a map of ``tools/predict.py`` does.
        bands: Numbers of the image's bands that count, from 1; all by default.
        reduce_zero_label: Whether id 0 of the masks is not annotated and 1 is the first class.
        label_attribute: Field of polygons with their class, by name or id.
        label_class: Class of all polygons, instead.
        label_layer: Layer of the vector files.
        label_background: Class outside all polygons; not annotated by default.
        smoothness: Lambda, what a border between two equal pixels costs, beside 1 for the whole weight of all
            annotators.
        complete: Give the pixels that nobody annotated a class too, by what the others look like.
        resume: Continue what was begun with the same inputs.
        overwrite: Replace files.

    Raises:
        ConfigError: Options that cannot work.
        DataError: A file cannot be read, or the files or their classes do not belong together.
        OutputError: A file exists, or cannot be written.
    """
    require_number('smoothness', smoothness, at_least=0)
    polygons = VectorLabels(label_attribute, label_class, label_layer, label_background)
    annotations = Annotations(image, masks, classes, bands, reduce_zero_label, polygons)
    target = Path(out)
    require(target.suffix.lower() in ('.tif', '.tiff'), '--out', str(out), 'the name of a GeoTIFF, NAME.tif,')
    layers = map_layers(annotations.classes, annotations.palette, ['confidence'])
    beside = [target.with_suffix(suffix) for suffix in ('.json', '.md')]
    for path in [*(layer.path(target) for layer in layers), *beside]:
        if path.exists() and not overwrite:
            raise OutputError(f'{path} exists already; choose another name or pass --overwrite')
    store = PartStore(target.with_name(f'.{target.stem}.parts'), layers)
    settings = annotations.settings | dict(smoothness=smoothness, complete=complete)
    store.open(settings, resume)
    with scanning():
        found = _Consensus(annotations, smoothness, complete)
        found.cut(store)
        store.merge(annotations.grid, (0, 0), target, dict(MMRS_CONSENSUS=settings), overwrite)
        report = found.report(target)
    write_json(report.as_dict(), beside[0], overwrite)
    write_text(report.markdown(), beside[1], overwrite)
    store.remove()
    return report


class Annotations:
    """Several masks of one image, read by windows.

    Attributes:
        names: Of the masks, from those of their files.
        paths: Their files.
        grid: Pixel grid of the image.
        classes: Names of the K classes.
        palette: Their colours.
        settings: All that is read, for a record.

    Raises:
        ConfigError: Options that cannot work.
        DataError: A file cannot be read, or the files do not belong together.
    """

    def __init__(
        self,
        image: PathLike,
        masks: Sequence[PathLike],
        classes: PathLike | None,
        bands: Sequence[int] | None,
        reduce_zero_label: bool,
        polygons: VectorLabels,
    ) -> None:
        self.image, self.paths, self._bands = os.fspath(image), [os.fspath(mask) for mask in masks], bands
        if len(self.paths) < 2:
            raise ConfigError(
                f'{len(self.paths)} mask was given; a consensus is one of at least 2: IMAGE MASK MASK ...'
            )
        if twice := {path for path in self.paths if self.paths.count(path) > 1}:
            raise ConfigError(f'{min(twice)} is given twice; the same mask would count as two annotators')
        if polygons != VectorLabels() and not any(map(is_vector, self.paths)):
            raise ConfigError(
                'label_attribute, label_class, label_layer and label_background are for polygons, but no mask is a '
                f'vector file ({", ".join(VECTOR_SUFFIXES)})'
            )
        self.names = _names(self.paths)
        self._header = read_header(self.image, find_empty=False)
        self.grid: RasterGrid = self._header.grid
        table = None if classes is None else load_classes(classes)
        if reduce_zero_label and table is not None and any(c.ids for c in table.classes):
            raise ConfigError('reduce_zero_label and a table of classes with ids exclude each other; leave out one')
        tables = [own_table(path) if names_classes(path) else table for path in self.paths]
        first = table or next(filter(None, tables), None)
        if first is None:
            raise DataError(
                f'{self.paths[0]} does not say what its classes are, as a map of tools/predict.py does. Give a table '
                'of them (--classes FILE).'
            )
        self.classes = first.names
        self.palette = class_colours(dict(classes=first.names, palette=first.palette or None))
        self._facts = [
            self._mask(path, own or first, reduce_zero_label, polygons) for path, own in zip(self.paths, tables)
        ]
        files = {path: file_state(path) for path in (self.image, *self.paths)}
        self.settings: dict[str, Any] = dict(
            image=self.image,
            masks=self.paths,
            files={path: list(state) for path, state in files.items()},
            classes=list(self.classes),
            bands=bands,
            facts=[str(sorted(facts.items(), key=str)) for facts in self._facts],
        )

    def _mask(self, path: str, table: ClassTable, reduce_zero_label: bool, polygons: VectorLabels) -> dict[str, Any]:
        """What `read_labels` has to know of a mask."""
        if unknown := sorted(set(table.names) - set(self.classes)):
            raise DataError(
                f'{path} has the class {", ".join(unknown)}, but the classes of the consensus are '
                f'{", ".join(self.classes)}. Give all masks the same classes.'
            )
        index_of_name = {c.name: IGNORE_INDEX if c.ignore else self.classes.index(c.name) for c in table.classes}
        facts = dict(
            img_path=self.image,
            seg_map_path=path,
            grid_shape=self.grid.shape,
            classes=self.classes,
            reduce_zero_label=reduce_zero_label,
            **label_facts(table, index_of_name),
        )
        if is_vector(path):
            index_of_id = training_indices(facts)
            polygons.check([(self._header, path)], index_of_name, index_of_id)
            return facts | dict(vector_labels=polygons.burning(index_of_name, index_of_id))
        header = read_header(path, find_empty=False)
        _require_grid(self.image, self.grid, path, header.grid)
        by_colour = holds_colours(path, header.planes, facts['label_colours'], table.by_colour)
        return facts | dict(by_colour=by_colour)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bands ``(C, H, W)`` float64, which pixels have data ``(H, W)``, and masks ``(R, H, W)``, 255 for none.

        A mask says nothing of pixels without data.
        """
        image, valid = read_image(self.image, self._bands, window)
        valid = np.ones(image.shape[:2], bool) if valid is None else valid
        masks = np.stack([read_labels(dict(facts, window=window)) for facts in self._facts])
        masks[:, ~valid] = IGNORE_INDEX
        return image.transpose(2, 0, 1).astype(np.float64), valid, masks


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of files, by which they can be told apart."""
    for name in (lambda p: p.stem, lambda p: p.name, lambda p: f'{p.parent.name}/{p.name}', str):
        names = [name(Path(path)) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _require_grid(image_path: str, image: RasterGrid, path: str, mask: RasterGrid) -> None:
    """Raises DataError for a mask on other pixels than the image's."""
    if image.matches(mask):
        return
    sizes = [f'{grid.width} x {grid.height} pixels (width x height)' for grid in (mask, image)]
    systems = [describe_crs(grid.crs) for grid in (mask, image)]
    transforms = [f'the transform {tuple(round(v, 6) for v in tuple(grid.transform)[:6])}' for grid in (mask, image)]
    found, expected = next((pair for pair in (sizes, systems) if pair[0] != pair[1]), transforms)
    raise DataError(
        f'{path} has {found}, but the image {image_path} has {expected}. Masks must have the grid of the image: '
        f'rio warp {path} ALIGNED.tif --like {image_path} --resampling nearest'
    )


@dataclass
class _Measured:
    """What a first look at the whole image finds."""

    spread: np.ndarray
    centre: np.ndarray
    moments: list[list[Moments]]
    beta: float


class _Part(NamedTuple):
    """The pixels of a window, of which those in `core` are its own; the others are its neighbours'."""

    window: Window
    core: tuple[slice, slice]
    bands: np.ndarray
    valid: np.ndarray
    masks: np.ndarray

    @property
    def origin(self) -> tuple[int, int]:
        """Column and row of the first pixel in `core`."""
        return self.window[0] + self.core[1].start, self.window[1] + self.core[0].start

    @property
    def own(self) -> np.ndarray:
        """``(H, W)`` bool, the pixels in `core` that have data."""
        inside = np.zeros(self.valid.shape, bool)
        inside[self.core] = True
        return inside & self.valid


class _Consensus:
    """The work on one image, pass by pass.

    Args:
        annotations: The masks.
        smoothness: Lambda.
        complete: Whether pixels that nobody annotated get a class.
    """

    def __init__(self, annotations: Annotations, smoothness: float, complete: bool) -> None:
        self._annotations, self._smoothness = annotations, smoothness
        self._classes = len(annotations.classes)
        side = WINDOW - 2 * MARGIN
        self._cores = partition(annotations.grid.shape, (side, side))
        self._measured = self._measure()
        self.hits, self.counts, self.agreed = self._try()
        self.consistency = self_consistency(self.hits, self.counts)
        self._trust = relative_trust(self.consistency, self._pixels() > 0)
        self._completing = self._learn() if complete else None

    def _parts(self, what: str, margin: int, cores: Sequence[Window] | None = None) -> Iterator[_Part]:
        """Reads the image window by window, with a progress bar."""
        height, width = self._annotations.grid.shape
        cores = self._cores if cores is None else cores
        with progress_bar(transient=True, disable=not sys.stderr.isatty()) as bar:
            for x0, y0, x1, y1 in bar.track(cores, description=what):
                left, top = max(0, x0 - margin), max(0, y0 - margin)
                window = left, top, min(width, x1 + margin), min(height, y1 + margin)
                core = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                yield _Part(window, core, *self._annotations.read(window))

    def _pixels(self) -> np.ndarray:
        """``(R, K)`` pixels of each class by annotator."""
        return np.array([sum(own.counts for own in blocks) for blocks in self._measured.moments])

    def _measure(self) -> _Measured:
        annotators = len(self._annotations.paths)
        moments: list[list[Moments]] = []
        total: Moments | None = None
        squares: Any = 0
        pairs = 0
        for part in self._parts('measuring', REACH):
            own = part.own
            if not own.any():
                continue
            features = pixel_features(part.bands, part.valid)
            if total is None:
                centre = features[own].mean(axis=0)
                size = len(centre)
                total = Moments(1, size, centre)
                moments = [[Moments(self._classes, size, centre) for _ in range(BLOCKS)] for _ in range(annotators)]
            total.add(features[own], np.zeros(own.sum(), int))
            blocks = blocks_of(self._annotations.grid.shape, part.window)
            for mask, into in zip(part.masks, moments):
                for block in np.unique(blocks[part.core]):
                    here = own & (blocks == block) & (mask != IGNORE_INDEX)
                    into[block].add(features[here], mask[here])
            found = [squared_differences(band[None]) for band in part.bands]
            counted = own.ravel()[found[0].first] & part.valid.ravel()[found[0].second]
            squares += np.array([band.values[counted].sum() for band in found])
            pairs += counted.sum()
        if total is None:
            raise DataError(f'{self._annotations.image} has no pixel that holds data.')
        spread = total.spread()
        # The first features are the bands themselves.
        beta = float((squares / spread[: len(squares)] ** 2).sum() / max(pairs, 1))
        return _Measured(spread, total.centre, moments, beta)

    def _try(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How often each annotator agrees with himself, and with the others."""
        moments, number = self._measured.moments, self._classes
        classifiers = [
            [
                _fit([own for i, own in enumerate(blocks) if i != block], self._measured.spread)
                for block in range(BLOCKS)
            ]
            for blocks in moments
        ]
        hits = np.zeros((len(moments), BLOCKS, number))
        counts = np.zeros_like(hits)
        agreed = np.zeros((len(moments), len(moments), number, number), np.int64)
        for part in self._parts('self-consistency', REACH):
            own = part.own
            features = pixel_features(part.bands, part.valid)
            blocks = blocks_of(self._annotations.grid.shape, part.window)
            for r, mask in enumerate(part.masks):
                for block in np.unique(blocks[part.core]):
                    classifier = classifiers[r][block]
                    if classifier is None:
                        continue
                    here = own & (blocks == block) & np.isin(mask, classifier.classes)
                    labels = mask[here]
                    right = classifier.predict(features[here]) == labels
                    counts[r, block] += np.bincount(labels, minlength=number)
                    hits[r, block] += np.bincount(labels[right], minlength=number)
            for r, s in combinations(range(len(moments)), 2):
                agreed[r, s] += _confusion(part.masks[r][own], part.masks[s][own], number)
        return hits, counts, agreed

    def _learn(self) -> LinearClassifier:
        """A classifier of the vote, for the pixels that nobody annotated."""
        moments = Moments(self._classes, len(self._measured.centre), self._measured.centre)
        for part in self._parts('learning the vote', REACH):
            here = part.own & (part.masks != IGNORE_INDEX).any(axis=0)
            vote = data_costs(part.masks[:, here], self._trust).argmin(axis=1)
            moments.add(pixel_features(part.bands, part.valid)[here], vote)
        return moments.classifier(self._measured.spread)

    def _problem(self, part: _Part) -> tuple[np.ndarray, np.ndarray, np.ndarray, Pairs]:
        """Which pixels of a window get a class ``(H * W,)``, which of them somebody annotated ``(N,)``, their costs
        ``(N, K)``, and their pairs.
        """
        masks = part.masks.reshape(len(part.masks), -1)
        annotated = (masks != IGNORE_INDEX).any(axis=0)
        nodes = annotated if self._completing is None else part.valid.ravel()
        costs = data_costs(masks[:, nodes], self._trust)
        if self._completing is not None and not annotated[nodes].all():
            unknown = nodes & ~annotated
            features = pixel_features(part.bands, part.valid).reshape(unknown.size, -1)[unknown]
            probabilities = self._completing.probabilities(features, self._classes)
            costs[~annotated[nodes]] = _COMPLETED * (1 - probabilities)
        bands = part.bands / self._measured.spread[: len(part.bands), None, None]
        return nodes, annotated[nodes], costs, image_pairs(bands, self._smoothness, self._measured.beta).within(nodes)

    def cut(self, store: PartStore) -> None:
        """Labels and confidence of the windows that a store does not hold yet."""
        finished = store.finished()
        for part in self._parts('graph cuts', MARGIN, [core for core in self._cores if core not in finished]):
            nodes, annotated, costs, pairs = self._problem(part)
            labels = costs.argmin(axis=1)
            # Costs of 0 are those of a class that nobody contradicts.
            open_ = (costs.min(axis=1, initial=1) > 0) | ~annotated
            labels[open_] = least_energy(*hold(costs, pairs, labels, ~open_))
            cost = np.take_along_axis(costs, labels[:, None], 1)[:, 0]
            confidence = np.where(annotated, 1, _COMPLETED) - cost
            flat = np.full((2, nodes.size), IGNORE_INDEX, np.uint8)
            flat[:, nodes] = labels, (confidence * STEPS).round()
            stored = flat.reshape(2, *part.valid.shape)[(slice(None), *part.core)]
            (x0, y0), (_, height, width) = part.origin, stored.shape
            store.write((x0, y0, x0 + width, y0 + height), dict(labels=stored[:1], confidence=stored[1:]))

    def report(self, path: Path) -> ConsensusReport:
        """What is to be said of the consensus, read back from its finished raster."""
        annotations, number = self._annotations, self._classes
        annotators = len(annotations.paths)
        with_consensus = np.zeros((annotators, number, number), np.int64)
        energies = dict.fromkeys(('consensus', 'weighted vote', 'majority vote'), 0.0)
        pixels = dict.fromkeys(('labelled', 'disputed', 'other than the majority', 'completed'), 0)
        by_class = np.zeros((2, number), np.int64)
        equal = np.ones_like(self._trust)
        for part in self._parts('energies', 1):
            nodes, annotated, costs, pairs = self._problem(part)
            consensus = read_label_map(path, part.window)[0].ravel()[nodes].astype(np.intp)
            votes = costs.argmin(axis=1)
            majority = data_costs(part.masks.reshape(annotators, -1)[:, nodes], equal)
            majority = np.where(annotated, majority.argmin(axis=1), votes)
            # Each pixel once, and each pair with the window of its first pixel.
            own = part.own.ravel()[nodes]
            counted = Pairs(*(column[own[pairs.first]] for column in pairs))
            for name, labels in zip(energies, (consensus, votes, majority)):
                energies[name] += energy(np.where(own[:, None], costs, 0), counted, labels)
            counts = (
                own,
                own & annotated & (costs.min(axis=1, initial=1) > 0),
                own & (consensus != majority),
                own & ~annotated,
            )
            for name, chosen in zip(pixels, counts):
                pixels[name] += int(chosen.sum())
            by_class += [np.bincount(labels[own], minlength=number) for labels in (consensus, majority)]
            for counts_of, mask in zip(with_consensus, part.masks):
                counts_of += _confusion(mask.ravel()[nodes][own], consensus[own], number)
        return ConsensusReport(
            classes=annotations.classes,
            annotators=[
                Annotator(name, path, *numbers)
                for name, path, *numbers in zip(
                    annotations.names,
                    annotations.paths,
                    self._pixels().astype(int),
                    self.consistency,
                    _shares(self.hits, self.counts),
                    self._trust,
                    with_consensus,
                )
            ],
            agreed=self.agreed,
            energies=energies,
            pixels=pixels,
            by_class=by_class,
            smoothness=self._smoothness,
            windows=len(self._cores),
        )


def _fit(moments: Sequence[Moments], spread: np.ndarray) -> LinearClassifier | None:
    total = sum(moments[1:], moments[0])
    return total.classifier(spread) if total.counts.any() else None


def _shares(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``(R,)`` pixels of all classes on which an annotator agrees with himself."""
    pixels = counts.sum(axis=(1, 2))
    return np.divide(hits.sum(axis=(1, 2)), pixels, out=np.full(len(hits), np.nan), where=pixels > 0)


def _confusion(rows: np.ndarray, columns: np.ndarray, number: int) -> np.ndarray:
    """Pixels ``(K, K)`` by the class in one mask and in another, where both have one."""
    known = (rows != IGNORE_INDEX) & (columns != IGNORE_INDEX)
    cells = rows[known].astype(np.intp) * number + columns[known]
    return np.bincount(cells, minlength=number**2).reshape(number, number)
