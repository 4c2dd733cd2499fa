"""LoveDA urban to LoveDA rural, in crops of 512 px."""

_base_ = '../datasets/loveda_512.py'

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=_base_.urban_labelled,
        target=_base_.rural_unlabelled,
    )
)
val_dataloader = dict(dataset=_base_.rural_evaluation)
test_dataloader = val_dataloader
submission_dataloader = dict(_base_.val_dataloader, dataset=_base_.rural_submission)
