from .checkpoint import CheckpointHook
from .teacher_ema import TeacherEMAHook

__all__ = ['CheckpointHook', 'TeacherEMAHook']
