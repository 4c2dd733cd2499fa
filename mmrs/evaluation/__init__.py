from mmrs.evaluation.iou_metric import IoUMetric, confusion_matrix, scores
from mmrs.evaluation.regression_loss import RegressionLoss
from mmrs.evaluation.submission import SubmissionMetric

__all__ = ['IoUMetric', 'RegressionLoss', 'SubmissionMetric', 'confusion_matrix', 'scores']
