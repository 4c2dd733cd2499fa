from .checkpoint import CheckpointHook
from .collapse import CollapseWatchHook
from .divergence import DiscriminatorWatchHook
from .non_finite import NonFiniteHook
from .preflight import PreflightHook
from .teacher_ema import TeacherEMAHook

__all__ = [
    'CheckpointHook',
    'CollapseWatchHook',
    'DiscriminatorWatchHook',
    'NonFiniteHook',
    'PreflightHook',
    'TeacherEMAHook',
]
