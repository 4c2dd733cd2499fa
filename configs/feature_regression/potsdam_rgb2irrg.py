"""Potsdam RGB to IRRG, feature regression with SegFormer MiT-B5: the labels of one band combination for the other."""

_base_ = [
    '../_base_/tasks/potsdam_rgb2irrg.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]

reference_config = dict(
    config='{{ fileDirname }}/../source_only/method.py', task='potsdam_rgb2irrg', network='segformer_mit-b5'
)
