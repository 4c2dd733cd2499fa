"""Dubai to the same images through another camera, on a CPU: SegFormer with MiT-B0 (docs/feature_regression.md)."""

_base_ = [
    '../_base_/tasks/dubai_synthetic.py',
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

reference_config = '{{ fileDirname }}/../source_only/dubai_synthetic.py'

model = dict(backbone=dict(init_cfg=None), test_cfg=dict(mode='whole'))
train_cfg = dict(max_iters=200, val_interval=100)
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=201, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=200))
