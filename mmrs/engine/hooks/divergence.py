from __future__ import annotations

from mmengine.runner import Runner

from mmrs.models.adaptors.base import DISC_ACCURACY
from mmrs.registry import HOOKS
from mmrs.utils.errors import require_number

from .streaks import StreakWatchHook


@HOOKS.register_module()
class DiscriminatorWatchHook(StreakWatchHook):
    """Warns when a discriminator has told the two domains apart without fail, or never, for long.

    It reads the logged ``disc_accuracy_*`` of the batches and does nothing for a model without them. Each such time
    gives one warning, also across a resumed run; in several processes the accuracy is that of the first one.

    Args:
        margin: How near to 0 or 1 an accuracy counts as such, 0 to 0.5.
        iterations: So many iterations in a row are long.

    Raises:
        ConfigError: An argument is out of range.
    """

    prefix, state = DISC_ACCURACY, 'discriminator_streaks'

    def __init__(self, margin: float = 0.01, iterations: int = 500) -> None:
        require_number('margin', margin, at_least=0, below=0.5)
        super().__init__(iterations)
        self.margin = margin

    def _side(self, value: float) -> int:
        return int(value >= 1 - self.margin) - int(value <= self.margin)

    def _warn(self, runner: Runner, name: str, side: int) -> None:
        if side > 0:
            meaning = (
                'it tells the domains apart without fail, and what such a discriminator teaches is next to nothing, '
                'or unstable. Try a lower optim_wrapper.discriminator.optimizer.lr, a smaller '
                'model.discriminator.base_channels or num_conv, or, where there is a model.gan_loss, its '
                "gan_type='lsgan'"
            )
        else:
            meaning = (
                'it is always wrong: the network runs away from it. Try a higher '
                'optim_wrapper.discriminator.optimizer.lr, or a lower weight of the adversarial loss '
                '(model.gan_loss.loss_weight, model.weights or model.weight)'
            )
        runner.logger.warning(
            f'iteration {runner.iter + 1}: the discriminator {name} has had an accuracy of '
            f'{"100" if side > 0 else "0"} % (within {100 * self.margin:g} %) for {self.iterations} iterations in a '
            f'row: {meaning}'
        )
