"""Potsdam RGB to IRRG, feature regression with SegFormer MiT-B5: the labels of one band combination for the other."""

_base_ = [
    '../_base_/datasets/potsdam_rgb2irrg.py',
    '../_base_/adaptors/feature_regression_mit-b5.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/regression_runtime.py',
]

reference_config = '{{ fileDirname }}/../target_supervised/potsdam_rgb.py'
