"""What is none of the five named classes: courts, pools, containers, playgrounds, building sites."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from mmrs.preparation.synthetic.scene import CLUTTER, MARKING, OBJECT, PAVEMENT, Canvas, Rect

# Share of a tile that clutter shall cover; placed until reached, so that hardly a tile goes without.
CLUTTER_SHARE = 0.045


def scatter_clutter(canvas: Canvas, blocks: list[Rect]) -> None:
    """Places clutter on free ground inside the tile until its share is reached."""
    wanted = CLUTTER_SHARE * canvas.size[0] * canvas.size[1] * canvas.rng.uniform(0.7, 1.3)
    ground = sum(
        _visible_area(canvas, s.polygon) for s in canvas.scene.surfaces if s.label == CLUTTER and s.layer == PAVEMENT
    )
    kinds: list[tuple[Callable[[Canvas, Rect], None], float, float, float]] = [
        (draw_court, 22, 11, 1.0),
        (draw_pool, 9, 5, 1.6),
        (draw_containers, 6.1, 5.2, 1.6),
        (draw_playground, 8, 7, 1.0),
        (draw_site, 14, 10, 0.8),
    ]
    weights = np.array([k[3] for k in kinds]) / sum(k[3] for k in kinds)
    margin = 0.03 * min(canvas.size)
    pools = 0
    for _ in range(800):
        if ground >= wanted:
            return
        draw, length, width, _ = kinds[int(canvas.rng.choice(len(kinds), p=weights))]
        length, width = (x * canvas.rng.uniform(0.85, 1.1) for x in (length, width))
        if length * width > 1.6 * (wanted - ground) + 40 or (draw == draw_pool and pools >= 2):
            continue
        if draw not in (draw_containers, draw_court) and canvas.chance(0.5):
            length, width = width, length
        u, v = canvas.to_local(canvas.rng.uniform(0, 1, 2) * canvas.size)
        rect = (u, v, u + length, v + width)
        if not any(b[0] < u and b[1] < v and rect[2] < b[2] and rect[3] < b[3] for b in blocks):
            continue
        if not canvas.free(rect, 0.8) or _crowded(canvas, rect):
            continue
        xy = canvas.to_tile(np.array([(u, v), (u + length, v), (u + length, v + width), (u, v + width)]))
        if (xy.min(0) < margin).any() or (xy.max(0) > np.asarray(canvas.size) - margin).any():
            continue
        draw(canvas, rect)
        pools += draw == draw_pool
        ground += length * width


def draw_site(canvas: Canvas, rect: Rect) -> None:
    """Bare soil with piles and containers."""
    u0, v0, u1, v1 = rect
    canvas.rect(rect, 'soil', CLUTTER, PAVEMENT, direction=canvas.rng.uniform(0, 3.1))
    canvas.taken.append(rect)
    for _ in range(int(canvas.rng.poisson((u1 - u0) * (v1 - v0) / 60))):
        u, v, r = canvas.rng.uniform(u0 + 2, u1 - 2), canvas.rng.uniform(v0 + 2, v1 - 2), canvas.rng.uniform(0.9, 1.9)
        turns = np.linspace(0, 2 * math.pi, 9, endpoint=False)
        reach = r * canvas.rng.uniform(0.7, 1.15, 9)
        pile = np.stack([u + reach * np.cos(turns), v + reach * np.sin(turns)], 1)
        canvas.surface(pile, canvas.pick(('rubble', 'sand')), CLUTTER, OBJECT, 0.8)
    if min(u1 - u0, v1 - v0) > 7:
        draw_containers(canvas, (u0 + 1, v0 + 1, u0 + 6, v0 + 6))


def draw_containers(canvas: Canvas, rect: Rect) -> None:
    """A row of coloured boxes."""
    u0, v0, u1, v1 = rect
    canvas.taken.append(rect)
    for v in np.arange(v0, v1 - 2.3, 2.6):
        colour = canvas.pick(('box_blue', 'box_red', 'box_orange', 'box_green'))
        shift = canvas.rng.uniform(-0.4, 0.4)
        canvas.rect((u0 + shift, v, u1 + shift, v + 2.4), colour, CLUTTER, OBJECT, 2.6, direction=math.pi / 2)


def draw_pool(canvas: Canvas, rect: Rect) -> None:
    """Water in a bright rim."""
    u0, v0, u1, v1 = rect
    canvas.taken.append(rect)
    canvas.rect(rect, 'pool_rim', CLUTTER, MARKING)
    canvas.rect((u0 + 0.5, v0 + 0.5, u1 - 0.5, v1 - 0.5), 'water', CLUTTER, MARKING)


def draw_court(canvas: Canvas, rect: Rect) -> None:
    """A tennis court with its lines."""
    u0, v0, u1, v1 = rect
    canvas.taken.append(rect)
    canvas.rect(rect, canvas.pick(('court_clay', 'court_hard', 'court_blue'), (0.3, 0.4, 0.3)), CLUTTER, MARKING)
    a, b, c, d = u0 + 1.8, v0 + 1.4, u1 - 1.8, v1 - 1.4
    for line in (
        (a, b, c, b),
        (a, d, c, d),
        (a, b, a, d),
        (c, b, c, d),
        (a, b + 1.3, c, b + 1.3),
        (a, d - 1.3, c, d - 1.3),
        ((a + c) / 2, b, (a + c) / 2, d),
    ):
        canvas.rect((line[0] - 0.06, line[1] - 0.06, line[2] + 0.06, line[3] + 0.06), 'marking', CLUTTER, OBJECT)


def draw_playground(canvas: Canvas, rect: Rect) -> None:
    """Sand with coloured equipment."""
    canvas.taken.append(rect)
    canvas.rect(rect, 'sand', CLUTTER, MARKING)
    u0, v0, u1, v1 = rect
    for _ in range(4):
        u, v = canvas.rng.uniform(u0 + 0.6, u1 - 2), canvas.rng.uniform(v0 + 0.6, v1 - 1.4)
        canvas.rect((u, v, u + 1.3, v + 0.7), canvas.pick(('box_red', 'box_blue', 'box_orange')), CLUTTER, OBJECT, 1.2)


def _crowded(canvas: Canvas, rect: Rect) -> bool:
    """Whether cars or crowns stand on ``rect``: clutter that nobody can see would be unfair to learn."""
    u0, v0, u1, v1 = rect
    return any(u0 - r < u < u1 + r and v0 - r < v < v1 + r for u, v, r in canvas.things)


def _visible_area(canvas: Canvas, polygon: np.ndarray) -> float:
    """Area in m2 of a convex polygon within the tile."""
    width, height = canvas.size
    tile = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    return float(cv2.intersectConvexConvex(cv2.convexHull(polygon.astype(np.float32)), tile)[0])
