from .base import Adaptor, Domain
from .feature_regression import FeatureRegression
from .st_dasegnet import STDASegNet

__all__ = ['Adaptor', 'Domain', 'FeatureRegression', 'STDASegNet']
