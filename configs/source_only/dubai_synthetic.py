"""Dubai as it is: the reference of feature regression, SegFormer with MiT-B0 from random initialisation.

The test is on the images of the other camera.
"""

_base_ = [
    '../_base_/tasks/dubai_synthetic.py',
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

model = dict(backbone=dict(init_cfg=None), test_cfg=dict(mode='whole'))
train_cfg = dict(max_iters=1200)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=41, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=1201, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=300))
