"""Transforms of mmseg that are made for 8 bits, kept from images of other types."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.dataset import Compose as PipelineCompose
from mmseg.datasets.transforms import CLAHE, AdjustGamma, PhotoMetricDistortion

from mmrs.utils.errors import ConfigError

#: These cut off values beyond 0 to 255, or let them overflow.
_EIGHT_BIT = (AdjustGamma, CLAHE, PhotoMetricDistortion)


class RequireEightBit(BaseTransform):
    """Raises for an image that the next transform would spoil in silence; changes nothing.

    Args:
        transform: The next transform.
    """

    def __init__(self, transform: BaseTransform) -> None:
        self.kind = type(transform).__name__
        self.three_bands = isinstance(transform, PhotoMetricDistortion)

    def transform(self, results: dict) -> dict:
        """The sample, unchanged.

        Raises:
            ConfigError: The image is not of the type uint8, or has not three bands where a colour is looked at.
        """
        image = results['img']
        bands = image.shape[2] if image.ndim > 2 else 1
        if image.dtype != np.uint8:
            raise ConfigError(
                f'{results.get("img_path", "an image")} is loaded as {image.dtype}, but {self.kind} of the pipeline is '
                'for images of 8 bits and cuts off what is above 255. Take it out; GainGamma(gain=1.3, gamma=1.3, '
                'white=LARGEST-VALUE, seed=None) changes brightness and colours of other types'
            )
        if self.three_bands and bands != 3:
            raise ConfigError(
                f'{results.get("img_path", "an image")} has {bands} bands, but {self.kind} of the pipeline is for 3. '
                'Take it out; GainGamma(gain=1.3, gamma=1.3, seed=None) takes any number'
            )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.kind})'


def guard_eight_bit(pipeline: Any) -> None:
    """Put a :class:`RequireEightBit` before each transform of a pipeline, nested too, that is made for 8 bits."""
    inner = getattr(pipeline, 'transforms', None)
    for transform in inner if isinstance(inner, (list, tuple)) else [inner] if inner is not None else []:
        guard_eight_bit(transform)
    if isinstance(pipeline, (Compose, PipelineCompose)):
        pipeline.transforms = [
            step
            for transform in pipeline.transforms
            for step in ([RequireEightBit(transform)] if isinstance(transform, _EIGHT_BIT) else []) + [transform]
        ]
