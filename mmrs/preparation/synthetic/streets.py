"""The network of streets: land is split by a road, its halves by smaller ones, and so on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmrs.preparation.synthetic.objects import draw_car, draw_tree
from mmrs.preparation.synthetic.scene import IMPERVIOUS, KERB, MARKING, PAVEMENT, ROAD, Canvas, Rect


@dataclass(frozen=True)
class Road:
    """A straight piece of road along u (axis 0) or v (axis 1), at ``at`` on the other axis."""

    axis: int
    at: float
    start: float
    stop: float
    width: float
    pavement: float
    level: int

    def strip(
        self, half_width: float, start: float | None = None, stop: float | None = None, offset: float = 0.0
    ) -> Rect:
        """A box along the road; ``offset`` to the side from its axis."""
        a = self.start if start is None else start
        b = self.stop if stop is None else stop
        c, d = self.at + offset - half_width, self.at + offset + half_width
        return (a, c, b, d) if self.axis == 0 else (c, a, d, b)


def split_land(canvas: Canvas, rect: Rect, level: int = 0) -> tuple[list[Road], list[Rect]]:
    """Splits the land by a road across its longer side until blocks are of a town's size: the roads and the blocks."""
    u0, v0, u1, v1 = rect
    axis = 1 if u1 - u0 >= v1 - v0 else 0
    lo, hi = (u0, u1) if axis == 1 else (v0, v1)
    if hi - lo < 72 or (hi - lo < 92 and canvas.chance(0.45)):
        return [], [rect]
    if level == 0:
        at = canvas.rng.uniform(-0.22, 0.22) * min(canvas.size)
    else:
        at = lo + (hi - lo) * canvas.rng.uniform(0.38, 0.62)
    width, pavement = ((8.6, 2.2), (6.4, 1.7), (5.2, 1.3))[min(level, 2)]
    start, stop = (v0, v1) if axis == 1 else (u0, u1)
    road = Road(axis, at, start, stop, width, pavement, level)
    edge = width / 2 + pavement
    if axis == 1:
        halves = (u0, v0, at - edge, v1), (at + edge, v0, u1, v1)
    else:
        halves = (u0, v0, u1, at - edge), (u0, at + edge, u1, v1)
    roads, blocks = [road], []
    for half in halves:
        more_roads, more_blocks = split_land(canvas, half, level + 1)
        roads += more_roads
        blocks += more_blocks
    return roads, blocks


def junctions(road: Road, roads: list[Road]) -> list[tuple[float, float]]:
    """Where other roads meet this one: position along it, half width of the other with its pavements."""
    found = []
    for other in roads:
        reaches = other.start - other.width <= road.at + road.width and other.stop + other.width >= road.at - road.width
        if other.axis != road.axis and reaches and road.start - 8 <= other.at <= road.stop + 8:
            near = min(abs(other.start - road.at), abs(other.stop - road.at)) < road.width or (
                other.start < road.at < other.stop
            )
            if near:
                found.append((other.at, other.width / 2 + other.pavement))
    return found


def draw_streets(canvas: Canvas, roads: list[Road]) -> None:
    """Draws the roads: pavements, kerbs, carriageways, markings, parked and driving cars, street trees."""
    for road in roads:
        minor = road.level >= 1
        course = 0.0 if road.axis == 0 else math.pi / 2
        # A road ends in the middle of the road that it meets; the later layers close the joint.
        start, stop = road.start - 6, road.stop + 6
        paved = minor and canvas.chance(canvas.world.paved)
        half = road.width / 2
        canvas.rect(
            road.strip(half + road.pavement), canvas.pick(('slabs', 'paving')), IMPERVIOUS, PAVEMENT, direction=course
        )
        canvas.rect(road.strip(half + 0.18, start, stop), 'kerb', IMPERVIOUS, KERB)
        canvas.rect(
            road.strip(half, start, stop), 'cobbles' if paved else 'asphalt', IMPERVIOUS, ROAD, direction=course
        )
        canvas.taken.append(road.strip(half + 0.2))
        meets = junctions(road, roads)

        def clear(position: float, reach: float, meets: list[tuple[float, float]] = meets) -> bool:
            return all(abs(position - at) > edge + reach for at, edge in meets)

        for position in np.arange(road.start + 2, road.stop, 3.1):
            offset = canvas.rng.uniform(-0.7, 0.7) * half
            if not paved and canvas.chance(0.05):
                patch = road.strip(
                    canvas.rng.uniform(0.4, 1.0), position, position + canvas.rng.uniform(1.5, 7), offset
                )
                canvas.rect(patch, 'asphalt_patch', IMPERVIOUS, ROAD)
            if canvas.chance(0.04):
                canvas.rect(road.strip(0.32, position, position + 0.64, offset), 'manhole', IMPERVIOUS, MARKING)
        if not paved:
            draw_markings(canvas, road, meets)
        lane = half - 1.05
        for side in (-1, 1):
            if minor and road.level > 1 and side == 1:
                continue
            for position in np.arange(road.start + 4, road.stop - 4, 5.9):
                if clear(position, 6.0) and canvas.chance(canvas.world.parking * (0.8 if minor else 0.85)):
                    park_car(canvas, road, position + canvas.rng.normal(0, 0.25), side * lane, side)
            for position in np.arange(road.start + 3, road.stop - 3, canvas.rng.uniform(8, 12)):
                if clear(position, 3.0) and canvas.chance(min(1.0, 0.42 * canvas.world.trees)):
                    offset = side * (half + 0.55 * road.pavement)
                    u, v = (position, road.at + offset) if road.axis == 0 else (road.at + offset, position)
                    draw_tree(canvas, u, v, float(canvas.rng.uniform(1.6, 3.3)))
        if not minor:
            for position in np.arange(road.start, road.stop, 24.0):
                side = 1 if canvas.chance(0.5) else -1
                if clear(position, 6.0) and canvas.chance(0.4):
                    park_car(canvas, road, position + canvas.rng.uniform(-5, 5), side * 1.15, side)


def park_car(canvas: Canvas, road: Road, position: float, offset: float, side: int) -> None:
    """A car along the road; ``side`` (-1 or 1) says which way it points."""
    u, v = (position, road.at + offset) if road.axis == 0 else (road.at + offset, position)
    draw_car(canvas, u, v, (0.0 if road.axis == 0 else math.pi / 2) + (math.pi if side > 0 else 0.0))


def draw_markings(canvas: Canvas, road: Road, meets: list[tuple[float, float]]) -> None:
    """Lane lines, edges of parking lanes and zebra crossings, but nothing within junctions."""
    half = road.width / 2

    def clear(position: float, reach: float) -> bool:
        return all(abs(position - at) > edge + reach for at, edge in meets)

    if road.level <= 1:
        for position in np.arange(road.start, road.stop, 6.0):
            if clear(position + 1.5, 2.5):
                canvas.rect(road.strip(0.07, position, position + 3.0), 'marking', IMPERVIOUS, MARKING)
    if road.level == 0:
        for side in (-1, 1):
            for position in np.arange(road.start, road.stop, 4.0):
                if clear(position + 2, 3.0):
                    line = road.strip(0.06, position, position + 4.0, side * (half - 2.2))
                    canvas.rect(line, 'marking', IMPERVIOUS, MARKING)
    for at, edge in meets:
        if road.level <= 1 and canvas.chance(0.55):
            start = at + (edge + 0.6) * (1 if canvas.chance(0.5) else -1)
            if road.start < start < road.stop - 3:
                for offset in np.arange(-half + 0.5, half - 0.4, 1.0):
                    bar = road.strip(0.25, min(start, start + 3), max(start, start + 3), offset)
                    canvas.rect(bar, 'marking', IMPERVIOUS, MARKING)
