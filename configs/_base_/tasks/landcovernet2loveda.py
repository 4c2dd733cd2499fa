"""LandCoverNet Sentinel-2 to LoveDA rural."""

_base_ = '../datasets/landcovernet_loveda.py'

task = dict(class_weight=[1.25, 2.5, 1.25, 0.75])

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.landcovernet, **_base_.satellite_labelled),
        target=dict(**_base_.rural_unlabelled, class_map=_base_.loveda_map),
    )
)
val_dataloader = dict(dataset=dict(**_base_.rural_evaluation, class_map=_base_.loveda_map))
test_dataloader = val_dataloader
