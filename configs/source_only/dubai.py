"""Dubai bright to dark: SegFormer with MiT-B0 trained on the source alone."""

_base_ = [
    '../_base_/tasks/dubai.py',
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

model = dict(backbone=dict(init_cfg=None), test_cfg=dict(mode='whole'))
default_hooks = dict(checkpoint=dict(interval=300))
