import re

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from mmseg.structures import SegDataSample

from mmrs.evaluation import IoUMetric, confusion_matrix, scores
from mmrs.registry import METRICS
from mmrs.utils import DataError
from mmrs.utils.errors import ConfigError

META = dict(classes=('road', 'house', 'tree', 'car'))


def sample(prediction, label=None, name='a.png'):
    found = SegDataSample(metainfo=dict(img_path=name))
    found.pred_sem_seg = PixelData(data=prediction[None])
    if label is not None:
        found.gt_sem_seg = PixelData(data=label[None])
    return found.to_dict()


def evaluate(metric, samples):
    metric.dataset_meta = META
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


@pytest.fixture
def maps():
    """Predictions and labels of several images; class 3 is in the labels and never predicted."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(3):
        label = torch.randint(0, 4, (20, 30), generator=generator)
        prediction = torch.where(torch.rand(20, 30, generator=generator) < 0.6, label, 0)
        prediction[prediction == 3] = 1
        label[:4] = 255
        pairs.append((prediction, label))
    return pairs


def test_confusion_matrix_by_hand():
    label = torch.tensor([0, 0, 1, 1, 1, 255])
    prediction = torch.tensor([0, 1, 1, 1, 0, 0])
    assert confusion_matrix(prediction, label, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert confusion_matrix(prediction, torch.full((6,), 255), 3).sum() == 0


def test_scores_by_hand():
    values = scores(np.array([[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]))
    np.testing.assert_allclose(values['IoU'], [25, 50, np.nan, 0])
    # Class 2 is nowhere; class 3 is labelled and never found, which is an F1 of 0.
    np.testing.assert_allclose(values['F1'], [40, 200 / 3, np.nan, 0])
    np.testing.assert_allclose(values['Acc'], [50, 200 / 3, np.nan, 0])
    np.testing.assert_allclose(values['Precision'], [100 / 3, 200 / 3, np.nan, np.nan])


def test_agrees_with_mmseg(maps):
    samples = [sample(*pair) for pair in maps]
    ours = evaluate(IoUMetric(), samples)
    # mmseg's Dice is F1, and right for classes that are never predicted.
    theirs = evaluate(MMSegIoUMetric(iou_metrics=['mIoU', 'mDice']), samples)
    for ours_key, theirs_key in (('mIoU', 'mIoU'), ('aAcc', 'aAcc'), ('mAcc', 'mAcc'), ('mF1', 'mDice')):
        assert ours[ours_key] == pytest.approx(theirs[theirs_key], abs=0.006)  # mmseg rounds to two digits
    assert 0 < ours['mIoU'] < 100
    assert ours['IoU.car'] == 0


def test_counts_are_exact_beyond_single_precision():
    metric = IoUMetric()
    metric.dataset_meta = META
    large = torch.diag(torch.tensor([2**24, 1, 1, 1]))
    values = metric.compute_metrics([large] + [torch.diag(torch.tensor([1, 0, 0, 0]))] * 3)
    assert metric.matrix[0, 0] == 2**24 + 3
    assert values['aAcc'] == 100


def test_absent_classes_are_left_out_of_the_means():
    label = torch.tensor([[0, 0, 1, 1]])
    values = evaluate(IoUMetric(), [sample(torch.tensor([[0, 0, 1, 0]]), label)])
    assert values['mIoU'] == pytest.approx((200 / 3 + 50) / 2)
    assert np.isnan(values['IoU.tree'])


def test_nothing_labelled():
    values = evaluate(IoUMetric(), [sample(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255))])
    assert np.isnan(values['mIoU'])
    assert np.isnan(values['aAcc'])


def test_bad_labels_name_the_file():
    zeros = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(DataError, match=r'a\.png: label 7 to 7, but the classes are 0 to 3'):
        evaluate(IoUMetric(), [sample(zeros, zeros + 7)])
    with pytest.raises(DataError, match=r'b\.png has no label'):
        evaluate(IoUMetric(), [sample(zeros, name='b.png')])


def test_registered_in_place_of_mmsegs():
    metric = METRICS.build(dict(type='IoUMetric', prefix='val'))
    assert isinstance(metric, IoUMetric)
    assert METRICS.build(dict(type='mmseg.IoUMetric')).__class__ is MMSegIoUMetric


def test_arguments_of_mmsegs_that_would_do_nothing(maps):
    samples = [sample(*pair) for pair in maps]
    expected = evaluate(IoUMetric(), samples)
    for same in (
        dict(iou_metrics=['mIoU']),
        dict(iou_metrics=('mFscore', 'mIoU'), nan_to_num=None, beta=1),
        dict(iou_metrics='mIoU', format_only=False, output_dir=None),
    ):
        assert evaluate(METRICS.build(dict(type='IoUMetric', **same)), samples) == expected
    others = dict(nan_to_num=0, beta=2, output_dir='out', format_only=True, ignore_idx=0).items()
    for name, value in [('iou_metrics', ['mIoU', 'mDice']), ('iou_metrics', None), *others]:
        with pytest.raises(ConfigError, match=f'{name} is {re.escape(repr(value))}'):
            METRICS.build(dict(type='IoUMetric', **{name: value}))


def test_classes_without_counterpart_are_left_out_of_the_means():
    """Their predictions are errors of what is there: road 2 of 4, house 2 of 4, tree nowhere, car never right."""
    label = torch.tensor([[0, 0, 0, 1, 1, 1, 255, 255]])
    prediction = torch.tensor([[0, 0, 3, 1, 1, 0, 3, 2]])
    metric = IoUMetric()
    metric.dataset_meta = dict(META, no_counterpart=('car',))
    metric.process({}, [sample(prediction, label)])
    values = metric.evaluate(1)
    assert values['IoU.road'] == pytest.approx(100 * 2 / 4)
    assert values['IoU.house'] == pytest.approx(100 * 2 / 3)
    assert np.isnan(values['IoU.car'])
    assert values['mIoU'] == pytest.approx((50 + 200 / 3) / 2)
    assert values['aAcc'] == pytest.approx(100 * 4 / 6)
    assert np.isnan(metric.class_scores()['F1'][3])
    # Without the remark, the class drags the mean down.
    metric.dataset_meta = META
    assert IoUMetric.compute_metrics(metric, [torch.from_numpy(metric.matrix)])['mIoU'] == pytest.approx(350 / 9)


def test_mean_of_frequent_classes(logged):
    """200 labelled pixels; house has 10 of them, 5 %, and car has 1."""
    label = np.repeat([0, 1, 2, 3, 255], [100, 10, 89, 1, 50])
    prediction = np.random.default_rng(0).integers(0, 3, 250)
    known = label != 255
    expected = []
    for i in range(3):
        labelled, predicted = label[known] == i, prediction[known] == i
        expected.append(100 * (labelled & predicted).sum() / (labelled | predicted).sum())
    samples = [sample(*torch.from_numpy(np.stack((prediction, label))).reshape(2, 10, 25))]
    values = evaluate(IoUMetric(least_share=0.05), samples)
    assert values.pop('mIoU_frequent') == pytest.approx(np.mean(expected))
    assert 'at least 5 % of the labelled pixels are road, house, tree' in logged.text
    assert f'mean of 3 | {np.mean(expected):.2f} ' in re.sub(' +', ' ', logged.text)
    assert values == evaluate(IoUMetric(), samples)
    assert evaluate(IoUMetric(least_share=0.06), samples)['mIoU_frequent'] == pytest.approx(np.mean(expected[::2]))
    assert np.isnan(evaluate(IoUMetric(least_share=0.6), samples)['mIoU_frequent'])
    for share in (0, 1.5, '5 %'):
        with pytest.raises(ConfigError, match='least_share'):
            IoUMetric(least_share=share)
