"""CITY-OSM, aerial images with labels from OpenStreetMap, as published, to clips in the standard layout."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from rasterio.io import DatasetReader

from mmrs.preparation.converters.tiles import TileArchive, TileConversion
from mmrs.utils.errors import DataError

#: Label id by colour (RGB); background is a class like the others.
LABEL_OF_COLOUR = {(255, 255, 255): 0, (0, 0, 255): 1, (255, 0, 0): 2}

CITIES = ('berlin', 'chicago', 'paris', 'potsdam', 'tokyo', 'zurich')


@dataclass(frozen=True, kw_only=True)
class CityArchive(TileArchive):
    """One of the cities: RGB images with labels.

    Attributes:
        city: Its name in the files' names.
    """

    city: str

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """See `TileArchive`."""
        match = re.fullmatch(rf'({re.escape(self.city)}\d*)_(image|labels)\.png', path.name, re.IGNORECASE)
        return (match[2].lower().replace('image', 'images'), match[1].lower()) if match else None


def city_archive(city: str) -> CityArchive:
    """The archive of one of `CITIES`."""
    return CityArchive(
        name=f'CITY-OSM {city.capitalize()}',
        city=city,
        label_of_colour=LABEL_OF_COLOUR,
        clip_size=512,
        files=dict(
            images=f'{city}.zip ({city}1_image.png, ...)',
            labels=f'{city}.zip ({city}1_labels.png, ...)',
        ),
    )


class CityConversion(TileConversion):
    """The conversion of one city; arguments as in `TileConversion`."""

    suffixes: ClassVar[tuple[str, ...]] = ('.png',)

    def choose_bands(self, image: DatasetReader) -> list[int]:
        """Red, green and blue; a fourth band would be transparency."""
        if image.count not in (3, 4):
            raise DataError(f'{image.name} has {image.count} bands; 3 (red, green, blue) were expected.')
        return [1, 2, 3]
