"""How much of two collections of rasters shows the same place."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PairedArea:
    """How much of two collections of rasters shows the same place.

    Areas are of footprints, whether their pixels hold data or not. Where rasters of one collection overlap, the
    ground counts once for each of them.

    Attributes:
        pairs: Number of pairs of a source window and a target raster.
        source_rasters: How many source rasters are in a pair.
        target_rasters: How many target rasters are.
        overlap_km2: Area of the source rasters that the target shows too, in square kilometres.
        paired_km2: The part of it that is in a pair.
        source_share: Share of the source's area that is in a pair, 0 to 1.
        target_share: The same for the target.
        source_pixel_metres: Shortest and longest side of a source pixel as it is read.
        target_pixel_metres: The same for the target, as the files are.
    """

    pairs: int
    source_rasters: int
    target_rasters: int
    overlap_km2: float
    paired_km2: float
    source_share: float
    target_share: float
    source_pixel_metres: tuple[float, float]
    target_pixel_metres: tuple[float, float]

    def __str__(self) -> str:
        source, target = (
            ' to '.join(dict.fromkeys(f'{metres:.3g}' for metres in pixel))
            for pixel in (self.source_pixel_metres, self.target_pixel_metres)
        )
        return (
            f'{self.pairs} pairs of {self.source_rasters} source and {self.target_rasters} target rasters; paired: '
            f'{self.paired_km2:.5g} of {self.overlap_km2:.5g} km2 that both show, {100 * self.source_share:.3g} % of '
            f'the source and {100 * self.target_share:.3g} % of the target; pixels: {source} m and {target} m'
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
