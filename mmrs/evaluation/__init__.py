from mmrs.evaluation.iou_metric import IoUMetric, confusion_matrix, scores

__all__ = ['IoUMetric', 'confusion_matrix', 'scores']
