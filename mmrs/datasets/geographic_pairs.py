"""Pairs of GeoTIFFs of the same place, whatever their grids."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import shapely
from mmengine.logging import print_log
from rasterio.crs import CRS
from shapely.affinity import translate

from mmrs.datasets.paired import PairedDataset
from mmrs.datasets.paired_area import PairedArea
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.geo.footprints import footprint, move, window_footprints
from mmrs.geo.grids import describe_bounds, describe_crs, write_crs
from mmrs.geo.headers import RasterHeader, read_headers
from mmrs.geo.rasters import open_raster
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, require_number


@DATASETS.register_module()
class GeographicPairedDataset(PairedDataset):
    """Windows of GeoTIFFs, each with what another collection of GeoTIFFs shows of the same place, without labels.

    The collections may differ in CRS, resolution, extent and names. A pair is a window of a source raster and a target
    raster whose footprint covers enough of it; a window that several target rasters cover is in several pairs. The
    target is warped onto the pixels of the window when it is read (see `read_aligned_image`), and its `valid_map` says
    where it reaches and holds data. A window that jitters takes along the target raster of its own place.

    Samples, `pipeline` and what the configurations must and must not have are as in `PairedDataset`.

    Args:
        source: A `RasterDataset`, or its configuration; its `windows` and `gsd` make the windows and their pixels.
        target: The same, without `windows` and `gsd`.
        pipeline: As in `PairedDataset`.
        min_overlap: Share of a window that a target raster has to cover, above 0 and up to 1.

    Raises:
        DataError: A raster has no CRS or no transform, or lies where a CRS jumps; or no target raster covers enough of
            a source window.
        ConfigError: A setting that cannot be used here; and what `PairedDataset` raises.
    """

    def __init__(
        self,
        source: dict | RasterDataset,
        target: dict | RasterDataset,
        pipeline: Sequence[dict | Callable] = (),
        min_overlap: float = 0.5,
    ) -> None:
        require_number('min_overlap', min_overlap, above=0, at_most=1)
        self.min_overlap = min_overlap
        self._area: PairedArea | None = None
        super().__init__(source, target, pipeline)

    @property
    def area(self) -> PairedArea:
        """How much of the two collections is paired."""
        self.full_init()
        assert self._area is not None
        return self._area

    def _check_configuration(self) -> None:
        super()._check_configuration()
        for name, part in (('source', self.source), ('target', self.target)):
            if not isinstance(part, RasterDataset):
                raise ConfigError(
                    f'GeographicPairedDataset: {name} is a {type(part).__name__}; a RasterDataset was expected'
                )

    def _place_target(self, source: Mapping, target: dict) -> None:
        target.update(window=source['window'], grid_shape=source['grid_shape'], grid_path=source['img_path'])

    def _find_pairs(self) -> np.ndarray:
        sources, targets = _Collection.of(self.source), _Collection.of(self.target)
        whole = [(0, 0, header.grid.width, header.grid.height) for header in targets.headers]
        if targets.windows.tolist() != [list(window) for window in whole]:
            raise ConfigError(
                'GeographicPairedDataset: the target has windows or gsd, but it is warped onto the windows of the '
                'source; give them to the source alone'
            )
        kinds = dict.fromkeys(header.grid.crs for header in sources.headers)
        places = {crs: np.array([_footprint(header, crs) for header in targets.headers]) for crs in kinds}
        found = list(_find_overlaps(sources, targets, places))
        largest = max(overlap.shares.max(initial=0) for overlap in found)
        if not largest:
            raise DataError(self._no_overlap(sources.headers, targets.headers))
        if largest < self.min_overlap - 1e-9:
            raise DataError(
                f'No target raster covers {100 * self.min_overlap:g} % of a source window (min_overlap); the most is '
                f'{100 * largest:.3g} %. Lower min_overlap, or make the windows smaller.'
            )
        overlaps = [overlap.restricted(self.min_overlap) for overlap in found]
        pairs = np.concatenate([overlap.pairs for overlap in overlaps])
        self._area = _measure(sources, targets, places, overlaps)
        for name, side, used in (
            ('source', sources, set(sources.raster_of[pairs[:, 0]].tolist())),
            ('target', targets, set(pairs[:, 1].tolist())),
        ):
            self.unpaired[name] = [header.path for i, header in enumerate(side.headers) if i not in used]
        print_log(f'{type(self).__name__}: {self._area}', logger='current')
        return pairs

    def _no_overlap(self, sources: Sequence[RasterHeader], targets: Sequence[RasterHeader]) -> str:
        crs = sources[0].grid.crs
        for other in dict.fromkeys(header.grid.crs for header in targets if header.grid.crs != crs):
            # The edge of the whole Earth, say, has no place in a projected CRS or a senseless one.
            places = shapely.union_all([_footprint(header, other) for header in sources])
            for header in targets:
                own = header.grid
                if own.crs == other and footprint(own, other).intersection(places).area > 0.5 * places.area > 0:
                    return (
                        f'{header.path} shows the place of the source, but reaches too far for '
                        f'{describe_crs(crs)}: it covers {describe_bounds(own.bounds)} in {describe_crs(other)}. Cut '
                        'it to the place first (`rio clip`, `gdal_translate -projwin`).'
                    )
        source, target = (
            describe_bounds(tuple(shapely.total_bounds([_footprint(header, crs) for header in headers])))
            for headers in (sources, targets)
        )
        return (
            f'No target raster meets a source raster. In {describe_crs(crs)} the {len(sources)} rasters of the source '
            f'({self.source.data_prefix["img_path"]}) cover {source}; the {len(targets)} of the target '
            f'({self.target.data_prefix["img_path"]}) cover {target}. Choose rasters of one place, or correct a wrong '
            'CRS.'
        )


@dataclass(frozen=True)
class _Collection:
    """The rasters of a data set, and its samples.

    Attributes:
        headers: Of the rasters.
        raster_of: Index of the raster of each sample, `(N,)`.
        windows: x0, y0, x1, y1 of each sample, `(N, 4)`.
        shapes: Rows and columns of each raster as it is read.
    """

    headers: list[RasterHeader]
    raster_of: np.ndarray
    windows: np.ndarray
    shapes: list[tuple[int, int]]

    @classmethod
    def of(cls, dataset: RasterDataset) -> '_Collection':
        """Those of a data set. Raises DataError for a raster that does not say where it lies."""
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        shape_of = {info['img_path']: info['grid_shape'] for info in infos}
        index_of = {path: i for i, path in enumerate(shape_of)}
        headers = read_headers(list(shape_of), find_empty=False)
        for header in headers:
            _require_place(header)
        raster_of = np.array([index_of[info['img_path']] for info in infos])
        return cls(headers, raster_of, np.array([info['window'] for info in infos]), list(shape_of.values()))

    def samples(self) -> list[np.ndarray]:
        """Indices of the samples of each raster."""
        order = np.argsort(self.raster_of, kind='stable')
        return np.split(order, np.searchsorted(self.raster_of[order], np.arange(1, len(self.headers))))

    def square_kilometres(self) -> np.ndarray:
        """Area of each raster."""
        grids = [header.grid for header in self.headers]
        return np.array([prod(grid.pixel_metres()) * grid.width * grid.height / 1e6 for grid in grids])

    def pixel_metres(self) -> tuple[float, float]:
        """Shortest and longest side of a pixel as it is read."""
        sides = [h.grid.resampled(shape).pixel_metres() for h, shape in zip(self.headers, self.shapes)]
        return float(np.min(sides)), float(np.max(sides))


@dataclass(frozen=True)
class _Overlap:
    """A source raster, and what target rasters show of it; all polygons are in the CRS of the former.

    Attributes:
        crs: That CRS.
        footprint: Of the source raster.
        common: The part of it that target rasters show.
        pairs: Indices of a sample of the raster and of a target raster that shows some of it, `(P, 2)`.
        shown: What it shows, polygons `(P,)`.
        shares: The same as share of the sample's area, `(P,)`.
    """

    crs: CRS
    footprint: shapely.Polygon
    common: shapely.Geometry
    pairs: np.ndarray
    shown: np.ndarray
    shares: np.ndarray

    def restricted(self, min_overlap: float) -> '_Overlap':
        """With the pairs alone that share that much."""
        enough = self.shares >= min_overlap - 1e-9  # rounding of coordinates
        return replace(self, pairs=self.pairs[enough], shown=self.shown[enough], shares=self.shares[enough])


def _find_overlaps(sources: _Collection, targets: _Collection, places: Mapping[CRS, np.ndarray]) -> Iterator[_Overlap]:
    trees = {crs: shapely.STRtree(footprints) for crs, footprints in places.items()}
    for header, shape, samples in zip(sources.headers, sources.shapes, sources.samples()):
        crs = header.grid.crs
        whole = footprint(header.grid, crs)
        near = trees[crs].query(whole, predicate='intersects')
        near = near[[_meet(header, targets.headers[target]) for target in near]]
        common = shapely.union_all(shapely.intersection(places[crs][near], whole))
        windows = window_footprints(header.grid.resampled(shape), sources.windows[samples])
        i, j = trees[crs].query(windows, predicate='intersects')
        shown = shapely.intersection(windows[i], places[crs][j])
        shares = shapely.area(shown) / shapely.area(windows[i])
        # Neighbours have an edge in common, and nothing else.
        kept = (shares > 0) & np.isin(j, near)
        i, j, shown, shares = (values[kept] for values in (i, j, shown, shares))
        order = np.lexsort((j, i))
        pairs = np.stack((samples[i], j), axis=1)
        yield _Overlap(crs, whole, common, pairs[order], shown[order], shares[order])


def _measure(
    sources: _Collection,
    targets: _Collection,
    places: Mapping[CRS, np.ndarray],
    overlaps: Sequence[_Overlap],
) -> PairedArea:
    source_km2, target_km2 = sources.square_kilometres(), targets.square_kilometres()
    whole = np.array([own.footprint.area for own in overlaps])
    common = np.array([own.common.area for own in overlaps]) / whole  # shares of each source raster
    paired = np.array([shapely.union_all(own.shown).area for own in overlaps]) / whole
    crs_of: dict[int, CRS] = {}
    shown_of: dict[int, list[shapely.Geometry]] = defaultdict(list)
    for own in overlaps:
        for target in np.unique(own.pairs[:, 1]).tolist():
            part = shapely.union_all(own.shown[own.pairs[:, 1] == target])
            # All in one CRS, for what source rasters of two CRSs both show counts once.
            shown_of[target].append(move(part, own.crs, crs_of.setdefault(target, own.crs)))
    shown = np.zeros(len(target_km2))  # share of each target raster
    for target, parts in shown_of.items():
        shown[target] = shapely.union_all(parts).area / places[crs_of[target]][target].area
    return PairedArea(
        pairs=sum(len(own.pairs) for own in overlaps),
        source_rasters=int(np.count_nonzero(paired)),
        target_rasters=int(np.count_nonzero(shown)),
        overlap_km2=float(common @ source_km2),
        paired_km2=float(paired @ source_km2),
        source_share=float(paired @ source_km2 / source_km2.sum()),
        target_share=float(shown @ target_km2 / target_km2.sum()),
        source_pixel_metres=sources.pixel_metres(),
        target_pixel_metres=targets.pixel_metres(),
    )


def _require_place(header: RasterHeader) -> None:
    """Raises DataError for a raster that does not say where it lies."""
    if header.grid.crs is not None and header.grid.is_georeferenced:
        if header.pixel_metres is None:
            raise DataError(
                f'{header.path} has the CRS {describe_crs(header.grid.crs)}, which cannot be converted to metres; one '
                'of the Earth was expected. Correct it (`rio edit-info --crs`), or pair by name with PairedDataset.'
            )
        return
    with open_raster(header.path, quiet=True) as raster:
        gcps, rpcs = raster.gcps[0], raster.rpcs
    if gcps or rpcs:
        kind = f'{len(gcps)} ground control points' if gcps else 'RPC coefficients'
        raise DataError(
            f'{header.path} says by {kind} where it lies; a CRS and a transform were expected. Warp it first: '
            f'`gdalwarp -t_srs EPSG:... {os.path.basename(header.path)} warped.tif`.'
        )
    missing = 'CRS' if header.grid.crs is None else 'transform from pixels to coordinates'
    write = 'Write it into the file (`rio edit-info --transform`)' if header.grid.crs else write_crs(header.path)
    raise DataError(
        f'{header.path} has no {missing}, without which it cannot be paired by place. '
        f'{write}, or pair by name with PairedDataset.'
    )


def _footprint(header: RasterHeader, crs: CRS) -> shapely.Polygon:
    try:
        return footprint(header.grid, crs)
    except DataError as error:
        raise DataError(f'{header.path}: {error}.') from error


def _meet(source: RasterHeader, target: RasterHeader) -> bool:
    """Whether the pixels of a target that lies on a source are found by coordinates.

    Far from its place a projection may put what is elsewhere on Earth; such a target does not meet the source.

    Raises:
        DataError: They are not found because longitudes count on.
    """
    if source.grid.crs == target.grid.crs:
        return True
    place, own = _footprint(source, target.grid.crs), footprint(target.grid, target.grid.crs)
    if place.intersects(own):
        return True
    if any(translate(place, turn).intersects(own) for turn in (-360, 360)):
        raise DataError(
            f'{target.path} shows some of {source.path}, but its coordinates in {describe_crs(target.grid.crs)} are '
            f'others there: {describe_bounds(target.grid.bounds)} instead of {describe_bounds(place.bounds)}. '
            'Longitudes count from -180 to 180; warp it to a projected CRS (`rio warp --dst-crs EPSG:...`).'
        )
    return False
