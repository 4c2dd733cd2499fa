"""LoveDA rural to LandCoverNet Sentinel-2."""

_base_ = '../datasets/landcovernet_loveda.py'

task = dict(class_weight=[1.25, 1.75, 1.0, 1.0])

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.rural_labelled, class_map=_base_.loveda_map),
        target=dict(**_base_.landcovernet, **_base_.satellite_unlabelled),
    )
)
val_dataloader = dict(dataset=dict(**_base_.landcovernet, **_base_.satellite_evaluation))
test_dataloader = val_dataloader
