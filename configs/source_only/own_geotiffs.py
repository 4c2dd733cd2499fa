"""Your own GeoTIFFs, SegFormer MiT-B0: the reference of configs/feature_regression/own_geotiffs.py.

Validation: your source's own labels. Test: the target as it is.
"""

_base_ = [
    '../_base_/datasets/own_geotiffs.py',
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(mean='auto', std='auto'),
    backbone=dict(in_channels=3),  # bands of your images
    decode_head=dict(num_classes=6),  # yours, as in classes.yaml
)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.before, **_base_.labelled))
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.before, **_base_.evaluation))
val_evaluator = dict(_delete_=True, **_base_.test_evaluator)
