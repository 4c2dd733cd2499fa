"""Cars and trees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmrs.preparation.synthetic.scene import CAR, CROWN, IMPERVIOUS, MARKING, TREE, VEHICLE, Canvas, Car, Rect

#: Metres; single cars vary around it.
CAR_LENGTH, CAR_WIDTH = 4.5, 1.8

_COLOURS = ('car_white', 'car_silver', 'car_grey', 'car_black', 'car_red', 'car_blue', 'car_green', 'car_yellow')
_SHARES = (0.2, 0.2, 0.17, 0.14, 0.12, 0.1, 0.03, 0.04)


def draw_car(canvas: Canvas, u: float, v: float, heading: float) -> None:
    """A car with its windows, unless another car stands there; ``heading`` in radians of the local frame."""
    van = canvas.chance(0.12)
    length = CAR_LENGTH * (canvas.rng.uniform(1.1, 1.25) if van else canvas.rng.uniform(0.9, 1.06))
    width = CAR_WIDTH * (1.08 if van else canvas.rng.uniform(0.96, 1.03))
    height = 2.2 if van else 1.45
    colour = 'car_white' if van and canvas.chance(0.5) else canvas.pick(_COLOURS, _SHARES)
    heading += canvas.rng.normal(0, 0.025)
    x, y = (float(value) for value in canvas.to_tile(np.array([[u, v]]))[0])
    car = Car(x, y, heading + canvas.angle, length, width)
    if any(_touch(car, other) for other in canvas.scene.cars):
        return
    c, s = math.cos(heading), math.sin(heading)

    def part(outline: Sequence[Sequence[float]], material: str, z: float, tint: float) -> None:
        points = [(u + c * a * length - s * b * width, v + s * a * length + c * b * width) for a, b in outline]
        canvas.surface(points, material, CAR, VEHICLE, z, tint=tint)

    tint = float(canvas.rng.uniform(0.85, 1.15))
    half = [(0.5, 0.22), (0.47, 0.4), (0.42, 0.48), (-0.42, 0.5), (-0.48, 0.43), (-0.5, 0.3)]
    body = half + [(a, -b) for a, b in reversed(half)]
    part(body, colour, height * (0.8 if van else 0.58), tint)
    if van:
        part([(0.33, 0.4), (0.24, 0.44), (0.24, -0.44), (0.33, -0.4)], 'car_glass', height * 0.8, 1.0)
    else:
        part([(0.2, 0.4), (-0.36, 0.42), (-0.36, -0.42), (0.2, -0.4)], 'car_glass', height * 0.8, 1.0)
        part([(0.06, 0.34), (-0.25, 0.36), (-0.25, -0.36), (0.06, -0.34)], colour, height, tint * 1.06)
    canvas.things.append((u, v, 1.6))
    canvas.scene.cars.append(car)


def _touch(a: Car, b: Car) -> bool:
    """Whether two cars are too near for their doors to open, roughly."""
    dx, dy = b.x - a.x, b.y - a.y
    if math.hypot(dx, dy) > 6:
        return False
    turn = abs(math.sin(a.heading - b.heading))
    along = abs(math.cos(a.heading) * dx + math.sin(a.heading) * dy)
    across = abs(math.cos(a.heading) * dy - math.sin(a.heading) * dx)
    if turn < 0.3:
        return along < (a.length + b.length) / 2 + 0.2 and across < (a.width + b.width) / 2 + 0.15
    return math.hypot(dx, dy) < 3.6


def draw_tree(canvas: Canvas, u: float, v: float, radius: float) -> None:
    """A crown with an irregular outline, unless something is built there."""
    if not canvas.free((u, v, u, v), 0.45 * radius):
        return
    conifer = canvas.chance(canvas.world.conifers)
    material = 'conifer' if conifer else canvas.pick(('deciduous', 'deciduous_light'), (0.65, 0.35))
    radius *= 0.75 if conifer else 1.0
    turns = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    lobes = sum(
        canvas.rng.normal(0, 0.16 / k) * np.cos(k * turns + canvas.rng.uniform(0, 6.3)) for k in (2, 3, 5, 7, 9)
    )
    reach = radius * np.clip(1 + lobes, 0.6, 1.4)
    points = np.stack([u + reach * np.cos(turns), v + reach * np.sin(turns)], 1)
    canvas.things.append((u, v, 0.5 * radius))
    before = len(canvas.scene.surfaces)
    trunk = (2.6 if conifer else 1.5) * radius + canvas.rng.uniform(1.0, 2.5)
    canvas.surface(points, material, TREE, CROWN, float(trunk))
    if len(canvas.scene.surfaces) > before:
        x, y = canvas.to_tile(np.array([[u, v]]))[0]
        canvas.scene.surfaces[-1].dome = (float(x), float(y), radius)


def scatter_trees(canvas: Canvas, rect: Rect, per_100_m2: float, radius: tuple[float, float] = (1.8, 4.8)) -> None:
    """A random number of trees over ``rect``, their density relative to the world's; ``radius`` in metres."""
    area = max(0.0, rect[2] - rect[0]) * max(0.0, rect[3] - rect[1])
    for _ in range(canvas.rng.poisson(canvas.world.trees * per_100_m2 * area / 100)):
        u, v = canvas.rng.uniform(rect[0], rect[2]), canvas.rng.uniform(rect[1], rect[3])
        draw_tree(canvas, u, v, float(canvas.rng.triangular(radius[0], radius[0] + 0.5, radius[1])))


def draw_parking(canvas: Canvas, rect: Rect, axis: int, lines: bool = True) -> None:
    """A row of bays, each 2.5 m wide, along u (axis 0) or v (axis 1), with cars in some."""
    u0, v0, u1, v1 = rect
    lo, hi = (u0, u1) if axis == 0 else (v0, v1)
    for i in range(int((hi - lo) / 2.5)):
        a = lo + 2.5 * i
        bay = (a, v0, a + 2.5, v1) if axis == 0 else (u0, a, u1, a + 2.5)
        if lines:
            line = (a - 0.06, v0, a + 0.06, v1) if axis == 0 else (u0, a - 0.06, u1, a + 0.06)
            canvas.rect(line, 'marking', IMPERVIOUS, MARKING)
        if canvas.chance(canvas.world.parking):
            heading = (math.pi / 2 if axis == 0 else 0.0) + (math.pi if canvas.chance(0.5) else 0.0)
            u, v = (bay[0] + bay[2]) / 2, (bay[1] + bay[3]) / 2
            draw_car(canvas, u + canvas.rng.normal(0, 0.12), v + canvas.rng.normal(0, 0.12), heading)
