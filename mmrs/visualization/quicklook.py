"""A picture of a predicted map beside its image, to look at and to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.warp import transform
from rasterio.windows import Window

from mmrs.geo.grids import RasterGrid, describe_bounds, describe_crs, place
from mmrs.geo.label_maps import open_classes
from mmrs.geo.rasters import (
    PathLike,
    expand_palette,
    image_bands,
    open_raster,
    read_coverage,
    shown_pixels,
    without_nodata,
)
from mmrs.utils.errors import DataError
from mmrs.visualization.panels import INK, PAPER, colour_labels, compose, font, striped, to_display, write_picture

__all__ = ['draw_quicklook', 'write_quicklook']

# Longer side by shorter side up to which a picture has the raster's proportions.
_NARROWEST = 16

_NO_DATA = (225, 225, 225)


def draw_quicklook(
    image_path: PathLike, map_path: PathLike, bands: Sequence[int] | None = None, size: int = 1024
) -> np.ndarray:
    """Draw a map beside the part of the image that it covers, with a legend, a scale bar, and an arrow to the north
    where north is not up.

    Both are shown from overviews where there are any. They have the proportions that they have on the ground, except
    that something narrower than 1 : 16 is widened, which its title says. The legend says what share of the map's pixels
    with data each class has; pixels without data are striped. Without CRS there is no scale bar.

    Args:
        image_path: The image.
        map_path: Its label map, as a prediction writes it.
        bands: Numbers of three bands to show as red, green and blue, counted from 1, or of one for grey. By default the
            first three, or the first one where there are two.
        size: Longer side of the image and of the map in the picture, in pixels.

    Returns:
        ``(H, W, 3)``, uint8.

    Raises:
        DataError: A file cannot be read, the map is no label map, or not one of this image, or the image lacks a band.
    """
    classes, colours = open_classes(map_path)
    with open_raster(map_path, quiet=True) as raster:
        grid = RasterGrid.of(raster)
        shape, widened = _shape(grid, size)
        shrinks = raster.height * raster.width > shape[0] * shape[1]
        labels = raster.read(1, out_shape=shape, resampling=Resampling.mode if shrinks else Resampling.nearest)
        covered = read_coverage(raster, (0, 0, shape[1], shape[0]), shape)
        shares = _shares(raster, len(classes))
    with open_raster(image_path, quiet=True) as raster:
        if bands is not None and not all(1 <= band <= raster.count for band in bands):
            raise DataError(
                f'{image_path} has {raster.count} bands, numbered from 1; bands {list(bands)} were asked for.'
            )
        window = _place_of_map(image_path, RasterGrid.of(raster), map_path, grid)
        picture, valid, shown = _read_picture(raster, bands, window, shape)
    covered = np.ones(shape, bool) if covered is None else covered
    names = [f'{name}  {_percent(share)}' for name, share in zip(classes, shares)]
    if not (covered.all() and valid.all()):
        names, colours = [*names, 'no data'], [*colours, _NO_DATA]
    titles = [f'{Path(image_path).name}{shown}{widened}', 'predicted classes and their shares']
    pictures = (picture, valid), (colour_labels(labels, colours), covered)
    panels = [(title, _framed(striped(*pair, (PAPER[0], _NO_DATA[0]), 128))) for title, pair in zip(titles, pictures)]
    stacked = shape[1] > 2 * shape[0]
    text = max(14, max(shape[1], 320) // (48 if stacked else 32))
    drawn = compose(
        [[panel] for panel in panels] if stacked else [panels],
        names,
        colours,
        size=max(panels[0][1].shape[:2]),
        text=text,
        ignored=False,
    )
    return np.concatenate([drawn, *_draw_scale(grid.resampled(shape), drawn.shape[1], text)])


def write_quicklook(
    image_path: PathLike,
    map_path: PathLike,
    path: PathLike,
    bands: Sequence[int] | None = None,
    size: int = 1024,
    overwrite: bool = False,
) -> None:
    """Write the picture of :func:`draw_quicklook` as a PNG, which takes its name when it is complete.

    Args:
        image_path: See :func:`draw_quicklook`.
        map_path: Likewise.
        path: The picture.
        bands: See :func:`draw_quicklook`.
        size: Likewise.
        overwrite: Whether to replace a file.

    Raises:
        DataError: As :func:`draw_quicklook`.
        OutputError: The picture exists, or cannot be written.
    """
    write_picture(path, draw_quicklook(image_path, map_path, bands, size), overwrite)


def _metres(grid: RasterGrid) -> tuple[float, float] | None:
    """Size of a pixel on the ground, if that is known."""
    try:
        metres = grid.pixel_metres()
    except ValueError:
        return None
    return metres if np.isfinite(metres).all() and min(metres) > 0 else None


def _shape(grid: RasterGrid, size: int) -> tuple[tuple[int, int], str]:
    """Rows and columns of a picture of the grid, and what its title says of its proportions."""
    width, height = _metres(grid) or (1, 1)
    sides = np.array([grid.height * height, grid.width * width])
    shape = size * sides / sides.max()
    rows, columns = np.maximum(shape.round(), math.ceil(size / _NARROWEST)).astype(int).tolist()
    stretch = size / _NARROWEST / shape.min()
    if stretch < 1.05:
        return (rows, columns), ''
    return (rows, columns), f', {"height" if rows < columns else "width"} x {stretch:.3g}'


def _place_of_map(image_path: PathLike, image: RasterGrid, map_path: PathLike, grid: RasterGrid) -> Window:
    """Where the map lies in the image."""
    # Columns and rows of the map's upper left corner.
    x, y = (round(value) for value in place(~image.transform, *place(grid.transform, 0, 0)))
    window = x, y, x + grid.width, y + grid.height
    if min(x, y) < 0 or x + grid.width > image.width or y + grid.height > image.height or image.crs != grid.crs:
        fits = False
    else:
        fits = image.window(window).matches(grid)
    if not fits:
        raise DataError(
            f'{map_path} is no map of {image_path}: it has {grid.width} x {grid.height} pixels in '
            f'{describe_bounds(grid.bounds)} ({describe_crs(grid.crs)}), the image {image.width} x {image.height} in '
            f'{describe_bounds(image.bounds)} ({describe_crs(image.crs)}); pixels of the image were expected.'
        )
    return Window(x, y, grid.width, grid.height)


def _read_picture(
    raster: DatasetReader, bands: Sequence[int] | None, window: Window, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """An image as a picture ``(H, W, 3)``, its pixels with data ``(H, W)``, and which bands it shows."""
    if raster.colorinterp[0] == ColorInterp.palette:
        indices = raster.read(1, window=window, out_shape=shape)
        shown = shown_pixels(raster, [1], window=window, out_shape=shape)
        return expand_palette(indices, raster.colormap(1)), np.ones(shape, bool) if shown is None else shown, ''
    usual = image_bands(raster)
    numbers = list(bands or usual[: 3 if len(usual) >= 3 else 1])
    coarser = window.height * window.width > shape[0] * shape[1]
    part = dict(window=window, resampling=Resampling.average if coarser else Resampling.nearest)
    image = raster.read(numbers, out_shape=(len(numbers), *shape), **part).transpose(1, 2, 0)
    valid = np.isfinite(image).all(axis=-1)
    for found in (shown_pixels(raster, numbers, out_shape=shape, **part), without_nodata(image, raster, numbers)):
        if found is not None:
            valid &= found
    if image.dtype != np.uint8:
        image = np.where(valid[..., None], image, np.nan)  # not to be counted when the contrast is chosen
    if bands is None and len(usual) in (1, 3):
        return to_display(image), valid, ''
    names = f', band {numbers[0]}' if len(numbers) == 1 else f', bands {", ".join(map(str, numbers))}'
    return to_display(image), valid, names


def _shares(raster: DatasetReader, classes: int) -> np.ndarray:
    """Share of each class in the pixels with data, in percent."""
    # Of all pixels: those of the picture are the most frequent ones of many, so that scattered classes are lost in it.
    counts = np.zeros(256, np.int64)
    for _, window in raster.block_windows(1):
        counts += np.bincount(raster.read(1, window=window).ravel(), minlength=256)
    counts = counts[:classes]
    return 100 * counts / max(counts.sum(), 1)


def _percent(share: float) -> str:
    return '< 0.1 %' if 0 < share < 0.05 else f'{share:.1f} %'


def _framed(picture: np.ndarray) -> np.ndarray:
    """A picture in a thin frame, for classes may be white; with white on its right if there is no room for text."""
    framed = np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=160)
    return np.pad(framed, ((0, 0), (0, max(0, 320 - framed.shape[1])), (0, 0)), constant_values=255)


def _draw_scale(grid: RasterGrid, width: int, text: int) -> list[np.ndarray]:
    """A scale bar for pictures with one pixel for each of the grid, and an arrow to the north if that is not up."""
    metres = _metres(grid)
    if metres is None or grid.crs is None:
        return []
    gap = text // 2
    canvas = Image.new('RGB', (width, 3 * text), PAPER)
    draw = ImageDraw.Draw(canvas)
    length = _round_length(metres[0] * max(grid.width / 3, 60))
    end = gap + round(length / metres[0])
    middle = 3 * text // 2
    thick, tick = max(2, text // 8), text // 3
    draw.rectangle((gap, middle - thick // 2, end - 1, middle - thick // 2 + thick - 1), INK)
    for x in (gap, end - thick):
        draw.rectangle((x, middle - tick, x + thick - 1, middle + tick), INK)
    label = f'{length / 1000:g} km' if length >= 1000 else f'{length:g} m'
    draw.text((end + gap, middle), label, INK, font(text), anchor='lm')
    north = _north(grid)
    if math.isfinite(north) and abs(north) > 5:
        centre = end + 3 * gap + int(font(text).getlength(label)) + text
        right, down = math.sin(math.radians(north)) * text, -math.cos(math.radians(north)) * text
        tip = centre + right, middle + down
        draw.line((centre - right, middle - down, *tip), INK, thick)
        draw.polygon([tip, (centre - down / 3, middle + right / 3), (centre + down / 3, middle - right / 3)], INK)
        draw.text((centre + 3 * text // 2, middle), 'N', INK, font(text), anchor='mm')
    return [np.asarray(canvas)]


def _round_length(longest: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1, 2, 5) if step * power <= longest)


def _north(grid: RasterGrid) -> float:
    """Direction of north at the middle of a grid, in degrees clockwise from up."""
    column, row = grid.width / 2, grid.height / 2
    (lon,), (lat,) = transform(grid.crs, 'EPSG:4326', *([value] for value in place(grid.transform, column, row)))
    sign = -1 if lat > 0 else 1  # towards the equator, so as not to step over a pole
    (x,), (y,) = transform('EPSG:4326', grid.crs, [lon], [lat + sign * 1e-4])
    north = place(~grid.transform, x, y)
    return math.degrees(math.atan2(sign * (north[0] - column), sign * (row - north[1])))
