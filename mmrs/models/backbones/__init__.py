from .mit import EfficientMiT
from .resnet import ResNetV1c

__all__ = ['EfficientMiT', 'ResNetV1c']
