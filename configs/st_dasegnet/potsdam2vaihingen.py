"""Potsdam IRRG to Vaihingen IRRG, ST-DASegNet with SegFormer MiT-B5."""

_base_ = [
    '../_base_/datasets/potsdam2vaihingen.py',
    '../_base_/adaptors/st_dasegnet_mit-b5.py',
    '../_base_/schedules/joint_adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(
        loss_decode=dict(class_weight=[1.0, 1.0, 1.0, 1.25, 1.5, 1.5]),
        target=dict(loss_decode=dict(class_weight=[1.0, 1.0, 1.25, 1.25, 1.5, 1.5])),
    ),
    self_training=dict(class_weight=[1.01, 1.01, 1.51, 1.51, 2.01, 2.01]),
)
