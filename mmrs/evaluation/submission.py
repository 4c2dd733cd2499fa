"""Submissions to a test server: the label maps of a test set without public labels, in one zip file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from PIL import Image

from mmrs.datasets.class_names import class_names, same_names
from mmrs.datasets.submission_format import SubmissionFormat, listed
from mmrs.registry import DATASETS, METRICS
from mmrs.utils.config import look_up
from mmrs.utils.errors import ConfigError, DataError
from mmrs.utils.files import atomic_path

__all__ = ['SubmissionFormat', 'SubmissionMetric', 'check_dataset', 'check_submission', 'submission_format']


def submission_format(dataset_type: str) -> SubmissionFormat:
    """What the test server of a data set takes, which the class says in its attribute `SUBMISSION`.

    Raises:
        ConfigError: The data set has no test server.
    """
    known = look_up(DATASETS, dataset_type)
    found = getattr(known, 'SUBMISSION', None)
    if found is None:
        having = sorted(name for name, cls in DATASETS.module_dict.items() if hasattr(cls, 'SUBMISSION'))
        raise ConfigError(
            f'--format-only: {dataset_type} has no test server to submit to; data sets that have one: '
            f'{", ".join(having)}. Plain label maps are written by --out without --format-only'
        )
    return found


def check_dataset(dataset: Any) -> None:
    """Look at everything that would make a submission worthless before an hour is spent on it.

    Args:
        dataset: A data set whose class has a `SUBMISSION`.

    Raises:
        ConfigError: It has other classes than the server.
        DataError: It lacks images of the test set, or has others.
    """
    classes, own = class_names(dataset), tuple(type(dataset).METAINFO['classes'])
    if not same_names(classes, own):
        raise ConfigError(
            f'--format-only: the configuration gives {type(dataset).__name__} the classes {", ".join(classes)}, but '
            f'the server expects {", ".join(own)}. Take class_map and metainfo out of it; a model of other classes '
            'cannot be submitted'
        )
    names = [Path(dataset.get_data_info(i)['img_path']).stem for i in range(len(dataset))]
    type(dataset).SUBMISSION.check_names(names, str(dataset.data_prefix['img_path']))


def check_submission(path: str | Path, form: SubmissionFormat) -> None:
    """Read a zip file back and compare it with what the server takes.

    Raises:
        DataError: It has folders, lacks images or has others, or one of them has another type, size or value.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        wrong = [name for name in names if '/' in name or not name.endswith('.png')]
        if wrong:
            raise DataError(
                f'{path}: {listed(wrong)} found; the server expects PNG files at the top level, without folders. Zip '
                'the files, not their folder'
            )
        form.check_names((name.removesuffix('.png') for name in names), str(path))
        for name in names:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                # Before the pixels, which another type need not even have as one number each.
                _require(path, name, 'type', image.mode, 'L')
                _require(path, name, 'height and width', (image.height, image.width), form.image_size)
                highest = int(np.asarray(image).max())
            if highest >= form.num_classes:
                raise DataError(f'{path}: {name} has the value {highest}; 0 to {form.num_classes - 1} are expected')


def _require(path: str | Path, name: str, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise DataError(f'{path}: {name} has {what} {found}; {expected} is expected')


@METRICS.register_module()
class SubmissionMetric(BaseMetric):
    """Writes the predictions of a test set for its test server, instead of scoring them.

    Each label map becomes `NUMBER.png`, named after its image; all of them together become `submission.zip`, which is
    then read back and checked.

    Args:
        dataset_type: Name of the data set class, which knows what its server takes, see :func:`submission_format`.
        out_dir: Folder for the files. Files of the same names are replaced.
        collect_device: How the results of several processes meet: ``'gpu'``, as messages (on a CPU too); ``'cpu'``, as
            files in the folder ``.dist_test``, which all machines must share.
    """

    default_prefix = ''  # MMEngine warns of None

    def __init__(self, dataset_type: str, out_dir: str | Path, collect_device: str = 'gpu') -> None:
        super().__init__(collect_device=collect_device)
        self.form = submission_format(dataset_type)
        self.out_dir = Path(out_dir)
        self.classes = look_up(DATASETS, dataset_type).METAINFO['classes']

    @property
    def path(self) -> Path:
        """The zip file."""
        return self.out_dir / 'submission.zip'

    def process(self, data_batch: Mapping[str, Any], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Write the label maps of a batch.

        Raises:
            DataError: An image does not have the size that the server expects.
        """
        # The model's classes may have another order than the server's.
        index = np.array(
            [self.classes.index(name) for name in (self.dataset_meta or {}).get('classes', self.classes)], np.uint8
        )
        for sample in data_samples:
            labels = index[sample['pred_sem_seg']['data'].squeeze().cpu().numpy()]
            if labels.shape != self.form.image_size:
                raise DataError(
                    f'{sample["img_path"]} has height and width {labels.shape}; the server expects '
                    f'{self.form.image_size}. Restore the image from the archive of the data set'
                )
            name = Path(sample['img_path']).stem
            with atomic_path(self.out_dir / f'{name}.png', overwrite=True) as temporary:
                Image.fromarray(labels).save(temporary)
            self.results.append(name)

    def compute_metrics(self, results: list[str]) -> dict[str, int]:
        """Zip the label maps that all processes have written, and check the zip file.

        Args:
            results: Names of the images.

        Returns:
            The number of images.

        Raises:
            DataError: The server would not take the file.
        """
        self.form.check_names(results, str(self.out_dir))
        with atomic_path(self.path, overwrite=True) as temporary:
            with zipfile.ZipFile(temporary, 'w') as archive:  # stored: PNG is compressed already
                for name in sorted(results):
                    archive.write(self.out_dir / f'{name}.png', f'{name}.png')
            check_submission(temporary, self.form)
        print_log(f'{self.path}: {len(results)} label maps for {self.form.server}', MMLogger.get_current_instance())
        return dict(images=len(results))
