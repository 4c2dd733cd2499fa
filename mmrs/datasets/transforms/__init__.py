"""Data transforms."""

from mmrs.datasets.transforms.loading import LoadRasterAnnotations, LoadRasterImage
from mmrs.datasets.transforms.packing import PackRasterInputs

__all__ = ['LoadRasterAnnotations', 'LoadRasterImage', 'PackRasterInputs']
