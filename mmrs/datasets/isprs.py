"""The ISPRS 2D semantic labelling data sets, Potsdam and Vaihingen."""

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.registry import DATASETS


class ISPRSDataset(RemoteSensingDataset):
    """What both ISPRS data sets share: six classes, 1 to 6 in the label maps, where 0 is the ignored boundary."""

    ZERO_IS_IGNORED = True
    METAINFO = dict(
        classes=('impervious_surface', 'building', 'low_vegetation', 'tree', 'car', 'clutter'),
        palette=[[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]],
    )


@DATASETS.register_module()
class PotsdamDataset(ISPRSDataset):
    """ISPRS Potsdam: 5 cm, IRRG or RGB, cut into clips by `tools/dataset_converters/potsdam.py`."""


@DATASETS.register_module()
class VaihingenDataset(ISPRSDataset):
    """ISPRS Vaihingen: 9 cm, IRRG, cut into clips by `tools/dataset_converters/vaihingen.py`."""
