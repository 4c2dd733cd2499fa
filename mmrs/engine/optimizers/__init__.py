from .default import DefaultOptimWrapperConstructor
from .joint import JointOptimWrapper, JointOptimWrapperConstructor

__all__ = ['DefaultOptimWrapperConstructor', 'JointOptimWrapper', 'JointOptimWrapperConstructor']
