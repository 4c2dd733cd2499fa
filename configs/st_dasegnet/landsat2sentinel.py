"""Landsat-5 to Sentinel-2 reflectance, six bands, on a CPU: ST-DASegNet with MiT-B0 from random initialisation."""

_base_ = [
    '../_base_/tasks/landsat2sentinel.py',
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

model = dict(backbone=dict(init_cfg=None), test_cfg=dict(mode='whole'))
train_cfg = dict(max_iters=300, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=20))
