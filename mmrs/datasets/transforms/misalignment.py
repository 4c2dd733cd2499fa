import math

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from scipy import fft, ndimage

from mmrs.datasets.transforms.arguments import generator, number, require_seed
from mmrs.datasets.transforms.bands import in_fours
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError


@TRANSFORMS.register_module()
class Misalignment(BaseTransform):
    """Moves an image off its place by a known amount, as an imperfect registration does.

    Each image is moved in its own way, by the same amount. The pixel at p then shows what was at p + u(p); u is the sum
    of the parts below. The image is interpolated (bicubic, places to 1/32 px), its maps take the nearest pixel. What
    comes from outside has the mean of the image, 0 in `valid_map`, and 255 in every other map.

    Labels have to be loaded before, in order to be moved with the image.

    Required: `img` `(H, W, C)`. Changed: `img` and each of `seg_fields`. Added, where something comes from outside:
    `valid_map` `(H, W)`, uint8, one of `seg_fields`.

    Args:
        shift: Length of a shift in px; its direction is drawn.
        rotation: Angle of a rotation around the centre of the image, in degrees; its sense is drawn.
        scale: Change of scale around the centre: 0.02 makes everything larger by the factor 1.02 or smaller by
            1 / 1.02; which of the two is drawn.
        elastic: Root mean square length, in px, of a smooth random field, whose mean is zero.
        smoothness: Standard deviation, in px, of the Gaussian by which the field is smoothed: the displacements of two
            pixels at this distance have a correlation of 0.78. At least twice `elastic`, lest the image folds over.
        seed: Seed of what is drawn; None draws anew each time. Directions do not depend on the amounts.
    """

    def __init__(
        self,
        shift: float = 0.0,
        rotation: float = 0.0,
        scale: float = 0.0,
        elastic: float = 0.0,
        smoothness: float = 32.0,
        seed: int | None = 0,
    ) -> None:
        self.shift = number(self, 'shift', shift)
        self.rotation = number(self, 'rotation', rotation, at_least=0, at_most=180)
        self.scale = number(self, 'scale', scale)
        self.elastic = number(self, 'elastic', elastic)
        self.smoothness = number(self, 'smoothness', smoothness, above=0)
        self.seed = require_seed(self, seed)
        if self.smoothness < 2 * self.elastic:
            raise ConfigError(
                f'Misalignment: elastic={elastic} px with smoothness={smoothness} px folds the image over; a '
                f'smoothness of {2 * self.elastic:g} px or more was expected'
            )

    def displacement(self, results: dict) -> np.ndarray:
        """The field u of a sample, `(H, W, 2)`, float64: x (to the right) and y (down) in px."""
        height, width = results['img'].shape[:2]
        rng = generator(self, self.seed, results)
        direction = rng.uniform(0, 2 * math.pi)
        turn, growth = rng.choice((-1, 1), 2)
        x = np.arange(width) - (width - 1) / 2
        y = (np.arange(height) - (height - 1) / 2)[:, None]
        # (factor * rotation - 1), a matrix of the form ((a, -b), (b, a)).
        factor, angle = (1 + self.scale) ** float(growth), math.radians(turn * self.rotation)
        a, b = factor * math.cos(angle) - 1, factor * math.sin(angle)
        field = np.empty((height, width, 2))
        field[..., 0] = a * x - b * y + self.shift * math.cos(direction)
        field[..., 1] = b * x + a * y + self.shift * math.sin(direction)
        if self.elastic:
            field += self.elastic * smooth_field((height, width), self.smoothness, rng)
        return field

    def transform(self, results: dict) -> dict:
        """Moves the image and the maps of a sample.

        Raises:
            ConfigError: A map is not of the image's size.
        """
        if not (self.shift or self.rotation or self.scale or self.elastic):
            return results
        image = results['img']
        height, width = image.shape[:2]
        fields = results.setdefault('seg_fields', [])
        _check_sizes(results, fields)
        moved = self.displacement(results)
        x, y = np.arange(width) + moved[..., 0], np.arange(height)[:, None] + moved[..., 1]
        columns, rows = np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        nearest = rows.clip(0, height - 1), columns.clip(0, width - 1)

        valid = results['valid_map'] == 1 if 'valid_map' in results else None
        seen = image.reshape(-1, image.shape[-1]) if valid is None or not valid.any() else image[valid]
        places = x.astype(np.float32), y.astype(np.float32)
        results['img'] = in_fours(
            lambda bands: cv2.remap(bands, *places, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), image
        )
        results['img'][~inside] = seen.mean(axis=0, dtype=np.float64)
        for key in fields:
            results[key] = results[key][nearest]
            results[key][~inside] = 0 if key == 'valid_map' else IGNORE_INDEX
        if valid is None and not inside.all():
            results['valid_map'] = inside.astype(np.uint8)
            fields.append('valid_map')
        return results

    def __repr__(self) -> str:
        arguments = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({arguments})'


def smooth_field(shape: tuple[int, int], smoothness: float, rng: np.random.Generator) -> np.ndarray:
    """White noise behind a Gaussian of `smoothness` px, `(*shape, 2)`, with mean 0 and root mean square length 1.

    The field continues periodically, from the right edge to the left one and from the bottom to the top.
    """
    spectrum = fft.rfft2(rng.standard_normal((2, *shape), np.float32))
    spectrum[:, 0, 0] = 0
    # A Gaussian wider than the image leaves only the lowest frequency, and a much wider one nothing at all.
    sigma = min(smoothness, max(shape))
    field = fft.irfft2(ndimage.fourier_gaussian(spectrum, (0, sigma, sigma), n=shape[1]), s=shape)
    field /= max(np.sqrt(np.square(field, dtype=np.float64).sum(axis=0).mean()), 1e-12)  # 0 for a single pixel
    return np.moveaxis(field, 0, -1)


def _check_sizes(results: dict, fields: list[str]) -> None:
    height, width = results['img'].shape[:2]
    for key in fields:
        if results[key].shape[:2] != (height, width):
            rows, columns = results[key].shape[:2]
            raise ConfigError(
                f'{results.get("img_path") or "The image"} has {width} x {height} pixels (width x height), but its '
                f'{key} has {columns} x {rows}: put Misalignment before the transforms that change the size of only '
                'one of them.'
            )
