"""Changes of a camera's colours and tone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmrs.datasets.transforms.arguments import generator, number, require_seed
from mmrs.datasets.transforms.radiometric import RadiometricChange
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError, require


@TRANSFORMS.register_module()
class ColourMatrix(RadiometricChange):
    """Mixes the bands: each new band is a weighted sum of the old ones, as in another sensor's spectral response.

    Args:
        matrix: One row for each new band, with one weight for each old band. Rows that sum to 1 leave grey as it is.
    """

    def __init__(self, matrix: Sequence[Sequence[float]]) -> None:
        try:
            self.matrix = np.array(matrix, np.float32)
        except (TypeError, ValueError):
            self.matrix = np.empty(0, np.float32)
        valid = self.matrix.ndim == 2 and bool(np.isfinite(self.matrix).all())
        require(valid, 'ColourMatrix: matrix', matrix, 'rows of numbers, all of one length, were')

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The mixed bands.

        Raises:
            ConfigError: The matrix is for another number of bands.
        """
        if image.shape[-1] != self.matrix.shape[1]:
            raise ConfigError(
                f'{_name(sample)} has {image.shape[-1]} bands, but the matrix of ColourMatrix has '
                f'{self.matrix.shape[1]} weights in a row: give one for each band.'
            )
        return image @ self.matrix.T


@TRANSFORMS.register_module()
class HueRotation(RadiometricChange):
    """Turns the colours around the grey axis, on which all bands are equal.

    Grey, and the mean of the bands in each pixel, stay as they are. Three bands turn as a colour wheel: by 120° red
    becomes green, green blue, and blue red. More than three bands have more than one plane that can turn: the planes
    are drawn from the seed, and each turns by the same angle.

    Args:
        degrees: Angle in degrees; negative angles turn the other way.
        seed: Seed of the planes, for more than three bands; None draws others each time.
    """

    def __init__(self, degrees: float, seed: int | None = 0) -> None:
        self.degrees = number(self, 'degrees', degrees, at_least=None)
        self.seed = require_seed(self, seed)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The turned colours.

        Raises:
            ConfigError: There are fewer than three bands.
        """
        bands = image.shape[-1]
        if bands < 3:
            raise ConfigError(f'{_name(sample)} has {bands} bands, but HueRotation needs three or more.')
        return image @ hue_matrix(bands, self.degrees, generator(self, self.seed)).T.astype(np.float32)


def hue_matrix(bands: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """The rotation of `HueRotation`, `(bands, bands)`, float64; the identity for fewer than three bands."""
    axes = rng.standard_normal((bands, bands))
    axes[:, 0] = 1
    axes = np.linalg.qr(axes)[0]
    axes[:, 0] = 1 / math.sqrt(bands)
    # For three bands there is one plane; its handedness decides which way it turns.
    axes[:, -1] *= np.sign(np.linalg.det(axes))
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.eye(bands)
    for first in range(1, bands - 1, 2):
        turn[first : first + 2, first : first + 2] = (cosine, -sine), (sine, cosine)
    return axes @ turn @ axes.T


@TRANSFORMS.register_module()
class ChannelPermutation(BaseTransform):
    """Puts the bands into another order; some may be left out or repeated.

    With `order=(4, 1, 2)`, red, green, blue and near infrared become infrared, red and green (IRRG).

    Required: `img` `(H, W, C)`. Changed: `img`.

    Args:
        order: Numbers of the loaded bands, counted from 1, in the wanted order.
    """

    def __init__(self, order: Sequence[int]) -> None:
        valid = isinstance(order, Sequence) and order and all(isinstance(band, int) and band > 0 for band in order)
        require(bool(valid), 'ChannelPermutation: order', order, 'numbers of bands, counted from 1, were')
        self.order = tuple(order)

    def transform(self, results: dict) -> dict:
        """Puts the bands of a sample into order.

        Raises:
            ConfigError: The image lacks one of the bands.
        """
        image = results['img']
        if max(self.order) > image.shape[-1]:
            raise ConfigError(
                f'{_name(results)} has {image.shape[-1]} bands, but the order of ChannelPermutation asks for band '
                f'{max(self.order)}.'
            )
        results['img'] = np.ascontiguousarray(image[..., [band - 1 for band in self.order]])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(order={self.order})'


@TRANSFORMS.register_module()
class GainGamma(RadiometricChange):
    """Gives each band its own gain and tone curve: `white * (gain * value / white) ** gamma`.

    A gamma above 1 darkens the middle tones, one below 1 brightens them; black and white stay. Negative values keep
    their sign.

    Args:
        gain: A list with a factor for each band; or a number of 1 or more, and each band's factor is drawn between its
            inverse and itself (uniformly in the logarithm).
        gamma: The same for the exponent.
        white: Full scale, in the units of the file.
        seed: Seed of what is drawn; None draws anew each time.
    """

    def __init__(
        self,
        gain: float | Sequence[float] = 1.0,
        gamma: float | Sequence[float] = 1.0,
        white: float = 255.0,
        seed: int | None = 0,
    ) -> None:
        self.gain = self._factors('gain', gain)
        self.gamma = self._factors('gamma', gamma)
        self.white = number(self, 'white', white, above=0)
        self.seed = require_seed(self, seed)

    def _factors(self, name: str, value: Any) -> float | list[float]:
        if isinstance(value, (list, tuple)):
            return [number(self, name, factor, above=0) for factor in value]
        return number(self, name, value, at_least=1)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The image behind the tone curves.

        Raises:
            ConfigError: There are gains or gammas for another number of bands.
        """
        rng = generator(self, self.seed)
        # Both are always drawn, so that the draws of gamma do not depend on whether gain uses its own.
        for_gain, for_gamma = rng.uniform(-1, 1, (2, image.shape[-1]))
        gain = self._per_band('gain', self.gain, for_gain, sample)
        gamma = self._per_band('gamma', self.gamma, for_gamma, sample)
        return tone_curve(image, gain, gamma, self.white)

    @staticmethod
    def _per_band(name: str, value: float | list[float], drawn: np.ndarray, sample: dict) -> np.ndarray:
        if isinstance(value, float):
            return value**drawn
        if len(value) != len(drawn):
            raise ConfigError(
                f'{_name(sample)} has {len(drawn)} bands, but GainGamma has {len(value)} values as {name}: give one '
                'for each band.'
            )
        return np.array(value)


def tone_curve(image: np.ndarray, gain: np.ndarray, gamma: np.ndarray | float, white: float) -> np.ndarray:
    """The curve of `GainGamma` on an image `(H, W, C)`, float32, with a gain and a gamma for each band."""
    scaled = image * (gain / white).astype(np.float32)
    powers = np.abs(scaled) ** np.asarray(gamma, np.float32)
    return np.copysign(powers, scaled) * np.float32(white)


@TRANSFORMS.register_module()
class Contrast(RadiometricChange):
    """Stretches the values away from a middle grey, or pulls them towards it: `grey + factor * (value - grey)`.

    Args:
        factor: The factor; below 1 for less contrast.
        grey: The value that stays, as a share of full scale.
        white: Full scale, in the units of the file.
    """

    def __init__(self, factor: float, grey: float = 0.5, white: float = 255.0) -> None:
        self.factor = number(self, 'factor', factor)
        self.grey = number(self, 'grey', grey, at_least=0, at_most=1)
        self.white = number(self, 'white', white, above=0)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The stretched values."""
        grey = self.grey * self.white
        return grey + self.factor * (image - grey)


def _name(sample: dict) -> str:
    return str(sample.get('img_path') or 'The image')
