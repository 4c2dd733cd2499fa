"""What will bite in training: findings about images, label maps, and how data sets fit together."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmrs.checks.files import (
    OTHER_PLACE,
    ImageFacts,
    ImageTask,
    LabelFacts,
    LabelTask,
    read_facts,
)
from mmrs.checks.report import Finding, Group, Report
from mmrs.datasets.class_names import same_names
from mmrs.datasets.image_warnings import MOST_TRANSLUCENT
from mmrs.geo.classes import IGNORE_INDEX, Colour
from mmrs.geo.grids import TOLERANCE, RasterGrid, crs_beside, write_crs
from mmrs.geo.labels import read_labels, training_indices
from mmrs.geo.masks import find_hidden_class, hidden_class, packed, value_name
from mmrs.geo.statistics import count_classes, map_files
from mmrs.geo.statistics_bands import BandStatistics
from mmrs.utils.errors import DataError

# Ranges of values that differ by such a factor are other units, not another light.
_OTHER_UNITS = 10


@dataclass
class CheckedSet:
    """A data set as the check sees it.

    Attributes:
        name: Its name in the report.
        domain: Name of its domain.
        role: `train`, `val`, `test`, or something else.
        samples: Paths of images, each with that of its label map, or None.
        bands: Numbers of the bands that training reads, from 1; None for all.
        apply_scale: Whether training applies the scale and offset that images give.
        classes: Names, in the order of the training indices.
        palette: Colours of the classes, perhaps empty.
        index_of_value: Training index by id, 255 for ignored ones; None where no classes are known.
        index_of_colour: The same by colour, for masks in colours.
        by_colour: Whether label maps of one band are such masks.
        is_labelled: Whether it has labels at all.
        is_paired: Whether its images are paired with those of another domain, which may be the same files.
        dataset: Where labels are not of the images' size (windows, vectors): the data set to load them with.
        findings: What was found while its files were listed.
    """

    name: str
    domain: str
    role: str = ''
    samples: list[tuple[str, str | None]] = field(default_factory=list)
    bands: tuple[int, ...] | None = None
    apply_scale: bool = False
    classes: tuple[str, ...] = ()
    palette: Sequence[Colour] = ()
    index_of_value: Mapping[Any, int] | None = None
    index_of_colour: Mapping[Colour, int] = field(default_factory=dict)
    by_colour: bool = False
    is_labelled: bool = False
    is_paired: bool = False
    dataset: BaseDataset | None = None
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: str, *files: str, found: str = '', expected: str = '') -> None:
        """Adds a finding."""
        self.findings.append(Finding(kind, self.name, files, found, expected))

    def label_task(self, path: str) -> LabelTask:
        """How a label map is to be read."""
        return LabelTask(path, self.by_colour, self.index_of_value is None or bool(self.index_of_colour))

    def rename(self, name: str) -> None:
        """Gives the data set another name, in its findings too."""
        self.name = name
        self.findings = [replace(finding, where=name) for finding in self.findings]


def check_sets(
    sets: Sequence[CheckedSet],
    sample: int | None = None,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> Report:
    """Reads all files of data sets and says what is wrong with them.

    Args:
        sets: The data sets. Their findings are added to.
        sample: Number of images of each to check, drawn at random; all by default.
        seed: Of that draw.
        workers: Number of threads.
        progress: Whether to show a progress bar.
    """
    for own in sets:
        _draw(own, sample, seed)
    facts = _read(sets, workers, progress)
    images = {
        own.name: {path: facts[ImageTask(path, own.bands, own.apply_scale)] for path, _ in own.samples} for own in sets
    }
    pixels: dict[str, np.ndarray] = {}
    first = next((own.classes for own in sets if own.classes), ())
    for own in sets:
        _check_images(own, images[own.name])
        if own.dataset is not None:
            pixels[own.name] = _count_by_loading(own, workers, progress)
        else:
            labels = {path: facts[own.label_task(path)] for _, path in own.samples if path is not None}
            pixels[own.name] = _check_labels(own, images[own.name], labels)
        missing = [name for name, number in zip(own.classes, pixels[own.name]) if not number]
        if missing and pixels[own.name].any():
            own.find('class_never_seen', found=', '.join(missing))
        if own.classes != first and same_names(own.classes, first):  # as training and evaluation take them
            order = [own.classes.index(name) for name in first]
            own.classes, pixels[own.name] = first, pixels[own.name][order]
    groups = _groups(sets, images, pixels)
    labelled = [own for own in sets if own.classes]
    differ = [own for own in labelled if own.classes != labelled[0].classes]
    findings = [finding for own in sets for finding in own.findings]
    findings += [
        Finding(
            'classes_differ',
            f'{labelled[0].name} and {own.name}',
            (),
            _joined(own.classes),
            _joined(labelled[0].classes),
        )
        for own in differ
    ]
    findings += _duplicates(sets, images)
    findings += _scales(sets, images)
    findings += _other_units(groups)
    shared = labelled[0] if labelled and not differ else None
    return Report(
        [_summary(own, images[own.name], pixels[own.name]) for own in sets],
        findings,
        groups,
        shared.classes if shared else (),
        shared.palette if shared else (),
    )


def _joined(texts: Iterable[str]) -> str:
    return ', '.join(texts)


def _draw(own: CheckedSet, sample: int | None, seed: int) -> None:
    if sample is not None and sample < len(own.samples):
        own.find('sampled', found=f'{sample} of {len(own.samples)} images, seed {seed}')
        own.samples = [own.samples[i] for i in sorted(random.Random(seed).sample(range(len(own.samples)), sample))]


def _read(sets: Sequence[CheckedSet], workers: int, progress: bool) -> dict[ImageTask | LabelTask, Any]:
    tasks: dict[ImageTask | LabelTask, None] = {}
    for own in sets:
        for image, label in own.samples:
            tasks[ImageTask(image, own.bands, own.apply_scale)] = None
            if label is not None and own.dataset is None:
                tasks[own.label_task(label)] = None
    sizes = [os.path.getsize(task.path) if os.path.isfile(task.path) else 0 for task in tasks]
    return dict(zip(tasks, map_files(read_facts, list(tasks), sizes, workers, 'Reading files', progress)))


def _check_images(own: CheckedSet, images: Mapping[str, ImageFacts]) -> None:
    readable = {path: facts for path, facts in images.items() if not facts.problem}
    for path, facts in images.items():
        if facts.problem:
            own.find('unreadable_image', path, found=facts.problem)
    # With a choice of bands, what else a file has does not matter.
    kinds: dict[str, Callable[[ImageFacts], str]] = dict(dtype_mismatch=lambda facts: facts.dtype)
    if own.bands is None:
        kinds['band_mismatch'] = lambda facts: f'{facts.bands} bands'
    for kind, value in kinds.items():
        common = Counter(value(facts) for facts in readable.values()).most_common(1)
        for path, facts in readable.items():
            if value(facts) != common[0][0]:
                expected = f'{common[0][0]}, as {common[0][1]} of {len(readable)} images have'
                own.find(kind, path, found=value(facts), expected=expected)
    empty = [path for path, facts in readable.items() if not facts.valid_share]
    if empty and len(empty) == len(images):
        own.find('no_data', *empty[:5], found=f'{len(empty)} of {len(images)} images are without')
        empty = []
    for path, facts in readable.items():
        _check_crs(own, path, facts.grid)
        if facts.translucent_share > MOST_TRANSLUCENT:
            found = f'{100 * facts.translucent_share:.3g} % of the pixels are neither hidden nor opaque'
            own.find('alpha_of_many_values', path, found=found, expected='nearly none')
        if path in empty:
            own.find('empty_image', path)
        elif facts.valid_share and facts.is_constant and facts.statistics is not None:
            own.find('constant_image', path, found=', '.join(f'{value:g}' for value in facts.statistics.minimum))


def _check_crs(own: CheckedSet, path: str, grid: RasterGrid) -> None:
    if grid.crs is None and grid.is_georeferenced and crs_beside(path) is not None:
        own.find('crs_beside', path, found=write_crs(path))


def _check_labels(own: CheckedSet, images: Mapping[str, ImageFacts], labels: Mapping[str, LabelFacts]) -> np.ndarray:
    """Adds findings about label maps; returns the pixels of each class, `(K,)`."""
    total = np.zeros(len(own.classes), np.int64)
    unknown_ids: Counter[str] = Counter()
    for image_path, label_path in own.samples:
        if label_path is None:
            continue
        image, label = images[image_path], labels[label_path]
        if label.problem:
            own.find('unreadable_label', label_path, found=label.problem)
            continue
        _check_crs(own, label_path, label.grid)
        if not image.problem:
            _check_grids(own, image_path, image, label_path, label)
        if not label.by_colour and label.bands > 1:
            expected = '1 band of class ids, or a colour of each class in the table'
            own.find('label_bands', label_path, found=f'{label.bands} bands', expected=expected)
            continue
        if own.index_of_value is None:
            unknown_ids.update(value_name(value, label.by_colour) for value in label.counts)
            continue
        total += _count(own, label_path, label)
    if unknown_ids:
        found = ', '.join(sorted(unknown_ids, key=lambda name: (len(name), name))[:20])
        own.find('unknown_classes', found=found + (', ...' if len(unknown_ids) > 20 else ''))
    return total


def _count(own: CheckedSet, path: str, label: LabelFacts) -> np.ndarray:
    """Pixels of each class in a label map; adds findings about its values."""
    index_of = packed(own.index_of_colour) if label.by_colour else own.index_of_value or {}
    pixels, unknown = np.zeros(len(own.classes), np.int64), Counter[float]()
    for value, number in label.counts.items():
        index = index_of.get(value)
        if index is None:
            unknown[value] = number
        elif index != IGNORE_INDEX:
            pixels[index] += number
    if unknown:
        all_pixels = label.grid.width * label.grid.height
        found = [f'{value_name(v, label.by_colour)} ({100 * n / all_pixels:.3g} %)' for v, n in unknown.most_common(5)]
        rest = f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''
        keys = [value_name(key, label.by_colour) for key in sorted(index_of)]
        known = _joined(keys if len(keys) <= 20 else [*keys[:20], '...'])
        own.find(
            'unknown_colour' if label.by_colour else 'unknown_id', path, found=_joined(found) + rest, expected=known
        )
    elif not pixels.any():
        own.find('ignored_label', path)
    for value, number in label.hidden.items():
        index = index_of.get(value, IGNORE_INDEX)
        if index != IGNORE_INDEX:
            text = hidden_class(value_name(value, label.by_colour), number, own.classes[index])
            own.find('nodata_is_class', path, found=text)
    return pixels


def _check_grids(own: CheckedSet, image_path: str, image: ImageFacts, label_path: str, label: LabelFacts) -> None:
    files, one, two = (image_path, label_path), image.grid, label.grid
    if one.shape != two.shape:
        texts = [f'{grid.width} x {grid.height}' for grid in (one, two)]
        own.find('size_mismatch', *files, found=f'label map {texts[1]} pixels (width x height)', expected=texts[0])
    elif one.is_georeferenced and two.is_georeferenced:
        offset = one.offset(two)
        if one.crs is not None and two.crs is not None and one.crs != two.crs:
            own.find('other_place', *files, found=f'label map in {two.crs}', expected=str(one.crs))
        elif offset > TOLERANCE:
            kind = 'shifted_grid' if offset < OTHER_PLACE else 'other_place'
            own.find(kind, *files, found=f'corners {offset:.3g} pixels apart', expected=f'at most {TOLERANCE:g}')
        elif (one.crs is None) != (two.crs is None):
            own.find('crs_missing', *files, found=f'CRS of the image {one.crs}, of the label map {two.crs}')
    elif one.is_georeferenced != two.is_georeferenced:
        bare = label_path if one.is_georeferenced else image_path
        # A PNG has no place for it, and that is how label maps usually come.
        if bare.lower().endswith(('.tif', '.tiff')):
            own.find('crs_missing', *files, found=f'{os.path.basename(bare)} has no georeference')


def _count_by_loading(own: CheckedSet, workers: int, progress: bool) -> np.ndarray:
    """Pixels of each class, `(K,)`, with the labels loaded as in training; what fails is a finding."""
    dataset, total = own.dataset, np.zeros(len(own.classes), np.int64)
    if dataset is None or not own.is_labelled or not own.classes:
        return total
    chosen = {path for path, _ in own.samples}
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    infos = [info for info in infos if info['img_path'] in chosen and info.get('seg_map_path') is not None]
    for path, info in {info['seg_map_path']: info for info in infos if 'vector_labels' not in info}.items():
        by_colour = info.get('by_colour', False)
        index_of = packed(info['label_colours']) if by_colour else training_indices(info)
        if text := find_hidden_class(path, by_colour, index_of, own.classes):
            own.find('nodata_is_class', path, found=text.removeprefix(f'{path}: '))

    def count(info: dict, _: Any) -> np.ndarray | str:
        try:
            return count_classes(read_labels, info, len(own.classes))
        except DataError as error:
            return str(error)

    problems = dict[str, str]()
    for info, counts in zip(infos, map_files(count, infos, [1] * len(infos), workers, 'Loading labels', progress)):
        if isinstance(counts, str):
            problems.setdefault(counts, info['seg_map_path'])
        else:
            total += counts
    for problem, path in problems.items():
        own.find('label_problem', path, found=problem)
    return total


def _duplicates(sets: Sequence[CheckedSet], images: Mapping[str, Mapping[str, ImageFacts]]) -> Iterator[Finding]:
    places: dict[bytes, list[tuple[CheckedSet, str]]] = defaultdict(list)
    for own in sets:
        for path, facts in images[own.name].items():
            # Any two images without content are equal, and have a finding of their own.
            if facts.digest and facts.valid_share and not facts.is_constant:
                places[facts.digest].append((own, path))
    for group in places.values():
        names = list(dict.fromkeys(own.name for own, _ in group))
        for i, name in enumerate(names):
            here = [path for own, path in group if own.name == name]
            if len(here) > 1:
                yield Finding('duplicate_image', name, tuple(here))
            first = next(own for own, _ in group if own.name == name)
            for other in names[i + 1 :]:
                second, path = next((own, path) for own, path in group if own.name == other)
                kind = _duplicate_kind(first, second)
                if kind == 'source_in_target' and first.is_paired and second.is_paired:
                    continue
                yield Finding(kind, f'{name} and {other}', tuple(dict.fromkeys((here[0], path))))


def _duplicate_kind(first: CheckedSet, second: CheckedSet) -> str:
    training = [own for own in (first, second) if own.role == 'train']
    if len(training) == 1 and {first.role, second.role} & {'val', 'test'}:
        return 'train_in_evaluation' if training[0].is_labelled else 'target_in_evaluation'
    if {first.role, second.role} == {'val', 'test'} and first.is_paired != second.is_paired:
        return 'target_in_evaluation'  # held-out pairs choose the checkpoint, though without labels
    return 'duplicate_image' if first.domain == second.domain else 'source_in_target'


def _scales(sets: Sequence[CheckedSet], images: Mapping[str, Mapping[str, ImageFacts]]) -> Iterator[Finding]:
    """Scales and offsets that are not applied; a warning where they are not the same everywhere."""
    files: dict[str, dict[str, None]] = defaultdict(dict)
    names: dict[str, None] = {}
    for own in sets:
        for path, facts in images[own.name].items():
            if not facts.problem and not own.apply_scale:
                files[facts.scale][path] = None
                names[own.name] = None
    if any(files):
        found = '; '.join(f'{scale or "neither"} in {len(paths)} images' for scale, paths in files.items())
        kind = 'scales_differ' if len(files) > 1 else 'scale_not_applied'
        yield Finding(kind, ' and '.join(names), tuple(next(iter(paths)) for paths in files.values()), found)


def _groups(
    sets: Sequence[CheckedSet],
    images: Mapping[str, Mapping[str, ImageFacts]],
    pixels: Mapping[str, np.ndarray],
) -> list[Group]:
    by_domain: dict[str, list[CheckedSet]] = defaultdict(list)
    for own in sets:
        by_domain[own.domain].append(own)
    if len(by_domain) == 1:
        by_domain = {own.name: [own] for own in sets}
    groups = []
    for name, members in by_domain.items():
        training = [own for own in members if own.role == 'train']
        facts = {path: f for own in training or members for path, f in images[own.name].items() if f.statistics}
        parts = [f.statistics for f in facts.values() if f.statistics is not None]
        alike = len({len(part.count) for part in parts}) == 1
        labelled = [own for own in training if own.is_labelled] or [own for own in members if own.is_labelled]
        same = [own for own in labelled if own.classes == labelled[0].classes]
        total = np.sum([pixels[own.name] for own in same], axis=0) if same else np.zeros(0, np.int64)
        statistics = BandStatistics.merge(parts) if alike else None
        groups.append(
            Group(name, statistics, total, _joined(own.name.removeprefix(own.domain).strip() for own in same))
        )
    return groups


def _other_units(groups: Sequence[Group]) -> Iterator[Finding]:
    known = [(group.name, group.statistics) for group in groups if group.statistics is not None]
    for name, statistics in known[1:]:
        first_name, first = known[0]
        if len(first.count) != len(statistics.count):
            continue
        ranges = [s.quantile(0.98) - s.quantile(0.02) for s in (first, statistics)]
        with np.errstate(divide='ignore', invalid='ignore'):
            ratio = np.maximum(ranges[0] / ranges[1], ranges[1] / ranges[0])
        if not {*first.dtypes} & {*statistics.dtypes} or np.nanmax(ratio, initial=1) > _OTHER_UNITS:
            found, expected = (
                f'{domain}: {", ".join(s.dtypes)}, 96 % of the values in '
                + _joined(f'{low:.4g} to {high:.4g}' for low, high in zip(s.quantile(0.02), s.quantile(0.98)))
                for domain, s in ((name, statistics), (first_name, first))
            )
            yield Finding('other_units', f'{first_name} and {name}', (), found, expected)


def _summary(own: CheckedSet, images: Mapping[str, ImageFacts], pixels: np.ndarray) -> dict[str, Any]:
    readable = [facts for facts in images.values() if not facts.problem]

    def extent(values: Iterable[float | None]) -> str:
        found = sorted({float(f'{value:.3g}') if isinstance(value, float) else value for value in values if value})
        return '–'.join(f'{value:g}' for value in dict.fromkeys((found[0], found[-1]))) if found else ''

    def kinds(values: Iterable[str]) -> str:
        return ', '.join(value for value, _ in Counter(filter(None, values)).most_common(3))

    return dict(
        name=own.name,
        domain=own.domain,
        images=len(images),
        labels=sum(label is not None for _, label in own.samples),
        width=extent(facts.grid.width for facts in readable),
        height=extent(facts.grid.height for facts in readable),
        bands=extent(facts.bands for facts in readable),
        dtype=kinds(facts.dtype for facts in readable),
        crs=kinds(str(facts.grid.crs or '') for facts in readable),
        pixel_metres=extent(side for facts in readable for side in facts.pixel_metres),
        valid_share=float(np.mean([facts.valid_share for facts in readable])) if readable else None,
        labelled_pixels=int(pixels.sum()),
    )
