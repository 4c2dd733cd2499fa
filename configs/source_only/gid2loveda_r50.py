"""GID to LoveDA rural, DeepLabV3+ ResNet-50 trained on the source alone."""

_base_ = [
    '../_base_/datasets/gid2loveda.py',
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=4, loss_decode=dict(class_weight=[1.5, 1.0, 2.5, 1.25])))
train_dataloader = dict(
    batch_size=3,  # per process
    dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source),
)
