"""PASCAL VOC 2012, DeepLabV3+ ResNet-50: the reference of configs/feature_regression/voc_synthetic.py.

Validation: VOC as it is. Test: VOC under the camera change.
"""

_base_ = [
    '../_base_/datasets/voc_synthetic.py',
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=21))
train_dataloader = dict(batch_size=8, dataset=dict(_delete_=True, **_base_.labelled))  # per process
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.source_evaluation))
val_evaluator = dict(_delete_=True, **_base_.test_evaluator)
