import numpy as np

from mmrs.datasets.transforms.arguments import generator, number, require_seed
from mmrs.datasets.transforms.colour import hue_matrix, tone_curve
from mmrs.datasets.transforms.image_quality import GaussianBlur
from mmrs.datasets.transforms.radiometric import RadiometricChange
from mmrs.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CameraChange(RadiometricChange):
    """Another camera: softer optics, other colours and another tone curve, the same ones for every image.

    | strength | 0 | 0.5 | 1 | 2 |
    |---|---|---|---|---|
    | standard deviation of the Gaussian blur, px | 0 | 0.5 | 1 | 2 |
    | rotation of the hue (three bands or more) | 0° | 15° | 30° | 60° |
    | gain of the band that loses most | 1 | 0.88 | 0.77 | 0.59 |
    | exponent of the tone curve, or its inverse | 1 | 1.14 | 1.30 | 1.69 |

    At 0 the image stays as it is, 0.5 is mild, 1 is plainly another sensor, and 2 is severe. Strengths between and
    above continue the table. The seed says which camera it is: which way the hue turns, what each band loses (one
    loses nothing, so that white does not saturate), and whether the tone curve darkens or, by the inverse exponent,
    brightens. Steps are in the order of the table, with no rounding and no saturation between them.

    Args:
        strength: 0 or more.
        white: Full scale, in the units of the file.
        seed: Seed of the camera; None draws another camera for each image.
    """

    def __init__(self, strength: float = 1.0, white: float = 255.0, seed: int | None = 0) -> None:
        self.strength = number(self, 'strength', strength)
        self.white = number(self, 'white', white, above=0)
        self.seed = require_seed(self, seed)

    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """What the other camera sees."""
        if self.strength == 0:
            return image
        bands = image.shape[-1]
        rng = generator(self, self.seed)
        turn, tone = rng.choice((-1, 1), 2)
        loss: np.ndarray = rng.random((bands,))
        loss = (loss - loss.min()) / max(np.ptp(loss), 1e-12)  # 0 if there is one band
        matrix = hue_matrix(bands, turn * 30 * self.strength, rng)
        image = GaussianBlur(self.strength).change(image, valid, sample) @ matrix.T.astype(np.float32)
        return tone_curve(image, 1.3 ** (-self.strength * loss), 1.3 ** (self.strength * tone), self.white)
