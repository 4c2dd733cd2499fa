from .daformer_head import DAFormerHead
from .segformer_head import EfficientSegformerHead

__all__ = ['DAFormerHead', 'EfficientSegformerHead']
