"""Samplers of the training loader."""

from mmrs.datasets.samplers.rare_class import RareClassSampler, RareClassSampling

__all__ = ['RareClassSampler', 'RareClassSampling']
