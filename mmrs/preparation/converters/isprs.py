"""Potsdam and Vaihingen, as the ISPRS publishes them, to clips in the standard layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from mmrs.preparation.converters.archives import Member
from mmrs.preparation.converters.splits import FixedSplits
from mmrs.preparation.converters.tiles import TileArchive, TileConversion
from mmrs.utils.errors import require_one_of

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

#: `paper` is arXiv 2301.05526, `standard` the converters of MMSegmentation, on whose clips most of the field compares.
SPLITS = ('paper', 'standard')


@dataclass(frozen=True, kw_only=True)
class Archive(TileArchive):
    """One of the two data sets.

    Attributes:
        splits: The tiles of each split, as the file names have them.
        standard_splits: The same of MMSegmentation's converter; None: no others.
    """

    splits: Mapping[str, tuple[str, ...]]
    standard_splits: Mapping[str, tuple[str, ...]] | None = None

    def standard(self) -> 'Archive':
        """The data set in the clips of MMSegmentation's converter.

        This has an option `stride_size` of 256 for the number of its clips, but lays them out a clip's size apart, the
        last ones shifted back to the edge; clips that then coincide have one name and become one file.
        """
        return replace(self, splits=self.standard_splits or self.splits, overlap=0.0, edge='shift')


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
    label_of_colour=LABEL_OF_COLOUR,
    clip_size=512,
    splits=dict(
        train=tuple(
            '2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12 '
            '7_7 7_8 7_9 7_10 7_11 7_12'.split()
        ),
        val=tuple('2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13'.split()),
    ),
    files=dict(
        rgb='2_Ortho_RGB.zip (top_potsdam_2_10_RGB.tif, ...)',
        irrg='3_Ortho_IRRG.zip (top_potsdam_2_10_IRRG.tif, ...)',
        eroded='5_Labels_all_noBoundary.zip (top_potsdam_2_10_label_noBoundary.tif, ...)',
        full='5_Labels_all.zip (top_potsdam_2_10_label.tif, ...)',
    ),
)

VAIHINGEN = VaihingenArchive(
    name='Vaihingen',
    label_of_colour=LABEL_OF_COLOUR,
    clip_size=512,
    splits=dict(
        train=tuple('1 3 4 6 10 11 12 14 15 16 17 21 23 26 27 28 29 30 31 32 33 34 35 37 38'.split()),
        val=tuple('2 5 7 8 13 20 22 24'.split()),
    ),
    standard_splits=dict(
        train=tuple('1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37'.split()),
        val=tuple('2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38'.split()),
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


@dataclass
class Conversion(TileConversion):
    """The conversion of one of the two archives.

    Args:
        bands: `irrg` or `rgb`.
        labels: `eroded` (boundaries between objects ignored) or `full`; by default eroded where there are any.
        split: One of `SPLITS`, which decides about tiles, stride and edge.

    See `TileConversion` for the further arguments.
    """

    archive: Archive
    bands: str = 'irrg'
    labels: str | None = None
    split: str = SPLITS[0]

    def __post_init__(self) -> None:
        require_one_of('split', self.split, SPLITS)
        if self.split == 'standard':
            self.archive = self.archive.standard()
        super().__post_init__()
        self.splits = FixedSplits(self.archive.splits)

    @property
    def title(self) -> str:
        """See `DatasetConversion`."""
        return f'{self.archive.name}, {self.bands}, {self.labels} labels, {self.split} split'

    def settings(self) -> dict[str, Any]:
        """See `DatasetConversion`; of the splits, the name."""
        settings = {**super().settings(), 'bands': self.bands, 'labels': self.labels}
        del settings['splits']
        # Conversions from when there was one split say nothing of it.
        return settings if self.split == SPLITS[0] else {**settings, 'split': self.split}

    def choose_kinds(self, found: Mapping[str, Mapping[str, Member]]) -> tuple[str, str]:
        """See `TileConversion`."""
        self.labels = self.labels or ('eroded' if found.get('eroded') or not found.get('full') else 'full')
        return self.bands, self.labels

    def expected_tiles(self, images: Mapping[str, Member], masks: Mapping[str, Member]) -> list[str]:
        """All tiles of the published splits."""
        return [name for names in self.archive.splits.values() for name in names]
