"""LandCoverNet's Sentinel-2 chips, as published, to the standard layout."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mmrs.geo.rasters import open_raster
from mmrs.preparation.converters.archives import Member, find_files
from mmrs.preparation.converters.clips import Placed, check_fit, georeference, write_raster
from mmrs.preparation.converters.conversion import DatasetConversion, Sample
from mmrs.preparation.converters.running import advance, run_tasks
from mmrs.preparation.converters.scaling import histogram, percentile_bounds, to_uint8, valid_pixels
from mmrs.preparation.converters.splits import FixedSplits, SplitLists, Splits
from mmrs.utils.errors import DataError, require, require_number, require_one_of

#: Red, green, blue.
RGB = ('B04', 'B03', 'B02')

#: Label ids; 0 is no data, the others are the classes of `LandCoverNetDataset`.
IDS = range(8)

SCALINGS = ('reflectance', 'percentile', 'image', 'none')

#: The tiles of the Sentinel-2 to LoveDA task.
TILES = dict(train=('35JNN', '35JQG', '35KKP'), val=('35LMC', '35MNT'))

_CHIP = r'(?P<chip>\d\d[A-Z]{3}_\d\d)'
_TIF = r'\.(?i:tiff?)'
_COLLECTION = r'ref_landcovernet(?:_[a-z]{2})?_v1'
# Kind by the end of a path. The first three are the names of single files, the others those of the collections'
# archives, where only the folder tells the chip.
_KINDS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        'labels': rf'{_CHIP}_\d{{4}}_LC_10m{_TIF}',
        'dates': rf'{_CHIP}_\w+\.(?i:csv)',
        'band': rf'{_CHIP}_(?P<date>\d{{8}})_(?P<band>B\d[\dA])_10m{_TIF}',
        'archived labels': rf'{_COLLECTION}_labels_{_CHIP}/labels{_TIF}',
        'archived dates': rf'{_COLLECTION}_labels_{_CHIP}/source_dates\.(?i:csv)',
        'archived band': rf'{_COLLECTION}_source(?:_sentinel_2)?_{_CHIP}_(?P<date>\d{{8}})/(?P<band>B\d[\dA]){_TIF}',
    }.items()
}


def classify(path: PurePosixPath) -> tuple[str, str] | None:
    """Kind (`labels`, `dates` or a band) and name (chip, or chip and date) of a file; None for all others."""
    if {'S1', 'L8'} & set(path.parts):  # other satellites, under the same names
        return None
    for kind, pattern in _KINDS.items():
        match = pattern.fullmatch('/'.join(path.parts[-2:]) if kind.startswith('archived') else path.name)
        if match:
            parts = match.groupdict()
            if 'band' in parts:
                return parts['band'], f'{parts["chip"]}_{parts["date"]}'
            return kind.removeprefix('archived '), parts['chip']
    return None


def parse_date(text: str) -> datetime:
    """A date written as YYYYMMDD; raises ValueError for anything else."""
    return datetime.strptime(text, '%Y%m%d')


def is_date(text: str) -> bool:
    """Whether a text is a date written as YYYYMMDD."""
    try:
        return bool(parse_date(text))
    except ValueError:
        return False


def read_dates(member: Member) -> list[str]:
    """The dates (YYYYMMDD) whose images were used for labelling, from a chip's table.

    Raises:
        DataError: The file cannot be read, or is no such table.
    """
    dates: dict[str, None] = {}
    try:
        rows = list(csv.reader(member.read_text().splitlines()))
    except csv.Error as error:  # another file under this name, all in one line for instance
        raise DataError(
            f'{member.gdal_path} is no table: {error}. Restore the table of labelling dates from its source.'
        ) from error
    for number, row in enumerate(rows, start=1):
        if not any(map(str.strip, row)) or not (dates or row[0].strip()):  # a heading has an empty first cell
            continue
        date = row[1].strip() if len(row) > 1 else ''
        if not (row[0].strip().isdecimal() and is_date(date)):
            raise DataError(
                f'{member.gdal_path}, line {number}: {",".join(row)!r} was found, a number and a date were expected: '
                "'0,20180105'. Restore the table of labelling dates from its source."
            )
        dates[date] = None
    if not dates:
        raise DataError(f"{member.gdal_path} lists no date; lines such as '0,20180105' were expected.")
    return list(dates)


class Chip(NamedTuple):
    """A chip: one label map for several images.

    Attributes:
        tile: Its tile.
        labels: GDAL path of its label map.
        images: For each image the GDAL paths of its bands.
        samples: What becomes of each image.
        scaling: One of `SCALINGS`.
        bounds: Values of each band that become 0 and 255, `(C, 2)`; None where each image has its own or stays.
        min_consensus: Labels of a lower consensus (0 to 100) are ignored.
    """

    tile: str
    labels: str
    images: tuple[tuple[str, ...], ...]
    samples: tuple[Sample, ...]
    scaling: str
    bounds: np.ndarray | None
    min_consensus: float


@dataclass
class LandCoverNetConversion(DatasetConversion):
    """The conversion of LandCoverNet's Sentinel-2 chips.

    Args:
        source: Folder of the chips, as the archives are unpacked or downloaded file by file, or of zip files of them.
        out: Folder that gets `img_dir/{train,val}` and `ann_dir/{train,val}`.
        bands: Names of the bands, such as `B04`.
        scaling: How 16-bit values become 8 bits: `reflectance` between `bounds`, `percentile` between the percentiles
            of each tile, `image` between the smallest and largest value of each image; `none` keeps them.
        bounds: Values that become 0 and 255 (`reflectance`); 10000 is a reflectance of 1.
        min_consensus: Labels of a lower consensus score (0 to 100) are ignored.
        splits: How the images are split; by default by tile, as in the Sentinel-2 to LoveDA task.
        date: Of each chip, only the image nearest to this date (YYYYMMDD), under the name of the chip alone: two
            conversions with different dates are pairs by name. The earlier of two equally near ones counts.
        max_days: How far from `date` it may be; a chip without such an image is missing.
        allow_missing: Whether to convert what is there when files are missing.
    """

    source: Path
    out: Path
    bands: tuple[str, ...] = RGB
    scaling: str = 'reflectance'
    bounds: tuple[float, float] = (0, 3000)
    min_consensus: float = 0
    splits: Splits = field(default_factory=lambda: FixedSplits(TILES))
    date: str | None = None
    max_days: int = 45
    allow_missing: bool = False
    missing: list[str] = field(default_factory=list, init=False)

    units: ClassVar[tuple[str, str]] = ('chips', 'images')

    def __post_init__(self) -> None:
        self.source, self.out, self.bands = Path(self.source), Path(self.out), tuple(self.bands)
        require_one_of('scaling', self.scaling, SCALINGS)
        require(0 <= self.bounds[0] < self.bounds[1], 'bounds', self.bounds, '0 <= LOW < HIGH')
        require_number('min_consensus', self.min_consensus, at_least=0, at_most=100)
        require_number('max_days', self.max_days, at_least=0, unit='days')
        require(self.date is None or is_date(self.date), 'date', self.date, 'YYYYMMDD, such as 20180115,')

    @property
    def title(self) -> str:
        """See `DatasetConversion`."""
        return f'LandCoverNet, Sentinel-2, {" ".join(self.bands)}' + (f', about {self.date}' if self.date else '')

    def settings(self) -> dict[str, Any]:
        """See `DatasetConversion`."""
        names = ('bands', 'scaling', 'bounds', 'min_consensus')
        own = {name: getattr(self, name) for name in names if name != 'bounds' or self.scaling == 'reflectance'}
        chosen = {} if self.date is None else dict(date=self.date, max_days=self.max_days)
        return dict(data='LandCoverNet', **own, **chosen, splits=self.splits.settings())

    @property
    def depends_on_all(self) -> bool:
        """See `DatasetConversion`: further images of a tile change its percentiles."""
        return self.scaling == 'percentile'

    def plan(self) -> list[Chip]:
        """See `DatasetConversion`; of the files, only the tables of dates are read."""
        found = find_files(self.source, classify, ('.tif', '.tiff', '.csv'), 'LandCoverNet')
        images = self._find_images(found)
        clips: dict[str, list[str]] = {}
        for chip, files in images.items():
            clips.setdefault(_tile(chip), []).extend(files)
        if isinstance(self.splits, FixedSplits):
            tiles = [tile for own in self.splits.tiles.values() for tile in own]
            self.missing += [f'{tile}: no chip' for tile in tiles if tile not in clips]
        # Lists name each image, so whatever they do not name may be missing.
        complete = not self.missing or self.allow_missing or isinstance(self.splits, SplitLists)
        if not (images and complete):
            raise DataError(self._missing_message(bool(images)))
        split_of = self.splits.assign(clips)
        suffix = '.png' if self.scaling != 'none' and len(self.bands) in (1, 3) else '.tif'
        bounds = np.array([self.bounds] * len(self.bands)) if self.scaling == 'reflectance' else None
        chips = []
        for chip, files in images.items():
            chosen = {name: paths for name, paths in files.items() if name in split_of}
            samples = tuple(Sample.place(self.out, split_of[name], name, suffix) for name in chosen)
            labels = found['labels'][chip].gdal_path
            chips.append(
                Chip(_tile(chip), labels, tuple(chosen.values()), samples, self.scaling, bounds, self.min_consensus)
            )
        return [chip for chip in chips if chip.samples]

    def _find_images(self, found: Mapping[str, Mapping[str, Member]]) -> dict[str, dict[str, tuple[str, ...]]]:
        """The paths of the bands of each image of each chip; what is missing goes to `missing`."""
        self.missing = []
        labels, tables = found.get('labels', {}), found.get('dates', {})
        suffix = '_RGB' if self.bands == RGB else ''
        images: dict[str, dict[str, tuple[str, ...]]] = {}
        for chip in sorted({*labels, *tables}):
            if isinstance(self.splits, FixedSplits) and not self.splits.assign({_tile(chip): [chip]}):
                continue
            if lacking := [kind for kind, there in (('labels', labels), ('dates', tables)) if chip not in there]:
                self.missing.append(f'{chip}: no {" and no ".join(lacking)} file')
                continue
            for date, name in self._choose(chip, read_dates(tables[chip])):
                members = [found.get(band, {}).get(f'{chip}_{date}') for band in self.bands]
                if all(members):
                    paths = tuple(member.gdal_path for member in members if member)
                    images.setdefault(chip, {})[f'{name}{suffix}'] = paths
                else:
                    lacking = [band for band, member in zip(self.bands, members) if member is None]
                    self.missing.append(f'{chip}: no {", ".join(lacking)} of {date}')
        return images

    def _choose(self, chip: str, dates: Sequence[str]) -> list[tuple[str, str]]:
        """Dates of the images to convert, each with the name of what becomes of it."""
        if self.date is None:
            return [(date, f'{chip}_{date}') for date in dates]
        wanted = parse_date(self.date)
        days, nearest = min((abs((parse_date(date) - wanted).days), date) for date in dates)
        if days > self.max_days:
            self.missing.append(f'{chip}: no image within {self.max_days} days of {self.date}; nearest: {nearest}')
            return []
        return [(nearest, chip)]

    def _missing_message(self, any_found: bool) -> str:
        message = f'{self.source} lacks files of LandCoverNet ({len(self.missing)}):\n  {self.list_missing()}'
        return message + (
            '\nExpected there, unpacked (tar files are not read): the labels (35JNN_00_2018_LC_10m.tif and '
            '35JNN_00_labeling_dates.csv, or ref_landcovernet_v1_labels_35JNN_00/labels.tif and source_dates.csv) and '
            'the bands (35JNN_00_20180105_B04_10m.tif, or ref_landcovernet_v1_source_35JNN_00_20180105/B04.tif).'
            + ('\nTo convert what is there alone, add --allow-missing.' if any_found else '')
        )

    def prepare(self, tasks: Sequence[Chip], workers: int) -> Sequence[Chip]:
        """Measures the percentiles of each tile, over all its images, where they are asked for."""
        if self.scaling != 'percentile':
            return tasks
        unfinished = {chip.tile for chip in tasks if not all(sample.is_written for sample in chip.samples)}
        tiles = {tile: [chip for chip in tasks if chip.tile == tile] for tile in sorted(unfinished)}
        total = sum(len(chip.images) for chips in tiles.values() for chip in chips)
        counts = run_tasks(tile_histogram, list(tiles.values()), workers, total, 'Measuring')
        bounds = dict(zip(tiles, map(percentile_bounds, counts)))
        return [chip._replace(bounds=bounds.get(chip.tile)) for chip in tasks]

    @staticmethod
    def convert(task: Chip) -> None:
        """See `DatasetConversion`."""
        todo = [(paths, sample) for paths, sample in zip(task.images, task.samples) if not sample.is_written]
        advance(len(task.samples) - len(todo))
        if not todo:
            return
        ids, where = read_labels(task.labels, task.min_consensus)
        for paths, sample in todo:
            image, own = read_bands(paths)
            check_fit(Placed(paths[0], image.shape[1:], own), Placed(task.labels, ids.shape, where))
            valid = valid_pixels(image)
            nodata: int | None = 0
            if task.scaling != 'none':
                bounds = _extremes(image, valid) if task.bounds is None else task.bounds
                image, nodata = to_uint8(image, bounds, valid), None if valid.all() else 0
            write_raster(sample.image, image, nodata=nodata, **own)
            write_raster(sample.labels, np.where(valid, ids, np.uint8(0)), **where)
            advance()


def _tile(chip: str) -> str:
    return chip.partition('_')[0]


def _extremes(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    if not valid.any():
        return np.array([(0, 1)] * len(image))
    return np.array([(band[valid].min(), band[valid].max()) for band in image])


def tile_histogram(chips: Sequence[Chip]) -> np.ndarray:
    """Counts `(C, 65536)` of the values of each band over all images of some chips."""
    counts = np.zeros((len(chips[0].images[0]), 65536), np.int64)
    for chip in chips:
        for paths in chip.images:
            image, _ = read_bands(paths)
            counts += histogram(image, valid_pixels(image))
            advance()
    return counts


def read_bands(paths: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """An image `(C, H, W)`, uint16, of one file per band, and its georeference.

    Raises:
        DataError: A file cannot be read, does not hold a single band of uint16, or is not of the others' size.
    """
    bands: list[np.ndarray] = []
    where: dict[str, Any] = {}
    for path in paths:
        with open_raster(path, quiet=True) as raster:
            if (raster.count, raster.dtypes[0]) != (1, 'uint16'):
                raise DataError(
                    f'{path} has {raster.count} bands of {raster.dtypes[0]}; 1 band of uint16 was expected. Restore '
                    'the file from its source.'
                )
            band = raster.read(1)
            if bands and band.shape != bands[0].shape:
                raise DataError(
                    f'{path} has {raster.width} x {raster.height} pixels (width x height), but {paths[0]} has '
                    f'{bands[0].shape[1]} x {bands[0].shape[0]}. The bands of an image must be of one size.'
                )
            bands.append(band)
            where = where or georeference(raster)
    return np.stack(bands), where


def read_labels(path: str, min_consensus: float) -> tuple[np.ndarray, dict[str, Any]]:
    """A label map `(H, W)`, uint8, ids 0 to 7, and its georeference.

    Raises:
        DataError: The file cannot be read, holds other ids, or no consensus scores where they are needed.
    """
    with open_raster(path, quiet=True) as raster:
        ids = raster.read(1)
        if min_consensus:
            if raster.count < 2:
                raise DataError(
                    f'{path} has {raster.count} band; a second one with consensus scores was expected for '
                    '--min-consensus. Leave that out, or restore the file from its source.'
                )
            ids = np.where(raster.read(2) < min_consensus, 0, ids)
        if raster.nodata is not None:
            ids = np.where(ids == raster.nodata, 0, ids)
        if others := sorted(set(np.unique(ids).tolist()) - set(IDS)):
            share = 100 * np.isin(ids, others).mean()
            raise DataError(
                f'{path} holds {", ".join(map(str, others[:5]))} on {share:.3g} % of the pixels; ids 0 (no data) to 7 '
                'were expected in its first band. Restore the file from its source.'
            )
        return ids.astype(np.uint8), georeference(raster)
