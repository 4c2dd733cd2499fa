"""Where the pixels of a raster lie on the ground."""

import math
import os
import shlex
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from mmrs.utils.errors import DataError, UnusableError

#: Two grids are one where no corner is further apart than this, in pixels. Writers of GeoTIFFs differ by rounding.
TOLERANCE = 1e-3

#: A ground sampling distance within this share of another counts as equal: resampling would blur and gain nothing.
GSD_TOLERANCE = 0.01

# Characters; more are no description of a CRS.
_MOST_OF_A_CRS = 1 << 16

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class RasterGrid:
    """The pixel grid of a raster, of a window of it, or of a resampled raster.

    Attributes:
        crs: Coordinate reference system, if it has one.
        transform: From columns and rows to coordinates; may be rotated or south-up.
        width: Columns.
        height: Rows.
    """

    crs: CRS | None
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, raster: DatasetReader) -> 'RasterGrid':
        """The grid of an open raster; raises UnusableError where its pixels have a place but no area."""
        determinant = raster.transform.determinant
        if raster.crs is not None and not 0 < abs(determinant) < math.inf:
            raise UnusableError(
                f'{raster.name} has the transform {tuple(raster.transform)[:6]}, by which its pixels have no area. '
                'Correct it: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM FILE'
            )
        return cls(raster.crs, raster.transform, raster.width, raster.height)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def bounds(self) -> Bounds:
        """Smallest and largest x and y of the corners, as (x, y, x, y), in units of the CRS."""
        xs, ys = zip(*self._corners())
        return min(xs), min(ys), max(xs), max(ys)

    def _corners(self) -> list[tuple[float, float]]:
        return [place(self.transform, x, y) for x in (0, self.width) for y in (0, self.height)]

    def resampled(self, shape: tuple[int, int]) -> 'RasterGrid':
        """The same extent with other numbers of rows and columns."""
        height, width = shape
        x, y, old = self.width / width, self.height / height, self.transform
        scaled = Affine(old.a * x, old.b * y, old.c, old.d * x, old.e * y, old.f)
        return replace(self, transform=scaled, width=width, height=height)

    def window(self, window: tuple[int, int, int, int]) -> 'RasterGrid':
        """A part of the grid, from (x0, y0) up to but without (x1, y1), in its pixels."""
        x0, y0, x1, y1 = window
        x, y = place(self.transform, x0, y0)
        old = self.transform
        return replace(self, transform=Affine(old.a, old.b, x, old.d, old.e, y), width=x1 - x0, height=y1 - y0)

    def matches(self, other: 'RasterGrid') -> bool:
        """Whether both have the same pixels. Without CRS on both sides, all that can be compared is the size."""
        if self.shape != other.shape or (self.crs is None) != (other.crs is None):
            return False
        if self.crs is None:
            return True
        return self.crs == other.crs and self.offset(other) <= TOLERANCE

    def offset(self, other: 'RasterGrid') -> float:
        """How far apart the corners of two grids of one size and CRS are, in pixels of the first, at most."""
        own, others = (
            np.array([place(~self.transform, *corner) for corner in grid._corners()]) for grid in (self, other)
        )
        return float(np.abs(own - others).max())

    @property
    def is_georeferenced(self) -> bool:
        """Whether the file says where its pixels lie."""
        return self.transform != Affine.identity()

    def bounds_in(self, crs: CRS) -> Bounds:
        """`bounds` in another CRS."""
        return move_bounds(self.bounds, self.crs, crs)

    def pixel_metres(self) -> tuple[float, float]:
        """Width and height of a pixel on the ground, in metres, at the middle of the raster.

        For a projected CRS it is what the transform says. For degrees, and where a projection stretches distances by
        more than 1 % as Web Mercator does, it is the length on the WGS84 ellipsoid.

        Raises:
            DataError: There is no CRS, or none that has to do with metres; the message does not name the raster.
        """
        right, down = np.hypot(*self.pixel_vectors(np.array([[self.width / 2, self.height / 2]]))[0]).tolist()
        return right, down

    def pixel_vectors(self, places: np.ndarray) -> np.ndarray:
        """What a pixel to the right and a pixel down are in metres eastwards and northwards, as `pixel_metres` has it.

        Args:
            places: Columns and rows `(N, 2)`; lengths on the ellipsoid differ from place to place.

        Returns:
            `(N, 2, 2)`, with one column for each of the two.

        Raises:
            DataError: As `pixel_metres` does.
        """
        if self.crs is None:
            raise DataError('it has no CRS, so that the size of its pixels in metres is unknown')
        if self.transform.is_identity:
            raise DataError(
                'it has a CRS, but no transform (`rio edit-info --transform`, or a world file) that says how large its '
                'pixels are'
            )
        a, b, _, d, e = tuple(self.transform)[:5]
        try:
            metre = 1.0 if self.crs.is_geographic else self.crs.linear_units_factor[1]
            middle = self._ground_vectors(np.array([[self.width / 2, self.height / 2]]))[0]
            reason = '' if np.isfinite(middle).all() else 'the raster has no place on the ground'
        except Exception as error:  # GDAL's own errors are of no public kind
            reason = str(error)
        if reason:
            raise DataError(f'the size of its pixels in metres cannot be told from its CRS: {reason}')
        if not self.crs.is_geographic:
            nominal = metre * np.array([[a, b], [d, e]])
            if all(same_gsd(map_, true) for map_, true in zip(np.hypot(*nominal), np.hypot(*middle))):
                return np.broadcast_to(nominal, (len(places), 2, 2))
        return self._ground_vectors(places)

    def _ground_vectors(self, places: np.ndarray) -> np.ndarray:
        """The same, on the WGS84 ellipsoid."""
        steps = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5], [0, 0]])
        columns, rows = (places + steps[:, None]).reshape(-1, 2).T
        xs, ys = place(self.transform, columns, rows)
        lon, lat = np.radians(transform(self.crs, 'EPSG:4326', xs, ys)).reshape(2, 5, -1)
        # What has no place there has no length.
        lon[~np.isfinite(lon)], lat[~np.isfinite(lat)] = np.nan, np.nan
        # Radii of curvature of the ellipsoid: along the meridian, and of the circle of latitude.
        axis, eccentricity2 = 6378137.0, 0.00669437999014
        flatness = 1 - eccentricity2 * np.sin(lat[4]) ** 2
        north = axis * (1 - eccentricity2) / flatness**1.5
        east = axis * np.cos(lat[4]) / np.sqrt(flatness)
        turns = (lon[[1, 3]] - lon[[0, 2]] + math.pi) % (2 * math.pi) - math.pi  # across the date line
        return np.stack([turns * east, (lat[[1, 3]] - lat[[0, 2]]) * north]).transpose(2, 0, 1)


Number = TypeVar('Number', float, np.ndarray)


def place(transform: Affine, column: Number, row: Number) -> tuple[Number, Number]:
    """Coordinates of places in a raster; with a transform's inverse, the places of coordinates."""
    # Written out, for Affine 3 deprecates `*` and Affine 2 has no `@`.
    return (
        transform.a * column + transform.b * row + transform.c,
        transform.d * column + transform.e * row + transform.f,
    )


def same_gsd(first: float, second: float) -> bool:
    """Whether two ground sampling distances count as equal."""
    return abs(first / second - 1) <= GSD_TOLERANCE


def move_bounds(bounds: Bounds, crs: CRS, to: CRS) -> Bounds:
    """An extent in another CRS; NaN where it has no place there."""
    try:
        return transform_bounds(crs, to, *bounds)
    except Exception:  # GDAL's own errors are of no public kind
        return (math.nan,) * 4


def overlap(first: Bounds, second: Bounds) -> bool:
    """Whether two extents have an area in common."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def check_labels_fit(image_path: str, image: RasterGrid, label_path: str, labels: RasterGrid) -> None:
    """Raises DataError where a label raster cannot belong to an image: CRS on one side only, or another place."""
    sides = [(image_path, image.crs), (label_path, labels.crs)]
    if (image.crs is None) != (labels.crs is None):
        (without, _), (path, crs) = sorted(sides, key=lambda side: side[1] is not None)
        raise DataError(
            f'{without} has no CRS, but {path} has {describe_crs(crs)}. {write_crs(without)}, or leave it out of both.'
        )
    if image.crs is None:
        if image.shape != labels.shape:
            raise DataError(
                f'The image {image_path} has {image.width} x {image.height} pixels (width x height), but its label '
                f'map {label_path} has {labels.width} x {labels.height}. Without CRS they must be of one size.'
            )
        return
    extent = labels.bounds_in(image.crs)
    if not overlap(image.bounds, extent):
        raise DataError(
            f'The label map {label_path} lies outside its image {image_path}: it covers {describe_bounds(extent)}, the '
            f'image {describe_bounds(image.bounds)} ({describe_crs(image.crs)}). Pair the right files, or correct the '
            'CRS of one.'
        )


def crs_beside(path: str) -> tuple[str, CRS] | None:
    """The CRS in a `.prj` file beside a raster, and that file. GDAL reads it for some formats, but for no TIFF."""
    for suffix in ('.prj', '.PRJ'):
        beside = os.path.splitext(path)[0] + suffix
        try:
            with open(beside, encoding='utf-8', errors='replace') as file:
                return beside, CRS.from_wkt(file.read(_MOST_OF_A_CRS))
        except (OSError, CRSError):
            continue
    return None


def write_crs(path: str) -> str:
    """What to do about a raster without a CRS, as the beginning of a sentence."""
    beside = crs_beside(path)
    if beside is None:
        return f'Write it into the file (`rio edit-info --crs EPSG:... {shlex.quote(path)}`)'
    prj, crs = beside
    code = crs.to_epsg()
    text = f'"$(cat {shlex.quote(prj)})"' if code is None else f'EPSG:{code}'
    return f'Write the one that {prj} has into the file (`rio edit-info --crs {text} {shlex.quote(path)}`)'


def describe_crs(crs: CRS | None) -> str:
    """`EPSG:32633`, or as much as there is."""
    return 'no CRS' if crs is None else crs.to_string()[:80]


def describe_bounds(bounds: Bounds) -> str:
    """Extent for a message."""
    if not np.isfinite(bounds).all():
        return 'no place in this CRS'
    return f'x {bounds[0]:.8g} to {bounds[2]:.8g}, y {bounds[1]:.8g} to {bounds[3]:.8g}'
