"""Vaihingen IRRG to Potsdam RGB, ST-DASegNet with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/tasks/vaihingen2potsdam-rgb.py',
    '../_base_/networks/deeplabv3plus_r50.py',
    './method.py',
    '../_base_/schedules/sgd_40k.py',
]

train_dataloader = dict(batch_size=1)  # per process; the ASPP head needs 2 or more processes then
