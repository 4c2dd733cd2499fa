from mmrs.evaluation.iou_metric import IoUMetric, confusion_matrix, scores
from mmrs.evaluation.submission import SubmissionMetric

__all__ = ['IoUMetric', 'SubmissionMetric', 'confusion_matrix', 'scores']
