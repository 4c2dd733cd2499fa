"""What is in users' images and masks, before anything is converted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window
from rich.console import Console
from rich.table import Column, Table

from mmrs.geo.classes import IGNORE_INDEX
from mmrs.geo.masks import hidden_class, nodata_is_class
from mmrs.geo.rasters import expand_palette, open_raster
from mmrs.geo.statistics import measure
from mmrs.geo.statistics_bands import BandStatistics
from mmrs.preparation.converters.encoding import MaskEncoder
from mmrs.preparation.converters.recipe import Dropped, Pair, Recipe
from mmrs.preparation.converters.running import advance
from mmrs.utils.errors import some


@dataclass(frozen=True)
class Survey:
    """What was found in a pair of image and mask.

    Attributes:
        size: Width and height in pixels.
        bands: Number of bands, after a palette is expanded, and their data type.
        counts: Pixels by label id, 256 numbers.
        unknown: Pixels by mask value, of the values that are no class.
        hidden: Pixels by mask value, of the values that are a class and that a nodata value or, among colours,
            transparency hides.
        values: Statistics of the bands, by the rules of training; None where the pair cannot be used.
        problem: Why the pair cannot be used; empty if it can.
    """

    size: tuple[int, int] = (0, 0)
    bands: tuple[int, str] = (0, '')
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    unknown: Counter[int] = field(default_factory=Counter)
    hidden: Counter[int] = field(default_factory=Counter)
    values: BandStatistics | None = None
    problem: str = ''


class SurveyTask(NamedTuple):
    """A pair to survey, and how its mask is encoded."""

    pair: Pair
    label_of: dict
    tolerance: int


def survey_pair(task: SurveyTask) -> Survey:
    """Reads a pair to its end, strip by strip."""
    pair = task.pair
    try:
        with open_raster(pair.image, quiet=True) as image:
            size, bands = (image.width, image.height), (band_count(image), image.dtypes[0])
        values = measure(pair.image)
        if not values.count.any():
            return Survey(problem='no pixel with data')
        if pair.mask is None:
            return Survey(size, bands, values=values)
        with open_raster(pair.mask, quiet=True) as mask:
            mask_size = mask.width, mask.height
            if mask_size != size:
                return Survey(
                    problem=f'{size[0]} x {size[1]} pixels (width x height), its mask {mask_size[0]} x {mask_size[1]}'
                )
            counts, unknown, hidden = MaskEncoder(task.label_of, task.tolerance).survey(mask)
        problem = '' if counts[:IGNORE_INDEX].any() else 'no labelled pixel in its mask'
        return Survey(size, bands, counts, unknown, hidden, values, problem)
    except OSError as error:
        return Survey(problem=str(error))
    finally:
        advance()


def band_count(image: DatasetReader) -> int:
    """Number of bands after a palette is expanded."""
    return 3 if image.colorinterp[0] == ColorInterp.palette else image.count


def read_bands(image: DatasetReader, window: Window) -> np.ndarray:
    """Pixels `(C, H, W)` of a window; a palette is expanded."""
    if image.colorinterp[0] == ColorInterp.palette:
        return expand_palette(image.read(1, window=window), image.colormap(1)).transpose(2, 0, 1)
    return image.read(window=window)


def drop_unusable(pairs: Sequence[Pair], surveys: dict[str, Survey]) -> list[Dropped]:
    """Lists the pairs with problems; images of other bands than most are among them, because a model takes one kind."""
    kinds = Counter(surveys[pair.stem].bands for pair in pairs if not surveys[pair.stem].problem)
    for pair in pairs if kinds else ():
        survey, (usual, _) = surveys[pair.stem], kinds.most_common(1)[0]
        if not survey.problem and survey.bands != usual:
            problem = f'{survey.bands[0]} bands of {survey.bands[1]}, where most images have {usual[0]} of {usual[1]}'
            surveys[pair.stem] = replace(survey, problem=problem)
    return [Dropped(pair.image, surveys[pair.stem].problem) for pair in pairs if surveys[pair.stem].problem]


def statistics(surveys: Sequence[Survey], recipe: Recipe) -> dict[str, Any]:
    """Counts of a split: images; pixels, share and images of each class; mean and standard deviation of each band."""
    result: dict[str, Any] = dict(images=len(surveys))
    if recipe.masks is not None:
        counts = np.array([survey.counts for survey in surveys], np.int64).reshape(-1, 256)
        names = recipe.classes.names
        total = max(1, counts[:, : len(names)].sum())
        result['classes'] = {
            name: dict(pixels=int(own.sum()), share=float(own.sum() / total), images=int((own > 0).sum()))
            for name, own in zip(names, counts.T)
        }
        result['ignored_pixels'] = int(counts[:, IGNORE_INDEX].sum())
    if measured := [survey.values for survey in surveys if survey.values is not None]:
        values = BandStatistics.merge(measured)
        result.update(band_mean=values.mean.round(4).tolist(), band_std=values.std.round(4).tolist())
    return result


def unknown_values(surveys: dict[str, Survey], encoder: MaskEncoder) -> str:
    """Says which masks hold which values that are no class, with their shares; empty if none does. Keys are files."""
    found = {file: survey for file, survey in surveys.items() if survey.unknown}
    if not found:
        return ''
    unknown = sum((survey.unknown for survey in found.values()), Counter[int]())
    pixels = sum(int(survey.counts.sum()) for survey in found.values())
    shares = {file: 100 * sum(s.unknown.values()) / s.counts.sum() for file, s in found.items()}
    files = [f'{file} ({shares[file]:.3g} %)' for file in sorted(shares, key=shares.__getitem__, reverse=True)]
    hint = ', or map near ones with --tolerance N' if encoder.by_colour else ''
    return (
        f'{len(files)} of {len(surveys)} masks hold {"colours" if encoder.by_colour else "ids"} that are no class: '
        f'{encoder.describe_unknown(unknown, pixels)} of their pixels.\n'
        f'Files: {", ".join(files[:5])}{f" and {len(files) - 5} more" if len(files) > 5 else ""}.\n'
        f'The classes have {encoder.known}. Add the others to a class or to an ignored one{hint}.'
    )


def hidden_classes(surveys: dict[str, Survey], encoder: MaskEncoder, names: Sequence[str]) -> list[str]:
    """Says which masks hide which classes by their nodata value. Keys are files, `names` those of the label ids."""
    return [
        f'{file}: {hidden_class(encoder.name(value), pixels, names[encoder.label(value)])}'
        for file, survey in surveys.items()
        for value, pixels in survey.hidden.most_common()
    ]


def print_report(report: dict[str, Any]) -> None:
    """Shows the statistics of all splits and what was dropped."""
    console, splits = Console(), report['splits']
    if all('classes' in split for split in splits.values()):
        table = Table(Column('class', no_wrap=True), title='Pixels by class', title_justify='left')
        for name, split in splits.items():
            for heading in (f'{name}: Mpx', 'share', f'images of {split["images"]}'):
                table.add_column(heading, justify='right')
        for name in next(iter(splits.values()))['classes']:
            cells: list[str] = []
            for split in splits.values():
                own = split['classes'][name]
                cells += [_megapixels(own['pixels']), f'{100 * own["share"]:.2f} %', str(own['images'])]
            table.add_row(name, *cells)
        ignored = [_megapixels(split['ignored_pixels']) for split in splits.values()]
        table.add_row('(ignored)', *(cell for text in ignored for cell in (text, '', '')), style='dim')
        console.print(table)
    else:
        for name, split in splits.items():
            console.print(f'{name}: {split["images"]} images without labels', highlight=False)
    for reason, count in Counter(item['reason'] for item in report['dropped']).most_common():
        files = [item['file'] for item in report['dropped'] if item['reason'] == reason]
        console.print(f'Left out {count}: {reason}: {some(files, 3)}', highlight=False, soft_wrap=True)
    if hidden := report['hidden_classes']:
        console.print(f'warning: {nodata_is_class(hidden)}', highlight=False, soft_wrap=True)


def _megapixels(pixels: int) -> str:
    return f'{pixels / 1e6:.3f}'
