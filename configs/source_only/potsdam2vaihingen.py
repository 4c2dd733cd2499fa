"""Potsdam IRRG to Vaihingen IRRG, SegFormer MiT-B5 trained on the source alone."""

_base_ = [
    '../_base_/datasets/potsdam2vaihingen.py',
    '../_base_/models/segformer_mit-b5.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 1.0, 1.0, 1.25, 1.5, 1.5])))
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source))
