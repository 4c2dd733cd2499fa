"""Virtual rasters (VRT): XML files that make one raster of many."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from mmrs.geo.classes import Colour
from mmrs.geo.grids import RasterGrid, describe_crs, place, write_crs
from mmrs.geo.label_maps import CLASSES_TAG
from mmrs.geo.rasters import PathLike, open_raster, require_last_block
from mmrs.geo.windows import Window
from mmrs.utils.errors import DataError
from mmrs.utils.files import atomic_path, writing

_TYPES = dict(uint8='Byte', uint16='UInt16', int16='Int16', uint32='UInt32', int32='Int32')
_TYPES |= dict(int8='Int8', uint64='UInt64', int64='Int64', float32='Float32', float64='Float64')


@dataclass(frozen=True)
class Source:
    """A file of a virtual raster.

    Attributes:
        path: The file.
        shape: Its rows and columns.
        block: Rows and columns of its blocks.
        window: The pixels of the virtual raster that it fills.
    """

    path: Path
    shape: tuple[int, int]
    block: tuple[int, int]
    window: Window


@dataclass(frozen=True)
class Band:
    """What a raster says of one of its bands.

    Attributes:
        dtype: Type of the values.
        nodata: Value of the pixels without data, if there is one.
        description: Name of the band.
        scale: What a stored value is to be multiplied by.
        categories: Names of the values from 0 on.
        colours: Colours of the values from 0 on, RGB.
    """

    dtype: str
    nodata: float | None = None
    description: str = ''
    scale: float = 1
    categories: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()


def write_vrt(
    path: Path,
    grid: RasterGrid,
    bands: Sequence[Band],
    sources: Sequence[Source],
    tags: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a virtual raster.

    Files that lie beside it or below it are named relative to it, so that all can be moved together. Where files
    overlap, the last one that has data counts.

    Args:
        path: The file to write.
        grid: Its pixels.
        bands: Its bands, as many as the sources have.
        sources: The files it is made of. Those of another number of pixels are resampled to the nearest.
        tags: Its metadata; what is no string is written as JSON.
        overwrite: Whether it may replace a file.

    Raises:
        OutputError: The file exists, or cannot be written.
    """
    root = ElementTree.Element('VRTDataset', rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        _add(root, 'SRS', grid.crs.to_wkt())
    _add(root, 'GeoTransform', ', '.join(map(_exact, grid.transform.to_gdal())))
    metadata = _add(root, 'Metadata')
    for key, value in (tags or {}).items():
        _add(metadata, 'MDI', value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), key=key)
    for number, band in enumerate(bands, 1):
        node = _add(root, 'VRTRasterBand', dataType=_TYPES[band.dtype], band=number)
        _describe(node, band)
        for source in sources:
            _add_source(node, path, number, source, band.nodata)
    ElementTree.indent(root, ' ')
    with atomic_path(path, overwrite) as temporary, writing(path):
        ElementTree.ElementTree(root).write(temporary, encoding='utf-8')


def _describe(node: ElementTree.Element, band: Band) -> None:
    if band.description:
        _add(node, 'Description', band.description)
    if band.nodata is not None:
        _add(node, 'NoDataValue', _exact(band.nodata))
    if band.scale != 1:
        _add(node, 'Scale', _exact(band.scale))
    if band.colours:
        _add(node, 'ColorInterp', 'Palette')
        table = _add(node, 'ColorTable')
        for red, green, blue in band.colours:
            _add(table, 'Entry', c1=red, c2=green, c3=blue, c4=255)
    if band.categories:
        names = _add(node, 'CategoryNames')
        for name in band.categories:
            _add(names, 'Category', name)


def _add_source(node: ElementTree.Element, path: Path, number: int, source: Source, nodata: float | None) -> None:
    # A simple source hides what is below it even where it has no data.
    element = _add(node, 'SimpleSource' if nodata is None else 'ComplexSource')
    name, folder = os.path.abspath(source.path), os.path.abspath(path.parent)
    beside = os.path.commonpath([name, folder]) == folder
    _add(element, 'SourceFilename', os.path.relpath(name, folder) if beside else name, relativeToVRT=int(beside))
    _add(element, 'SourceBand', str(number))
    (height, width), (rows, columns) = source.shape, source.block
    # With these, GDAL opens a file no earlier than it needs it, and closes it again: there may be more files than a
    # process may have open.
    _add(
        element,
        'SourceProperties',
        RasterXSize=width,
        RasterYSize=height,
        DataType=node.get('dataType'),
        BlockXSize=columns,
        BlockYSize=rows,
    )
    x0, y0, x1, y1 = source.window
    _add(element, 'SrcRect', xOff=0, yOff=0, xSize=width, ySize=height)
    _add(element, 'DstRect', xOff=x0, yOff=y0, xSize=x1 - x0, ySize=y1 - y0)
    if nodata is not None:
        _add(element, 'NODATA', _exact(nodata))


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: Any) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    element.text = text
    return element


def _exact(number: float) -> str:
    return repr(float(number))


# A mosaic of finished maps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Map:
    """What the maps of a mosaic have to agree in, and where one of these maps lies."""

    path: Path
    grid: RasterGrid
    block: tuple[int, int]
    bands: tuple[Band, ...]
    classes: str | None


def mosaic(paths: Sequence[PathLike], out: PathLike, overwrite: bool = False) -> None:
    """Writes a virtual raster over finished maps, which stay where they are.

    It has the pixels of the map with the smallest ones; the others are shown by their nearest pixel. Where maps
    overlap, the last one that has data counts.

    Args:
        paths: The maps. They need one CRS, and rows and columns that run in the same directions.
        out: The file to write, `NAME.vrt`.
        overwrite: Whether it may replace a file.

    Raises:
        DataError: A map cannot be read, or they do not fit together.
        OutputError: `out` exists, or cannot be written.
    """
    maps = [_read(Path(path)) for path in paths]
    first = maps[0]
    for other in maps[1:]:
        _require_same(first, other)
    grid, windows = mosaic_grid([(str(one.path), one.grid) for one in maps])
    sources = [Source(one.path, one.grid.shape, one.block, window) for one, window in zip(maps, windows)]
    tags = {} if first.classes is None else {CLASSES_TAG: first.classes}
    write_vrt(Path(out), grid, first.bands, sources, tags, overwrite)


def mosaic_grid(grids: Sequence[tuple[str, RasterGrid]]) -> tuple[RasterGrid, list[Window]]:
    """The pixels of a mosaic, and those of them that each map fills.

    Args:
        grids: The maps and their grids.

    Raises:
        DataError: They do not fit together.
    """
    first, crs = grids[0][0], grids[0][1].crs
    for path, grid in grids:
        if grid.crs is None:
            raise DataError(
                f'{path} has no CRS, so that its place in a mosaic is unknown. {write_crs(path)}, or leave it out.'
            )
        if grid.crs != crs:
            raise DataError(
                f'{path} has {describe_crs(grid.crs)}, but {first} has {describe_crs(crs)}. Make a mosaic for each CRS.'
            )
    finest = min(grids, key=lambda one: abs(one[1].transform.determinant))
    windows = [_window(one, finest) for one in grids]
    left, top = min(window[0] for window in windows), min(window[1] for window in windows)
    right, bottom = max(window[2] for window in windows), max(window[3] for window in windows)
    return (
        finest[1].window((left, top, right, bottom)),
        [(x0 - left, y0 - top, x1 - left, y1 - top) for x0, y0, x1, y1 in windows],
    )


def _read(path: Path) -> _Map:
    with open_raster(path, quiet=True) as raster:
        require_last_block(str(path), raster)
        classes = raster.tags().get(CLASSES_TAG)
        bands = tuple(_band(raster, number, classes) for number in raster.indexes)
        return _Map(path, RasterGrid.of(raster), raster.block_shapes[0], bands, classes)


def _band(raster: DatasetReader, number: int, classes: str | None) -> Band:
    band = Band(
        raster.dtypes[number - 1],
        raster.nodatavals[number - 1],
        raster.descriptions[number - 1] or '',
        raster.scales[number - 1],
    )
    if raster.colorinterp[number - 1] != ColorInterp.palette:
        return band
    table = raster.colormap(number)
    names = tuple(json.loads(classes)) if classes else ()
    return replace(band, categories=names, colours=tuple(table[index][:3] for index in range(len(names) or 256)))


def _require_same(first: _Map, other: _Map) -> None:
    for (what, expected), found in zip(_facts(first).items(), _facts(other).values()):
        if found != expected:
            raise DataError(
                f'{other.path} has {what} {found}, but {first.path} has {expected}. Only maps of one model and one '
                'kind make a mosaic.'
            )


def _facts(one: _Map) -> dict[str, str]:
    # As text, for NaN does not equal itself.
    return {
        'number of bands': str(len(one.bands)),
        'type': '/'.join(sorted({band.dtype for band in one.bands})),
        'nodata value': ', '.join(sorted({str(band.nodata) for band in one.bands})),
        'scale': ', '.join(sorted({str(band.scale) for band in one.bands})),
        'class names': str(one.classes),
        'band names': str([band.description for band in one.bands]),
    }


def _window(one: tuple[str, RasterGrid], finest: tuple[str, RasterGrid]) -> Window:
    """The pixels of the finest map's grid, continued to all sides, that another map fills."""
    (path, grid), (finest_path, finest_grid) = one, finest
    (x0, y0), (x1, skew_y), (skew_x, y1) = (
        place(~finest_grid.transform, *place(grid.transform, *corner))
        for corner in ((0, 0), (grid.width, 0), (0, grid.height))
    )
    if max(abs(skew_y - y0), abs(skew_x - x0)) > 0.5 or x1 <= x0 or y1 <= y0:
        raise DataError(
            f'{path} has the transform {tuple(grid.transform)[:6]}, but {finest_path} has '
            f'{tuple(finest_grid.transform)[:6]}: their rows or columns run in other directions. Reproject one to the '
            'directions of the other (`gdalwarp`), or leave it out of the mosaic.'
        )
    left, right = _side(x0, x1, grid.width)
    top, bottom = _side(y0, y1, grid.height)
    return left, top, right, bottom


def _side(start: float, end: float, length: int) -> tuple[int, int]:
    """Whole pixels of a side; as many as it has itself, unless its pixels are really larger."""
    first = round(start)
    return first, first + length if abs(end - start - length) < 1 else max(round(end), first + 1)
