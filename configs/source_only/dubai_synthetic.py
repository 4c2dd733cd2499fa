"""Dubai as it is: the reference of feature regression, SegFormer with MiT-B0 from random initialisation.

The test is on the images of the other camera.
"""

_base_ = [
    '../_base_/datasets/dubai_synthetic.py',
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/schedules/adamw_600.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=None), decode_head=dict(num_classes=5), test_cfg=dict(mode='whole'))
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.source))
val_dataloader = None
val_evaluator = None
val_cfg = None
train_cfg = dict(max_iters=1200)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=41, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=1201, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=300))
