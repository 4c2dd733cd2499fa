"""Dubai bright to dark on a CPU: ST-DASegNet with MiT-B0 from random initialisation."""

_base_ = [
    '../_base_/datasets/dubai.py',
    '../_base_/adaptors/st_dasegnet_mit-b0.py',
    '../_base_/schedules/joint_adamw_600.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=None), decode_head=dict(num_classes=5), test_cfg=dict(mode='whole'))
default_hooks = dict(checkpoint=dict(interval=300))
