from .hooks import TeacherEMAHook
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop
from .optimizers import JointOptimWrapper, JointOptimWrapperConstructor
from .runner import AdaptationRunner

__all__ = [
    'AdaptationRunner',
    'EpochBasedTrainLoop',
    'IterBasedTrainLoop',
    'JointOptimWrapper',
    'JointOptimWrapperConstructor',
    'TeacherEMAHook',
    'ValLoop',
]
