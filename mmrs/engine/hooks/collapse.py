from __future__ import annotations

from mmengine.runner import Runner

from mmrs.registry import HOOKS
from mmrs.utils.errors import require_number

from .streaks import StreakWatchHook


@HOOKS.register_module()
class CollapseWatchHook(StreakWatchHook):
    """Warns when a pre-training has told nothing apart for long: whatever is shown, its embeddings are about the same.

    It reads the logged ``share_spread_*`` of the batches. Each such time gives one warning, also across a resumed run.

    Args:
        least: A spread below it counts as collapsed, 0 to 1.
        iterations: So many iterations in a row are long.

    Raises:
        ConfigError: An argument is out of range.
    """

    prefix, state = 'share_spread_', 'collapse_streaks'

    def __init__(self, least: float = 0.1, iterations: int = 200) -> None:
        require_number('least', least, at_least=0, at_most=1)
        super().__init__(iterations)
        self.least = least

    def _side(self, value: float) -> int:
        return int(value < self.least)

    def _warn(self, runner: Runner, name: str, side: int) -> None:
        runner.logger.warning(
            f'iteration {runner.iter + 1}: the {name} embeddings have had a spread below {self.least:g} for '
            f'{self.iterations} iterations in a row: they have collapsed, and nothing more is learnt from '
            f'them. Try a lower optim_wrapper.optimizer.lr, more windows (train_dataloader.batch_size), a '
            f'lower model.{name}_loss.temperature, or images that differ more'
        )
