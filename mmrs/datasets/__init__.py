"""Data sets, and the transforms that load them."""

import mmrs._quiet  # noqa: F401
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.domain_adaptation import DomainAdaptationDataset
from mmrs.datasets.isprs import PotsdamDataset, VaihingenDataset
from mmrs.datasets.transforms import LoadRasterAnnotations, LoadRasterImage

__all__ = [
    'DomainAdaptationDataset',
    'LoadRasterAnnotations',
    'LoadRasterImage',
    'PotsdamDataset',
    'RemoteSensingDataset',
    'VaihingenDataset',
]
