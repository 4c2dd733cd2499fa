"""LoveDA rural to urban, ST-DASegNet with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/datasets/loveda-rural2urban.py',
    '../_base_/adaptors/st_dasegnet_r50.py',
    '../_base_/schedules/joint_sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(num_classes=7, loss_decode=dict(class_weight=[1.25, 1.0, 1.25, 1.0, 1.5, 1.25, 1.0])),
    self_training=dict(class_weight=[1.51, 1.01, 1.51, 1.01, 2.01, 1.51, 1.01]),
)
train_dataloader = dict(batch_size=1)  # per process; the ASPP head needs 2 or more processes then
