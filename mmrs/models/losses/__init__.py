from .cross_entropy import PixelMeanCrossEntropyLoss
from .feature_regression import FeatureRegressionLoss
from .focal import FocalLoss
from .gan_loss import GANLoss

__all__ = [
    'FeatureRegressionLoss',
    'FocalLoss',
    'GANLoss',
    'PixelMeanCrossEntropyLoss',
]
