from .joint import JointOptimWrapper, JointOptimWrapperConstructor

__all__ = ['JointOptimWrapper', 'JointOptimWrapperConstructor']
