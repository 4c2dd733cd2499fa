from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.utils import ConfigError


def set_teaching_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Evaluation mode (no dropout, no drop path), with batch normalisation by the batch's own statistics if asked."""
    module.train(batch_statistics)  # a backbone may keep its batch normalisation in evaluation mode all the same
    for child in module.modules():
        if not isinstance(child, _BatchNorm):
            child.training = False


@contextmanager
def borrowed_as_teacher(module: nn.Module, batch_statistics: bool) -> Iterator[None]:
    """Let a student help to teach: teaching mode inside, without a trace in its mode or its running statistics."""
    modes = {child: child.training for child in module.modules()}
    norms = [child for child in modes if isinstance(child, _BatchNorm) and child.track_running_stats]
    set_teaching_mode(module, batch_statistics)
    for norm in norms if batch_statistics else ():
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for child, mode in modes.items():
            child.training = mode


class EMATeacher(nn.Module):
    """Frozen copies of some of the students' modules, moved by an exponential moving average.

    Args:
        students: The modules to copy, by the name of the copy.
        batch_statistics: Whether the copies' batch normalisation uses the statistics of the batch, as the published
            ST-DASegNet does, or the running ones. Dropout and drop path are off either way.
        buffers: ``student`` (running statistics follow the student's) or ``own`` (with ``batch_statistics``, they
            drift with the teacher's own batches).

    Reference:
        Tarvainen and Valpola, Mean teachers, NeurIPS 2017.
    """

    def __init__(
        self, students: Mapping[str, nn.Module], batch_statistics: bool = True, buffers: str = 'student'
    ) -> None:
        super().__init__()
        if buffers not in ('student', 'own'):
            raise ConfigError(f"unknown teacher buffers {buffers!r}: expected 'student' or 'own'")
        if buffers == 'own' and not batch_statistics:
            raise ConfigError(
                "teacher buffers are 'own' and batch_statistics is False: nothing would ever move the statistics that "
                "it normalises by; set self_training.buffers to 'student'"
            )
        self.batch_statistics = batch_statistics
        self.buffers_follow = buffers == 'student'
        for name, student in students.items():
            self.add_module(name, copy.deepcopy(student).requires_grad_(False))
        if self.buffers_follow:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.momentum = 0.0
        self.train()

    def train(self, mode: bool = True) -> EMATeacher:
        """Enter the teaching mode, whatever the mode of the model around it."""
        self.training = mode
        for module in self.children():
            set_teaching_mode(module, self.batch_statistics and mode)
        return self

    @torch.no_grad()
    def update(self, students: Mapping[str, nn.Module], alpha: float) -> None:
        """Set ``teacher = alpha * teacher + (1 - alpha) * student``; 0 copies the students.

        Args:
            students: The same mapping as at construction.
            alpha: Share of the teacher's own past, in [0, 1].
        """
        copies = [self.get_submodule(name) for name in students]
        mine: list[Tensor] = [p for module in copies for p in module.parameters()]
        theirs: list[Tensor] = [p for module in students.values() for p in module.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - alpha)
        if self.buffers_follow or alpha == 0:
            for own, other in zip(copies, students.values()):
                for buffer, followed in zip(own.buffers(), other.buffers()):
                    buffer.copy_(followed)
