"""The synthetic pairs on a CPU: the reference of configs/feature_regression/demo.py. Test: the target as it is."""

_base_ = [
    '../_base_/tasks/synthetic_pairs.py',
    '../_base_/networks/segformer_r18.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

default_hooks = dict(checkpoint=dict(interval=300))
