"""Images of a target without labels: rasters, or those of a configuration, as its test sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.structures import PixelData

from mmrs.apis.inference import WINDOW, init_model
from mmrs.apis.statistics import domain_leaves, leaves, loader, steps_between, without_labels
from mmrs.geo.windows import Window
from mmrs.install import install
from mmrs.registry import DATASETS
from mmrs.utils.config import load_config, look_up
from mmrs.utils.errors import ConfigError, DataError, require_number
from mmrs.utils.random_states import seeded

__all__ = ['OF_CONFIG', 'TargetImages', 'cut', 'model_and_images']

#: Names of what a configuration itself has, in place of a raster.
OF_CONFIG = ('config:target', 'config:test')


@dataclass(frozen=True)
class TargetImages:
    """Images of the target.

    Args:
        config: Whose test pipeline says how images are loaded, and what is done to them before they are cropped.
        targets: Rasters, folders of them, or names of `OF_CONFIG`: the unlabelled images of its training, those of its
            test. Labels are not read.
        meta: Classes and palette of the model.
        size: Side of a window in pixels.

    Raises:
        ConfigError: The configuration has no such images.
        DataError: There is no such raster.
    """

    config: Config
    targets: Sequence[str]
    meta: Mapping[str, Any]
    size: int

    def __post_init__(self) -> None:
        require_number('size', self.size, at_least=1, whole=True)
        self._sets()  # what is missing is missing now

    def dataset(self, augmented: bool) -> dict[str, Any]:
        """Configuration of a data set of windows, without labels.

        Args:
            augmented: Off: crops are all that is drawn; on: images are mirrored at random too, as in training.
        """
        drawn: list[dict[str, Any]] = [dict(type='RandomCrop', crop_size=(self.size, self.size))]
        if augmented:
            drawn.append(dict(type='RandomFlip', prob=[0.5, 0.25], direction=['horizontal', 'vertical']))
        load, steps = self._loading
        pipeline = [*load, *steps, *drawn, dict(type='PackRasterInputs')]
        sets = [dict(own, pipeline=pipeline) for own in self._sets()]
        return sets[0] if len(sets) == 1 else dict(type='ConcatDataset', datasets=sets)

    def count(self, number: int) -> int:
        """How many there are of a number of windows."""
        return min(number, len(DATASETS.build(self.dataset(augmented=False))))

    def samples(self, number: int, seed: int, first: int = 0) -> Iterator[dict[str, Any]]:
        """Windows of as many images, drawn by a seed, one after the other.

        Args:
            number: Of windows; all, where there are fewer.
            seed: Their order.
            first: How many of them are passed over, for others to look at; behind the last one comes the first again.

        Raises:
            DataError: There is none.
        """
        dataset = DATASETS.build(self.dataset(augmented=False))
        if not len(dataset):
            raise DataError(f'{", ".join(self.targets)}: there is no image')
        order = np.roll(np.random.default_rng(seed).permutation(len(dataset)), -first)[:number]
        for i in order.tolist():
            with seeded(seed, i):
                sample = dataset[i]
            yield sample

    def tiles(self) -> list[tuple[BaseDataset, int]]:
        """All images, and of rasters all windows, which cover each pixel once: data sets, and the index of each."""
        load, steps = self._loading
        own = dict(pipeline=[*load, *steps, dict(type='PackRasterInputs')], test_mode=True)
        built = [DATASETS.build({**dataset, **own}) for dataset in self._sets()]
        return [(dataset, i) for dataset in built for i in range(len(dataset))]

    @property
    def _test(self) -> dict[str, Any]:
        dataset = (self.config.get('test_dataloader') or {}).get('dataset')
        return next(leaves(dataset)) if dataset else {}

    @property
    def _loading(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What loads an image in the test, and what else is done to it there."""
        load = loader(self._test)
        return [dict(load or dict(type='LoadRasterImage'))], steps_between(self._test)

    def _sets(self) -> list[dict[str, Any]]:
        """Configurations of data sets, but for their pipelines."""
        found: list[dict[str, Any]] = []
        for target in map(str, self.targets):
            if target in OF_CONFIG:
                found += self._of_config(target)
            elif Path(target).exists():
                raster = dict(
                    type='RasterDataset',
                    data_prefix=dict(img_path=target),
                    windows=dict(size=self.size, stride=max(1, self.size * 3 // 4)),
                    metainfo={key: self.meta[key] for key in ('classes', 'palette') if key in self.meta},
                )
                found.append(raster | ({'gsd': self._test['gsd']} if self._test.get('gsd') else {}))
            else:
                raise DataError(
                    f'{target}: no such raster or folder; one was expected, or one of {", ".join(OF_CONFIG)}'
                )
        return found

    def _of_config(self, target: str) -> list[dict[str, Any]]:
        role, domain = ('train', 'target') if target == 'config:target' else ('test', '')
        dataset = (self.config.get(f'{role}_dataloader') or {}).get('dataset')
        own = domain_leaves(dataset).get(domain, []) if dataset else []
        if not own:
            raise ConfigError(
                f'config {self.config.filename}: {target} is {role}_dataloader.dataset'
                f'{domain and f".{domain}"}, which it does not have; name rasters or a folder of them'
            )
        return [
            {key: value for key, value in without_labels(leaf).items() if key not in ('test_mode', 'lazy_init')}
            for leaf in own
            if isinstance(kind := look_up(DATASETS, leaf.get('type')), type) and issubclass(kind, BaseDataset)
        ]


def model_and_images(
    config: str | Path | Config,
    checkpoint: str | Path,
    targets: Sequence[str],
    size: int | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> tuple[Any, TargetImages]:
    """A model and the images of a target that it is shown.

    Args:
        config: Configuration of the checkpoint.
        checkpoint: Its weights.
        targets: See :class:`TargetImages`.
        size: Likewise; by default the crop of the sliding test, else `WINDOW`.
        device: See :func:`init_model`.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: See :func:`init_model`.

    Raises:
        ConfigError: Something in the configuration cannot work.
        CheckpointError: The checkpoint cannot be read or does not fit.
        DataError: There is no such raster.
    """
    install()
    model = init_model(load_config(config, cfg_options), checkpoint, device, trust_checkpoint=trust_checkpoint)
    if not hasattr(model.data_preprocessor, 'denormalize'):
        raise ConfigError(
            f'model.data_preprocessor is a {type(model.data_preprocessor).__name__}: use a '
            'DomainAdaptationDataPreprocessor, with its mean and std'
        )
    if not model.dataset_meta.get('classes'):
        raise ConfigError(f'{checkpoint} names no classes, nor does the test data set of the configuration')
    test_cfg = model.cfg.model.get('test_cfg') or {}
    size = size or (test_cfg['crop_size'][0] if test_cfg.get('mode') == 'slide' else WINDOW)
    return model, TargetImages(model.cfg, targets, model.dataset_meta, size)


def cut(sample: Mapping[str, Any], window: Window) -> dict[str, Any]:
    """A part of a packed sample, ``dict(inputs, data_samples)``."""
    x0, y0, x1, y1 = window
    place = (..., slice(y0, y1), slice(x0, x1))
    packed = sample['data_samples'].clone()
    if 'valid_map' in packed:
        valid = packed.valid_map.data[place]
        del packed.valid_map  # it takes no data of another size
        packed.valid_map = PixelData(data=valid)
    return dict(inputs=sample['inputs'][place].contiguous(), data_samples=packed)
