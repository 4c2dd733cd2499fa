"""LoveDA urban to rural, DeepLabV3+ ResNet-50 trained on the source alone."""

_base_ = [
    '../_base_/datasets/loveda-urban2rural.py',
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=7, loss_decode=dict(class_weight=[1.25, 1.0, 1.25, 1.0, 1.5, 1.25, 1.0])))
train_dataloader = dict(
    batch_size=1,  # per process; the ASPP head needs 2 or more processes then
    dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source),
)
