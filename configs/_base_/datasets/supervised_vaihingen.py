"""Training and evaluation on one data set: what a target's own labels would reach."""

_base_ = './isprs.py'

train_dataloader = dict(dataset=dict(**_base_.vaihingen, **_base_.labelled))
val_dataloader = dict(dataset=dict(**_base_.vaihingen, **_base_.evaluation))
test_dataloader = val_dataloader
