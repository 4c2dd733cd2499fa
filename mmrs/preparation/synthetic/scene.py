"""A scene: polygons in metres, from the ground up.

Everything is laid out in a local frame (u, v) along the streets, which a rotation and a slight bend
carry to the tile's own frame: x east and y south of the tile's upper left corner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mmrs.preparation.synthetic.materials import MATERIALS
from mmrs.preparation.synthetic.worlds import World

# Ids on disk, as the ISPRS label colours are numbered (0 is the boundary).
IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(1, 7)

# Paint order. A later layer covers an earlier one; within a layer the order of creation counts.
GROUND, YARD, PAVEMENT, KERB, ROAD, MARKING, OBJECT, VEHICLE, HOUSE, CROWN = range(10)

#: (u0, v0, u1, v1) in metres of the local frame.
Rect = tuple[float, float, float, float]


@dataclass
class Surface:
    """One painted polygon.

    Attributes:
        polygon: Corners (n, 2), metres east and south of the tile's upper left corner.
        material: Key of ``MATERIALS``.
        label: Class id, 1 to 6.
        plane: Height above ground in metres as ``(z0, dz/dx, dz/dy)``.
        direction: Direction of the texture's lines, radians from x towards y.
        tint: Brightness relative to the material's.
        layer: Paint order.
        dome: ``(x, y, radius)`` of a tree crown that tops ``plane``, or None.
    """

    polygon: np.ndarray
    material: str
    label: int
    plane: tuple[float, float, float]
    direction: float
    tint: float
    layer: int
    dome: tuple[float, float, float] | None = None


class Car(NamedTuple):
    """Where a car stands: metres from the tile's upper left corner, heading in radians from x towards y."""

    x: float
    y: float
    heading: float
    length: float
    width: float


@dataclass
class Scene:
    """A finished layout.

    Attributes:
        size: Width and height of the tile in metres.
        surfaces: All polygons in paint order.
        cars: All cars, those outside the tile included.
    """

    size: tuple[float, float]
    surfaces: list[Surface]
    cars: list[Car] = field(default_factory=list)


class Canvas:
    """Draws a scene polygon by polygon, from one random generator."""

    def __init__(self, size: tuple[float, float], world: World, rng: np.random.Generator) -> None:
        self.size, self.world, self.rng = size, world, rng
        self.angle = rng.uniform(0, math.pi)
        self.bend = (rng.uniform(1.0, 3.5), rng.uniform(0, 2 * math.pi), rng.uniform(150, 260))
        self.scene = Scene(size, [])
        self.taken: list[Rect] = []
        self.things: list[tuple[float, float, float]] = []  # cars and crowns: u, v, reach

    def to_tile(self, uv: np.ndarray) -> np.ndarray:
        """Local frame to tile frame: a slight bend, then a rotation about the tile's centre."""
        amplitude, phase, wavelength = self.bend
        u = uv[:, 0]
        v = uv[:, 1] + amplitude * np.sin(2 * math.pi * u / wavelength + phase)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.stack([c * u - s * v + self.size[0] / 2, s * u + c * v + self.size[1] / 2], 1)

    def to_local(self, xy: np.ndarray) -> tuple[float, float]:
        """The inverse of `to_tile`, for one point."""
        amplitude, phase, wavelength = self.bend
        c, s = math.cos(self.angle), math.sin(self.angle)
        dx, dy = float(xy[0]) - self.size[0] / 2, float(xy[1]) - self.size[1] / 2
        u = c * dx + s * dy
        return u, c * dy - s * dx - amplitude * math.sin(2 * math.pi * u / wavelength + phase)

    def visible(self, xy: np.ndarray, margin: float = 0.0) -> bool:
        """Whether the bounding box of points in the tile frame comes within ``margin`` metres of the tile."""
        low, high = xy.min(0), xy.max(0)
        return bool((high > -margin).all() and low[0] < self.size[0] + margin and low[1] < self.size[1] + margin)

    def free(self, rect: Rect, margin: float = 0.0) -> bool:
        """Whether no building, road or clutter has been put on ``rect``."""
        u0, v0, u1, v1 = rect[0] - margin, rect[1] - margin, rect[2] + margin, rect[3] + margin
        return not any(u0 < b[2] and u1 > b[0] and v0 < b[3] and v1 > b[1] for b in self.taken)

    def surface(
        self,
        points: Sequence[Sequence[float]] | np.ndarray,
        material: str,
        label: int,
        layer: int,
        heights: float | Sequence[float] = 0.0,
        direction: float = 0.0,
        tint: float | None = None,
    ) -> None:
        """Adds a polygon given in the local frame; ``heights`` is one height or one per corner of a planar facet."""
        corners = np.asarray(points, float)
        # Long edges get extra points, so that they follow the bend of the frame.
        dense = [
            a + (b - a) * t
            for a, b in zip(corners, np.roll(corners, -1, 0))
            for t in np.arange(0, 1, 1 / max(1, math.ceil(float(np.hypot(*(b - a))) / 8.0)))
        ]
        xy = self.to_tile(np.asarray(dense))
        # What stands outside the tile may still throw its shadow into it.
        top = float(np.max(heights))
        if not self.visible(xy, margin=2.5 * top):
            return
        if np.ndim(heights):
            corners_xy = self.to_tile(corners)
            design = np.column_stack([np.ones(len(corners)), corners_xy])
            z0, by_x, by_y = (float(c) for c in np.linalg.lstsq(design, np.asarray(heights, float), rcond=None)[0])
        else:
            z0, by_x, by_y = top, 0.0, 0.0
        if tint is None:
            tint = 1 + MATERIALS[material].variation * float(self.rng.uniform(-1.5, 1.5))
        self.scene.surfaces.append(Surface(xy, material, label, (z0, by_x, by_y), direction + self.angle, tint, layer))

    def rect(self, rect: Rect, material: str, label: int, layer: int, height: float = 0.0, **kwargs: Any) -> None:
        """Adds a level rectangle; further arguments as for `surface`."""
        u0, v0, u1, v1 = rect
        self.surface([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], material, label, layer, height, **kwargs)

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def pick(self, names: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """One of ``names``, by weights that need not sum to one."""
        p = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        return names[int(self.rng.choice(len(names), p=p))]
