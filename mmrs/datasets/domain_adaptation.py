"""Source images, unlabelled target images, and a few labelled ones of the target."""

from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmrs.datasets.two_domains import TwoDomainDataset, without_labels
from mmrs.geo.statistics import class_statistics, default_workers
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, some
from mmrs.utils.random_states import seeded


@DATASETS.register_module()
class DomainAdaptationDataset(TwoDomainDataset):
    """Source images, each with a target image drawn at random, and perhaps a labelled one of the target.

    A sample is `dict(source=dict(inputs, data_samples), target=dict(inputs, data_samples))`. There are as many samples
    as source images; the target image of a sample is drawn anew, independently and uniformly, each time the sample is
    asked for, from numpy's global generator. Nothing of the target but its images is read: any `seg_map_path` of its
    configuration is dropped.

    With `labelled`, a sample has an image of these too, under that name. It is drawn with replacement, so that a
    handful serves every iteration, by a generator of its own: how much is drawn for the other images does not change
    which one comes, nor how it is augmented. Windows without any labelled pixel are not drawn, before any jitter.

    Args:
        source: The labelled data set, or its configuration; None: there is none, and there are as many samples as
            target images.
        target: The unlabelled data set, or its configuration; its pipeline must not load annotations.
        labelled: Labelled images of the target, or their configuration.
        reads_target: Whether samples have a target image. Without, the target says what its values are like.

    Raises:
        DataError: One of them has no images, or a labelled image no labelled pixel.
        ConfigError: The target has labels, or the names of their classes differ.
    """

    def __init__(
        self,
        source: dict | BaseDataset | None,
        target: dict | BaseDataset,
        labelled: dict | BaseDataset | None = None,
        reads_target: bool = True,
    ) -> None:
        self.reads_target = reads_target
        super().__init__(source, without_labels(target), labelled)

    def _check_files(self) -> None:
        if 'seg_map_path' in self.target.get_data_info(0):
            raise ConfigError(
                f'The target data set {type(self.target).__name__} lists label maps, but adaptation must not see any. '
                'Pass its configuration instead of the object, or leave seg_map_path out of its data_prefix.'
            )
        self._drawn = None if self.labelled is None else _with_labels(self.labelled)

    def __len__(self) -> int:
        return len(self.target if self.source is None else self.source)

    def __getitem__(self, index: int) -> dict:
        """One sample.

        Raises:
            ConfigError: The target's pipeline loads annotations, or that of its labelled images does not.
        """
        if not self._fully_initialized:
            self.full_init()
        seed = 0 if self._drawn is None else np.random.randint(2**31)  # noqa: NPY002 (seeded anew for each sample)
        sample = {} if self.source is None else dict(source=self.source[index])
        if self._drawn is not None:
            with seeded(seed):
                sample['labelled'] = self.labelled[int(np.random.choice(self._drawn))]  # noqa: NPY002
            _require_labels(sample['labelled'], self.labelled)
        if self.reads_target:
            sample['target'] = self.target[index if self.source is None else np.random.randint(len(self.target))]  # noqa: NPY002
            _require_none(sample['target'], self.target)
        return sample


def _require_none(target: dict, dataset: Any) -> None:
    if 'gt_sem_seg' in target['data_samples']:
        raise ConfigError(
            f'The pipeline of the target data set {type(dataset).__name__} yields gt_sem_seg, but adaptation '
            'must not see target labels. Remove the transform that loads annotations.'
        )


def _require_labels(labelled: dict, dataset: Any) -> None:
    if 'gt_sem_seg' not in labelled['data_samples']:
        raise ConfigError(
            f'The pipeline of the labelled images of the target, {type(dataset).__name__}, yields no gt_sem_seg. Add '
            'LoadRasterAnnotations behind the transform that loads the image.'
        )


def _with_labels(dataset: Any) -> np.ndarray:
    """Indices of the samples that have labelled pixels.

    Raises:
        DataError: An image has none, though its label map is its own.
    """
    parts = getattr(dataset, 'datasets', [dataset])
    labelled = np.concatenate([class_statistics(part, default_workers(), progress=False).any(1) for part in parts])
    of_image: dict[str, bool] = {}
    for i, known in enumerate(labelled.tolist()):
        path = dataset.get_data_info(i)['img_path']
        of_image[path] = known or of_image.get(path, False)
    if void := [path for path, known in of_image.items() if not known]:
        raise DataError(
            f'{len(void)} of {len(of_image)} labelled images of the target have no labelled pixel, {some(void)}: their '
            'label maps are void throughout. Label them, or take them out of labelled_images.'
        )
    return np.flatnonzero(labelled)
