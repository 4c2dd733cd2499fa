from typing import Any

import numpy as np
from mmseg.datasets.transforms import RandomCrop

from mmrs.datasets.transforms.arguments import number
from mmrs.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RareClassCrop(RandomCrop):
    """mmseg's `RandomCrop`, which for a data set with `rare_class_sampling` looks for a crop with the rare class.

    The class is drawn from those that the image is sampled for, with the probabilities under which a
    `RareClassSampler` draws the image for each of them. Of up to `tries` crops the first with enough pixels of the
    class is taken, else the last.

    Required: `img`, `gt_seg_map`; `rare_class_weights` `(K,)`, without which it is a `RandomCrop`.

    Args:
        crop_size: As in `RandomCrop`, as is `cat_max_ratio` among the `kwargs`.
        min_pixels: Number of pixels of the class that is enough.
        tries: Number of crops to look at.

    Reference:
        Hoyer et al., DAFormer, arXiv 2111.14887; its code asks for half of the pixels that an image needs.
    """

    def __init__(
        self, crop_size: int | tuple[int, int], min_pixels: int = 1500, tries: int = 10, **kwargs: Any
    ) -> None:
        for side in crop_size if isinstance(crop_size, (list, tuple)) and len(crop_size) == 2 else (crop_size,):
            number(self, 'crop_size', side, whole=True, above=0)
        super().__init__(crop_size, **kwargs)
        self.min_pixels = number(self, 'min_pixels', min_pixels)
        self.tries = number(self, 'tries', tries, whole=True, above=0)

    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the crop in pixels; bottom and right are outside."""
        weights = results.get('rare_class_weights')
        if weights is None or not weights.any():
            return super().crop_bbox(results)
        # The global generator, as in mmseg's transforms: MMEngine seeds it.
        wanted = np.random.choice(len(weights), p=weights / weights.sum())  # noqa: NPY002
        for _ in range(self.tries):
            box = super().crop_bbox(results)
            if (self.crop(results['gt_seg_map'], box) == wanted).sum() >= self.min_pixels:
                break
        return box

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, min_pixels={self.min_pixels}, tries={self.tries})'
