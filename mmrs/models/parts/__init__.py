"""What adaptation methods are composed of: each part is shared by methods, or made to be."""

from .adversary import Adversary, self_information, softmax, spatial_softmax
from .channel_spread import ChannelSpread
from .feature_cache import FeatureCache
from .frozen_copy import FrozenCopy
from .self_training import PseudoLabel, SelfTraining, make_pseudo_label

__all__ = [
    'Adversary',
    'ChannelSpread',
    'FeatureCache',
    'FrozenCopy',
    'PseudoLabel',
    'SelfTraining',
    'make_pseudo_label',
    'self_information',
    'softmax',
    'spatial_softmax',
]
