"""The LoveDA land-cover data set: rural and urban scenes at 0.3 m."""

from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.submission_format import SubmissionFormat
from mmrs.registry import DATASETS
from mmrs.utils.errors import DataError


@DATASETS.register_module()
class LoveDADataset(RemoteSensingDataset):
    """LoveDA as its zip files unpack: `data_root/{Train,Val,Test}/{Rural,Urban}/{images_png,masks_png}/NUMBER.png`.

    Images are RGB, 1024 x 1024 pixels. Label maps hold 0 where there is no data, which is ignored, and 1 to 7 for the
    classes. The test set has no label maps. `data_prefix` picks the scenes:

    ```python
    data_prefix=dict(img_path='Train/Rural/images_png', seg_map_path='Train/Rural/masks_png')
    ```

    A folder of the published layout that holds fewer images than were published gives a warning.

    Paper: arXiv 2110.08733.
    """

    ZERO_IS_IGNORED = True
    METAINFO = dict(
        classes=('background', 'building', 'road', 'water', 'barren', 'forest', 'agriculture'),
        palette=[
            [255, 255, 255],
            [255, 0, 0],
            [255, 255, 0],
            [0, 0, 255],
            [159, 129, 183],
            [0, 255, 0],
            [255, 195, 128],
        ],
    )

    #: Numbers of the images of each scene type in each split, which are their names.
    NUMBERS = {
        'Train/Rural': range(1366),
        'Train/Urban': range(1366, 2522),
        'Val/Rural': range(2522, 3514),
        'Val/Urban': range(3514, 4191),
        'Test/Rural': range(4191, 5167),
        'Test/Urban': range(5167, 5987),
    }

    SUBMISSION = SubmissionFormat(
        # As users report: the one on CodaLab takes no submissions since January 2026.
        server='https://www.codabench.org/competitions/13030/',
        image_size=(1024, 1024),
        num_classes=7,
        splits={split: numbers for split, numbers in NUMBERS.items() if split.startswith('Test')},
    )

    def __init__(
        self,
        *,
        img_suffix: str | Sequence[str] | None = '.png',
        seg_map_suffix: str | Sequence[str] | None = '.png',
        **kwargs: Any,
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Pairs images with label maps; raises what the base class does."""
        samples = super().load_data_list()
        folder = Path(self.data_prefix['img_path'])
        if self.published_images is not None and len(samples) < self.published_images:
            split = '/'.join(folder.parts[-3:-1])
            print_log(
                f'{folder} holds {len(samples)} images, but {split} of LoveDA has {self.published_images}. Unless that '
                f'is meant, unpack {folder.parts[-3]}.zip again (tools/download_dataset.py loveda)',
                logger='current',
                level=WARNING,
            )
        return samples

    @property
    def published_images(self) -> int | None:
        """Number of images that were published in the folder of the images; None for a subset and for other folders."""
        numbers = self.NUMBERS.get('/'.join(Path(self.data_prefix['img_path']).parts[-3:-1]))
        return None if numbers is None or self.ann_file or self._indices is not None else len(numbers)

    def _list(self, what: str, folder: str, suffixes: Sequence[str]) -> dict[str, str]:
        if not Path(folder).is_dir():
            advice = 'tools/download_dataset.py loveda makes it; or correct data_root and data_prefix'
            if what == 'label maps' and 'Test' in Path(folder).parts[-3:]:
                advice = (
                    'the labels of the test set are not public. Take seg_map_path out of data_prefix; '
                    'tools/test.py --format-only writes a submission for the test server'
                )
            raise DataError(f'The folder of the {what} of LoveDA is missing: {folder}; {advice}')
        return super()._list(what, folder, suffixes)
