"""LandCoverNet, January, SegFormer MiT-B5: the reference of configs/feature_regression/landcovernet_dates.py.

Validation: January's own labels. Test: August as it is.
"""

_base_ = [
    '../_base_/datasets/landcovernet_dates.py',
    '../_base_/models/segformer_mit-b5.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=7))
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.january, **_base_.labelled))
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.january, **_base_.evaluation))
val_evaluator = dict(_delete_=True, **_base_.test_evaluator)
