"""LandCoverNet Sentinel-2 and LoveDA rural with the four classes that both have."""

_base_ = './loveda_satellite.py'

landcovernet = dict(
    type='LandCoverNetDataset',
    data_root='data/landcovernet',
    class_map=dict(
        water='water',
        bare_ground=['artificial_bare_ground', 'natural_bare_ground'],
        woody='woody_vegetation',
        non_woody=['cultivated_vegetation', 'semi_natural_vegetation'],
    ),
)
loveda_map = dict(water='water', bare_ground=['building', 'road', 'barren'], woody='forest', non_woody='agriculture')
