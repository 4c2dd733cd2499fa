"""The layout of a whole tile.

A tile is a window onto a town: streets split the land into blocks, each block is built in one manner (houses with
gardens, a closed perimeter, slabs, halls with parking, a park, a building site), and trees, cars and clutter fill
what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mmrs.preparation.synthetic.buildings import draw_house, draw_ring
from mmrs.preparation.synthetic.clutter import draw_site, scatter_clutter
from mmrs.preparation.synthetic.objects import draw_car, draw_parking, scatter_trees
from mmrs.preparation.synthetic.scene import (
    CROWN,
    GROUND,
    IMPERVIOUS,
    LOW_VEGETATION,
    OBJECT,
    PAVEMENT,
    TREE,
    YARD,
    Canvas,
    Rect,
    Scene,
)
from mmrs.preparation.synthetic.streets import draw_streets, split_land
from mmrs.preparation.synthetic.worlds import World
from mmrs.utils.errors import ConfigError

#: Metres; less does not hold a street with a house.
MINIMUM_SIZE = 20.0


def lay_out(size: tuple[float, float], world: World, rng: np.random.Generator) -> Scene:
    """Lays out one tile.

    Args:
        size: Width and height of the tile in metres.
        world: Statistics of the blocks, roofs, trees and cars.
        rng: Source of every random choice.

    Raises:
        ConfigError: A side is shorter than `MINIMUM_SIZE`: no street with houses fits.
    """
    if min(size) < MINIMUM_SIZE:
        raise ConfigError(f'a scene of {size[0]:g} x {size[1]:g} m is too small, expected at least {MINIMUM_SIZE:g} m')
    canvas = Canvas(size, world, rng)
    extent = 0.5 * math.hypot(*size) + 8.0  # covers the tile at any angle
    roads, blocks = split_land(canvas, (-extent, -extent, extent, extent))
    draw_streets(canvas, roads)
    built: list[str] = []
    for block in blocks:
        build_block(canvas, block, built)
    scatter_clutter(canvas, blocks)
    # The taller of two crowns covers the other.
    canvas.scene.surfaces.sort(key=lambda s: (s.layer, s.plane[0] if s.layer == CROWN else 0.0))
    return canvas.scene


def build_block(canvas: Canvas, block: Rect, built: list[str]) -> None:
    """Builds one block in a manner drawn from the world's frequencies; ``built`` has those used so far."""
    kinds: dict[str, Callable[[Canvas, Rect], None]] = {
        'detached': build_detached,
        'perimeter': build_perimeter,
        'slabs': build_slabs,
        'halls': build_halls,
        'park': build_park,
        'site': build_site,
    }
    if not canvas.visible(
        canvas.to_tile(np.array([block[:2], (block[2], block[1]), block[2:], (block[0], block[3])])), 20
    ):
        return
    # Repetitions are less likely, so that a small tile still shows a mixed town; a second building site is out.
    again = {kind: 0.0 if kind == 'site' and built.count(kind) else 0.4 ** built.count(kind) for kind in kinds}
    kind = canvas.pick(list(kinds), [getattr(canvas.world, kind) * again[kind] for kind in kinds])
    built.append(kind)
    kinds[kind](canvas, block)


def lengthwise(block: Rect) -> tuple[float, float, int, Callable[[float, float, float, float], Rect]]:
    """A block's length, depth and longer axis, and what maps boxes (along, across) in it to the local frame."""
    u0, v0, u1, v1 = block
    if u1 - u0 >= v1 - v0:
        return u1 - u0, v1 - v0, 0, lambda a, b, c, d: (u0 + a, v0 + b, u0 + c, v0 + d)
    return v1 - v0, u1 - u0, 1, lambda a, b, c, d: (u0 + b, v0 + a, u0 + d, v0 + c)


def build_detached(canvas: Canvas, block: Rect) -> None:
    """Houses with gardens, in one or two rows."""
    length, depth, axis, box = lengthwise(block)
    canvas.rect(block, 'lawn', LOW_VEGETATION, GROUND)
    rows = [(0.0, depth / 2, 1), (depth, depth / 2, -1)] if depth > 30 else [(0.0, depth, 1)]
    for base, reach, way in rows:
        position = 0.0
        while position < length - 11:
            width = min(canvas.rng.uniform(14, 20), length - position)
            a, b = position, position + width
            position = b

            def lot(a0: float, d0: float, a1: float, d1: float, base: float = base, way: int = way) -> Rect:
                """A box given by its position along the street and its distance from it."""
                lo, hi = sorted((base + way * d0, base + way * d1))
                return box(a0, lo, a1, hi)

            ground = canvas.pick(('lawn', 'meadow'), (0.65, 0.35))
            canvas.rect(lot(a, 0, b, reach), ground, LOW_VEGETATION, YARD, direction=canvas.rng.uniform(0, 3.1))
            if canvas.chance(0.5):
                border = lot(a - 0.45, 1.0, a + 0.45, reach * canvas.rng.uniform(0.6, 1.0))
                canvas.rect(border, 'hedge', TREE, OBJECT, 1.7)
            setback = canvas.rng.uniform(2.5, 4.5)
            wide = float(np.clip(width - canvas.rng.uniform(4.6, 6.0), 8.5, 14.5))
            deep = min(canvas.rng.uniform(9.5, 12.5), reach - setback - 2)
            h0 = a + 3.9
            height = canvas.rng.uniform(3.5, 6.5)
            house = lot(h0, setback, h0 + wide, setback + deep)
            if deep > 6:
                draw_house(canvas, house, height)
                if canvas.chance(0.3):
                    wing = lot(h0 + 0.2 * wide, setback + deep - 0.3, h0 + 0.65 * wide, setback + deep + 3)
                    draw_house(canvas, wing, 3.0, pitched=False)
            paving = canvas.pick(('paving', 'slabs', 'asphalt'))
            drive_depth = setback + deep * canvas.rng.uniform(0.3, 1.0)
            canvas.rect(lot(a + 0.6, 0, a + 3.5, drive_depth), paving, IMPERVIOUS, PAVEMENT)
            if canvas.chance(0.45):
                draw_house(canvas, lot(a + 0.5, drive_depth, a + 3.6, drive_depth + 6), 2.6, pitched=False)
            if canvas.chance(0.75 * canvas.world.parking):
                centre = lot(a + 2.05, 2.9, a + 2.05, 2.9)
                heading = math.pi / 2 if axis == 0 else 0.0
                draw_car(canvas, centre[0], centre[1], heading + (math.pi if canvas.chance(0.5) else 0))
            canvas.rect(lot(h0 + 0.5 * wide, 0, h0 + 0.5 * wide + 1.3, setback), paving, IMPERVIOUS, PAVEMENT)
            back = setback + deep
            if canvas.chance(0.7):
                terrace = lot(h0 + 0.1 * wide, back, h0 + 0.75 * wide, back + canvas.rng.uniform(2.0, 4.0))
                canvas.rect(terrace, canvas.pick(('paving', 'slabs')), IMPERVIOUS, PAVEMENT)
            if canvas.chance(0.45) and reach - back > 6:
                bed = canvas.rng.uniform(a + 1, b - 5)
                canvas.rect(lot(bed, reach - 3, bed + 4, reach - 0.8), 'flower_bed', LOW_VEGETATION, PAVEMENT)
            if canvas.chance(0.4) and reach - back > 5:
                shed = canvas.rng.uniform(a + 1, b - 4)
                draw_house(canvas, lot(shed, reach - 3.2, shed + 3, reach - 0.7), 2.2)
            scatter_trees(canvas, lot(a + 1, back + 1, b - 1, reach), 1.7, (1.5, 4.2))
            scatter_trees(canvas, lot(a + 1, 0.5, b - 1, setback), 0.9, (1.0, 2.2))


def build_perimeter(canvas: Canvas, block: Rect) -> None:
    """A closed ring of houses around a courtyard; now and then one side is missing."""
    u0, v0, u1, v1 = block
    if min(u1 - u0, v1 - v0) < 32:
        build_slabs(canvas, block)
        return
    depth = canvas.rng.uniform(11, 13.5)
    yard = canvas.pick(('slabs', 'cobbles', 'asphalt'))
    canvas.rect(block, yard, IMPERVIOUS, GROUND)
    inner = (u0 + depth, v0 + depth, u1 - depth, v1 - depth)
    draw_ring(canvas, block, depth)
    w, d = inner[2] - inner[0], inner[3] - inner[1]
    green = (inner[0] + 0.14 * w, inner[1] + 0.2 * d, inner[2] - 0.14 * w, inner[3] - 0.14 * d)
    if canvas.chance(0.75):
        canvas.rect(green, canvas.pick(('lawn', 'meadow')), LOW_VEGETATION, YARD)
    scatter_trees(canvas, green, 2.0, (2.0, 5.0))
    if w > 14:
        draw_parking(canvas, (inner[0] + 1, inner[1] + 0.3, inner[2] - 1, inner[1] + 5.0), 0, lines=False)


def build_slabs(canvas: Canvas, block: Rect) -> None:
    """Parallel slabs of flats in green, with a strip of parking."""
    length, depth, axis, box = lengthwise(block)
    canvas.rect(
        block, canvas.pick(('lawn', 'meadow'), (0.7, 0.3)), LOW_VEGETATION, GROUND, direction=canvas.rng.uniform(0, 3.1)
    )
    height = canvas.rng.uniform(8, 14)
    pitched = canvas.chance(canvas.world.pitched)
    lot_end = 0.0
    if canvas.chance(0.5):
        canvas.rect(box(0, 0, 11.5, depth), 'asphalt', IMPERVIOUS, YARD)
        draw_parking(canvas, box(0.5, 1, 5.3, depth - 1), 1 - axis)
        lot_end = 13.0
    position = lot_end + canvas.rng.uniform(2, 5)
    while position < length - 12:
        thick = canvas.rng.uniform(10.5, 12.5)
        start, stop = canvas.rng.uniform(2, 6), depth - canvas.rng.uniform(2, 6)
        draw_house(canvas, box(position, start, position + thick, stop), height, pitched)
        path = position + thick + canvas.rng.uniform(1.5, 2.5)
        canvas.rect(box(path, 0, path + 1.8, depth), canvas.pick(('slabs', 'paving')), IMPERVIOUS, YARD)
        for d in np.arange(start + 4, stop - 3, 9.0):
            canvas.rect(box(position + thick, d, path, d + 1.4), 'slabs', IMPERVIOUS, YARD)
        scatter_trees(canvas, box(path + 3, 2, path + 12, depth - 2), 1.7, (2.0, 5.2))
        position += thick + canvas.rng.uniform(13, 19)
    scatter_trees(canvas, box(lot_end, 0, length, depth), 0.5, (1.8, 4.5))


def build_halls(canvas: Canvas, block: Rect) -> None:
    """Large flat roofs, parking bays and delivery yards."""
    length, depth, axis, box = lengthwise(block)
    canvas.rect(block, canvas.pick(('asphalt', 'slabs'), (0.7, 0.3)), IMPERVIOUS, GROUND)
    cut = length * canvas.rng.uniform(0.48, 0.62)
    canvas.rect(box(0, 0, length, 2.2), 'lawn', LOW_VEGETATION, YARD)
    canvas.rect(box(0, depth - 2.2, length, depth), 'lawn', LOW_VEGETATION, YARD)
    draw_house(canvas, box(3, 4.5, cut, depth - 4.5), canvas.rng.uniform(6, 10), pitched=False)
    position = cut + 4
    while position + 5 < length - 1:
        draw_parking(canvas, box(position, 4, position + 5, depth - 4), 1 - axis)
        position += 5
        if position + 6.5 < length and canvas.chance(0.6):
            island = box(position + 0.1, 4, position + 1.5, depth - 4)
            canvas.rect(island, 'lawn', LOW_VEGETATION, YARD)
            scatter_trees(canvas, island, 5.0, (1.5, 3.0))
            position += 1.5
        else:
            position += 6.2
    for edge in (box(0, 0.4, length, 1.8), box(0, depth - 1.8, length, depth - 0.4)):
        scatter_trees(canvas, edge, 4.0, (1.5, 3.4))


def build_park(canvas: Canvas, block: Rect) -> None:
    """Grass or a field, paths and groups of trees."""
    length, depth, _, box = lengthwise(block)
    kind = canvas.pick(('lawn', 'meadow', 'crop'), (0.4, 0.35, 0.25))
    canvas.rect(block, kind, LOW_VEGETATION, GROUND, direction=canvas.rng.uniform(0, 3.1))
    if kind != 'crop' and canvas.chance(0.6):
        cut = canvas.rng.uniform(0.3, 0.7) * length
        canvas.rect(box(0, 0, cut, depth), 'meadow', LOW_VEGETATION, YARD, direction=canvas.rng.uniform(0, 3.1))
    for _ in range(2):
        a, b = canvas.rng.uniform(0.1, 0.9) * length, canvas.rng.uniform(0.1, 0.9) * length
        quad = [
            box(a, 0, a, 0)[:2],
            box(a + 2, 0, a + 2, 0)[:2],
            box(b + 2, depth, b + 2, depth)[:2],
            box(b, depth, b, depth)[:2],
        ]
        canvas.surface(quad, canvas.pick(('slabs', 'paving', 'asphalt')), IMPERVIOUS, PAVEMENT)
    if canvas.chance(0.5):
        a, b = canvas.rng.uniform(2, max(3.0, length - 16)), canvas.rng.uniform(2, max(3.0, depth - 14))
        draw_house(canvas, box(a, b, min(a + 13, length), min(b + 10, depth)), 4.0)
    scatter_trees(canvas, block, 0.6, (2.2, 5.5))
    for _ in range(2):
        a, b = canvas.rng.uniform(0, length), canvas.rng.uniform(0, depth)
        scatter_trees(canvas, box(max(a - 8, 0), max(b - 8, 0), min(a + 8, length), min(b + 8, depth)), 2.4, (2.4, 5.2))


def build_site(canvas: Canvas, block: Rect) -> None:
    """A building site: bare soil, piles and containers, beside what is finished."""
    length, depth, _, box = lengthwise(block)
    cut = min(0.45 * length, 24.0)
    canvas.rect(block, 'meadow', LOW_VEGETATION, GROUND)
    draw_site(canvas, box(1.5, 1.5, cut, depth - 1.5))
    rest = box(cut + 2, 0, length, depth)
    if min(rest[2] - rest[0], rest[3] - rest[1]) > 20:
        build_slabs(canvas, rest)
