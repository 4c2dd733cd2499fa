"""Potsdam RGB to IRRG, feature regression with DeepLabV3+ ResNet-50."""

_base_ = [
    '../_base_/datasets/potsdam_rgb2irrg.py',
    '../_base_/adaptors/feature_regression_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/regression_runtime.py',
]

reference_config = '{{ fileDirname }}/../target_supervised/potsdam_rgb_r50.py'

train_dataloader = dict(batch_size=3)  # per process
