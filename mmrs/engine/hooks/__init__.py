from .teacher_ema import TeacherEMAHook

__all__ = ['TeacherEMAHook']
