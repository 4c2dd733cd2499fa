"""LoveDA urban to rural, ST-DASegNet with SegFormer MiT-B5."""

_base_ = [
    '../_base_/datasets/loveda-urban2rural.py',
    '../_base_/adaptors/st_dasegnet_mit-b5.py',
    '../_base_/schedules/joint_adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(num_classes=7, loss_decode=dict(class_weight=[1.25, 1.0, 1.25, 1.0, 1.5, 1.25, 1.0])),
    self_training=dict(class_weight=[1.51, 1.01, 1.51, 1.01, 2.01, 1.51, 1.01]),
)
train_dataloader = dict(batch_size=1)  # per process
