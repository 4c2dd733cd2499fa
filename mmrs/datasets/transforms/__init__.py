"""Data transforms."""

from mmrs.datasets.transforms.loading import LoadRasterAnnotations, LoadRasterImage

__all__ = ['LoadRasterAnnotations', 'LoadRasterImage']
