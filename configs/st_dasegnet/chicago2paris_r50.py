"""CITY-OSM Chicago to Paris, ST-DASegNet with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/datasets/chicago2paris.py',
    '../_base_/adaptors/st_dasegnet_r50.py',
    '../_base_/schedules/joint_sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(num_classes=3, loss_decode=dict(class_weight=[1.0, 1.5, 1.5])),
    self_training=dict(class_weight=[1.01, 1.51, 1.51]),
)
train_dataloader = dict(batch_size=3)  # per process
