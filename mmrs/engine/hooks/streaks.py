from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrs.utils.errors import require_number


class StreakWatchHook(Hook):
    """Warns when a logged value has been at one end for long; each such time gives one warning, also when resumed.

    Args:
        iterations: So many iterations in a row are long.

    Raises:
        ConfigError: It is less than 1.
    """

    #: How the names of the logged values begin, and where MMEngine's message hub keeps the state, in checkpoints too.
    prefix: str
    state: str

    def __init__(self, iterations: int) -> None:
        require_number('iterations', iterations, at_least=1)
        self.iterations = iterations

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | Sequence[dict] | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the values of an iteration."""
        hub = runner.message_hub
        names = [name for name in outputs or () if name.startswith(self.prefix)]
        if not names:
            return
        before = hub.get_info(self.state, {})
        streaks = {}
        for name in names:
            # MMEngine's RuntimeInfoHook, which runs before, has read it from the device.
            side = self._side(hub.get_scalar(f'train/{name}').current())
            streak = before.get(name, 0)
            streaks[name] = side * (abs(streak) + 1 if streak * side > 0 else 1)
            if abs(streaks[name]) == self.iterations:
                self._warn(runner, name.removeprefix(self.prefix), side)
        hub.update_info(self.state, streaks)

    @abstractmethod
    def _side(self, value: float) -> int:
        """At which end a value is, 1 or -1; 0: at none."""

    @abstractmethod
    def _warn(self, runner: Runner, name: str, side: int) -> None:
        """Say it."""
