"""LandCoverNet, Sentinel-2 chips with land cover."""

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.registry import DATASETS


@DATASETS.register_module()
class LandCoverNetDataset(RemoteSensingDataset):
    """LandCoverNet's Sentinel-2 chips: 10 m, 256 x 256 pixels, converted by `tools/dataset_converters/landcovernet.py`.

    Label maps hold 1 to 7; 0, no data, is ignored.
    """

    ZERO_IS_IGNORED = True
    METAINFO = dict(
        classes=(
            'water',
            'artificial_bare_ground',
            'natural_bare_ground',
            'snow_ice',
            'woody_vegetation',
            'cultivated_vegetation',
            'semi_natural_vegetation',
        ),
        palette=[
            [0, 0, 255],
            [136, 136, 136],
            [209, 164, 109],
            [245, 245, 255],
            [214, 76, 43],
            [24, 104, 24],
            [0, 255, 0],
        ],
    )
