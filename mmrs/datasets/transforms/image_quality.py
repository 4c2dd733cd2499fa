"""Changes of a camera's sharpness, noise and storage."""

from collections.abc import Callable

import cv2
import numpy as np

from mmrs.datasets.transforms.arguments import generator, number, require_seed
from mmrs.datasets.transforms.bands import in_fours
from mmrs.datasets.transforms.radiometric import RadiometricChange
from mmrs.registry import TRANSFORMS


@TRANSFORMS.register_module()
class GaussianBlur(RadiometricChange):
    """Softer optics: a Gaussian point spread function. Pixels without data have no share in it.

    Args:
        sigma: Its standard deviation in px.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = number(self, 'sigma', sigma)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The blurred image."""
        if self.sigma == 0:
            return image
        return _filtered(lambda values: cv2.GaussianBlur(values, (0, 0), self.sigma), image, valid)


@TRANSFORMS.register_module()
class GroundSamplingDistance(RadiometricChange):
    """A coarser ground sampling distance at the same number of pixels.

    The image is averaged over the coarser pixels and interpolated linearly back to its own grid, so that it still lies
    on its labels. Pixels without data have no share in either.

    Args:
        factor: How many times as large the ground sampling distance is, 1 or more.
    """

    def __init__(self, factor: float) -> None:
        self.factor = number(self, 'factor', factor, at_least=1)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The coarser image, `(H, W, C)` as before."""
        height, width = image.shape[:2]
        coarse = max(1, round(width / self.factor)), max(1, round(height / self.factor))
        if coarse == (width, height):
            return image

        def resample(values: np.ndarray) -> np.ndarray:
            averaged = cv2.resize(values, coarse, interpolation=cv2.INTER_AREA)
            return np.asarray(cv2.resize(averaged, (width, height), interpolation=cv2.INTER_LINEAR))

        return _filtered(resample, image, valid)


def _filtered(apply: Callable[[np.ndarray], np.ndarray], image: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """A linear filter over the pixels with data; where it reaches none, over the values that fill the other pixels."""
    plain = in_fours(apply, image)
    if valid is None:
        return plain
    weight = apply(valid.astype(np.float32))[..., None]
    weighted = in_fours(apply, image * valid[..., None])
    return np.where(weight > 1e-6, weighted / np.maximum(weight, 1e-6), plain)


@TRANSFORMS.register_module()
class SensorNoise(RadiometricChange):
    """Shot noise, which grows with the signal, and read noise, which does not; other noise for each image.

    The variance of a value v, all in shares of full scale, is `shot**2 * v + read**2`. Both are Gaussian, which is what
    the shot noise of more than some ten electrons is.

    Args:
        shot: Standard deviation of the shot noise at full scale, as a share of it: 1 / sqrt(N) for a full well of N
            electrons.
        read: Standard deviation of the read noise, as a share of full scale.
        white: Full scale, in the units of the file.
        seed: Seed of the noise; None draws anew each time.

    Reference:
        Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data, IEEE TIP 2008.
    """

    def __init__(self, shot: float = 0.0, read: float = 0.0, white: float = 255.0, seed: int | None = 0) -> None:
        self.shot = number(self, 'shot', shot)
        self.read = number(self, 'read', read)
        self.white = number(self, 'white', white, above=0)
        self.seed = require_seed(self, seed)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The noisy image."""
        noise = generator(self, self.seed, sample).standard_normal(image.shape, np.float32)
        variance = self.shot**2 * self.white * image.clip(0) + (self.read * self.white) ** 2
        return image + noise * np.sqrt(variance)


@TRANSFORMS.register_module()
class JPEGCompression(RadiometricChange):
    """Writes the image as JPEG and reads it again.

    Three bands are stored as red, green and blue, with the colours at half the resolution; of any other number, each
    band is stored by itself. JPEG has 8 bits: values are clipped to 0 and full scale, and have 256 levels.

    Args:
        quality: From 1 (worst) to 100, on the scale of libjpeg.
        white: Full scale, in the units of the file.
    """

    def __init__(self, quality: int, white: float = 255.0) -> None:
        self.quality = number(self, 'quality', quality, whole=True, at_least=1, at_most=100)
        self.white = number(self, 'white', white, above=0)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The image behind the compression."""
        stored = np.rint(image * (255 / self.white)).clip(0, 255).astype(np.uint8)
        if stored.shape[-1] == 3:
            # OpenCV takes blue for the first band.
            read = self._round_trip(stored[..., ::-1])[..., ::-1]
        else:
            read = np.stack([self._round_trip(band) for band in np.moveaxis(stored, -1, 0)], axis=-1)
        return read * np.float32(self.white / 255)

    def _round_trip(self, image: np.ndarray) -> np.ndarray:
        _, stored = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return np.asarray(cv2.imdecode(stored, cv2.IMREAD_UNCHANGED))
