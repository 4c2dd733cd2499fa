"""Buildings with flat, gable and hip roofs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from mmrs.preparation.synthetic.materials import MATERIALS
from mmrs.preparation.synthetic.scene import BUILDING, HOUSE, Canvas, Rect


def draw_house(canvas: Canvas, rect: Rect, height: float, pitched: bool | None = None) -> None:
    """A building with a flat, gable or hip roof over ``rect``; ``height`` is that of the eaves in metres.

    ``pitched=None`` draws the kind of roof from the world's frequency.
    """
    if pitched is None:
        pitched = canvas.chance(canvas.world.pitched)
    if not pitched:
        draw_flat_roof(canvas, rect, height)
    else:
        draw_pitched_roof(canvas, rect, height, hip=canvas.chance(0.35))
    canvas.taken.append(rect)


def draw_flat_roof(canvas: Canvas, rect: Rect, height: float) -> None:
    """A parapet around a flat roof, with units, skylights and, now and then, solar panels."""
    u0, v0, u1, v1 = rect
    material = flat_material(canvas)
    rim = min(0.4, 0.08 * min(u1 - u0, v1 - v0))
    canvas.rect(rect, 'parapet', BUILDING, HOUSE, height + 0.5, tint=float(canvas.rng.uniform(0.55, 1.1)))
    inner = (u0 + rim, v0 + rim, u1 - rim, v1 - rim)
    canvas.rect(inner, material, BUILDING, HOUSE, height, direction=0.0 if canvas.chance(0.5) else math.pi / 2)
    width, depth = inner[2] - inner[0], inner[3] - inner[1]
    for _ in range(canvas.rng.poisson(width * depth / 55)):
        w, d = canvas.rng.uniform(0.7, 2.6), canvas.rng.uniform(0.7, 1.8)
        if w + 1.5 > width or d + 1.5 > depth:
            continue
        a = canvas.rng.uniform(inner[0] + 0.6, inner[2] - 0.6 - w)
        b = canvas.rng.uniform(inner[1] + 0.6, inner[3] - 0.6 - d)
        kind = canvas.pick(('roof_unit', 'skylight', 'chimney'), (0.5, 0.3, 0.2))
        canvas.rect((a, b, a + w, b + d), kind, BUILDING, HOUSE, height + (0.3 if kind == 'skylight' else 1.2))
    if width * depth > 90 and canvas.chance(0.25):
        a, b = inner[0] + 0.15 * width, inner[1] + 0.2 * depth
        for row in np.arange(b, b + 0.45 * depth, 2.4):
            canvas.rect((a, row, a + 0.5 * width, row + 1.5), 'solar', BUILDING, HOUSE, height + 0.5)


def draw_pitched_roof(canvas: Canvas, rect: Rect, height: float, hip: bool) -> None:
    """Two sides, or four with ``hip``, their ridge along the longer axis, with chimneys, skylights and solar panels."""
    u0, v0, u1, v1 = rect
    along_u = u1 - u0 >= v1 - v0
    half = 0.5 * min(u1 - u0, v1 - v0)
    slope = math.tan(math.radians(canvas.rng.uniform(30, 45)))
    ridge = height + slope * half
    inset = half if hip else 0.0
    material = pitched_material(canvas)
    tint = 1 + MATERIALS[material].variation * float(canvas.rng.uniform(-1.5, 1.5))
    if along_u:
        middle = (v0 + v1) / 2
        first, last = (u0 + inset, middle), (u1 - inset, middle)
        sides = [[(u0, v0), (u1, v0), last, first], [(u1, v1), (u0, v1), first, last]]
        ends = [[(u0, v1), (u0, v0), first], [(u1, v0), (u1, v1), last]]
    else:
        middle = (u0 + u1) / 2
        first, last = (middle, v0 + inset), (middle, v1 - inset)
        sides = [[(u0, v0), (u0, v1), last, first], [(u1, v1), (u1, v0), first, last]]
        ends = [[(u0, v0), (u1, v0), first], [(u1, v1), (u0, v1), last]]
    course = 0.0 if along_u else math.pi / 2
    for facet in sides:
        canvas.surface(facet, material, BUILDING, HOUSE, (height, height, ridge, ridge), course, tint)
    if hip:
        for facet in ends:
            canvas.surface(facet, material, BUILDING, HOUSE, (height, height, ridge), course + math.pi / 2, tint)
    cap = (
        (first[0], middle - 0.13, last[0], middle + 0.13)
        if along_u
        else (middle - 0.13, first[1], middle + 0.13, last[1])
    )
    canvas.rect(cap, 'ridge' if material != 'roof_slate' else 'roof_slate', BUILDING, HOUSE, ridge, tint=tint * 0.9)

    length = (u1 - u0 if along_u else v1 - v0) - 2 * inset
    if length < 3:
        return

    def on_roof(a: float, b: float, w: float, d: float, kind: str, lift: float) -> None:
        """A detail ``a`` along the ridge and ``b`` (signed) off it, ``w`` long and ``d`` wide."""
        start = first[0] if along_u else first[1]
        box = (start + a, middle + b - d / 2, start + a + w, middle + b + d / 2)
        box = box if along_u else (box[1], box[0], box[3], box[2])
        canvas.rect(box, kind, BUILDING, HOUSE, ridge - slope * abs(b) + lift, direction=course)

    for _ in range(1 + int(canvas.rng.poisson(length / 14))):
        on_roof(canvas.rng.uniform(0, length - 1), canvas.rng.uniform(-1.2, 1.2), 0.9, 0.6, 'chimney', 0.9)
    for _ in range(canvas.rng.poisson(length / 5)):
        side = 1 if canvas.chance(0.5) else -1
        on_roof(
            canvas.rng.uniform(0, length - 1), side * canvas.rng.uniform(0.35, 0.7) * half, 0.8, 1.1, 'skylight', 0.1
        )
    if length > 6 and half > 4 and canvas.chance(0.2):
        side = 1 if canvas.chance(0.5) else -1
        on_roof(0.2 * length, side * 0.5 * half, 0.55 * length, 0.5 * half, 'solar', 0.1)


def pitched_material(canvas: Canvas) -> str:
    """Red tiles, old tiles or slate, as the world has them."""
    rest = 1 - canvas.world.tiled
    return canvas.pick(('roof_tiles', 'roof_tiles_old', 'roof_slate'), (canvas.world.tiled, 0.3 * rest, 0.7 * rest))


def flat_material(canvas: Canvas) -> str:
    """Gravel, membrane, metal or bitumen, as the world has them."""
    bright = canvas.world.bright_flat
    return canvas.pick(
        ('roof_gravel', 'roof_membrane', 'roof_metal', 'roof_bitumen'),
        (0.6 * bright, 0.15 * bright, 0.25 * bright, 1 - bright),
    )


@dataclass(frozen=True)
class _Side:
    """One side of a ring of houses: a line along the street, ``depth`` metres of building behind it."""

    start: np.ndarray
    end: np.ndarray
    depth: float

    @property
    def length(self) -> float:
        return float(np.hypot(*(self.end - self.start)))

    @property
    def ahead(self) -> np.ndarray:
        return (self.end - self.start) / self.length

    @property
    def inward(self) -> np.ndarray:
        return np.array([-self.ahead[1], self.ahead[0]])

    def at(self, along: float, across: float, first: bool, last: bool) -> tuple[float, float]:
        """A point of a house; ``along`` is cut at the ring's corners, which are mitred."""
        along = max(along, across) if first else along
        along = min(along, self.length - across) if last else along
        u, v = self.start + self.ahead * along + self.inward * across
        return float(u), float(v)


def draw_ring(canvas: Canvas, block: Rect, depth: float) -> None:
    """Houses wall to wall around a block, each with its own roof, all flat or all pitched."""
    u0, v0, u1, v1 = block
    height = canvas.rng.uniform(9, 14)
    flat = not canvas.chance(canvas.world.pitched)
    slope = math.tan(math.radians(canvas.rng.uniform(28, 40)))
    corners = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], float)
    missing = int(canvas.rng.integers(0, 8))
    for i in range(4):
        if i == missing:
            continue
        side = _Side(corners[i], corners[(i + 1) % 4], depth)
        cuts = [0.0]
        while cuts[-1] < side.length - 26:
            cuts.append(cuts[-1] + canvas.rng.uniform(13, 20))
        cuts.append(side.length)
        for start, stop in itertools.pairwise(cuts):
            _draw_ring_house(canvas, side, start, stop, height + canvas.rng.uniform(-0.8, 0.8), None if flat else slope)
        ends = np.array([side.start, side.end, side.start + side.inward * depth, side.end + side.inward * depth])
        (a, b), (c, d) = ends.min(0), ends.max(0)
        canvas.taken.append((a, b, c, d))


def _draw_ring_house(
    canvas: Canvas, side: _Side, start: float, stop: float, height: float, slope: float | None
) -> None:
    """One house of a ring, from ``start`` to ``stop`` along its side; ``slope`` is the roof's, None for a flat one."""
    depth, half = side.depth, side.depth / 2
    course = math.atan2(side.ahead[1], side.ahead[0])
    ends = (start == 0.0, stop == side.length)

    def quad(a: float, b: float, from_street: float, to: float) -> list[tuple[float, float]]:
        return [side.at(s, d, *ends) for s, d in ((a, from_street), (b, from_street), (b, to), (a, to))]

    if slope is None:
        material = flat_material(canvas)
        tint = float(canvas.rng.uniform(0.6, 1))
        canvas.surface(quad(start, stop, 0, depth), 'parapet', BUILDING, HOUSE, height + 0.5, tint=tint)
        inside = quad(start + 0.35, stop - 0.35, 0.4, depth - 0.4)
        canvas.surface(inside, material, BUILDING, HOUSE, height, direction=course)
    else:
        material = pitched_material(canvas)
        tint = 1 + MATERIALS[material].variation * float(canvas.rng.uniform(-1.5, 1.5))
        ridge = height + slope * half
        for eaves in (0.0, depth):
            facet = quad(start, stop, eaves, half)
            canvas.surface(facet, material, BUILDING, HOUSE, (height, height, ridge, ridge), course, tint)
    low = start + 0.7 * depth
    for _ in range(2 + int(canvas.rng.poisson((stop - start) / 6))):
        along, across = canvas.rng.uniform(low, max(low, stop - 0.7 * depth)), canvas.rng.uniform(1.5, depth - 1.5)
        flat_only = 0.15 if slope is None else 0.0
        kind = canvas.pick(('skylight', 'chimney', 'roof_unit'), (0.6, 0.25, flat_only))
        w, h, lift = (0.8, 1.1, 0.1) if kind == 'skylight' else (0.7, 0.9, 1.0)
        z = height if slope is None else height + slope * (half - abs(across - half))
        box = quad(along, along + w, across, across + h)
        canvas.surface(box, kind, BUILDING, HOUSE, z + lift, direction=course)
