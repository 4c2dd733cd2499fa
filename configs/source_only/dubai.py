"""Dubai bright to dark: SegFormer with MiT-B0 trained on the source alone."""

_base_ = [
    '../_base_/datasets/dubai.py',
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/schedules/adamw_600.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=None), decode_head=dict(num_classes=5), test_cfg=dict(mode='whole'))
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.source))
default_hooks = dict(checkpoint=dict(interval=300))
