from .hooks import TeacherEMAHook
from .optimizers import JointOptimWrapper, JointOptimWrapperConstructor
from .runner import AdaptationRunner

__all__ = ['AdaptationRunner', 'JointOptimWrapper', 'JointOptimWrapperConstructor', 'TeacherEMAHook']
