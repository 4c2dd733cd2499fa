from .cross_entropy import PixelMeanCrossEntropyLoss
from .gan_loss import GANLoss
from .pseudo_label import PseudoLabel, make_pseudo_label

__all__ = ['GANLoss', 'PixelMeanCrossEntropyLoss', 'PseudoLabel', 'make_pseudo_label']
