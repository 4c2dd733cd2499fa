from .cross_entropy import PixelMeanCrossEntropyLoss
from .feature_regression import FeatureRegressionLoss
from .focal import FocalLoss
from .gan_loss import GANLoss
from .pseudo_label import PseudoLabel, make_pseudo_label

__all__ = [
    'FeatureRegressionLoss',
    'FocalLoss',
    'GANLoss',
    'PixelMeanCrossEntropyLoss',
    'PseudoLabel',
    'make_pseudo_label',
]
