from .efficientnet_lite import EfficientNetLite
from .mit import EfficientMiT
from .multi_resolution import multi_resolution
from .resnet import ResNetV1c
from .timm_backbone import TimmBackbone
from .vit import PlainViT

__all__ = ['EfficientMiT', 'EfficientNetLite', 'PlainViT', 'ResNetV1c', 'TimmBackbone', 'multi_resolution']
