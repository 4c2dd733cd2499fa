"""From a layout to what an aerial camera records: light, shadow, texture and the sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mmrs.preparation.synthetic.materials import MATERIALS, TEXTURE_SCALES
from mmrs.preparation.synthetic.scene import TREE, Scene
from mmrs.preparation.synthetic.worlds import World

_SUBPIXEL = 4  # bits of sub-pixel position in OpenCV's polygon filling


@dataclass
class Rendering:
    """One rendered tile.

    Attributes:
        image: Red, green, blue, near infrared, uint8 (H, W, 4).
        label: Class ids 1 to 6, uint8 (H, W).
        shadow: Share of direct sunlight that is blocked, float32 (H, W) in [0, 1].
        height: Metres above ground, float32 (H, W).
    """

    image: np.ndarray
    label: np.ndarray
    shadow: np.ndarray
    height: np.ndarray


def sun_vector(world: World) -> tuple[float, float, float]:
    """Unit vector towards the sun: x east, y south, z up."""
    azimuth, elevation = math.radians(world.sun_azimuth), math.radians(world.sun_elevation)
    flat = math.cos(elevation)
    return flat * math.sin(azimuth), -flat * math.cos(azimuth), math.sin(elevation)


def render(
    scene: Scene, world: World, gsd: float, rng: np.random.Generator, sensor_rng: np.random.Generator | None = None
) -> Rendering:
    """Renders a scene at a ground sampling distance.

    Args:
        scene: The layout, in metres.
        world: Sun, season and sensor.
        gsd: Ground sampling distance, metres per pixel.
        rng: Source of textures and noise.
        sensor_rng: Source of the noise, if not ``rng``: for a second exposure of the same place.
    """
    shape = (round(scene.size[1] / gsd), round(scene.size[0] / gsd))
    ids = _paint(scene, shape, gsd)
    tables = _tables(scene, world)
    label = tables['label'][ids]
    noise = [_noise(shape, scale / gsd, rng) for scale in TEXTURE_SCALES]

    height = _heights(scene, ids, tables, noise, gsd)
    shadow = _shadow(height, world, gsd)
    albedo = _albedo(ids, tables, noise, gsd)
    light = tables['light'][ids]
    crowns = label == TREE
    _shade_crowns(light, crowns, height, world, gsd)
    np.multiply(light, 1.0 - shadow, out=light)

    open_sky = _sky_view(height, gsd)
    radiance = np.empty_like(albedo)
    for band in range(4):
        radiance[..., band] = albedo[..., band] * (light + world.sky_light[band] * open_sky)
    return Rendering(_expose(radiance, world, sensor_rng or rng), label, shadow, height)


def _paint(scene: Scene, shape: tuple[int, int], gsd: float) -> np.ndarray:
    """Index of the topmost surface at every pixel, int32 (H, W)."""
    ids = np.zeros(shape, np.int32)
    scale = 2**_SUBPIXEL / gsd
    for index, surface in enumerate(scene.surfaces):
        # Pixel centres lie half a pixel inside.
        points = np.round(surface.polygon * scale - 2 ** (_SUBPIXEL - 1)).astype(np.int32)
        cv2.fillPoly(ids, [points.reshape(-1, 1, 2)], index, cv2.LINE_8, _SUBPIXEL)
    return ids


def _tables(scene: Scene, world: World) -> dict[str, np.ndarray]:
    """Properties per surface, to be looked up per pixel."""
    surfaces = scene.surfaces
    materials = [MATERIALS[s.material] for s in surfaces]
    tint = np.array([s.tint for s in surfaces], np.float32)[:, None]
    base = np.array([m.reflectance for m in materials], np.float32)
    weathered = np.array([m.weathered or m.reflectance for m in materials], np.float32)
    share = np.array([m.weathering for m in materials], np.float32)
    for i, material in enumerate(materials):
        if material.kind == 'plain':
            continue
        season = np.array([1.0, 1.0, 1.0, world.leaf], np.float32)
        base[i] *= season
        weathered[i] *= season
        share[i, 0] += world.dryness * (0.8 if material.kind == 'herb' else 0.4)
    planes = np.array([s.plane for s in surfaces], np.float32)
    normals = np.column_stack([-planes[:, 1], -planes[:, 2], np.ones(len(planes), np.float32)])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    sun = np.array(sun_vector(world), np.float32)
    # Relative to level ground, so that a change of sun elevation alone does not darken the world: cameras adapt.
    light = np.maximum(normals @ sun, 0.0) / sun[2]
    return {
        'label': np.array([s.label for s in surfaces], np.uint8),
        'base': base * tint,
        'weathered': weathered * tint,
        'share': share,
        'texture': np.array([m.texture for m in materials], np.float32),
        'stripes': np.array([m.stripes for m in materials], np.float32),
        'direction': np.array([s.direction for s in surfaces], np.float32),
        'plane': planes,
        'light': light.astype(np.float32),
    }


def _noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance; ``scale`` is its correlation length in pixels."""
    step = max(1.0, scale)
    coarse = (math.ceil(shape[0] / step) + 3, math.ceil(shape[1] / step) + 3)
    field = rng.standard_normal(coarse, dtype=np.float32)
    if step > 1:
        full = (round(coarse[1] * step), round(coarse[0] * step))
        field = cv2.resize(field, full, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
        field = np.ascontiguousarray(field)
    else:
        field = np.ascontiguousarray(field[: shape[0], : shape[1]])
    field -= field.mean()
    return field / max(float(field.std()), 1e-6)


def _grid(shape: tuple[int, int], gsd: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres in metres, broadcastable (1, W) and (H, 1)."""
    x = (np.arange(shape[1], dtype=np.float32)[None, :] + 0.5) * gsd
    y = (np.arange(shape[0], dtype=np.float32)[:, None] + 0.5) * gsd
    return x, y


def _heights(scene: Scene, ids: np.ndarray, tables: dict, noise: list[np.ndarray], gsd: float) -> np.ndarray:
    x, y = _grid(ids.shape, gsd)
    plane = tables['plane']
    height = plane[:, 0][ids]
    height += plane[:, 1][ids] * x
    height += plane[:, 2][ids] * y
    domes = [(i, s.dome) for i, s in enumerate(scene.surfaces) if s.dome is not None]
    if domes:
        table = np.zeros((len(scene.surfaces), 4), np.float32)
        for i, dome in domes:
            table[i] = (*dome, 1.0)
        rows, columns = np.nonzero(table[:, 3][ids])
        at = ids[rows, columns]
        cx, cy, radius = table[at, 0], table[at, 1], table[at, 2]
        distance = np.hypot((columns + 0.5) * gsd - cx, (rows + 0.5) * gsd - cy) / radius
        # A crown is a bowl upside down with clumps of leaves on it.
        bowl = np.sqrt(np.clip(1.15 - (0.85 * distance) ** 2, 0.05, None)) - 1.0
        clumps = 0.1 * noise[1][rows, columns] + 0.16 * noise[2][rows, columns]
        height[rows, columns] += radius * (bowl + 0.6 * clumps)
    return np.maximum(height, 0.0, out=height)


def _shadow(height: np.ndarray, world: World, gsd: float) -> np.ndarray:
    """Cast shadows of a height field, by doubling: after k rounds every pixel knows 2^k pixels towards the sun."""
    east, south, up = sun_vector(world)
    flat = math.hypot(east, south)
    drop = gsd * up / flat  # how much a sun ray sinks per pixel
    dx, dy = east / flat, south / flat
    reach = float(height.max()) / drop
    roof = height.copy()
    stride = 1
    while stride <= reach:
        mx, my = round(stride * dx), round(stride * dy)
        shifted = roof.copy()
        rows, columns = roof.shape
        target = shifted[max(0, -my) : rows - max(0, my), max(0, -mx) : columns - max(0, mx)]
        source = roof[max(0, my) : rows - max(0, -my), max(0, mx) : columns - max(0, -mx)]
        np.maximum(target, source - drop * stride, out=target)
        roof = shifted
        stride *= 2
    roof -= height
    # 0.15 m of tolerance keeps rough surfaces from shading themselves; the ramp is the sun's penumbra.
    shadow = np.clip((roof - 0.15) / 0.35, 0.0, 1.0)
    return cv2.GaussianBlur(shadow, (0, 0), max(0.05 / gsd, 0.3))


def _sky_view(height: np.ndarray, gsd: float) -> np.ndarray:
    """Share of the sky that is seen, roughly: less beside high walls."""
    small = cv2.resize(height, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(small, (0, 0), 2.5 / (8 * gsd))
    around = cv2.resize(around, height.shape[::-1], interpolation=cv2.INTER_LINEAR)
    around -= height
    np.multiply(around, 0.06, out=around)
    return 1.0 - np.clip(around, 0.0, 0.5, out=around)


def _shade_crowns(light: np.ndarray, crowns: np.ndarray, height: np.ndarray, world: World, gsd: float) -> None:
    """Lambertian light on the relief of the crowns, in place."""
    if not crowns.any():
        return
    sun = sun_vector(world)
    relief = cv2.GaussianBlur(height, (0, 0), max(0.12 / gsd, 0.5))
    gx = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3)[crowns] / (8 * gsd)
    gy = cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3)[crowns] / (8 * gsd)
    # Foliage scatters and lets light through: its relief shows at less than full strength.
    gx, gy = np.clip(0.35 * gx, -1.2, 1.2), np.clip(0.35 * gy, -1.2, 1.2)
    cosine = (sun[2] - gx * sun[0] - gy * sun[1]) / np.sqrt(1 + gx * gx + gy * gy)
    light[crowns] = np.clip(cosine / sun[2], 0.2, 1.5)


def _albedo(ids: np.ndarray, tables: dict, noise: list[np.ndarray], gsd: float) -> np.ndarray:
    share = tables['share']
    patches = 0.6 * noise[3] + 0.6 * noise[2]
    mix = share[:, 0][ids] + share[:, 1][ids] * patches
    np.clip(mix, 0.0, 1.0, out=mix)
    texture = np.ones(ids.shape, np.float32)
    for k, field in enumerate(noise):
        texture += tables['texture'][:, k][ids] * field
    x, y = _grid(ids.shape, gsd)
    wavelength, amplitude = tables['stripes'].T
    frequency = 2 * math.pi / wavelength
    across = (-np.sin(tables['direction']) * frequency, np.cos(tables['direction']) * frequency)
    striped = (amplitude > 0)[ids]
    rows, columns = np.nonzero(striped)
    at = ids[rows, columns]
    phase = across[0][at] * x[0, columns] + across[1][at] * y[rows, 0]
    texture[rows, columns] += amplitude[at] * np.sin(phase)
    np.clip(texture, 0.25, 2.0, out=texture)

    albedo = tables['base'][ids]
    albedo += mix[..., None] * (tables['weathered'] - tables['base'])[ids]
    albedo *= texture[..., None]
    return albedo


def _expose(radiance: np.ndarray, world: World, rng: np.random.Generator) -> np.ndarray:
    """The sensor: point spread, cross talk, gain, haze, tone curve, noise, 8 bits."""
    if world.blur > 0:
        radiance = cv2.GaussianBlur(radiance, (0, 0), world.blur)
    leak = world.cross_talk
    # Blue - green - red - near infrared are neighbours in the spectrum; rows sum to one.
    matrix = np.array(
        [
            [1 - leak, leak / 2, 0.0, leak / 2],
            [leak / 2, 1 - leak, leak / 2, 0.0],
            [0.0, leak, 1 - leak, 0.0],
            [leak, 0.0, 0.0, 1 - leak],
        ],
        np.float32,
    )
    signal = cv2.transform(radiance, matrix)
    signal += np.array(world.haze, np.float32)
    signal *= np.array(world.gain, np.float32)
    # 0.6 is white: aerial cameras expose for roofs, not for the rare mirror.
    np.clip(signal / np.float32(0.6), 0.0, 1.0, out=signal)
    np.power(signal, np.float32(world.gamma), out=signal)
    signal *= 255.0
    signal += world.noise * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.clip(np.rint(signal), 0, 255).astype(np.uint8)
