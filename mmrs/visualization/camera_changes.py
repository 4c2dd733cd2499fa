from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from mmrs.datasets import transforms as t
from mmrs.geo.rasters import open_raster, read_image
from mmrs.utils.errors import ConfigError, require, require_number
from mmrs.visualization.panels import compose, to_display, write_picture

__all__ = ['CHANGES', 'draw_camera_changes', 'show_camera_changes']

_SIDE = 256
_SPACING = 64
_STRAIGHT, _MOVED, _OUTSIDE = (255, 255, 255), (255, 200, 0), (110, 110, 110)


def _changes(strength: float, seed: int, bands: int, column: int) -> dict[str, tuple[str, str, BaseTransform]]:
    """Title, stated value and transform of each change."""
    s = strength
    share = 1 - 0.7**s
    mixing = (1 - share) * np.eye(bands) + share / bands
    # Permutations have no strength: another one in each column. The first of four bands, RGB and infrared, begins IRRG.
    rounds, by = divmod(column, max(1, bands - 1))
    order = np.roll(range(1, bands + 1) if rounds % 2 == 0 else range(bands, 0, -1), 1 + by).tolist()
    shot, read, quality, factor = 0.06 * s, 0.02 * s, max(1, min(95, round(30 / s))), 2**s
    shift, turn, growth, waves = 4 * s, 2 * s, 0.03 * s, 3 * s
    return {
        'camera': ('another camera', f'hue {30 * s:g}°, blur {s:g} px', t.CameraChange(s, seed=seed)),
        'hue': ('hue rotation', f'{30 * s:g}°', t.HueRotation(30 * s, seed=seed)),
        'matrix': ('colour matrix', f'cross-talk {100 * share:.0f} %', t.ColourMatrix(mixing.tolist())),
        'permutation': ('channel permutation', 'bands ' + ' '.join(map(str, order[:3])), t.ChannelPermutation(order)),
        'gain-gamma': ('gain, gamma per band', f'each to {1.3**s:.3g}', t.GainGamma(1.3**s, 1.3**s, seed=seed)),
        'contrast': ('contrast', f'factor {1.5**s:.3g}', t.Contrast(1.5**s)),
        'blur': ('blur', f'sigma {s:g} px', t.GaussianBlur(s)),
        'gsd': ('ground sampling distance', f'factor {factor:.3g}', t.GroundSamplingDistance(factor)),
        'noise': ('sensor noise', f'shot {shot:.3g}, read {read:.3g}', t.SensorNoise(shot, read, seed=seed)),
        'jpeg': ('JPEG', f'quality {quality}', t.JPEGCompression(quality)),
        'shift': ('shift', f'{shift:g} px', t.Misalignment(shift=shift, seed=seed)),
        'rotation': ('rotation', f'{turn:g}°', t.Misalignment(rotation=turn, seed=seed)),
        'scale': ('scale', f'{100 * growth:.2g} %', t.Misalignment(scale=growth, seed=seed)),
        'elastic': (
            'elastic field',
            f'{waves:g} px RMS',
            t.Misalignment(elastic=waves, smoothness=max(32, 2 * waves), seed=seed),
        ),
    }


#: Names of the changes, in the order of the rows.
CHANGES = tuple(_changes(1, 0, 3, 0))


def draw_camera_changes(
    image: np.ndarray,
    strengths: Sequence[float] = (0.5, 1, 2),
    seed: int = 0,
    changes: Sequence[str] = CHANGES,
    bands: Sequence[int] | None = None,
    per_row: int = 1,
    size: int = 256,
    path: str = '',
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Draw an image under each change, one row for each and one column for each strength.

    A change of place is shown by a grid that lies straight on the original, in white, and moves with the image, in
    yellow; what comes from outside is grey.

    Args:
        image: ``(H, W, C)``, of any type. What is not uint8 is first stretched to 8 bits; see :func:`to_display`.
        strengths: Strengths, above 0, that scale every change; each picture states its own value.
        seed: Seed of the changes.
        changes: Names, of :data:`CHANGES`. Those that need more bands than there are are left out.
        bands: Indices of the three bands to show; else the first three.
        per_row: How many changes stand beside each other in a row.
        size: Longer side of each picture, in pixels.
        path: File of the image, by whose name the noise and the directions are drawn.
        valid: ``(H, W)``, bool; where it is False there is no data.

    Returns:
        ``(H, W, 3)``, uint8.

    Raises:
        ConfigError: There is no such change, or a number is too small.
    """
    _check(strengths, changes, per_row, size)
    image = to_display(image, range(image.shape[-1]))
    shown = [name for name in changes if image.shape[-1] > 2 or name not in ('hue', 'permutation')]
    if not shown:
        raise ConfigError(
            f'{path or "the image"} has {image.shape[-1]} bands; three or more were expected for {", ".join(changes)}'
        )
    rows = [_row(name, image, strengths, seed, bands, path, valid) for name in shown]
    # Pictures that are hardly there carry the headings of the columns.
    line = np.full((1, image.shape[1], 3), 255, np.uint8)
    heading = [(text, line) for text in ('', *(f'strength {strength:g}' for strength in strengths))]
    groups = [list(itertools.chain(*rows[i : i + per_row])) for i in range(0, len(rows), per_row)]
    return compose([heading * min(per_row, len(rows)), *groups], size=size)


def show_camera_changes(
    path: str | Path,
    out: str | Path,
    crop: Sequence[int] | None = None,
    bands: Sequence[int] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Draw a part of an image file under each change.

    Args:
        path: The image, in any format that GDAL reads.
        out: Picture to write.
        crop: x0, y0, x1, y1 in pixels, x1 and y1 outside; else 256 x 256 pixels in the middle.
        bands: Numbers of the three bands to show, counted from 1; else the first three.
        overwrite: Replace the picture where it exists.
        **options: Of :func:`draw_camera_changes`.

    Raises:
        ConfigError: The crop does not lie in the image, it lacks a band, or an option cannot be.
        DataError: The image is missing or cannot be read.
        OutputError: The picture exists.
    """
    known = Image.registered_extensions().get(Path(out).suffix.lower()) in Image.SAVE
    require(known, 'out', str(out), 'the name of a picture, such as NAME.png or NAME.jpg,')
    image, valid = read_image(path, window=_window(path, crop))
    count = image.shape[-1]
    if bands is not None:
        there = len(bands) == 3 and all(1 <= band <= count for band in bands)
        require(there, f'{path}: bands', list(bands), f'three numbers from 1 to {count} were')
    indices = None if bands is None else [band - 1 for band in bands]
    write_picture(out, draw_camera_changes(image, bands=indices, path=str(path), valid=valid, **options), overwrite)


def _window(path: str | Path, crop: Sequence[int] | None) -> Sequence[int]:
    with open_raster(path, quiet=True) as raster:
        height, width = raster.shape
    if crop is None:
        x0, y0 = max(0, (width - _SIDE) // 2), max(0, (height - _SIDE) // 2)
        return x0, y0, min(width, x0 + _SIDE), min(height, y0 + _SIDE)
    x0, y0, x1, y1 = crop
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ConfigError(
            f'{path} has {width} x {height} pixels (width x height), but the crop is {list(crop)}; x0 y0 x1 y1 with '
            f'0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} was expected'
        )
    return crop


def _check(strengths: Sequence[float], changes: Sequence[str], per_row: int, size: int) -> None:
    positive = strengths and all(0 < strength < math.inf for strength in strengths)
    require(bool(positive), 'strengths', list(strengths), 'numbers above 0 were')
    known = changes and set(changes) <= set(CHANGES)
    require(bool(known), 'changes', list(changes), f'some of {", ".join(CHANGES)} were')
    require_number('per_row', per_row, at_least=1, whole=True)
    require_number('size', size, at_least=1, whole=True, unit='pixels')


def _row(
    name: str,
    image: np.ndarray,
    strengths: Sequence[float],
    seed: int,
    bands: Sequence[int] | None,
    path: str,
    valid: np.ndarray | None,
) -> list[tuple[str, np.ndarray]]:
    """The original under the name of the change, and the changed images under the stated values."""
    original = to_display(image, bands)
    row = []
    for column, strength in enumerate(strengths):
        title, value, transform = _changes(strength, seed, image.shape[-1], column)[name]
        sample = dict(img=image, img_path=path, seg_fields=[])
        if valid is not None:
            sample.update(valid_map=valid.astype(np.uint8), seg_fields=['valid_map'])
        if isinstance(transform, t.Misalignment):
            row.append((value, _move(original, sample, transform)))
        else:
            row.append((value, to_display(transform(sample)['img'], bands)))
    if isinstance(transform, t.Misalignment):
        original = _blend(original, _grid(original), _STRAIGHT)
    return [(title, original), *row]


def _grid(picture: np.ndarray) -> np.ndarray:
    """`(H, W, 1)`, float32: 1 on the lines of a straight grid, 0 beside them."""
    lines = np.zeros((*picture.shape[:2], 1), np.float32)
    for i in range(2):  # lines of 2 px stay whole where they turn or bend
        lines[_SPACING // 2 + i :: _SPACING] = 1
        lines[:, _SPACING // 2 + i :: _SPACING] = 1
    return lines


def _blend(picture: np.ndarray, opacity: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture + opacity.clip(0, 1) * (np.array(colour) - picture)).round().astype(np.uint8)


def _move(picture: np.ndarray, sample: dict, transform: t.Misalignment) -> np.ndarray:
    """The moved picture, with a straight grid and one that moved with it."""
    grid = _grid(picture)
    moved, lines = (
        transform({**sample, 'img': image, 'seg_fields': list(sample['seg_fields'])}) for image in (picture, grid)
    )
    shown = moved['img']
    if 'valid_map' in moved:
        outside = moved['valid_map'] != 1
        shown = np.where(outside[..., None], np.array(_OUTSIDE, np.uint8), shown)
        lines['img'][outside] = 0
    return _blend(_blend(shown, grid, _STRAIGHT), lines['img'], _MOVED)
