"""GID-5 (Gaofen Image Dataset, five classes), as published, to clips in the standard layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rasterio.io import DatasetReader

from mmrs.preparation.converters.archives import Member
from mmrs.preparation.converters.tiles import TileArchive, TileConversion
from mmrs.utils.errors import DataError, require_one_of

#: Label id by colour (RGB). 0, everything else, is ignored.
LABEL_OF_COLOUR = {
    (0, 0, 0): 0,
    (255, 0, 0): 1,
    (0, 255, 0): 2,
    (0, 255, 255): 3,
    (255, 255, 0): 4,
    (0, 0, 255): 5,
}

#: Number of bands of an image, and which of them to take, by choice of bands.
BANDS = {'rgb': {4: [2, 3, 4], 3: [1, 2, 3]}, 'nirrgb': {4: [1, 2, 3, 4]}}
SCALINGS = ('percentile', 'none')


class GIDArchive(TileArchive):
    """GID-5: 150 images of GF-2, with 4 bands (near infrared, red, green, blue) and with 3 (red, green, blue)."""

    _FILE = re.compile(r'(GF2_PMS\d__L1A\d+-MSS\d)(_label)?\.tiff?', re.IGNORECASE)

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """See `TileArchive`. Images of 3 and of 4 bands have the same names: a folder above them tells."""
        match = self._FILE.fullmatch(path.name)
        if match is None:
            return None
        if match[2]:
            return 'labels', match[1]
        return 'nirrgb' if 'nirrgb' in str(path.parent).lower() else 'rgb', match[1]


GID = GIDArchive(
    name='GID-5',
    label_of_colour=LABEL_OF_COLOUR,
    clip_size=1024,
    files=dict(
        rgb='image_RGB or another folder (GF2_PMS1__L1A0001064454-MSS1.tif, ...)',
        nirrgb='image_NirRGB (GF2_PMS1__L1A0001064454-MSS1.tif, ...)',
        labels='label_5classes (GF2_PMS1__L1A0001064454-MSS1_label.tif, ...)',
    ),
)


@dataclass
class GIDConversion(TileConversion):
    """The conversion of GID-5.

    Args:
        bands: `rgb`, or `nirrgb` for all four. Images of four bands serve for both.
        scaling: What becomes of 16-bit images: `percentile` stretches each to 8 bits between the percentiles of its
            bands, `none` keeps them. Images of 8 bits stay as they are.

    See `TileConversion` for the further arguments.
    """

    bands: str = 'rgb'
    scaling: str = 'percentile'

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of('bands', self.bands, BANDS)
        require_one_of('scaling', self.scaling, SCALINGS)

    @property
    def title(self) -> str:
        """See `DatasetConversion`."""
        return f'{self.archive.name}, {self.bands}'

    def settings(self) -> dict[str, Any]:
        """See `DatasetConversion`."""
        return {**super().settings(), 'bands': self.bands, 'scaling': self.scaling}

    def choose_kinds(self, found: Mapping[str, Mapping[str, Member]]) -> tuple[str, str]:
        """The folder of these bands, or the other where it is alone."""
        other = 'nirrgb' if self.bands == 'rgb' else 'rgb'
        return other if other in found and self.bands not in found else self.bands, 'labels'

    def choose_bands(self, image: DatasetReader) -> list[int]:
        """See `TileConversion`."""
        choices = BANDS[self.bands]
        if image.count not in choices:
            raise DataError(
                f'{image.name} has {image.count} bands; {" or ".join(map(str, choices))} were expected for --bands '
                f'{self.bands}. Images of 4 bands are in image_NirRGB.'
            )
        return choices[image.count]

    def choose_stretch(self, image: DatasetReader) -> bool:
        """See `TileConversion`."""
        if image.dtypes[0] not in ('uint8', 'uint16'):
            raise DataError(f'{image.name} holds {image.dtypes[0]}; uint8 or uint16 was expected.')
        return image.dtypes[0] == 'uint16' and self.scaling == 'percentile'
