"""Vaihingen IRRG to Potsdam IRRG, SegFormer MiT-B5 trained on the source alone."""

_base_ = [
    '../_base_/tasks/vaihingen2potsdam.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]

model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 1.0, 1.25, 1.25, 1.5, 1.5])))
