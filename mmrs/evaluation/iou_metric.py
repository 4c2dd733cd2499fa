from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from prettytable import PrettyTable
from torch import Tensor

from mmrs.registry import METRICS
from mmrs.utils.errors import ConfigError, DataError, require_number

__all__ = ['IoUMetric', 'confusion_matrix', 'scores']


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count pixels by labelled and predicted class.

    Args:
        prediction: Class indices of any shape.
        label: Class indices of the same shape, or `ignore_index`.
        num_classes: K.
        ignore_index: Label of pixels that do not count.

    Returns:
        ``(K, K)`` counts, int64: rows are labels, columns predictions.

    Raises:
        DataError: A label or a prediction that is no class.
    """
    counted = label != ignore_index
    label, prediction = label[counted].long(), prediction[counted].long()
    for name, indices in (('label', label), ('prediction', prediction)):
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < num_classes:
            raise DataError(
                f'{name} {int(indices.min())} to {int(indices.max())}, but the classes are 0 to {num_classes - 1} '
                f'and ignored pixels {ignore_index}'
            )
    return torch.bincount(label * num_classes + prediction, minlength=num_classes**2).view(num_classes, -1).cpu()


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class, in percent, from a confusion matrix with labels as rows.

    A class that is neither labelled nor predicted has no score: NaN. One that is labelled and never predicted has an F1
    of 0, not NaN as mmseg's ``mFscore`` has it, which would leave the worst classes out of the mean.

    Args:
        matrix: ``(K, K)`` counts.

    Returns:
        ``(K,)`` values under ``IoU``, ``F1``, ``Acc`` (recall) and ``Precision``.
    """
    matrix = np.asarray(matrix, np.float64)
    hit, labelled, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return dict(
            IoU=100 * hit / (labelled + predicted - hit),
            F1=100 * 2 * hit / (labelled + predicted),
            Acc=100 * hit / labelled,
            Precision=100 * hit / predicted,
        )


# Further arguments of mmseg's metric, which change nothing at these values.
_DEFAULTS = dict(nan_to_num=None, beta=1, output_dir=None, format_only=False)


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """mmseg's metric on a confusion matrix of integers, with the scores of each class.

    Means leave out classes without a score, see :func:`scores`, and those that the data set says it has no counterpart
    of (`class_map`); predictions of these are errors of the labelled classes. All values are in percent: ``aAcc``
    (overall accuracy), ``mIoU``, ``mF1``, ``mAcc`` and ``IoU.<class>``. After an evaluation, :attr:`matrix` has the
    counts.

    Args:
        ignore_index: Label of pixels that do not count.
        prefix: In front of the names of the values.
        collect_device: How the results of several processes meet: ``'gpu'``, as messages (on a CPU too); ``'cpu'``, as
            files in the folder ``.dist_test``, which all machines must share.
        least_share: Also give ``mIoU_frequent``, the mean over the classes that have at least this share of the
            labelled pixels of all images together, 0 to 1. A class of a few pixels moves the mean as much as one that
            covers half of the area; by default no class is left out anywhere.
        **mmseg: Arguments of mmseg's metric, from a configuration that was written for it: `iou_metrics` of `mIoU` and
            `mFscore`, which are both computed anyway, and others at their defaults.

    Raises:
        ConfigError: An argument that would do nothing, or a share that is none.
    """

    default_prefix = ''  # MMEngine warns of None

    def __init__(
        self,
        ignore_index: int = 255,
        prefix: str | None = None,
        collect_device: str = 'gpu',
        least_share: float | None = None,
        **mmseg: Any,
    ):
        if least_share is not None:
            require_number('IoUMetric: least_share', least_share, above=0, at_most=1)
        for name, value in mmseg.items():
            names = [value] if isinstance(value, str) else value
            computed = isinstance(names, Sequence) and all(one in ('mIoU', 'mFscore') for one in names)
            if name == 'iou_metrics' and computed:
                continue
            if name not in _DEFAULTS or value != _DEFAULTS[name]:
                raise ConfigError(
                    f'IoUMetric: {name} is {value!r}, which has no effect: aAcc, mIoU, mF1 (which is mDice, too) and '
                    'mAcc are always computed, in percent, and tools/test.py --out writes label maps. Leave it out'
                )
        super().__init__(ignore_index=ignore_index, prefix=prefix, collect_device=collect_device)
        self.matrix: np.ndarray | None = None
        self.least_share = least_share

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count the pixels of a batch of predictions.

        Raises:
            DataError: A sample has no label, or one that is no class; the message names its file.
        """
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            if 'gt_sem_seg' not in sample:
                raise DataError(
                    f'{sample.get("img_path", "an image")} has no label to evaluate against; the data set of the '
                    'evaluation needs seg_map_path and its pipeline LoadAnnotations'
                )
            prediction = sample['pred_sem_seg']['data'].squeeze()
            label = sample['gt_sem_seg']['data'].squeeze().to(prediction.device)
            try:
                self.results.append(confusion_matrix(prediction, label, num_classes, self.ignore_index))
            except DataError as error:
                raise DataError(f'{sample.get("seg_map_path", sample.get("img_path"))}: {error}') from error

    def class_scores(self) -> dict[str, np.ndarray]:
        """:func:`scores` of :attr:`matrix`; classes that the data set has no counterpart of have none."""
        names = self.dataset_meta['classes']
        absent = [names.index(name) for name in self.dataset_meta.get('no_counterpart', ())]
        by_class = scores(np.asarray(self.matrix))
        for values in by_class.values():
            values[absent] = np.nan
        return by_class

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Log a table of the classes and return the values."""
        names = self.dataset_meta['classes']
        self.matrix = torch.stack(results).sum(0).numpy()
        by_class = self.class_scores()
        table = PrettyTable(['Class', *by_class], align='r')
        table.align['Class'] = 'l'
        for i, name in enumerate(names):
            table.add_row([name, *(_cell(values[i]) for values in by_class.values())], divider=i == len(names) - 1)
        means = {name: _mean(values) for name, values in by_class.items()}
        table.add_row(['mean', *map(_cell, means.values())])
        total = self.matrix.sum()
        overall = 100 * float(np.diag(self.matrix).sum()) / float(total) if total else float('nan')
        values = dict(aAcc=overall, mIoU=means['IoU'], mF1=means['F1'], mAcc=means['Acc'])
        said = f'overall accuracy {overall:.2f}'
        if self.least_share is not None:
            frequent = self.matrix.sum(1) >= self.least_share * max(total, 1)
            values['mIoU_frequent'] = _mean(by_class['IoU'][frequent])
            row = f'mean of {frequent.sum()}'
            table.add_row([row, _cell(values['mIoU_frequent']), *[''] * (len(by_class) - 1)])
            kept = ', '.join(name for name, counts in zip(names, frequent) if counts) or 'no class'
            said += f'\n{row}: at least {100 * self.least_share:g} % of the labelled pixels are {kept}'
        print_log(f'scores of the classes:\n{table}\n{said}', MMLogger.get_current_instance())
        values.update({f'IoU.{name}': float(value) for name, value in zip(names, by_class['IoU'])})
        return values


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')


def _cell(value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.2f}'
