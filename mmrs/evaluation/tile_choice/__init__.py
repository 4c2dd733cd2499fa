"""Which tiles of an unlabelled target to label next."""

from .criteria import CRITERIA, Balanced, Chosen, Diversity, GradientMatching, Random, TileCriterion, Uncertainty
from .facts import COSTS, UNCERTAINTIES, TileLook, Tiles
from .gradients import gradient_distance

__all__ = [
    'COSTS',
    'CRITERIA',
    'UNCERTAINTIES',
    'Balanced',
    'Chosen',
    'Diversity',
    'GradientMatching',
    'Random',
    'TileCriterion',
    'TileLook',
    'Tiles',
    'Uncertainty',
    'gradient_distance',
]
