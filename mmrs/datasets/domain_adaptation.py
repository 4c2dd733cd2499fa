"""Pairs of a labelled source image and an unlabelled target image."""

import numpy as np
from mmengine.dataset import BaseDataset

from mmrs.datasets.two_domains import TwoDomainDataset, without_labels
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError


@DATASETS.register_module()
class DomainAdaptationDataset(TwoDomainDataset):
    """Source images, each with a target image drawn at random.

    A sample is `dict(source=dict(inputs, data_samples), target=dict(inputs, data_samples))`. There are as many samples
    as source images; the target image of a sample is drawn anew, independently and uniformly, each time the sample is
    asked for, from numpy's global generator. Nothing of the target but its images is read: any `seg_map_path` of its
    configuration is dropped.

    Args:
        source: The labelled data set, or its configuration.
        target: The unlabelled data set, or its configuration; its pipeline must not load annotations.

    Raises:
        DataError: One of them has no images.
        ConfigError: The target has labels, or the names of their classes differ.
    """

    def __init__(self, source: dict | BaseDataset, target: dict | BaseDataset) -> None:
        super().__init__(source, without_labels(target))

    def _check_files(self) -> None:
        if 'seg_map_path' in self.target.get_data_info(0):
            raise ConfigError(
                f'The target data set {type(self.target).__name__} lists label maps, but adaptation must not see any. '
                'Pass its configuration instead of the object, or leave seg_map_path out of its data_prefix.'
            )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        """One pair.

        Raises:
            ConfigError: The target's pipeline loads annotations.
        """
        if not self._fully_initialized:
            self.full_init()
        source = self.source[index]
        target = self.target[np.random.randint(len(self.target))]  # noqa: NPY002 (seeded anew for each sample)
        if 'gt_sem_seg' in target['data_samples']:
            raise ConfigError(
                f'The pipeline of the target data set {type(self.target).__name__} yields gt_sem_seg, but adaptation '
                'must not see target labels. Remove the transform that loads annotations.'
            )
        return dict(source=source, target=target)
