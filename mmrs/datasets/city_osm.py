"""CITY-OSM, aerial images of cities with labels from OpenStreetMap."""

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.registry import DATASETS


@DATASETS.register_module()
class CityOSMDataset(RemoteSensingDataset):
    """A city of CITY-OSM, cut into clips by `tools/dataset_converters/city_osm.py`.

    Label maps hold 0 to 2; background is a class like the others.
    """

    METAINFO = dict(
        classes=('background', 'road', 'building'),
        palette=[[255, 255, 255], [0, 0, 255], [255, 0, 0]],
    )
