from abc import ABCMeta, abstractmethod

import numpy as np
from mmcv.transforms import BaseTransform

from mmrs.geo.rasters import fill_missing


class RadiometricChange(BaseTransform, metaclass=ABCMeta):
    """A transform that changes the values of an image and leaves every pixel in its place.

    Images may have any number of bands and any type. The change is computed in float32; integers are rounded and
    clipped to their type's range, as a sensor saturates. Pixels without data get the mean of the others again.

    Required: `img` `(H, W, C)`; `valid_map` where the image has pixels without data. Changed: `img`.
    """

    @abstractmethod
    def change(self, image: np.ndarray, valid: np.ndarray | None, sample: dict) -> np.ndarray:
        """The changed image.

        Args:
            image: `(H, W, C)`, float32, in the units of the file.
            valid: `(H, W)`, bool, where there is data; None where all pixels hold some.
            sample: The sample, for its `img_path` and `window`.
        """

    def transform(self, results: dict) -> dict:
        """Changes the image of a sample."""
        image = results['img']
        valid = results['valid_map'] == 1 if 'valid_map' in results else None
        changed = self.change(image.astype(np.float32), valid, results)
        if np.issubdtype(image.dtype, np.integer):
            limits = np.iinfo(image.dtype)
            changed = np.rint(changed).clip(limits.min, limits.max)
        changed = changed.astype(image.dtype)
        if valid is not None:
            fill_missing(changed, valid)
        results['img'] = changed
        return results

    def __repr__(self) -> str:
        arguments = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({arguments})'
