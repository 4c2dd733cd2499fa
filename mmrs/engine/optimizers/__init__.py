from .joint import JointOptimWrapper, JointOptimWrapperConstructor
from .merged_groups import MergedGroupsConstructor

__all__ = ['JointOptimWrapper', 'JointOptimWrapperConstructor', 'MergedGroupsConstructor']
