"""Potsdam IRRG to Vaihingen IRRG, DeepLabV3+ ResNet-50 trained on the source alone."""

_base_ = [
    '../_base_/datasets/potsdam2vaihingen.py',
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 1.0, 1.0, 1.25, 1.5, 1.5])))
train_dataloader = dict(
    batch_size=3,  # per process
    dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source),
)
