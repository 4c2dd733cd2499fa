"""The synthetic pairs on a CPU: the reference of configs/feature_regression/demo.py. Test: the target as it is."""

_base_ = [
    '../_base_/datasets/synthetic_pairs.py',
    '../_base_/models/segformer_r18.py',
    '../_base_/schedules/adamw_600.py',
    '../_base_/default_runtime.py',
]

# Cars and clutter are rare; without weights, 600 iterations find no car.
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 1.0, 1.0, 1.25, 3.0, 3.0])))
train_dataloader = dict(batch_size=4, dataset=dict(_delete_=True, **_base_.source, **_base_.labelled))
# The source's own labels: nothing of the target is looked at before the test.
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.source, **_base_.evaluation))
val_evaluator = dict(_delete_=True, **_base_.test_evaluator)
default_hooks = dict(checkpoint=dict(interval=300))
