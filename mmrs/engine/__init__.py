from .hooks import TeacherEMAHook
from .label_free import LabelFreeValLoop
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop
from .optimizers import JointOptimWrapper, JointOptimWrapperConstructor
from .runner import AdaptationRunner
from .view_validation import ViewValLoop

__all__ = [
    'AdaptationRunner',
    'EpochBasedTrainLoop',
    'IterBasedTrainLoop',
    'JointOptimWrapper',
    'JointOptimWrapperConstructor',
    'LabelFreeValLoop',
    'TeacherEMAHook',
    'ValLoop',
    'ViewValLoop',
]
