"""GID (Gaofen-2) and LoveDA rural with the four classes that both have."""

_base_ = './loveda_satellite.py'

gid = dict(
    type='GIDDataset',
    data_root='data/gid',
    class_map=dict(built_up='built_up', farmland='farmland', forest_meadow=['forest', 'meadow'], water='water'),
)
loveda_map = dict(built_up='building', farmland='agriculture', forest_meadow='forest', water='water')
