"""LoveDA rural to LandCoverNet Sentinel-2."""

_base_ = './landcovernet_loveda.py'

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.rural_labelled, class_map=_base_.loveda_map),
        target=dict(**_base_.landcovernet, **_base_.satellite_unlabelled),
    )
)
val_dataloader = dict(dataset=dict(**_base_.landcovernet, **_base_.satellite_evaluation))
test_dataloader = val_dataloader
