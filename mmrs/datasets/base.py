"""The data set class behind all others."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mmrs.datasets.samplers.rare_class import RareClassSampling
from mmrs.datasets.transforms.arguments import is_text, require_text
from mmrs.datasets.transforms.eight_bit import guard_eight_bit
from mmrs.datasets.transforms.loading import image_loader
from mmrs.geo.classes import IGNORE_INDEX, Colour, load_classes
from mmrs.geo.folders import CONVERT, RASTER_SUFFIXES, list_rasters, other_rasters
from mmrs.geo.headers import read_header
from mmrs.geo.statistics import class_statistics
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, require, require_file, require_number, some

#: The lightest of the greys of classes without counterpart.
_LIGHTEST_GREY = 192
_ADVICE = CONVERT + ', or name their suffix ({}_suffix).'


@DATASETS.register_module()
class RemoteSensingDataset(BaseSegDataset):
    """Images and label maps in the standard layout, for any set of classes.

    ```
    data_root/img_dir/{train,val}/NAME.{png,jpg,tif,...}
    data_root/ann_dir/{train,val}/NAME.{png,tif,...}
    data_root/classes.yaml
    ```

    An image and its label map have the same name but for the suffix; subfolders are searched too. A new data set needs
    no class of its own: `classes_file` names its classes.

    Args:
        classes_file: YAML table of classes (see `load_classes`), absolute or relative to `data_root`. It replaces
            `metainfo`'s classes and palette and says which ids or colours of the label maps mean which class.
        class_map: Classes to train with, in the order of their indices, each with the name or names of the data set's
            classes that count as it: `dict(water='water', bare='barren', green=['forest', 'agriculture'])`. Classes
            that are not mentioned are ignored. A new class has the colour of the first one that counts as it. None
            stands for a class that has no counterpart in this data set: it keeps its index and gets a grey; an
            evaluation counts its predictions as errors of the labelled classes and leaves it out of the means. It may
            also be a list of pairs, which a written configuration has: MMEngine sorts the keys of a dict.
        reduce_zero_label: Whether 0 in the label maps is ignored and 1 is the first class. By default what the class
            says, `ZERO_IS_IGNORED`.
        rare_class_sampling: Settings of `RareClassSampling`, for a loader with a `RareClassSampler`.
        img_suffix: Suffix or suffixes of the images. By default everything that GDAL commonly reads.
        seg_map_suffix: The same for the label maps.
        only: Names of the images that the data set has, with or without suffix; or a folder, for those that have a file
            of their name in it, which may be the label maps' own.
        leave_out: Names of images that it does not have, likewise.
        draw: `dict(number=5, seed=0)`: so many of its images, drawn at random. Those of a smaller number are among
            those of a larger number.
        **kwargs: As in mmseg's `BaseSegDataset`. Where `data_prefix` has no `seg_map_path`, there are no labels.

    Raises:
        DataError: A folder, `ann_file`, `classes_file`, an image that is named, or the label map of an image is
            missing; `ann_file` is no text; there are no images, fewer than are drawn, two of one name, or none that
            holds data.
        ConfigError: `class_map` names a class that the data set lacks, or one twice; or another argument cannot work.
    """

    #: Whether 0 in the label maps stands for no class, which is the default of `reduce_zero_label`.
    ZERO_IS_IGNORED = False

    def __init__(
        self,
        *,
        classes_file: str | None = None,
        class_map: Mapping[str, str | Sequence[str] | None] | None = None,
        rare_class_sampling: Mapping[str, Any] | None = None,
        img_suffix: str | Sequence[str] | None = None,
        seg_map_suffix: str | Sequence[str] | None = None,
        only: str | Sequence[str] | None = None,
        leave_out: str | Sequence[str] = (),
        draw: Mapping[str, Any] | None = None,
        metainfo: dict | None = None,
        data_root: str | None = None,
        reduce_zero_label: bool | None = None,
        **kwargs: Any,
    ) -> None:
        for name, text in dict(classes_file=classes_file, data_root=data_root, ann_file=kwargs.get('ann_file')).items():
            require_text(self, name, text)
        for name, texts in dict(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix).items():
            require_text(self, name, texts, several=True)
        own, ignored = type(self).__name__, kwargs.get('ignore_index', IGNORE_INDEX)
        expected = f'{IGNORE_INDEX}, which pixels without label have here (leave it out),'
        require(ignored == IGNORE_INDEX, f'{own}: ignore_index', ignored, expected)
        for name, names in dict(only=only, leave_out=leave_out or None).items():
            require_text(self, name, names, several=True)
        for name, mapping in dict(metainfo=metainfo, rare_class_sampling=rare_class_sampling, draw=draw).items():
            require(mapping is None or isinstance(mapping, Mapping), f'{own}: {name}', mapping, 'dict(...)')
        require_text(self, 'metainfo.classes', (metainfo or {}).get('classes'), several=True)
        self._only, self._leave_out, self._draw = only, leave_out, draw
        self._index_of_id: dict[int, int] | None = None
        # For masks in colours: an id of each colour's class, None if the class is ignored; and whether masks of one
        # band hold colours.
        self._id_of_colour: dict[Colour, int | None] = {}
        self._by_colour = False
        self.label_map: dict[int, int] | None
        if classes_file is not None:
            table = load_classes(os.path.join(data_root or '', classes_file))
            metainfo = {**(metainfo or {}), 'classes': table.names, 'palette': table.palette}
            self._index_of_id, self._by_colour = table.index_of_id, table.by_colour
            ids = {c: None if c.ignore else (*c.ids, table.training_index(c))[0] for c in table.classes}
            self._id_of_colour = {colour: ids[c] for c in table.classes for colour in c.colours}
        if unknown := set(rare_class_sampling or ()) - {'temperature', 'min_pixels'}:
            raise ConfigError(
                f'rare_class_sampling has {", ".join(sorted(unknown))}; temperature and min_pixels were expected'
            )
        self._rare_class_settings = rare_class_sampling
        self._rare_classes: RareClassSampling | None = None
        super().__init__(
            img_suffix=_as_tuple(img_suffix),
            seg_map_suffix=_as_tuple(seg_map_suffix),
            metainfo=metainfo,
            data_root=data_root,
            reduce_zero_label=self.ZERO_IS_IGNORED if reduce_zero_label is None else reduce_zero_label,
            **kwargs,
        )
        guard_eight_bit(self.pipeline)
        if class_map is not None:
            self._map_classes(class_map)

    def _map_classes(self, class_map: Mapping[str, str | Sequence[str] | None]) -> None:
        """Replaces the classes by those of a class map."""
        own = list(self._metainfo.get('classes') or ())
        class_map = _checked_class_map(class_map)
        members = {new: class_members(old) for new, old in class_map.items()}
        named = [name for names in members.values() for name in names]
        unknown = sorted(set(named) - set(own))
        if unknown:
            raise ConfigError(
                f'class_map of {type(self).__name__} names {", ".join(unknown)}, which the data set does not have. Its '
                f'classes are {", ".join(own) or "not known: give metainfo or classes_file"}.'
            )
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigError(f'class_map of {type(self).__name__} names {", ".join(twice)} twice.')
        index_of = {old: index for index, names in enumerate(members.values()) for old in names}
        new_index = [index_of.get(name, IGNORE_INDEX) for name in own]
        absent = [new for new, names in members.items() if not names]
        greys = iter([_LIGHTEST_GREY * (i + 1) // len(absent)] * 3 for i in range(len(absent)))
        palette = [
            self._metainfo['palette'][own.index(names[0])] if names else next(greys) for names in members.values()
        ]
        self._reindex(new_index, tuple(members), palette)
        if absent:
            self._metainfo['no_counterpart'] = tuple(absent)
        ignored = [name for name in own if name not in index_of]
        rows = [*members.items(), *([('ignored', ignored)] if ignored else [])]
        print_log(
            f'classes of {type(self).__name__} {self.data_root or ""}: '
            + '; '.join(f'{new} <- {", ".join(names) or "no counterpart"}' for new, names in rows),
            logger='current',
        )

    def _reindex(self, new_index: Sequence[int], classes: tuple[str, ...], palette: Sequence[Any]) -> None:
        """Replaces the classes, where `new_index` says what becomes of each index."""
        before: dict[int, int] = (
            self._index_of_id or self.label_map or {index: index for index in range(len(new_index))}
        )
        self.label_map = {
            value: IGNORE_INDEX if index == IGNORE_INDEX else new_index[index] for value, index in before.items()
        }
        self._index_of_id = None
        self._metainfo.update(classes=classes, palette=palette, label_map=self.label_map)

    def order_classes(self, classes: Sequence[str]) -> None:
        """Counts the same classes in another order, in labels, names and palette; see `match_classes`.

        Raises:
            ValueError: They are others, which `match_classes` has made sure of.
        """
        own, palette = list(self._metainfo['classes']), self._metainfo['palette']
        self._reindex(
            [tuple(classes).index(name) for name in own], tuple(classes), [palette[own.index(name)] for name in classes]
        )
        self._rare_classes = None  # counted by index

    @property
    def _index_of_colour(self) -> dict[Colour, int]:
        """Training index by colour."""
        index_of_id = self._index_of_id or self.label_map or {}
        return {c: IGNORE_INDEX if value is None else index_of_id[value] for c, value in self._id_of_colour.items()}

    @property
    def rare_classes(self) -> RareClassSampling:
        """What a `RareClassSampler` draws by; counts the pixels of all label maps the first time, which is cached.

        Raises:
            ConfigError: The data set has no `rare_class_sampling`, or no labels.
        """
        if self._rare_class_settings is None:
            raise ConfigError(
                f'{type(self).__name__} {self.data_root or ""} has no rare_class_sampling, which RareClassSampler '
                'needs: set it to dict(), or take another sampler.'
            )
        if self._rare_classes is None:
            if 'seg_map_path' not in self.get_data_info(0):
                raise ConfigError(
                    f'{type(self).__name__} {self.data_root or ""} has no labels to sample rare classes by.'
                )
            counts = class_statistics(self)
            self._rare_classes = RareClassSampling(counts, self._metainfo['classes'], **self._rare_class_settings)
        return self._rare_classes

    def load_data_list(self) -> list[dict]:
        """Pairs images with label maps; see the class for what it raises."""
        img_dir, ann_dir = self.data_prefix['img_path'], self.data_prefix.get('seg_map_path')
        images = self._list('images', img_dir, self.img_suffix)
        if self.ann_file:
            images = self._named(images, self._listed(), f'{self.ann_file} lists')
        images = self._chosen(images)
        if not images:
            others = other_rasters(img_dir, self.img_suffix)
            raise DataError(
                f'No images for {type(self).__name__} in {img_dir}'
                + (f' under the names in {self.ann_file}' if self.ann_file else '')
                + f': files with suffix {", ".join(self.img_suffix)} were expected. '
                + (f'There are {others}: {_ADVICE.format("img")}' if others else 'Has the data set been converted?')
            )
        self._require_data([os.path.join(img_dir, path) for path in images.values()])
        if ann_dir is None:
            return [dict(img_path=os.path.join(img_dir, path)) for path in images.values()]
        labels = self._list('label maps', ann_dir, self.seg_map_suffix)
        missing = [path for stem, path in images.items() if stem not in labels]
        if missing:
            others = other_rasters(ann_dir, self.seg_map_suffix)
            raise DataError(
                f'{len(missing)} of {len(images)} images in {img_dir} have no label map in {ann_dir}: {some(missing)}. '
                f"A label map has the image's name and one of the suffixes {', '.join(self.seg_map_suffix)}."
                + (f' There are {others}: {_ADVICE.format("seg_map")}' if others else '')
            )
        return [
            dict(img_path=os.path.join(img_dir, path), seg_map_path=os.path.join(ann_dir, labels[stem]))
            for stem, path in images.items()
        ]

    def _require_data(self, paths: Sequence[str]) -> None:
        """Raises DataError if no image holds data; the first one mostly does, and no other is looked at then."""
        loader = image_loader(self.pipeline.transforms)
        if loader is None:
            return
        for path in paths:
            try:
                if not read_header(path, find_empty=True, bands=loader.bands).empty:
                    return
            except DataError:  # said where the image is read
                return
        raise DataError(
            f'None of the {len(paths)} images of {type(self).__name__} holds data in the bands that are read: '
            f'{some(paths)} are NaN, nodata or masked throughout. Choose other images or bands.'
        )

    def _list(self, what: str, folder: str, suffixes: Sequence[str]) -> dict[str, str]:
        advice = _ADVICE.format('img' if what == 'images' else 'seg_map')
        if not os.path.isdir(folder):
            raise DataError(
                f'The folder of the {what} for {type(self).__name__} is missing: {folder}. Convert the data set (see '
                'docs/datasets.md) or correct data_root and data_prefix.'
            )
        return list_rasters(folder, suffixes, advice if set(RASTER_SUFFIXES) <= set(suffixes) else None)

    def _listed(self) -> list[str]:
        """The names in `ann_file`, one a line."""
        require_file(self.ann_file, 'a list of image names')
        try:
            with open(self.ann_file, encoding='utf-8-sig') as file:
                return [line.strip() for line in file if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f'{self.ann_file} is no text: {error}. A list of image names was expected') from error

    def _chosen(self, images: dict[str, str]) -> dict[str, str]:
        """What `only`, `leave_out` and `draw` leave of the images."""
        left_out = self._named(images, self._names(self._leave_out), 'leave_out names') if self._leave_out else {}
        if self._only is not None:
            images = self._named(images, self._names(self._only), 'only names')
        images = {stem: path for stem, path in images.items() if stem not in left_out}
        if self._draw is None:
            return images
        number, seed = self._draw.get('number', 0), self._draw.get('seed')
        require_number('draw.number', number, at_least=1, unit='images', whole=True)
        require_number('draw.seed (randomness.seed of a run)', seed, at_least=0, whole=True)
        if number > len(images):
            raise DataError(f'{number} images were to be drawn of the {len(images)} in {self.data_prefix["img_path"]}')
        stems = np.random.default_rng(seed).permutation(list(images))[:number]
        drawn = sorted(stems.tolist())
        print_log(f'{type(self).__name__} {self.data_root or ""}: drawn by seed {seed}: {some(drawn, 20)}', 'current')
        return {stem: images[stem] for stem in drawn}

    def _names(self, given: str | Sequence[str]) -> Iterable[str]:
        if not isinstance(given, str):
            return given
        return list_rasters(given, sorted({*self.img_suffix, *self.seg_map_suffix}, key=len, reverse=True))

    def _named(self, images: dict[str, str], names: Iterable[str], who: str) -> dict[str, str]:
        """The images of these names, with or without suffix."""
        stem_of = {**{path: stem for stem, path in images.items()}, **{stem: stem for stem in images}}
        missing = [name for name in names if name not in stem_of]
        if missing:
            raise DataError(
                f'{who} {len(missing)} images that are not in {self.data_prefix["img_path"]}: {some(missing)}'
            )
        return {stem: images[stem] for stem in (stem_of[name] for name in names)}

    def get_data_info(self, idx: int) -> dict:
        """Paths of one sample and what the loading transforms need to know about the labels."""
        info = super().get_data_info(idx)
        info.update(
            seg_fields=[],
            reduce_zero_label=self.reduce_zero_label,
            label_map=self._index_of_id or self.label_map,
            label_colours=self._index_of_colour,
            by_colour=self._by_colour,
            classes=self._metainfo.get('classes'),
        )
        if self._rare_classes is not None:
            info['rare_class_weights'] = self._rare_classes.weights[idx]
        return info


def _checked_class_map(class_map: Any) -> Mapping[str, str | Sequence[str] | None]:
    if isinstance(class_map, (list, tuple)) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in class_map):
        class_map = dict(class_map)
    is_map = isinstance(class_map, Mapping) and bool(class_map)
    require(is_map, 'class_map', class_map, 'dict(new_class=own_class or list of them, ...)')
    expected = "the name of one of the data set's classes, a list of names, or None for a class without counterpart"
    for new, old in class_map.items():
        require(old is None or is_text(old, several=True), f'class_map: {new}', old, expected)
    if all(old is None for old in class_map.values()):
        raise ConfigError(f'class_map has no counterpart for any of {", ".join(class_map)}; at least one was expected')
    return class_map


def class_members(old: str | Sequence[str] | None) -> list[str]:
    """The data set's own classes that a value of a `class_map` names."""
    return [old] if isinstance(old, str) else list(old or ())


def _as_tuple(suffix: str | Sequence[str] | None) -> tuple[str, ...]:
    if suffix is None:
        return RASTER_SUFFIXES
    return (suffix,) if isinstance(suffix, str) else tuple(suffix)
