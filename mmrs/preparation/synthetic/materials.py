"""What the scenes are made of: reflectances and textures.

Reflectances are in the order red, green, blue, near infrared, in [0, 1]; they are typical values, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

Reflectance = tuple[float, float, float, float]

# Standard deviations in metres of the four noise fields that every texture is mixed from.
TEXTURE_SCALES = (0.06, 0.25, 1.0, 5.0)


@dataclass(frozen=True)
class Material:
    """One kind of surface.

    Attributes:
        reflectance: Red, green, blue, near infrared, in [0, 1].
        texture: Relative amplitude (standard deviation) of the noise fields of ``TEXTURE_SCALES``.
        weathered: What the surface turns into in patches (dry grass, mossy tiles, worn asphalt), if at all.
        weathering: Mean and patchiness of the share of ``weathered``; in vegetation dryness adds to the mean.
        stripes: Wavelength in metres and relative amplitude of lines across the surface's direction.
        variation: Relative spread of brightness from one object to the next.
        kind: ``'plain'``, ``'herb'`` (grass and shrubs) or ``'leaf'`` (tree crowns): which season effect it follows.
    """

    reflectance: Reflectance
    texture: tuple[float, float, float, float] = (0.03, 0.02, 0.02, 0.03)
    weathered: Reflectance | None = None
    weathering: tuple[float, float] = (0.0, 0.0)
    stripes: tuple[float, float] = (1.0, 0.0)
    variation: float = 0.06
    kind: str = 'plain'


_DRY_GRASS: Reflectance = (0.24, 0.205, 0.125, 0.36)
_MOSS: Reflectance = (0.13, 0.13, 0.08, 0.24)

MATERIALS: dict[str, Material] = {
    # Impervious surfaces
    'asphalt': Material((0.135, 0.135, 0.135, 0.15), (0.06, 0.03, 0.03, 0.05), (0.19, 0.185, 0.175, 0.205), (0.3, 0.5)),
    'asphalt_patch': Material((0.085, 0.085, 0.088, 0.095), (0.05, 0.02, 0.02, 0.02)),
    'cobbles': Material((0.19, 0.185, 0.175, 0.215), (0.17, 0.05, 0.03, 0.05), (0.14, 0.14, 0.12, 0.18), (0.2, 0.5)),
    'slabs': Material(
        (0.27, 0.262, 0.245, 0.3), (0.05, 0.03, 0.03, 0.04), (0.2, 0.195, 0.18, 0.23), (0.2, 0.5), (0.6, 0.035)
    ),
    'paving': Material(
        (0.26, 0.215, 0.19, 0.31), (0.07, 0.04, 0.03, 0.04), (0.19, 0.175, 0.155, 0.25), (0.2, 0.5), (0.4, 0.04)
    ),
    'kerb': Material((0.34, 0.335, 0.325, 0.37), (0.04, 0.03, 0.03, 0.02)),
    'marking': Material((0.58, 0.58, 0.56, 0.6), (0.07, 0.06, 0.03, 0.02), (0.3, 0.3, 0.29, 0.32), (0.15, 0.5)),
    'manhole': Material((0.09, 0.088, 0.085, 0.1), (0.1, 0.05, 0.0, 0.0)),
    # Roofs
    'roof_tiles': Material(
        (0.36, 0.175, 0.115, 0.43), (0.04, 0.03, 0.03, 0.03), _MOSS, (0.05, 0.25), (0.36, 0.06), 0.12
    ),
    'roof_tiles_old': Material(
        (0.25, 0.15, 0.115, 0.32), (0.05, 0.05, 0.04, 0.04), _MOSS, (0.15, 0.4), (0.36, 0.06), 0.12
    ),
    'roof_slate': Material((0.125, 0.13, 0.145, 0.15), (0.04, 0.03, 0.02, 0.03), None, (0, 0), (0.3, 0.05), 0.15),
    'roof_gravel': Material(
        (0.30, 0.29, 0.27, 0.33), (0.08, 0.04, 0.03, 0.05), (0.22, 0.215, 0.19, 0.26), (0.2, 0.6), (1.0, 0.0), 0.12
    ),
    'roof_bitumen': Material(
        (0.115, 0.117, 0.122, 0.13), (0.03, 0.02, 0.03, 0.06), (0.17, 0.165, 0.155, 0.19), (0.15, 0.6), (1.0, 0.05), 0.2
    ),
    'roof_membrane': Material(
        (0.42, 0.425, 0.43, 0.44), (0.02, 0.02, 0.02, 0.04), (0.33, 0.32, 0.3, 0.35), (0.2, 0.6), (1.5, 0.03), 0.1
    ),
    'roof_metal': Material(
        (0.33, 0.345, 0.36, 0.36), (0.02, 0.02, 0.02, 0.03), (0.3, 0.25, 0.21, 0.32), (0.05, 0.3), (0.5, 0.07), 0.12
    ),
    'parapet': Material((0.46, 0.455, 0.44, 0.48), (0.03, 0.03, 0.02, 0.02)),
    'ridge': Material((0.29, 0.16, 0.12, 0.36), (0.08, 0.04, 0.0, 0.0)),
    'chimney': Material((0.3, 0.2, 0.165, 0.34), (0.08, 0.05, 0.0, 0.0), variation=0.2),
    'skylight': Material((0.10, 0.125, 0.155, 0.09), (0.03, 0.02, 0.0, 0.0), variation=0.3),
    'roof_unit': Material((0.42, 0.42, 0.42, 0.43), (0.05, 0.05, 0.0, 0.0), None, (0, 0), (0.25, 0.12), 0.2),
    'solar': Material((0.045, 0.055, 0.095, 0.07), (0.03, 0.02, 0.0, 0.0), None, (0, 0), (0.8, 0.25), 0.1),
    # Low vegetation
    'lawn': Material(
        (0.075, 0.125, 0.05, 0.46), (0.06, 0.04, 0.05, 0.06), _DRY_GRASS, (0.12, 0.3), (1.1, 0.035), 0.07, 'herb'
    ),
    'meadow': Material(
        (0.10, 0.14, 0.06, 0.43), (0.11, 0.08, 0.08, 0.08), _DRY_GRASS, (0.22, 0.45), (2.4, 0.02), 0.07, 'herb'
    ),
    'crop': Material(
        (0.065, 0.12, 0.05, 0.52), (0.08, 0.05, 0.04, 0.05), _DRY_GRASS, (0.08, 0.2), (0.75, 0.13), 0.06, 'herb'
    ),
    'flower_bed': Material(
        (0.10, 0.11, 0.06, 0.38),
        (0.18, 0.25, 0.05, 0.0),
        (0.2, 0.14, 0.1, 0.27),
        (0.35, 0.5),
        (0.5, 0.05),
        0.12,
        'herb',
    ),
    # Trees
    'deciduous': Material(
        (0.05, 0.085, 0.036, 0.42),
        (0.13, 0.16, 0.05, 0.0),
        (0.1, 0.095, 0.045, 0.36),
        (0.1, 0.2),
        (1.0, 0.0),
        0.14,
        'leaf',
    ),
    'deciduous_light': Material(
        (0.075, 0.11, 0.045, 0.47),
        (0.13, 0.16, 0.05, 0.0),
        (0.13, 0.11, 0.05, 0.37),
        (0.1, 0.2),
        (1.0, 0.0),
        0.14,
        'leaf',
    ),
    'conifer': Material((0.034, 0.056, 0.032, 0.27), (0.14, 0.2, 0.04, 0.0), None, (0, 0), (1.0, 0.0), 0.14, 'leaf'),
    'hedge': Material(
        (0.05, 0.088, 0.036, 0.40),
        (0.14, 0.15, 0.05, 0.0),
        (0.1, 0.095, 0.05, 0.33),
        (0.1, 0.2),
        (1.0, 0.0),
        0.1,
        'leaf',
    ),
    # Cars
    'car_white': Material((0.66, 0.66, 0.65, 0.66), (0.015, 0.02, 0.0, 0.0)),
    'car_silver': Material((0.42, 0.43, 0.44, 0.44), (0.015, 0.02, 0.0, 0.0)),
    'car_grey': Material((0.2, 0.205, 0.215, 0.23), (0.015, 0.02, 0.0, 0.0)),
    'car_black': Material((0.035, 0.036, 0.04, 0.05), (0.02, 0.03, 0.0, 0.0)),
    'car_red': Material((0.42, 0.05, 0.045, 0.45), (0.015, 0.02, 0.0, 0.0)),
    'car_blue': Material((0.05, 0.1, 0.3, 0.28), (0.015, 0.02, 0.0, 0.0)),
    'car_green': Material((0.07, 0.17, 0.12, 0.24), (0.015, 0.02, 0.0, 0.0)),
    'car_yellow': Material((0.6, 0.46, 0.06, 0.62), (0.015, 0.02, 0.0, 0.0)),
    'car_glass': Material((0.04, 0.046, 0.055, 0.045), (0.02, 0.03, 0.0, 0.0), variation=0.2),
    # Clutter
    'water': Material((0.05, 0.24, 0.3, 0.025), (0.03, 0.07, 0.04, 0.0), variation=0.1),
    'pool_rim': Material((0.5, 0.49, 0.46, 0.52), (0.03, 0.03, 0.0, 0.0)),
    'court_clay': Material((0.4, 0.185, 0.11, 0.47), (0.05, 0.03, 0.04, 0.04), (0.46, 0.25, 0.17, 0.53), (0.2, 0.5)),
    'court_hard': Material((0.055, 0.2, 0.165, 0.12), (0.04, 0.03, 0.02, 0.03), (0.08, 0.23, 0.19, 0.15), (0.2, 0.5)),
    'court_blue': Material((0.06, 0.14, 0.3, 0.13), (0.04, 0.03, 0.02, 0.03), (0.09, 0.17, 0.31, 0.16), (0.2, 0.5)),
    'soil': Material(
        (0.36, 0.265, 0.18, 0.44), (0.1, 0.1, 0.08, 0.08), (0.27, 0.19, 0.125, 0.34), (0.3, 0.6), (2.2, 0.05)
    ),
    'sand': Material((0.5, 0.42, 0.3, 0.56), (0.05, 0.05, 0.05, 0.03)),
    'rubble': Material((0.33, 0.3, 0.27, 0.38), (0.3, 0.25, 0.1, 0.0), variation=0.2),
    'box_blue': Material((0.05, 0.13, 0.36, 0.3), (0.02, 0.03, 0.0, 0.0), None, (0, 0), (0.4, 0.14)),
    'box_red': Material((0.4, 0.07, 0.05, 0.42), (0.02, 0.03, 0.0, 0.0), None, (0, 0), (0.4, 0.14)),
    'box_orange': Material((0.55, 0.25, 0.05, 0.58), (0.02, 0.03, 0.0, 0.0), None, (0, 0), (0.4, 0.14)),
    'box_green': Material((0.05, 0.24, 0.13, 0.2), (0.02, 0.03, 0.0, 0.0), None, (0, 0), (0.4, 0.14)),
}
