"""The last transform of a pipeline."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs

from mmrs.datasets.transforms.arguments import require_text
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError

_META_KEYS = (
    'img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'pad_shape', 'scale_factor', 'flip', 'flip_direction',
    'reduce_zero_label', 'window', 'grid_shape', 'to_ground', 'ground',
    'paired',
)  # fmt: skip


@TRANSFORMS.register_module()
class PackRasterInputs(PackSegInputs):
    """mmseg's `PackSegInputs`, with the map of the pixels that hold data.

    Where the image has pixels without data, the data sample gets `valid_map`, a `PixelData` of bool `(1, H, W)`: pixels
    without data, and those that a transform padded or filled, are False. The place of a window, `window` and
    `grid_shape`, goes into the meta information.

    Args:
        meta_keys: Keys to keep as meta information.
    """

    def __init__(self, meta_keys: Sequence[str] = _META_KEYS) -> None:
        require_text(self, 'meta_keys', meta_keys, several=True)
        super().__init__((meta_keys,) if isinstance(meta_keys, str) else meta_keys or ())

    def transform(self, results: dict) -> dict:
        """Packs a sample.

        Raises:
            ConfigError: A transform changed the size of the image but not of its map.
        """
        packed = super().transform(results)
        if 'valid_map' in results:
            valid = _padded(results['valid_map'], results['img'].shape[:2], 'pad_shape' in results)
            # Transforms fill places without a pixel of the image with 255.
            packed['data_samples'].valid_map = PixelData(data=torch.from_numpy(valid == 1)[None])
        return packed


def _padded(valid: np.ndarray, shape: Sequence[int], is_padded: bool) -> np.ndarray:
    """The map with zeros at the right and bottom, where mmcv's `Pad` adds pixels to the image but not to this map."""
    bottom, right = shape[0] - valid.shape[0], shape[1] - valid.shape[1]
    if min(bottom, right) < 0 or (max(bottom, right) > 0 and not is_padded):
        raise ConfigError(
            f'The image has {shape[1]} x {shape[0]} pixels (width x height), but the map of its pixels with data '
            f'(valid_map) has {valid.shape[1]} x {valid.shape[0]}: a transform of the pipeline changes the image and '
            'leaves seg_fields alone, as CenterCrop of mmcv does. Use one of mmseg instead.'
        )
    return cv2.copyMakeBorder(valid, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)
