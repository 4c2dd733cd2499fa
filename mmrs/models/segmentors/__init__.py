"""Networks that are more than backbone, neck and decode head."""

from .dual_student import DualStudent

__all__ = ['DualStudent']
