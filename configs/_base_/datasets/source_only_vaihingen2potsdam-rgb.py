"""Vaihingen IRRG to Potsdam RGB, trained on the source alone."""

_base_ = './isprs.py'

train_dataloader = dict(dataset=dict(**_base_.vaihingen, **_base_.labelled))
val_dataloader = dict(dataset=dict(**_base_.potsdam_rgb, **_base_.evaluation))
test_dataloader = val_dataloader
