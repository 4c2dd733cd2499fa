from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrs.registry import HOOKS
from mmrs.utils.errors import require_number

#: What pre-training logs of the embeddings of a batch: 0, they are all one.
SPREAD = 'share_spread_'
#: Where MMEngine's message hub keeps the state, in checkpoints too.
STREAKS = 'collapse_streaks'


@HOOKS.register_module()
class CollapseWatchHook(Hook):
    """Warns when a pre-training has told nothing apart for long: whatever is shown, its embeddings are about the same.

    It reads the logged ``share_spread_*`` of the batches. Each such time gives one warning, also across a resumed run.

    Args:
        least: A spread below it counts as collapsed, 0 to 1.
        iterations: So many iterations in a row are long.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, least: float = 0.1, iterations: int = 200) -> None:
        require_number('least', least, at_least=0, at_most=1)
        require_number('iterations', iterations, at_least=1)
        self.least, self.iterations = least, iterations

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | Sequence[dict] | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Look at the spreads of an iteration."""
        hub = runner.message_hub
        before = hub.get_info(STREAKS, {})
        streaks = {}
        for name in outputs or ():
            if not name.startswith(SPREAD):
                continue
            # MMEngine's RuntimeInfoHook, which runs before, has read it from the device.
            low = hub.get_scalar(f'train/{name}').current() < self.least
            streaks[name] = before.get(name, 0) + 1 if low else 0
            if streaks[name] == self.iterations:
                part = name.removeprefix(SPREAD)
                runner.logger.warning(
                    f'iteration {runner.iter + 1}: the {part} embeddings have had a spread below {self.least:g} for '
                    f'{self.iterations} iterations in a row: they have collapsed, and nothing more is learnt from '
                    f'them. Try a lower optim_wrapper.optimizer.lr, more windows (train_dataloader.batch_size), a '
                    f'lower model.{part}_loss.temperature, or images that differ more'
                )
        if streaks:
            hub.update_info(STREAKS, streaks)
