"""CITY-OSM Chicago to Paris."""

_base_ = '../datasets/city_osm.py'

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**_base_.chicago, **_base_.labelled),
        target=dict(**_base_.paris, **_base_.unlabelled),
    )
)
val_dataloader = dict(dataset=dict(**_base_.paris, **_base_.evaluation))
test_dataloader = val_dataloader
