"""Potsdam RGB to Vaihingen IRRG."""

_base_ = '../datasets/isprs.py'

task = dict(target_labels=dict(train_dataloader=dict(dataset=dict(**_base_.vaihingen, **_base_.labelled))))

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.potsdam_rgb, **_base_.labelled),
        target=dict(**_base_.vaihingen, **_base_.unlabelled),
    )
)
val_dataloader = dict(dataset=dict(**_base_.vaihingen, **_base_.evaluation))
test_dataloader = val_dataloader
