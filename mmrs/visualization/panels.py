"""Pictures of images and label maps, side by side with a legend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from mmseg.structures import SegDataSample
from PIL import Image, ImageDraw, ImageFont

from mmrs.utils.files import atomic_path, writing

__all__ = [
    'CLASS_COLOURS',
    'class_colours',
    'colour_labels',
    'compose',
    'draw_sample',
    'overlay',
    'striped',
    'to_display',
    'write_picture',
]

#: Colours (RGB) for classes without a palette: Okabe and Ito's, which colour-blind readers can tell apart, and more.
CLASS_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (153, 153, 153), (102, 51, 0), (128, 0, 128), (0, 255, 255), (255, 0, 0), (0, 255, 0), (255, 192, 203),
)  # fmt: skip

_FIELD_TITLES = {'gt_sem_seg': 'ground truth', 'pred_sem_seg': 'prediction'}
INK, PAPER, _IGNORED = (30, 30, 30), (255, 255, 255), (110, 110, 110)


def class_colours(meta: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The palette of a data set, or colours of our own where it has none."""
    number = len(meta.get('classes') or ())
    palette = [(int(red), int(green), int(blue)) for red, green, blue in meta.get('palette') or ()]
    return palette if len(palette) >= number > 0 else [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(number)]


def to_display(image: np.ndarray, bands: Sequence[int] | None = None) -> np.ndarray:
    """Three bands of an image as an 8-bit picture.

    The bands are shown in their order as red, green and blue. For IRRG that is the false-colour composite that the
    ISPRS pictures show, vegetation in red. Values other than uint8 are stretched between their 2nd and 98th percentile,
    all bands by the same amount, so that colours stay comparable.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, of any type; NaN becomes black.
        bands: Indices of three bands; else the first three, or the first one in grey.

    Returns:
        ``(H, W, 3)``, uint8.
    """
    image = image[..., None] if image.ndim == 2 else image
    if bands is None:
        bands = (0, 1, 2) if image.shape[-1] >= 3 else (0, 0, 0)
    shown = image[..., list(bands)]
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    shown = shown.astype(np.float32)
    finite = shown[np.isfinite(shown)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    stretched = (np.nan_to_num(shown, nan=low) - low) / max(high - low, 1e-12)
    return (255 * stretched.clip(0, 1)).round().astype(np.uint8)


def colour_labels(labels: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """``(H, W, 3)`` colours of ``(H, W)`` class indices; whatever is no class, ignored pixels first of all, is grey."""
    table = np.tile(np.array(_IGNORED, np.uint8), (256, 1))
    table[: len(colours)] = colours
    return table[np.where((labels >= 0) & (labels < len(colours)), labels, 255)]


def overlay(
    picture: np.ndarray, labels: np.ndarray, colours: Sequence[Sequence[int]], opacity: float = 0.6
) -> np.ndarray:
    """Lay the colours of the classes over a picture in grey, so that no hue but theirs is seen.

    Args:
        picture: ``(H, W, 3)``, uint8.
        labels: ``(H, W)`` class indices.
        colours: RGB of each class.
        opacity: Of the colours, 0 to 1.
    """
    grey = picture.mean(-1, keepdims=True)
    mixed = grey * (1 - opacity) + colour_labels(labels, colours) * opacity
    return mixed.round().astype(np.uint8)


def striped(picture: np.ndarray, valid: np.ndarray, greys: Sequence[int], number: int) -> np.ndarray:
    """A picture ``(H, W, 3)`` with diagonal stripes of several greys in turn where ``(H, W)`` is False.

    Args:
        picture: The picture, uint8.
        valid: Which of its pixels are shown.
        greys: Of the stripes.
        number: Stripes along the longer side, at most.
    """
    row, column = np.ogrid[: valid.shape[0], : valid.shape[1]]
    stripe = (row + column) // max(2, max(valid.shape) // number)
    return np.where(valid[..., None], picture, np.array(greys, np.uint8)[stripe % len(greys), None])


def write_picture(path: str | os.PathLike, picture: np.ndarray, overwrite: bool = False) -> None:
    """Write a picture ``(H, W, 3)`` or ``(H, W)``, uint8, which takes its name when it is complete.

    Raises:
        OutputError: It exists, or cannot be written.
    """
    with atomic_path(path, overwrite) as temporary, writing(path):
        Image.fromarray(picture).save(temporary)


@lru_cache(maxsize=8)
def font(size: int) -> Any:
    """Letters of a height in pixels."""
    return ImageFont.load_default(size)


def compose(
    panels: Sequence[Sequence[tuple[str, np.ndarray]]],
    classes: Sequence[str] = (),
    colours: Sequence[Sequence[int]] = (),
    size: int | None = None,
    text: int | None = None,
    ignored: bool = True,
) -> np.ndarray:
    """Put titled pictures into rows, with a legend of the classes below.

    Args:
        panels: Rows of (title, ``(H, W, 3)`` uint8 picture).
        classes: Names for the legend; without any there is none.
        colours: RGB of each class.
        size: Longer side of the largest panel in pixels; small pictures are enlarged, large ones reduced. By default
            200 to 768, as the pictures are.
        text: Height of the text in pixels. By default 12 to 18, as the pictures are.
        ignored: Whether the legend has an entry for ignored pixels.

    Returns:
        ``(H, W, 3)``, uint8.
    """
    longest = max(max(picture.shape[:2]) for row in panels for _, picture in row)
    scale = (size or min(max(longest, 200), 768)) / longest
    rows = [[(title, _resized(picture, scale)) for title, picture in row] for row in panels]
    cell_w = max(picture.width for row in rows for _, picture in row)
    heights = [max(picture.height for _, picture in row) for row in rows]
    text = text or max(12, min(18, cell_w // 18))
    gap = text // 2
    title_h = text + 2 * gap
    width = max(len(row) for row in rows) * (cell_w + gap) + gap

    entries = [*zip(classes, colours), *[('ignored', _IGNORED)] * (ignored and bool(classes))]
    lines = _wrap(entries, width - 2 * gap, text)
    legend_h = len(lines) * (text + gap) + gap if lines else 0
    canvas = Image.new('RGB', (width, sum(heights) + len(rows) * title_h + gap + legend_h), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = 0
    for row, height in zip(rows, heights):
        for i, (title, picture) in enumerate(row):
            left = gap + i * (cell_w + gap)
            draw.text((left, top + gap), _fitted(title, cell_w, text), INK, font(text))
            canvas.paste(picture, (left, top + title_h))
        top += height + title_h
    top += gap
    for line in lines:
        left = gap
        for name, colour in line:
            draw.rectangle((left, top + 1, left + text, top + 1 + text), tuple(colour), INK)
            draw.text((left + text + gap // 2 + 2, top), name, INK, font(text))
            left += _entry_width(name, text)
        top += text + gap
    return np.asarray(canvas)


def draw_sample(
    title: str,
    image: np.ndarray,
    data_sample: SegDataSample | None,
    meta: Mapping[str, Any],
    fields: Sequence[str] = ('gt_sem_seg', 'pred_sem_seg'),
    opacity: float = 0.6,
    bands: Sequence[int] | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Draw an image, its ground truth and its prediction side by side, with a legend.

    Args:
        title: Title of the image.
        image: ``(H, W, C)``, of any type.
        data_sample: What is shown beside the image.
        meta: Classes and palette of the data set.
        fields: Fields of the sample to show, where it has them.
        opacity: Of the colours, 0 to 1.
        bands: Indices of the bands to show as red, green and blue; see :func:`to_display`.
        valid: ``(H, W)``, bool; where it is False there is no data, and whatever is predicted there is not shown.
    """
    colours = class_colours(meta)
    picture = to_display(image, bands)
    row = [(title, picture)]
    for field in fields:
        if data_sample is not None and field in data_sample:
            labels = data_sample.get(field).data.squeeze().long().cpu().numpy()
            labels = labels if valid is None else np.where(valid, labels, 255)
            row.append((_FIELD_TITLES.get(field, field), overlay(picture, labels, colours, opacity)))
    return compose([row], meta['classes'], colours)


def _resized(picture: np.ndarray, scale: float) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if scale == 1:
        return image
    # Enlarged pixels stay visible as such; reduced ones are averaged.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _fitted(title: str, width: int, text: int) -> str:
    while len(title) > 4 and font(text).getlength(title) > width:
        title = title[:-4] + '...'
    return title


def _entry_width(name: str, text: int) -> int:
    return int(2.5 * text) + int(font(text).getlength(name)) + 4


def _wrap(entries: list[tuple[str, Sequence[int]]], width: int, text: int) -> list[list[tuple[str, Sequence[int]]]]:
    lines: list[list[tuple[str, Sequence[int]]]] = []
    used = width + 1
    for entry in entries:
        needed = _entry_width(entry[0], text)
        if used + needed > width:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += needed
    return lines
