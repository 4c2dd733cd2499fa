"""The numbered stream of training samples.

The random numbers of a sample, its augmentation and the draw of its target image among them, follow from the seed and
the sample's place in the stream alone. So they depend neither on the worker that reads it nor on what was read before:
a run that begins in the middle of the stream sees what one that came there sees, and two processes that share the
stream see what one sees.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, Dataset, Sampler

from mmrs.registry import DATA_SAMPLERS, DATASETS
from mmrs.utils.errors import DataError, UnusableError, describe
from mmrs.utils.random_states import seeded

__all__ = ['Draw', 'SampleStream', 'SplitUnreadable', 'StreamedDataset', 'stream_of', 'streamed']

#: How many samples are tried in place of one that cannot be read.
ATTEMPTS = 20


@dataclass(frozen=True)
class Draw:
    """What the stream asks the data set for.

    Attributes:
        seed: Of the run.
        position: Place in the stream of all processes together.
        index: Of the sample in the data set.
    """

    seed: int
    position: int
    index: int


class SampleStream(Sampler):
    """What a sampler draws, numbered through all epochs and processes.

    Args:
        dataset: The :class:`StreamedDataset`.
        sampler: Config of the sampler.
        seed: Of the run.
        endless: Go on with the next epoch where one ends, as iteration-based training needs it.
    """

    def __init__(self, dataset: Any, sampler: dict, endless: bool, seed: int | None = None) -> None:
        self._config, self._dataset = sampler, dataset.dataset
        if len(dataset) != len(self._dataset):  # `num_batch_per_epoch` has wrapped it
            self._dataset = type(dataset)(self._dataset, len(dataset))
        self.seed: Any = seed
        self.sampler = self._built()
        self.endless = endless
        self.epoch = 0
        #: How many samples of this process to leave out at the beginning.
        self.skipped = 0

    def _built(self) -> Any:
        return DATA_SAMPLERS.build(self._config, default_args=dict(dataset=self._dataset, seed=self.seed))

    def reseed(self, seed: int) -> None:
        """Take the seed of the run that is continued, which a configuration without seed does not know."""
        self.seed = seed
        self.sampler = self._built()

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at an epoch."""
        self.epoch = epoch

    def _indices(self) -> Iterator[int]:
        for epoch in count(self.epoch) if self.endless else [self.epoch]:
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            yield from self.sampler

    def __iter__(self) -> Iterator[Draw]:
        # MMEngine's infinite sampler can be gone through but once, and upstream's loop begins that, to throw it away.
        self.sampler = self._built()
        rank, processes = get_dist_info()
        numbers = count(rank + processes * self.epoch * len(self.sampler), processes)
        for position, index in islice(zip(numbers, self._indices()), self.skipped, None):
            yield Draw(self.seed, position, index)

    def __len__(self) -> int:
        return len(self.sampler)


class StreamedDataset(Dataset):
    """A data set that is asked for by :class:`Draw`.

    An item is the sample, and messages about samples that could not be read (`UnusableError` or `OSError`) and
    in whose place it was drawn.

    Args:
        dataset: Config of the data set, or the data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def full_init(self) -> None:
        """Let the data set list its files."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    @property
    def metainfo(self) -> Any:
        """The data set's."""
        return getattr(self.dataset, 'metainfo', None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Any, list[str]]:
        """The sample of a draw.

        Raises:
            DataError: It cannot be read, nor can any that is drawn in its place.
        """
        failures: list[str] = []
        for attempt in range(ATTEMPTS):
            with seeded(draw.seed, draw.position, attempt):
                index = np.random.randint(len(self)) if attempt else draw.index  # noqa: NPY002
                try:
                    return self.dataset[index], failures
                except (OSError, UnusableError) as error:
                    failures.append(describe(error))
        raise DataError(
            f'{ATTEMPTS} samples in a row could not be read; the last one: {failures[-1]}. Are the disk and the data '
            'set there?'
        )


class SplitUnreadable:
    """Collates items of a :class:`StreamedDataset`: a batch of the samples, and the messages of all of them.

    Args:
        collate: Makes a batch of samples.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Any, list[str]]]) -> tuple[Any, list[str]]:
        """The batch and the messages."""
        return self.collate([sample for sample, _ in items]), [text for _, failures in items for text in failures]


def streamed(dataloader: dict, endless: bool) -> dict:
    """The config of a data loader, changed so that its data set is asked by :class:`Draw`."""
    return {
        **dataloader,
        'dataset': dict(type=StreamedDataset, dataset=dataloader['dataset']),
        'sampler': dict(type=SampleStream, sampler=dataloader['sampler'], endless=endless),
    }


def stream_of(dataloader: DataLoader) -> SampleStream | None:
    """The stream of a data loader; None if it was not built from what :func:`streamed` returns."""
    samplers = (dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None))
    return next((sampler for sampler in samplers if isinstance(sampler, SampleStream)), None)
