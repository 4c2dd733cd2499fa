"""Pairs of images of the same place."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import LoadAnnotations, Pad
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmseg.datasets.transforms import (
    CLAHE,
    AdjustGamma,
    PackSegInputs,
    RandomCrop,
    RandomFlip,
    RandomRotate,
    RandomRotFlip,
    Resize,
    ResizeToMultiple,
    RGB2Gray,
)

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.datasets.transforms.eight_bit import guard_eight_bit
from mmrs.datasets.transforms.loading import LoadRasterAnnotations, LoadRasterImage
from mmrs.datasets.transforms.misalignment import Misalignment
from mmrs.datasets.transforms.packing import PackRasterInputs
from mmrs.datasets.two_domains import TwoDomainDataset, without_labels
from mmrs.registry import DATASETS
from mmrs.utils import random_states
from mmrs.utils.errors import ConfigError, DataError, some

# What these make of an image is the same each time. A transform that is not here may draw.
_DETERMINISTIC = (LoadRasterImage, Resize, ResizeToMultiple, Pad, CLAHE, AdjustGamma, RGB2Gray)

# Drawn for one image alone, their places would be other ones than in the other image.
_COMMON = (RandomCrop, RandomFlip, RandomRotate, RandomRotFlip)

_TRIES = 1000  # as many as MMEngine's data sets make to find a sample with data


@DATASETS.register_module()
class PairedDataset(TwoDomainDataset):
    """Two sets of images of the same places, paired by name, without labels.

    A sample is `dict(source=dict(inputs, data_samples), target=dict(inputs, data_samples))`, with both images of one
    size and pixel on pixel, as well as the files are. An image and its counterpart have the same path inside their
    folders but for the suffix. The windows of a `RasterDataset` are the source's.

    An image with pixels without data, be it in the file or because a transform had nothing to fill them with, has a
    `valid_map` (see `PackRasterInputs`). The meta information of a source image has `image_key` where its pixels are
    the same each time that key comes up, so that what is computed from them can be kept: a string that stands for the
    file as it is now, the window, the transforms, and how the image was flipped. Where another transform may draw,
    there is none. `paired` is in that of both images, and True.

    Args:
        source: A `RemoteSensingDataset`, or its configuration. Its pipeline begins with `LoadRasterImage`, may change
            the images of its domain alone, and does not pack. Any `seg_map_path` is dropped.
        target: The same.
        pipeline: Transforms of mmcv, mmseg or mmrs that do the same to both images of a pair, with the same random
            draws: `RandomResize`, `RandomCrop`, `RandomFlip`, `PhotoMetricDistortion`, ...
        allow_unpaired: Leave out images without a counterpart, and say how many, instead of raising an error.

    Raises:
        DataError: An image has no counterpart, or there are no pairs; and what `TwoDomainDataset` raises.
        ConfigError: A pipeline or data set that cannot be used here.
    """

    def __init__(
        self,
        source: dict | RemoteSensingDataset,
        target: dict | RemoteSensingDataset,
        pipeline: Sequence[dict | Callable] = (),
        allow_unpaired: bool = False,
    ) -> None:
        self.pipeline = Compose(pipeline)
        guard_eight_bit(self.pipeline)
        self.allow_unpaired = allow_unpaired
        #: Names of the images without a counterpart, by domain.
        self.unpaired: dict[str, list[str]] = {}
        self._pack = PackRasterInputs()
        # Index of the source's sample and of the target's, `(N, 2)`.
        self._pairs = np.zeros((0, 2), np.int64)
        super().__init__(without_labels(source), without_labels(target))

    def _check_files(self) -> None:
        self._check_configuration()
        for name, part in (('source', self.source), ('target', self.target)):
            if 'seg_map_path' in part.get_data_info(0):
                raise ConfigError(
                    f'The {name} data set {type(part).__name__} lists label maps, but pairs are used without. Pass its '
                    'configuration instead of the object, or leave seg_map_path out of its data_prefix.'
                )
        self._pairs = self._find_pairs()

    def _check_configuration(self) -> None:
        """Raises ConfigError for data sets or pipelines that cannot make pairs."""
        own = type(self).__name__
        for name, part in (('source', self.source), ('target', self.target)):
            if not isinstance(part, RemoteSensingDataset):
                raise ConfigError(
                    f'{own}: {name} is a {type(part).__name__}; a RemoteSensingDataset was expected. Wrap several '
                    f'{own} in a ConcatDataset instead'
                )
            transforms = part.pipeline.transforms
            if not transforms or not isinstance(transforms[0], LoadRasterImage):
                raise ConfigError(f'{own}: the pipeline of the {name} has to begin with LoadRasterImage')
            where = f'{own}: the pipeline of the {name}'
            _refuse(transforms[1:], where)
            for transform in _with_inner(transforms):
                if isinstance(transform, _COMMON):
                    raise ConfigError(
                        f'{where} has {type(transform).__name__}, which would take the two images of a pair to '
                        'different places. Put it into the common pipeline, that of the pairs'
                    )
        where = f'{own}: the pipeline of the pairs'
        _refuse(self.pipeline.transforms, where)
        for transform in _with_inner(self.pipeline.transforms):
            if isinstance(transform, Misalignment) and transform.seed is not None:
                raise ConfigError(
                    f'{where} has Misalignment with a seed, which moves each image by its own name. Put it into the '
                    'pipeline of a domain, or set seed=None to move both alike'
                )
        if isinstance(self.source, RasterDataset) != isinstance(self.target, RasterDataset):
            raise ConfigError(
                f'{own}: source is a {type(self.source).__name__}, target a {type(self.target).__name__}; a '
                'RasterDataset goes with a RasterDataset'
            )

    def _find_pairs(self) -> np.ndarray:
        """Index of the source's sample and of the target's for each pair, `(N, 2)`."""
        names = {name: _names(part) for name, part in (('source', self.source), ('target', self.target))}
        index_of = {name: i for i, name in reversed(list(enumerate(names['target'])))}
        pairs = [(i, index_of[name]) for i, name in enumerate(names['source']) if name in index_of]
        folders = {name: getattr(self, name).data_prefix['img_path'] for name in names}
        for name, other in (('source', 'target'), ('target', 'source')):
            here = list(dict.fromkeys(names[name]))
            self.unpaired[name] = sorted(set(here) - set(names[other]))
            if self.unpaired[name] and not (self.allow_unpaired and pairs):
                leave_out = ', list those to use in ann_file, or leave out the others with allow_unpaired=True'
                raise DataError(
                    f'{len(self.unpaired[name])} of {len(here)} {name} images in {folders[name]} have no counterpart '
                    f'of the same name in {folders[other]}: {some(self.unpaired[name])}. Add or rename files'
                    f'{leave_out if pairs else ""}. GeoTIFFs under other names are paired by place: '
                    'GeographicPairedDataset.'
                )
        left_out = '; '.join(
            f'{len(left)} images of the {name} without a counterpart are left out: {some(left)}'
            for name, left in self.unpaired.items()
            if left
        )
        print_log(
            f'{type(self).__name__}: {len(pairs)} pairs of {folders["source"]} and {folders["target"]}'
            + (f'; {left_out}' if left_out else ''),
            logger='current',
        )
        return np.array(pairs)

    def __len__(self) -> int:
        if not self._fully_initialized:
            self.full_init()
        return len(self._pairs)

    def get_data_info(self, index: int) -> dict[str, dict]:
        """What the pipelines of `source` and `target` start from, by these names."""
        if not self._fully_initialized:
            self.full_init()
        first, second = self._pairs[index].tolist()
        source, target = self.source.get_data_info(first), self.target.get_data_info(second)
        self._place_target(source, target)
        return dict(source=source, target=target)

    def _place_target(self, source: Mapping, target: dict) -> None:
        """Makes a target's sample the part that a source's sample shows."""
        if 'window' not in source:
            return
        if source['grid_shape'] != target['grid_shape']:
            raise _sizes_differ(source, source['grid_shape'], target, target['grid_shape'])
        target['window'] = source['window']

    def __getitem__(self, index: int) -> dict:
        """One pair.

        Raises:
            UnreadableError: A file is missing or cannot be read.
            DataError: The images differ in size, or in training nothing with data was found.
            ConfigError: A transform of the common pipeline draws differently for the two images.
        """
        if not self._fully_initialized:
            self.full_init()
        for _ in range(_TRIES):
            if (sample := self._sample(index)) is not None:
                return sample
            index = np.random.randint(len(self))  # noqa: NPY002 (the generator that MMEngine seeds and itself uses here)
        raise DataError(f'{type(self).__name__}: {_TRIES} pairs in a row have no pixel with data in both images.')

    def _sample(self, index: int) -> dict | None:
        """A packed pair; None where a transform cannot make any, or in training, where no pixel has data in both."""
        info = self.get_data_info(index)
        # It draws the place of a window that jitters, which the target then takes over.
        source = self.source.prepare_data(int(self._pairs[index, 0]))
        if source is None:
            return None
        listed = source.get('window') == info['source'].get('window')
        self._place_target(source, info['target'])
        target = self.target.pipeline(info['target'])
        if source['img'].shape[:2] != target['img'].shape[:2]:
            raise _sizes_differ(source, source['img'].shape, target, target['img'].shape)
        for results in (source, target):
            if 'valid_map' not in results:
                # Without labels, nothing else tells pixels that a transform has filled.
                results['valid_map'] = np.ones(results['img'].shape[:2], np.uint8)
                results['seg_fields'].append('valid_map')
        if not self.source.test_mode and not ((source['valid_map'] == 1) & (target['valid_map'] == 1)).any():
            return None
        before = random_states.capture()
        source, flips = self._transform(source)
        after = random_states.capture()
        random_states.restore(before)
        target, _ = self._transform(target)
        if source is None or target is None:
            return None
        if random_states.capture() != after:
            raise ConfigError(
                f'{type(self).__name__}: the common pipeline draws other numbers for the target than for the source, '
                'so that the two images would no longer lie on each other. Move the transform that looks at the '
                "image's content into the pipeline of a domain, or leave it out"
            )
        packed = dict(source=self._packed(source), target=self._packed(target))
        if listed and flips is not None:
            packed['source']['data_samples'].set_metainfo(self._image_key(info['source'], flips))
        return packed

    def _transform(self, results: dict | None) -> tuple[dict | None, list[str | None] | None]:
        """The common pipeline; and the directions of its flips, or None if another transform may draw."""
        flips: list[str | None] | None = []
        for transform in self.pipeline.transforms:
            try:
                results = transform(results)
            except KeyError as error:
                if error.args != ('gt_seg_map',):
                    raise
                raise ConfigError(
                    f'{type(self).__name__}: {transform} of the common pipeline looks at labels, which pairs do not '
                    'have. Leave it out; RandomCrop does not need them without cat_max_ratio'
                ) from error
            if results is None:  # as in MMEngine, a transform that cannot make anything of this sample
                return None, None
            _pad_valid_map(results)
            if type(transform) is RandomFlip and flips is not None:
                direction = results['flip_direction']
                flips.append(None if direction is None else str(direction))
            elif type(transform) not in _DETERMINISTIC:
                flips = None
        return results, flips

    def _packed(self, results: dict) -> dict:
        valid = results['valid_map']
        if valid.shape == results['img'].shape[:2] and (valid == 1).all():
            del results['valid_map']
        results['paired'] = True
        return self._pack(results)

    def _image_key(self, info: Mapping, flips: Sequence[str | None]) -> dict[str, str]:
        """`image_key`, or nothing where the image may be another one the next time."""
        transforms = [*self.source.pipeline.transforms, *self.pipeline.transforms]
        if any(type(t) not in _DETERMINISTIC for t in self.source.pipeline.transforms):
            return {}
        try:
            state = os.stat(info['img_path'])
        except OSError:  # one of GDAL's own paths
            return {}
        parts = (
            os.path.abspath(info['img_path']),
            state.st_size,
            state.st_mtime_ns,
            info.get('window'),
            info.get('grid_shape'),
            [(type(t).__name__, sorted(vars(t).items())) for t in transforms],
            flips,
        )
        return dict(image_key=hashlib.sha256(repr(parts).encode()).hexdigest()[:32])


def _refuse(transforms: Sequence[Callable], where: str) -> None:
    """Raises ConfigError for what has no place between loading and packing of a pair."""
    for transform in _with_inner(transforms):
        kind = type(transform).__name__
        if isinstance(transform, (LoadAnnotations, LoadRasterAnnotations)):
            raise ConfigError(f'{where} has {kind}, but pairs have no labels; leave it out')
        if isinstance(transform, PackSegInputs):
            raise ConfigError(f'{where} has {kind}, but packing is done by the data set; leave it out')
        if isinstance(transform, LoadRasterImage):
            raise ConfigError(f'{where} has {kind}, which belongs at the beginning of the pipeline of a domain')
        if kind == 'Albu':
            raise ConfigError(f'{where} has Albu, whose random draws cannot be repeated for the second image')
        if hasattr(transform, 'get_indices'):
            raise ConfigError(f'{where} has {kind}, which mixes several samples; pairs are transformed one by one')


def _with_inner(transforms: Sequence[Callable]) -> Iterator[Callable]:
    """The transforms, and those that they apply in turn, as `RandomApply` and `RandomChoice` do."""
    for transform in transforms:
        yield transform
        inner = getattr(transform, 'transforms', ())
        yield from _with_inner(inner if isinstance(inner, (list, tuple)) else [inner])


def _pad_valid_map(results: dict) -> None:
    """Brings the map to the size of a padded image at once, for a flip or a resize that comes behind.

    mmcv's `Pad` adds pixels at the right and bottom of the image, and leaves the map as it is.
    """
    valid, (height, width) = results['valid_map'], results['img'].shape[:2]
    bottom, right = height - valid.shape[0], width - valid.shape[1]
    if 'pad_shape' in results and min(bottom, right) >= 0:
        results['valid_map'] = np.pad(valid, ((0, bottom), (0, right)))


def _names(dataset: RemoteSensingDataset) -> list[str]:
    """Path of the image of each sample inside its folder, without the suffix."""
    folder, names = dataset.data_prefix['img_path'], []
    for i in range(len(dataset)):
        path = dataset.get_data_info(i)['img_path']
        name = Path(path).name if os.path.isfile(folder) else os.path.relpath(path, folder)
        suffix = next((s for s in dataset.img_suffix if name.lower().endswith(s.lower())), '')
        names.append(name[: len(name) - len(suffix)])
    return names


def _sizes_differ(source: Mapping, shape: Sequence[int], target: Mapping, other: Sequence[int]) -> DataError:
    return DataError(
        f'The source image {source["img_path"]} has {shape[1]} x {shape[0]} pixels (width x height), but its '
        f'counterpart {target["img_path"]} has {other[1]} x {other[0]}. They must be of one size; GeoTIFFs on other '
        'grids are warped onto the source by GeographicPairedDataset.'
    )
