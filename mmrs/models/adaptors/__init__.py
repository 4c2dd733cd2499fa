from .feature_regression import FeatureRegression
from .st_dasegnet import STDASegNet

__all__ = ['FeatureRegression', 'STDASegNet']
