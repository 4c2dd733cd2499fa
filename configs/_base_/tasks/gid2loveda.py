"""GID to LoveDA rural."""

_base_ = '../datasets/gid_loveda.py'

task = dict(class_weight=[1.5, 1.0, 2.5, 1.25])

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.gid, **_base_.satellite_labelled),
        target=dict(**_base_.rural_unlabelled, class_map=_base_.loveda_map),
    )
)
val_dataloader = dict(dataset=dict(**_base_.rural_evaluation, class_map=_base_.loveda_map))
test_dataloader = val_dataloader
