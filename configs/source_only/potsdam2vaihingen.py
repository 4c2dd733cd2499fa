"""Potsdam IRRG to Vaihingen IRRG, SegFormer MiT-B5 trained on the source alone."""

_base_ = [
    '../_base_/tasks/potsdam2vaihingen.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]
