"""The two worlds of the demo pair and the number that says how far they are apart.

A world is a flat record of numbers, so that any two can be mixed: ``gap`` 0 gives the source's statistics, 1 the far
end, anything between (or a little beyond) a linear mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mmrs.utils.errors import ConfigError

Bands = tuple[float, float, float, float]


@dataclass(frozen=True)
class World:
    """Everything in which two domains may differ, except the ground sampling distance.

    Attributes:
        sun_azimuth: Degrees clockwise from north, towards the sun.
        sun_elevation: Degrees above the horizon.
        sky_light: Diffuse irradiance per band as a share of the direct one: how bright shadows are, and how blue.
        detached, perimeter, slabs, halls, park, site: Relative frequencies of the kinds of blocks.
        pitched: Probability that a house has a gable or hip roof; the others are flat.
        tiled: Probability that a pitched roof has red tiles, not old tiles or slate.
        bright_flat: Probability that a flat roof is gravel, membrane or metal, not bitumen.
        paved: Probability that a minor road or yard is paved with stone, not asphalt.
        trees: Density of trees relative to the source.
        conifers: Share of conifers among the trees.
        parking: Share of parking space that is taken.
        dryness: How dry grass is, 0 lush to 1 straw.
        leaf: Near infrared reflectance of the vegetation relative to the source (state of the leaves).
        gain: Gain per band (red, green, blue, near infrared).
        haze: Path radiance per band, in units of reflectance.
        cross_talk: Share of each band's signal that leaks into its spectral neighbours.
        gamma: Exponent of the tone curve (below 1 brightens the dark).
        noise: Standard deviation of the sensor noise, in grey levels.
        blur: Standard deviation of the point spread, in pixels.
    """

    sun_azimuth: float
    sun_elevation: float
    sky_light: Bands
    detached: float
    perimeter: float
    slabs: float
    halls: float
    park: float
    site: float
    pitched: float
    tiled: float
    bright_flat: float
    paved: float
    trees: float
    conifers: float
    parking: float
    dryness: float
    leaf: float
    gain: Bands
    haze: Bands
    cross_talk: float
    gamma: float
    noise: float
    blur: float


SOURCE_WORLD = World(
    sun_azimuth=152.0,
    sun_elevation=46.0,
    sky_light=(0.17, 0.2, 0.26, 0.12),
    detached=0.3,
    perimeter=0.28,
    slabs=0.26,
    halls=0.09,
    park=0.12,
    site=0.04,
    pitched=0.4,
    tiled=0.3,
    bright_flat=0.6,
    paved=0.35,
    trees=1.0,
    conifers=0.1,
    parking=0.48,
    dryness=0.1,
    leaf=1.0,
    gain=(1.0, 1.0, 1.0, 1.0),
    haze=(0.012, 0.016, 0.026, 0.006),
    cross_talk=0.02,
    gamma=0.62,
    noise=2.0,
    blur=0.55,
)

FAR_WORLD = World(
    sun_azimuth=236.0,
    sun_elevation=31.0,
    sky_light=(0.11, 0.13, 0.18, 0.08),
    detached=0.46,
    perimeter=0.16,
    slabs=0.1,
    halls=0.05,
    park=0.16,
    site=0.04,
    pitched=0.92,
    tiled=0.85,
    bright_flat=0.3,
    paved=0.2,
    trees=1.45,
    conifers=0.25,
    parking=0.36,
    dryness=0.55,
    leaf=0.8,
    gain=(1.25, 0.88, 0.85, 0.85),
    haze=(0.05, 0.06, 0.09, 0.02),
    cross_talk=0.18,
    gamma=0.8,
    noise=3.5,
    blur=0.8,
)

_PROBABILITIES = {'pitched', 'tiled', 'bright_flat', 'paved', 'conifers', 'parking', 'dryness'}


def world_at(gap: float) -> World:
    """The target's world at a domain gap.

    Args:
        gap: 0 for the source's own statistics, 1 for the far end; up to 1.5 is extrapolated.

    Raises:
        ConfigError: ``gap`` lies outside [0, 1.5].
    """
    if not 0.0 <= gap <= 1.5:
        raise ConfigError(f'gap is {gap}, expected a number from 0 (same world) to 1.5; 0.5 is the medium gap')

    def mix(name: str, near: float, far: float) -> float:
        value = near + gap * (far - near)
        # Extrapolation must not leave the domain of a share or a positive quantity.
        return min(max(value, 0.0), 1.0) if name in _PROBABILITIES else max(value, 0.02 * near)

    values: dict[str, Any] = {}
    for field in fields(World):
        near, far = getattr(SOURCE_WORLD, field.name), getattr(FAR_WORLD, field.name)
        if isinstance(near, tuple):
            values[field.name] = tuple(mix(field.name, n, f) for n, f in zip(near, far))
        else:
            values[field.name] = mix(field.name, near, far)
    return World(**values)
