"""MMEngine's loops, made so that a run which was killed and resumed equals one that was not."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as MMEngineIterBasedTrainLoop
from mmengine.runner import ValLoop as MMEngineValLoop
from torch.utils.data import DataLoader

from mmrs.datasets.stream import SplitUnreadable, stream_of, streamed
from mmrs.registry import LOOPS
from mmrs.utils.errors import DataError, require_number, some

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'ValLoop']

#: Key of MMEngine's message hub for the iteration of the latest validation. MMEngine logs those that begin with `val`.
VALIDATED = 'last_validation'
#: The same for the samples that could not be read: how often each message came.
UNREADABLE = 'unreadable'
#: The same for how many samples of the stream all processes together have drawn.
DRAWN = 'samples_drawn'


def _built(runner: Any, dataloader: Any, endless: bool) -> Any:
    """The data loader of a config, with a numbered stream of samples; a data loader as it is."""
    if not isinstance(dataloader, dict):
        return dataloader
    apart = runner._randomness_cfg.get('diff_rank_seed', False)
    built = runner.build_dataloader(streamed(dataloader, endless), seed=runner.seed, diff_rank_seed=apart)
    # Before upstream's loop over iterations gets it, which starts the worker processes at once.
    built.collate_fn = SplitUnreadable(built.collate_fn)
    return built


class _StreamedLoop:
    """What both kinds of training loop do with a numbered stream of samples, see :mod:`mmrs.datasets.stream`."""

    runner: Any
    dataloader: DataLoader
    max_unreadable: float

    def _begin(self, max_unreadable: float, **at_least_one: int) -> None:
        for key, value in at_least_one.items():
            require_number(f'train_cfg.{key}', value, at_least=1)
        require_number('train_cfg.max_unreadable', max_unreadable, at_least=0, at_most=1)
        self.max_unreadable = max_unreadable
        self.stream = stream_of(self.dataloader)

    @property
    def _batch_size(self) -> int:
        size: int | None = self.dataloader.batch_size or getattr(self.dataloader.batch_sampler, 'batch_size', None)
        return size or 1

    @property
    def _seed(self) -> int:
        """The seed of the stream, one for all processes."""
        apart = self.runner._randomness_cfg.get('diff_rank_seed', False)
        return int(self.runner.seed) - (get_rank() if apart else 0)

    @property
    def _samples_drawn(self) -> int:
        return int(self.runner.message_hub.runtime_info.get(DRAWN, 0))

    def _taken(self, drawn: Any) -> Any:
        """The batch of what the data loader gave, once the samples that could not be read are reported.

        Raises:
            DataError: There were too many of them.
        """
        if self.stream is None:
            return drawn
        batch, failures = drawn
        self.runner.message_hub.update_info(DRAWN, self._samples_drawn + self._batch_size * get_world_size())
        if failures:
            self._report(failures)
        return batch

    def _report(self, failures: list[str]) -> None:
        known: dict[str, int] = dict(self.runner.message_hub.runtime_info.get(UNREADABLE, {}))
        for message in failures:
            if message not in known:
                self.runner.logger.warning(f'a sample cannot be read; another is drawn in its place: {message}')
            known[message] = known.get(message, 0) + 1
        self.runner.message_hub.update_info(UNREADABLE, known)
        number = sum(known.values())
        # Each process counts its own share. In the first epoch, it is of the samples that it will have.
        drawn = max(self._samples_drawn, len(self.dataloader.dataset)) // get_world_size()  # type: ignore[arg-type]
        if number > self.max_unreadable * drawn:
            raise DataError(
                f'{number} of {drawn} samples could not be read, more than train_cfg.max_unreadable='
                f'{self.max_unreadable:g} allows: {some(list(known), 3)}. Mend the files, take them out of the data '
                'set, or raise that share'
            )


@LOOPS.register_module()
class IterBasedTrainLoop(_StreamedLoop, MMEngineIterBasedTrainLoop):
    """MMEngine's loop over iterations, which a resumed run enters exactly where the other one was.

    Samples that come after a killed run's last checkpoint are the same ones, augmented in the same way, and none before
    is read again. A validation that was due then, and did not end, is made up for.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, or a data loader, whose order is then its own affair.
        max_unreadable: Share of the samples, from 0 to 1, that may be replaced by others because they cannot be read;
            the run stops with a :class:`DataError` where there are more.
        **kwargs: As in MMEngine's.
    """

    def __init__(self, runner: Any, dataloader: Any, max_unreadable: float = 0.01, **kwargs: Any) -> None:
        super().__init__(runner, _built(runner, dataloader, endless=True), **kwargs)
        self._begin(max_unreadable, max_iters=self._max_iters, val_interval=self.val_interval)

    def run(self) -> torch.nn.Module:
        """Train."""
        if self.stream is None:
            return super().run()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.stream.reseed(self._seed)
        # The run that is resumed may have had other batches, or another number of processes.
        self.stream.skipped = self._samples_drawn // get_world_size()
        self.dataloader_iterator = iter(self.dataloader)
        self.runner.restore_random_states()
        self._decide_current_val_interval()
        if self._validation_is_due() and self.runner.message_hub.runtime_info.get(VALIDATED) != self._iter:
            self.runner.val_loop.run()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._validation_is_due():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """One step, with what the data loader gave."""
        super().run_iter(self._taken(data_batch))

    def _validation_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and 0 < self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )


@LOOPS.register_module()
class EpochBasedTrainLoop(_StreamedLoop, MMEngineEpochBasedTrainLoop):
    """MMEngine's loop over epochs, which a resumed run enters exactly where the epoch began.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, or a data loader, whose order is then its own affair.
        max_unreadable: See :class:`IterBasedTrainLoop`.
        **kwargs: As in MMEngine's.
    """

    def __init__(self, runner: Any, dataloader: Any, max_unreadable: float = 0.01, **kwargs: Any) -> None:
        super().__init__(runner, _built(runner, dataloader, endless=False), **kwargs)
        self._begin(max_unreadable, max_epochs=self._max_epochs, val_interval=self.val_interval)

    def run_epoch(self) -> None:
        """One epoch."""
        if self.stream is not None:
            self.stream.reseed(self._seed)
            self.stream.set_epoch(self._epoch)
        self.runner.restore_random_states()
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One step, with what the data loader gave."""
        super().run_iter(idx, self._taken(data_batch))


@LOOPS.register_module()
class ValLoop(MMEngineValLoop):
    """MMEngine's validation, which leaves the random numbers of the training alone."""

    def run(self) -> dict:
        """Validate."""
        runner: Any = self.runner
        # Before: a checkpoint of the best scores is saved inside.
        runner.message_hub.update_info(VALIDATED, runner.iter)
        with runner.aside():
            return self.validate()

    def validate(self) -> dict:
        """All of the validation: the scores."""
        return super().run()
