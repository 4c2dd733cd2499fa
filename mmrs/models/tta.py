from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel as MMSegTTAModel
from mmseg.structures import SegDataSample

from mmrs.registry import MODELS


@MODELS.register_module()
class SegTTAModel(MMSegTTAModel):
    """mmseg's test-time augmentation, whose mean is right for models with one output for two classes, too.

    What mmseg predicts of those has passed the sigmoid already; its own merging takes it once more, after which nearly
    every pixel is above a threshold below one half.
    """

    def merge_preds(self, data_samples_list: Sequence[Sequence[SegDataSample]]) -> list[SegDataSample]:
        """Average the probabilities of all versions of an image.

        Args:
            data_samples_list: For each image its versions, with ``seg_logits`` of one size.

        Returns:
            For each image the first version with the merged ``pred_sem_seg``.
        """
        merged = []
        for versions in data_samples_list:
            binary = self.module.out_channels == 1
            total: Any = 0
            for sample in versions:
                logits = sample.seg_logits.data
                total = total + (logits if binary else logits.softmax(0))
            mean = total / len(versions)
            labels = (mean > self.module.decode_head.threshold).long() if binary else mean.argmax(0, keepdim=True)
            versions[0].set_data(dict(pred_sem_seg=PixelData(data=labels)))
            merged.append(versions[0])
        return merged
