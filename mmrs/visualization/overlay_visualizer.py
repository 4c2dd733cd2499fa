from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from mmrs.registry import VISUALIZERS
from mmrs.visualization.panels import draw_sample, write_picture

__all__ = ['OverlayVisualizer']


@VISUALIZERS.register_module()
class OverlayVisualizer(SegLocalVisualizer):
    """mmseg's visualizer with image, ground truth and prediction side by side and a legend of the classes.

    Images may have any number of bands and any type; they are shown as :func:`to_display` does.

    Args:
        name: Name of the instance.
        alpha: Opacity of the classes' colours, 0 to 1.
        bands: Indices of the bands to show as red, green and blue; else the first three.
        **kwargs: As in mmseg.
    """

    def __init__(
        self, name: str = 'visualizer', alpha: float = 0.6, bands: Sequence[int] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name, alpha=alpha, **kwargs)
        self.bands = bands

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: SegDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | None = None,
        step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Draw a sample, into a file, a window or the storage backends.

        Args:
            name: Title of the picture and its name in the backends.
            image: ``(H, W, C)``.
            data_sample: With `gt_sem_seg` or `pred_sem_seg` or both.
            draw_gt: Show the ground truth.
            draw_pred: Show the prediction.
            show: Open a window.
            wait_time: Seconds that it stays open, 0 for ever.
            out_file: File to write; the backends are left alone then.
            step: Iteration, for the backends.
            **kwargs: mmseg's options on where labels are written; there is a legend instead.
        """
        if out_file is None and not is_main_process():
            return
        fields = [name for name, wanted in (('gt_sem_seg', draw_gt), ('pred_sem_seg', draw_pred)) if wanted]
        drawn = draw_sample(name, image, data_sample, self.dataset_meta, fields, self.alpha, self.bands)
        self.set_image(drawn)
        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            write_picture(out_file, drawn, overwrite=True)
        else:
            self.add_image(name, drawn, step)
