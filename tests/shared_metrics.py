"""A program of several processes: evaluates sets of uneven numbers of made-up images, and writes what came out."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from torch.utils.data import DataLoader

from mmrs.evaluation import IoUMetric, RegressionLoss, SubmissionMetric
from mmrs.evaluation.submission import SubmissionFormat
from mmrs.utils.process_group import init_cpu_group

CLASSES = ('road', 'house', 'tree')
NUMBERS, BATCH_SIZES = (1, 3, 5), (1, 2)
#: Not all classes have it in all images together.
LEAST_SHARE = 1 / 3


def maps(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and label of an image; no two images are alike."""
    rng = np.random.default_rng(index)
    return rng.integers(0, 3, (8, 8)), rng.choice([0, 1, 2, 255], (8, 8))


def regression_losses(index: int) -> dict[str, float] | None:
    """Those of a pair; the second has no pixel in common."""
    return None if index == 1 else dict(loss=float(2**index))


def evaluate(number: int, batch_size: int, folder: Path) -> dict:
    iou, regression = IoUMetric(least_share=LEAST_SHARE), RegressionLoss()
    iou.dataset_meta = dict(classes=CLASSES)
    submission = SubmissionMetric('LoveDADataset', folder)
    submission.form = SubmissionFormat('the server', (8, 8), 3, dict(test=range(number)))
    loader = DataLoader(range(number), batch_size, sampler=DefaultSampler(range(number), shuffle=False))
    for batch in loader:
        for index in batch.tolist():
            prediction, label = (torch.as_tensor(found)[None] for found in maps(index))
            sample = dict(img_path=f'{index}.png', pred_sem_seg=dict(data=prediction), gt_sem_seg=dict(data=label))
            for metric in (iou, submission):
                metric.process({}, [sample])
            losses = regression_losses(index)
            regression.process({}, [{} if losses is None else dict(regression_losses=losses)])
    scores = [metric.evaluate(number) for metric in (iou, regression, submission)]
    if get_rank():
        return {}
    with zipfile.ZipFile(submission.path) as archive:
        names = archive.namelist()
    accuracy, frequent = (scores[0][key] for key in ('aAcc', 'mIoU_frequent'))
    return dict(matrix=iou.matrix.tolist(), accuracy=accuracy, frequent=frequent, regression=scores[1], names=names)


if __name__ == '__main__':
    init_cpu_group(60)
    out = Path(sys.argv[1])
    results = {f'{n} {size}': evaluate(n, size, out / f'{n}_{size}') for n in NUMBERS for size in BATCH_SIZES}
    if get_rank() == 0:
        (out / 'results.json').write_text(json.dumps(results))
