"""Data sets, and the transforms that load them."""

import mmrs._quiet  # noqa: F401
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.city_osm import CityOSMDataset
from mmrs.datasets.concat import ConcatDataset
from mmrs.datasets.domain_adaptation import DomainAdaptationDataset
from mmrs.datasets.geographic_pairs import GeographicPairedDataset
from mmrs.datasets.gid import GIDDataset
from mmrs.datasets.isprs import PotsdamDataset, VaihingenDataset
from mmrs.datasets.landcovernet import LandCoverNetDataset
from mmrs.datasets.loveda import LoveDADataset
from mmrs.datasets.paired import PairedDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.datasets.samplers import RareClassSampler
from mmrs.datasets.transforms import (
    CameraChange,
    ChannelPermutation,
    ColourMatrix,
    Contrast,
    GainGamma,
    GaussianBlur,
    GroundCrop,
    GroundSamplingDistance,
    HueRotation,
    JPEGCompression,
    LoadRasterAnnotations,
    LoadRasterImage,
    Misalignment,
    PackRasterInputs,
    SensorNoise,
)
from mmrs.datasets.transforms.rare_class_crop import RareClassCrop

__all__ = [
    'CameraChange',
    'ChannelPermutation',
    'CityOSMDataset',
    'ColourMatrix',
    'ConcatDataset',
    'Contrast',
    'DomainAdaptationDataset',
    'GIDDataset',
    'GainGamma',
    'GaussianBlur',
    'GeographicPairedDataset',
    'GroundCrop',
    'GroundSamplingDistance',
    'HueRotation',
    'JPEGCompression',
    'LandCoverNetDataset',
    'LoadRasterAnnotations',
    'LoadRasterImage',
    'LoveDADataset',
    'Misalignment',
    'PackRasterInputs',
    'PairedDataset',
    'PotsdamDataset',
    'RareClassCrop',
    'RareClassSampler',
    'RasterDataset',
    'RemoteSensingDataset',
    'SensorNoise',
    'VaihingenDataset',
]
