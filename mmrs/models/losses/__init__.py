from .cross_entropy import PixelMeanCrossEntropyLoss
from .feature_regression import FeatureRegressionLoss
from .focal import FocalLoss
from .gan_loss import GANLoss
from .prior_neutral import PriorNeutralLoss
from .signed_distance import SignedDistanceLoss

__all__ = [
    'FeatureRegressionLoss',
    'FocalLoss',
    'GANLoss',
    'PixelMeanCrossEntropyLoss',
    'PriorNeutralLoss',
    'SignedDistanceLoss',
]
