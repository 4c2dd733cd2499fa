"""GID-5, the Gaofen Image Dataset with five classes."""

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.registry import DATASETS


@DATASETS.register_module()
class GIDDataset(RemoteSensingDataset):
    """GID-5: GF-2 images of China, cut into clips by `tools/dataset_converters/gid.py`.

    Label maps hold 1 to 5; 0, everything that is none of the classes, is ignored.
    """

    ZERO_IS_IGNORED = True
    METAINFO = dict(
        classes=('built_up', 'farmland', 'forest', 'meadow', 'water'),
        palette=[[255, 0, 0], [0, 255, 0], [0, 255, 255], [255, 255, 0], [0, 0, 255]],
    )
