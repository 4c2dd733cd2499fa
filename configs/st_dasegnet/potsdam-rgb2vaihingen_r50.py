"""Potsdam RGB to Vaihingen IRRG, ST-DASegNet with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/tasks/potsdam-rgb2vaihingen.py',
    '../_base_/networks/deeplabv3plus_r50.py',
    './method.py',
    '../_base_/schedules/sgd_40k.py',
]

train_dataloader = dict(batch_size=3)  # per process
