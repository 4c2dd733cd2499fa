from .efficientnet_lite import EfficientNetLite
from .mit import EfficientMiT
from .resnet import ResNetV1c

__all__ = ['EfficientMiT', 'EfficientNetLite', 'ResNetV1c']
