"""Potsdam RGB to Vaihingen IRRG, in the standard split of MMSegmentation."""

_base_ = '../datasets/isprs_standard.py'

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
