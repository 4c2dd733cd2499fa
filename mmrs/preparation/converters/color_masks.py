"""Images and colour or id masks in folders of any kind, to the standard layout."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rasterio.enums import ColorInterp
from rich.console import Console

from mmrs.geo.classes import IGNORE_INDEX
from mmrs.geo.rasters import open_raster
from mmrs.preparation.converters.clips import check_clipping, clip_grid, georeference, write_raster
from mmrs.preparation.converters.conversion import Sample
from mmrs.preparation.converters.encoding import MaskEncoder
from mmrs.preparation.converters.recipe import Pair, Recipe, assign_splits, find_pairs
from mmrs.preparation.converters.running import advance, is_written, prepare_output, run_tasks
from mmrs.preparation.converters.splits import digest
from mmrs.preparation.converters.survey import (
    SurveyTask,
    band_count,
    drop_unusable,
    hidden_classes,
    print_report,
    read_bands,
    statistics,
    survey_pair,
    unknown_values,
)
from mmrs.utils.errors import DataError, OutputError, require
from mmrs.utils.files import atomic_path, write_json, write_text

# A whole image becomes one label map, which is made in memory. Larger ones are to be cut into clips.
_MAX_WHOLE_PIXELS = 100_000_000


class _Job(NamedTuple):
    """What a process needs to know to convert one pair."""

    pair: Pair
    splits: tuple[str, ...]
    label_of: dict
    tolerance: int
    out: Path
    clip_size: int | None
    stride: int
    edge: str


class _Written(NamedTuple):
    """Samples that a pair became, and clips left out because they hold no label."""

    samples: int
    without_label: int


@dataclass
class Conversion:
    """The conversion of a folder of images and masks.

    Args:
        recipe: What the folder holds.
        source: The folder.
        out: Folder that gets `img_dir/SPLIT`, `ann_dir/SPLIT`, `classes.yaml`, and `report.json` with the statistics
            and all that was left out.
        clip_size: Side of the clips in pixels; by default images stay whole.
        stride: Pixels from one clip to the next; by default the clip size.
        edge: `drop` or `shift`; see `clip_origins`.
        tolerance: How far a mask's colour may be from a class's in each channel (0 to 255).
    """

    recipe: Recipe
    source: Path
    out: Path
    clip_size: int | None = None
    stride: int | None = None
    edge: str = 'shift'
    tolerance: int = 0

    def __post_init__(self) -> None:
        self.source, self.out = Path(self.source), Path(self.out)
        if self.clip_size is not None:
            self.stride = self.clip_size if self.stride is None else self.stride
            check_clipping(self.clip_size, self.stride, self.edge)
        else:
            require(self.stride is None, 'stride', self.stride, 'a clip size (--clip-size) with it, or no stride,')
        table = self.recipe.classes
        self._label_of: dict = table.index_of_colour if self.recipe.encoding == 'color' else table.index_of_id
        self._encoder = MaskEncoder(self._label_of, self.tolerance)

    def run(self, workers: int = 1, dry_run: bool = False, overwrite: bool = False) -> dict[str, Any]:
        """Checks all files, then converts what is not yet converted.

        Args:
            workers: Number of processes.
            dry_run: Only check and count.
            overwrite: Replace the results of an earlier conversion.

        Returns:
            The report, as in `report.json`.

        Raises:
            ConfigError: The recipe's splits do not fit the data.
            DataError: Masks hold values that are no class, or nothing is left to convert.
            OutputError: `out` holds something else, or a file cannot be written.
        """
        pairs, dropped = find_pairs(self.source, self.recipe)
        splits, unused = assign_splits(pairs, self.recipe)
        chosen = list({pair.stem: pair for members in splits.values() for pair in members}.values())
        tasks = [SurveyTask(pair, self._label_of, self.tolerance) for pair in chosen]
        found = run_tasks(survey_pair, tasks, workers, len(tasks), 'Checking')
        surveys = {pair.stem: survey for pair, survey in zip(chosen, found)}
        dropped += unused + drop_unusable(chosen, surveys)
        usable = [pair for pair in chosen if not surveys[pair.stem].problem]
        splits = {name: [p for p in members if not surveys[p.stem].problem] for name, members in splits.items()}
        masks, names = {str(pair.mask): surveys[pair.stem] for pair in chosen}, self.recipe.classes.names
        report = dict(
            splits={n: statistics([surveys[p.stem] for p in members], self.recipe) for n, members in splits.items()},
            dropped=[item._asdict() for item in dropped],
            hidden_classes=hidden_classes(masks, self._encoder, names),
        )
        print_report(report)
        if message := unknown_values({str(pair.mask): surveys[pair.stem] for pair in usable}, self._encoder):
            raise DataError(message)
        self._check_sizes({pair.image: surveys[pair.stem].size for pair in usable})
        if empty := [name for name, members in splits.items() if not members]:
            raise DataError(f'All images of the split {empty[0]} are left out; the list above says why.')
        if dry_run:
            Console().print(f'Dry run: nothing is written to {self.out}.', highlight=False)
        else:
            self._write(splits, report, workers, overwrite)
        return report

    def _check_sizes(self, sizes: dict[str, tuple[int, int]]) -> None:
        for file, (width, height) in sizes.items():
            if self.clip_size is None and width * height > _MAX_WHOLE_PIXELS:
                raise DataError(f'{file} has {width} x {height} pixels, too many for one sample. Add --clip-size.')

    def _write(self, splits: dict[str, list[Pair]], report: dict[str, Any], workers: int, overwrite: bool) -> None:
        settings = self._settings()
        if any(split.share is not None for split in self.recipe.splits.values()):
            # With further images, others would be dealt to each split.
            settings['dealt'] = {name: digest(pair.stem for pair in members) for name, members in splits.items()}
        prepare_output(self.out, settings, overwrite)
        splits_of: dict[Pair, tuple[str, ...]] = {}
        for name, members in splits.items():
            for pair in members:
                splits_of[pair] = (*splits_of.get(pair, ()), name)
        jobs = [
            _Job(pair, names, self._label_of, self.tolerance, self.out, self.clip_size, self.stride or 0, self.edge)
            for pair, names in splits_of.items()
        ]
        results = run_tasks(convert_pair, jobs, workers, len(jobs), 'Converting')
        for name, split in report['splits'].items():
            own = [result for job, result in zip(jobs, results) if name in job.splits]
            split['samples'] = sum(result.samples for result in own)
            split['clips_without_label'] = sum(result.without_label for result in own)
            text = f'{name}: {split["samples"]} samples'
            if split['clips_without_label']:
                text += f'; {split["clips_without_label"]} clips without any label left out'
            Console().print(text, highlight=False)
        write_text(self.recipe.classes.converted().to_yaml(), self.out / 'classes.yaml', overwrite=True)
        write_json(report, self.out / 'report.json', overwrite=True)

    def _settings(self) -> dict[str, Any]:
        recipe = self.recipe
        return dict(
            data=self.source.resolve().name,
            images=recipe.images.pattern,
            masks=None if recipe.masks is None else recipe.masks.pattern,
            encoding=recipe.encoding,
            classes=recipe.classes.to_yaml(),
            splits={name: split._asdict() for name, split in recipe.splits.items()},
            seed=recipe.seed,
            clip_size=self.clip_size,
            stride=self.stride,
            edge=self.edge,
            tolerance=self.tolerance,
        )


def convert_pair(job: _Job) -> _Written:
    """Writes a pair to its splits, whole or in clips."""
    try:
        return _convert_whole(job) if job.clip_size is None else _convert_clips(job)
    finally:
        advance()


def _convert_whole(job: _Job) -> _Written:
    pair = job.pair
    for split in job.splits:
        sample = Sample.place(job.out, split, pair.stem, Path(pair.image).suffix.lower())
        if not is_written(sample.image):
            _copy(pair.image, sample.image)
        if pair.mask is not None and not is_written(sample.labels):
            encoder = MaskEncoder(job.label_of, job.tolerance)
            with open_raster(pair.mask, quiet=True) as mask:
                write_raster(sample.labels, encoder.encode(mask), **georeference(mask))
    return _Written(1, 0)


def _copy(source: str, path: Path) -> None:
    """Copies an image as it is, with what GDAL keeps beside it."""
    for suffix in ('.aux.xml', ''):
        if os.path.isfile(source + suffix):
            with atomic_path(f'{path}{suffix}', overwrite=True) as temporary:
                try:
                    shutil.copyfile(source + suffix, temporary)
                except OSError as error:
                    raise OutputError(f'{path}{suffix} cannot be written: {error}') from error


def _convert_clips(job: _Job) -> _Written:
    assert job.clip_size is not None
    pair, encoder = job.pair, MaskEncoder(job.label_of, job.tolerance)
    samples = without_label = 0
    with (
        open_raster(pair.image, quiet=True) as image,
        open_raster(pair.mask, quiet=True) if pair.mask else nullcontext() as mask,
    ):
        fits_png = image.dtypes[0] == 'uint8' and band_count(image) in (1, 3) and image.nodata is None
        for clip in clip_grid(image.width, image.height, job.clip_size, job.stride, job.edge):
            labels = None if mask is None else encoder.encode(mask, clip)
            if labels is not None and (labels == IGNORE_INDEX).all():
                without_label += 1
                continue
            samples += 1
            for split in job.splits:
                sample = Sample.place(job.out, split, f'{pair.stem}_{clip}', '.png' if fits_png else '.tif')
                if not is_written(sample.image):
                    pixels = read_bands(image, clip.window)
                    kind = None if image.colorinterp[0] == ColorInterp.palette else image.colorinterp
                    place = georeference(image, clip)
                    write_raster(sample.image, pixels, nodata=image.nodata, colorinterp=kind, **place)
                if labels is not None and not is_written(sample.labels):
                    write_raster(sample.labels, labels, **georeference(image, clip))
    return _Written(samples, without_label)
