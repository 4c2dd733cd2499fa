"""What adaptation methods are composed of: each part is shared by methods, or made to be."""

from .adversary import Adversary, self_information, softmax, spatial_softmax
from .channel_spread import ChannelSpread
from .class_mix import ClassMixing, Mixed, class_mix, draw_classes
from .class_thresholds import CBSTThresholds, ClassThresholds, IASTThresholds
from .early_backward import early_backward
from .feature_cache import FeatureCache
from .feature_distance import FeatureDistance
from .frozen_copy import FrozenCopy
from .masked_consistency import MaskedConsistency
from .patch_mask import PatchMask
from .pixel_contrast import PixelContrast
from .self_training import PUBLISHED, PseudoLabel, SelfTraining, confidence_regularisers, make_pseudo_label
from .strong_augmentation import StrongAugmentation
from .views import RandomViews

__all__ = [
    'PUBLISHED',
    'Adversary',
    'CBSTThresholds',
    'ChannelSpread',
    'ClassMixing',
    'ClassThresholds',
    'FeatureCache',
    'FeatureDistance',
    'FrozenCopy',
    'IASTThresholds',
    'MaskedConsistency',
    'Mixed',
    'PatchMask',
    'PixelContrast',
    'PseudoLabel',
    'RandomViews',
    'SelfTraining',
    'StrongAugmentation',
    'class_mix',
    'confidence_regularisers',
    'draw_classes',
    'early_backward',
    'make_pseudo_label',
    'self_information',
    'softmax',
    'spatial_softmax',
]
