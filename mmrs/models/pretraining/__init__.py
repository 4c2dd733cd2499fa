"""Training without labels that comes before any method: a network is to know the same ground again."""

from .contrast import Contrast

__all__ = ['Contrast']
