from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrs.registry import HOOKS
from mmrs.utils.errors import require_number
from mmrs.utils.wrappers import unwrapped


@HOOKS.register_module()
class TeacherEMAHook(Hook):
    r"""Moves an adaptor's teacher before each training iteration.

    .. math::
        \theta' \leftarrow \alpha_i \theta' + (1 - \alpha_i) \theta, \quad
        \alpha_i = \min(1 - 1 / (i + 1), \text{decay})

    with the runner's iteration i, so that a resumed run goes on where it stopped. At iteration 0 of a run the teacher
    becomes a copy of the students, of a checkpoint's too.

    Args:
        decay: Upper bound of :math:`\alpha_i`, in [0, 1).
        copy_at_start: False keeps the teacher that the model has, for runs that bring their own.
        warm_up: False takes `decay` from iteration 1 on, for runs that start from a trained network: the minimum makes
            the teacher a mean over all students for as long as it grows.
    """

    def __init__(self, decay: float = 0.999, copy_at_start: bool = True, warm_up: bool = True) -> None:
        require_number('decay', decay, at_least=0, below=1)
        self.decay = decay
        self.copy_at_start = copy_at_start
        self.warm_up = warm_up

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | tuple | list | Sequence[dict] | None = None
    ) -> None:
        """Update the teacher of ``runner.model``."""
        if runner.iter > 0 or self.copy_at_start:
            growing = 1 - 1 / (runner.iter + 1) if self.warm_up or runner.iter == 0 else 1.0
            unwrapped(runner.model).update_teacher(min(growing, self.decay))
