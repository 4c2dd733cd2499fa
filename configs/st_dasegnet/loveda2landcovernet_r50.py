"""LoveDA rural to LandCoverNet Sentinel-2, ST-DASegNet with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/datasets/loveda2landcovernet.py',
    '../_base_/adaptors/st_dasegnet_r50.py',
    '../_base_/schedules/joint_sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(num_classes=4, loss_decode=dict(class_weight=[1.25, 1.75, 1.0, 1.0])),
)
train_dataloader = dict(batch_size=3)  # per process
