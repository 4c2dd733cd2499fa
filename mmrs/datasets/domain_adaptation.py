"""Pairs of a labelled source image and an unlabelled target image."""

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from torch.utils.data import get_worker_info

from mmrs.datasets.two_domains import TwoDomainDataset, without_labels
from mmrs.registry import DATASETS


@DATASETS.register_module()
class DomainAdaptationDataset(TwoDomainDataset):
    """Source images, each with a target image drawn at random.

    A sample is `dict(source=dict(inputs, data_samples), target=dict(inputs, data_samples))`. There are as many samples
    as source images; the target image of a sample is drawn anew, independently and uniformly, each time the sample is
    asked for. Nothing of the target but its images is read: any `seg_map_path` of its configuration is dropped.

    Args:
        source: The labelled data set, or its configuration.
        target: The unlabelled data set, or its configuration; its pipeline must not load annotations.

    Raises:
        ValueError: One of them has no images, the target has labels, or the names of their classes differ.
    """

    def __init__(self, source: dict | BaseDataset, target: dict | BaseDataset) -> None:
        # Kept, because worker processes that are spawned rather than forked know of no process group.
        self._rank = get_rank()
        self._generator: np.random.Generator | None = None
        self._generator_seed: tuple[int, int] | None = None
        super().__init__(source, without_labels(target))

    def _check_files(self) -> None:
        if 'seg_map_path' in self.target.get_data_info(0):
            raise ValueError(
                f'The target data set {type(self.target).__name__} lists label maps, but adaptation must not see any. '
                'Pass its configuration instead of the object, or leave seg_map_path out of its data_prefix.'
            )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        """One pair.

        Raises:
            ValueError: The target's pipeline loads annotations.
        """
        if not self._fully_initialized:
            self.full_init()
        source = self.source[index]
        target = self.target[self._draw_target()]
        if 'gt_sem_seg' in target['data_samples']:
            raise ValueError(
                f'The pipeline of the target data set {type(self.target).__name__} yields gt_sem_seg, but adaptation '
                'must not see target labels. Remove the transform that loads annotations.'
            )
        return dict(source=source, target=target)

    def _draw_target(self) -> int:
        """Index of the next target image, from a generator of this rank, worker and epoch."""
        worker = get_worker_info()
        # MMEngine sets the global generators of a worker to the same state in every epoch. The seed that the loader
        # itself gives the worker is another one each time it starts its workers. In the main process, the one generator
        # goes on through all epochs.
        seed = (worker.seed if worker is not None else torch.initial_seed(), self._rank)
        if self._generator is None or self._generator_seed != seed:
            self._generator, self._generator_seed = np.random.default_rng(seed), seed
        return int(self._generator.integers(len(self.target)))
