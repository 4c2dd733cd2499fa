from .daformer_head import DAFormerHead
from .hrda_head import HRDAHead
from .segformer_head import EfficientSegformerHead

__all__ = ['DAFormerHead', 'EfficientSegformerHead', 'HRDAHead']
