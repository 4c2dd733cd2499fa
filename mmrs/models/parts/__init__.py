"""What adaptation methods are composed of: each part is shared by methods, or made to be."""

from .adversary import Adversary, self_information, softmax, spatial_softmax
from .channel_spread import ChannelSpread
from .class_mix import Mixed, class_mix, draw_classes
from .early_backward import early_backward
from .feature_cache import FeatureCache
from .feature_distance import FeatureDistance
from .frozen_copy import FrozenCopy
from .self_training import PseudoLabel, SelfTraining, make_pseudo_label
from .strong_augmentation import StrongAugmentation

__all__ = [
    'Adversary',
    'ChannelSpread',
    'FeatureCache',
    'FeatureDistance',
    'FrozenCopy',
    'Mixed',
    'PseudoLabel',
    'SelfTraining',
    'StrongAugmentation',
    'class_mix',
    'draw_classes',
    'early_backward',
    'make_pseudo_label',
    'self_information',
    'softmax',
    'spatial_softmax',
]
