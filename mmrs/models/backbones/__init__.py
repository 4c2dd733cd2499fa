from .mit import EfficientMiT

__all__ = ['EfficientMiT']
