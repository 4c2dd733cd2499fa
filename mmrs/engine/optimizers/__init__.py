from .default import DefaultOptimWrapperConstructor
from .joint import JointOptimWrapper, JointOptimWrapperConstructor
from .wrappers import AmpOptimWrapper, OptimWrapper

__all__ = [
    'AmpOptimWrapper',
    'DefaultOptimWrapperConstructor',
    'JointOptimWrapper',
    'JointOptimWrapperConstructor',
    'OptimWrapper',
]
