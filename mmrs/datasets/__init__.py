"""Data sets, and the transforms that load them."""

import mmrs._quiet  # noqa: F401
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.city_osm import CityOSMDataset
from mmrs.datasets.domain_adaptation import DomainAdaptationDataset
from mmrs.datasets.gid import GIDDataset
from mmrs.datasets.isprs import PotsdamDataset, VaihingenDataset
from mmrs.datasets.landcovernet import LandCoverNetDataset
from mmrs.datasets.loveda import LoveDADataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.datasets.samplers import RareClassSampler
from mmrs.datasets.transforms import LoadRasterAnnotations, LoadRasterImage, PackRasterInputs
from mmrs.datasets.transforms.rare_class_crop import RareClassCrop

__all__ = [
    'CityOSMDataset',
    'DomainAdaptationDataset',
    'GIDDataset',
    'LandCoverNetDataset',
    'LoadRasterAnnotations',
    'LoadRasterImage',
    'LoveDADataset',
    'PackRasterInputs',
    'PotsdamDataset',
    'RareClassCrop',
    'RareClassSampler',
    'RasterDataset',
    'RemoteSensingDataset',
    'VaihingenDataset',
]
