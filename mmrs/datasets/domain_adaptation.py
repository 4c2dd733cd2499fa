"""Pairs of a labelled source image and an unlabelled target image."""

import copy

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import get_rank
from torch.utils.data import Dataset, get_worker_info

from mmrs.registry import DATASETS


@DATASETS.register_module()
class DomainAdaptationDataset(Dataset):
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
        self.source = _build(source, 'source')
        self.target = _build(_without_labels(target) if isinstance(target, dict) else target, 'target')
        # Kept, because worker processes that are spawned rather than forked know of no process group.
        self._rank = get_rank()
        self._generator: np.random.Generator | None = None
        self._generator_seed: tuple[int, int] | None = None
        self._fully_initialized = False
        self._check_classes()
        if all(getattr(part, '_fully_initialized', True) for part in (self.source, self.target)):
            self.full_init()

    def full_init(self) -> None:
        """Lists the files of both data sets and checks them."""
        if self._fully_initialized:
            return
        for name, part in (('source', self.source), ('target', self.target)):
            try:
                part.full_init()
            except (OSError, ValueError) as error:
                raise _about(name, error) from error
            if len(part) == 0:
                raise ValueError(f'The {name} data set {type(part).__name__} has no images.')
        if 'seg_map_path' in self.target.get_data_info(0):
            raise ValueError(
                f'The target data set {type(self.target).__name__} lists label maps, but adaptation must not see any. '
                'Pass its configuration instead of the object, or leave seg_map_path out of its data_prefix.'
            )
        self._fully_initialized = True

    def _check_classes(self) -> None:
        source, target = (part.metainfo.get('classes') for part in (self.source, self.target))
        if source and target and tuple(source) != tuple(target):
            raise ValueError(
                f'Source and target differ in their classes: {tuple(source)} and {tuple(target)}. Adaptation needs the '
                'same classes in the same order; adapt the metainfo or the classes_file of one.'
            )

    @property
    def metainfo(self) -> dict:
        """The source's meta information."""
        return copy.deepcopy(self.source.metainfo)

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


def _without_labels(config: dict) -> dict:
    """The configuration without its label path, through any wrappers of data sets."""
    config = copy.deepcopy(config)
    if 'dataset' in config:
        config['dataset'] = _without_labels(config['dataset'])
    elif 'datasets' in config:
        config['datasets'] = [_without_labels(part) for part in config['datasets']]
    else:
        prefix = config.get('data_prefix', dict(img_path=''))
        config['data_prefix'] = {key: value for key, value in prefix.items() if key != 'seg_map_path'}
    return config


def _build(dataset: dict | BaseDataset, name: str) -> BaseDataset:
    if not isinstance(dataset, dict):
        return dataset
    try:
        return DATASETS.build(dataset)
    except (OSError, ValueError) as error:
        raise _about(name, error) from error


def _about(name: str, error: Exception) -> Exception:
    """The same error, with the domain's name in front; of a kind that is made from a message alone."""
    kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
    return kind(f'The {name} data set: {error}')
