from .segformer_head import EfficientSegformerHead

__all__ = ['EfficientSegformerHead']
