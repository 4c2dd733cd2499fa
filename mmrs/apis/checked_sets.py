"""What there is to check: the data sets of a configuration, or those in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope

from mmrs.apis.statistics import applies_scale, domain_leaves, loaded_bands, loading, without_labels
from mmrs.checks.findings import CheckedSet
from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.paired import PairedDataset
from mmrs.datasets.raster_dataset import RasterDataset
from mmrs.geo.classes import IGNORE_INDEX, ClassTable, load_classes
from mmrs.geo.folders import CONVERT, RASTER_SUFFIXES, files_by_stem, other_rasters
from mmrs.geo.labels import training_indices
from mmrs.registry import DATASETS
from mmrs.utils.config import look_up
from mmrs.utils.config_types import check_types
from mmrs.utils.errors import ConfigError, DataError

__all__ = ['config_pairs', 'config_sets', 'folder_sets']

_ROLES = ('train', 'val', 'test')


def config_sets(config: Config) -> list[CheckedSet]:
    """The data sets of a configuration, each once; what is wrong with their folders and lists is among their findings.

    Raises:
        ConfigError: The configuration has no data set, or an unknown type.
    """
    check_types(config, model=False)
    found: dict[tuple, tuple[list[str], CheckedSet]] = {}
    adapted = False
    for role in _ROLES:
        dataset = (config.get(f'{role}_dataloader') or {}).get('dataset')
        if not dataset:
            continue
        domains, is_paired = domain_leaves(dataset), any(_paired(dataset))
        adapted |= len(domains) == 2
        for domain, own in domains.items():
            for i, leaf in enumerate(own, 1):
                name = ' '.join(filter(None, (role, domain, str(i) if len(own) > 1 else '')))
                if domain == 'target' or is_paired:
                    leaf = without_labels(leaf)
                settings = sorted((k, str(v)) for k, v in leaf.items() if k not in ('pipeline', 'test_mode'))
                key = (role == 'train', domain, repr(settings))
                if key in found:
                    found[key][0].append(name)
                    continue
                # Evaluation is on the target, where there are two domains.
                checked = _config_set(leaf, name, domain or ('target' if adapted else ''), role)
                checked.is_paired = is_paired
                found[key] = ([name], checked)
    if not found:
        raise ConfigError(
            f'config {config.filename}: no train_dataloader, val_dataloader or test_dataloader with a dataset'
        )
    for names, checked in found.values():
        checked.rename(', '.join(names))
    return [checked for _, checked in found.values()]


def config_pairs(config: Config) -> dict[str, PairedDataset | str]:
    """The data sets of pairs in a configuration by name, each once; why, where one cannot be built."""
    found: dict[str, tuple[str, PairedDataset | str]] = {}
    for role in _ROLES:
        own = list(_paired((config.get(f'{role}_dataloader') or {}).get('dataset') or {}))
        for i, part in enumerate(own, 1):
            name = f'{role} {i}' if len(own) > 1 else role
            if repr(part) in found:
                found[repr(part)] = f'{found[repr(part)][0]}, {name}', found[repr(part)][1]
                continue
            try:
                # Pipelines are built by MMEngine, which has to be told the scope.
                with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmrs')):
                    dataset = DATASETS.build(part)
                dataset.full_init()
                found[repr(part)] = name, dataset
            except (OSError, ValueError, TypeError) as error:
                found[repr(part)] = name, str(error)
    return dict(found.values())


def _paired(dataset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Configurations of data sets of pairs, inside any wrappers."""
    kind = look_up(DATASETS, dataset.get('type', ''))
    if isinstance(kind, type) and issubclass(kind, PairedDataset):
        yield dataset
    elif 'dataset' in dataset:
        yield from _paired(dataset['dataset'])
    else:
        for part in dataset.get('datasets', ()):
            yield from _paired(part)


def _config_set(leaf: dict[str, Any], name: str, domain: str, role: str) -> CheckedSet:
    result = CheckedSet(name, domain, role)
    try:
        result.bands = loaded_bands(leaf)
    except ConfigError:  # another loader: its bands are its own affair
        result.bands = None
    result.apply_scale = applies_scale(leaf)
    dataset = None
    try:
        dataset = DATASETS.build({**leaf, 'pipeline': loading(leaf), 'lazy_init': True, 'serialize_data': False})
        if _lists_pairs(dataset):
            # The same list, but with what is missing among the findings instead of an error.
            pairs = list(_listed(dataset, result))
            dataset.load_data_list = lambda: pairs
        dataset.full_init()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        result.find('unusable_data_set', found=str(error))
        if isinstance(dataset, RasterDataset) and os.path.isdir(dataset.data_prefix['img_path']):
            # It stops at the first thing that is wrong. Images are looked at without it; labels may be on other grids.
            result.samples = [(pair['img_path'], None) for pair in _listed(dataset, result)]
            result.is_labelled = 'seg_map_path' in dataset.data_prefix
        return result
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    result.samples = list(dict.fromkeys((info['img_path'], info.get('seg_map_path')) for info in infos))
    result.is_labelled = any(label is not None for _, label in result.samples) or 'seg_map_path' in dataset.data_prefix
    result.classes = tuple(dataset.metainfo.get('classes') or ())
    result.palette = dataset.metainfo.get('palette') or ()
    if infos and result.classes:
        result.index_of_value = training_indices(infos[0])
        result.index_of_colour = infos[0].get('label_colours') or {}
        result.by_colour = infos[0].get('by_colour', False)
    if infos and 'window' in infos[0]:
        result.dataset = dataset
        _find_others(result, dataset.data_prefix['img_path'], dataset.img_suffix)
        _find_others(result, dataset.data_prefix.get('seg_map_path'), dataset.seg_map_suffix)
    published = getattr(dataset, 'published_images', None)
    if published is not None and 0 < len(infos) < published:
        folder = dataset.data_prefix['img_path']
        result.find('incomplete', folder, found=f'{len(infos)} images', expected=f'{published}')
    return result


def _lists_pairs(dataset: BaseDataset) -> bool:
    """Whether a data set pairs files as `RemoteSensingDataset` does; one that a user has written may do otherwise."""
    if not isinstance(dataset, RemoteSensingDataset) or isinstance(dataset, RasterDataset):
        return False
    lister = next(kind for kind in type(dataset).__mro__ if 'load_data_list' in vars(kind))
    return lister.__module__.startswith('mmrs.')


def _listed(dataset: RemoteSensingDataset, result: CheckedSet) -> Iterator[dict[str, str]]:
    """Pairs of a data set in the standard layout, as `load_data_list` returns them."""
    prefix, names = dataset.data_prefix, None
    if dataset.ann_file:
        if not os.path.isfile(dataset.ann_file):
            result.find('missing_image', dataset.ann_file, found='no such file', expected='a list of image names')
            return
        with open(dataset.ann_file, encoding='utf-8') as file:
            names = [line.strip() for line in file if line.strip()]
    labels = prefix.get('seg_map_path')
    if labels is not None and os.path.isfile(labels):
        labels = None  # one file for all images, of a `RasterDataset`
    for image, label in _pairs(result, prefix['img_path'], labels, dataset.img_suffix, dataset.seg_map_suffix, names):
        yield dict(img_path=image) if label is None else dict(img_path=image, seg_map_path=label)


def _pairs(
    result: CheckedSet,
    image_folder: str,
    label_folder: str | None,
    image_suffixes: Sequence[str],
    label_suffixes: Sequence[str],
    names: Sequence[str] | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Images below a folder with their label maps, None where one is missing; adds findings about both folders.

    Args:
        result: Gets the findings.
        image_folder: The folder.
        label_folder: That of the label maps; None for a data set without labels.
        image_suffixes: Ends of the images' names.
        label_suffixes: Ends of the label maps' names.
        names: Which images, with or without suffix; all by default.
    """
    for folder in (image_folder, label_folder):
        if folder is not None and not os.path.isdir(folder):
            result.find('missing_folder', folder)
    images, labels = (
        {
            stem: [os.path.join(folder, path) for path in paths]
            for stem, paths in files_by_stem(folder, kinds)[0].items()
        }
        for folder, kinds in ((image_folder, image_suffixes), (label_folder or '', label_suffixes))
    )
    for paths in [*images.values(), *labels.values()]:
        if len(paths) > 1:
            result.find('same_name', *paths)
    if names is None:
        for stem in sorted(labels.keys() - images.keys()):
            result.find('label_without_image', labels[stem][0])
    else:
        stem_of = {os.path.relpath(path, image_folder): stem for stem, (path, *_) in images.items()}
        for name in names:
            if name not in images and name not in stem_of:
                result.find('missing_image', os.path.join(image_folder, name))
        stems = [stem_of.get(name, name) for name in names]
        images = {stem: images[stem] for stem in stems if stem in images}
    if not images and os.path.isdir(image_folder):
        result.find('no_images', image_folder, expected=f'files with suffix {", ".join(image_suffixes)}')
    _find_others(result, image_folder, image_suffixes)
    _find_others(result, label_folder, label_suffixes)
    for stem, (path, *_) in images.items():
        label = labels.get(stem, [None])[0]
        if label is None and label_folder is not None and os.path.isdir(label_folder):
            result.find('missing_label', path, expected=os.path.join(label_folder, stem) + '.*')
        yield path, label


def _find_others(result: CheckedSet, folder: str | None, suffixes: Sequence[str]) -> None:
    """Adds a finding about the files that a folder, where one is searched, is not searched for."""
    if folder is not None and set(RASTER_SUFFIXES) <= set(suffixes) and (others := other_rasters(folder, suffixes)):
        result.find('other_formats', folder, found=others, expected=f'files with suffix {", ".join(suffixes)}')


def folder_sets(
    path: Path,
    labels: str | Path | None = None,
    classes: ClassTable | None = None,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
) -> list[CheckedSet]:
    """The data sets in a folder: one for each split of the standard layout, or one of all images.

    Args:
        path: The folder.
        labels: Folder of the label maps, unless in the standard layout.
        classes: Table of classes; by default `classes.yaml` in the folder, if it is there.
        image_suffix: Suffix of the images; all usual ones by default.
        label_suffix: Suffix of the label maps, likewise.

    Raises:
        ConfigError: `labels` is given for a folder in the standard layout.
        DataError: There are no such folders, or no images.
    """
    for folder in (path, labels):
        if folder is not None and not Path(folder).is_dir():
            raise DataError(f'{folder}: no such folder; a configuration (.py) or a folder of images was expected')
    images = path / 'img_dir'
    if images.is_dir():
        if labels is not None:
            raise ConfigError(f'{path} is in the standard layout, whose labels are in ann_dir; leave out --labels')
        if classes is None and (path / 'classes.yaml').is_file():
            classes = load_classes(path / 'classes.yaml')
        splits = sorted(entry.name for entry in os.scandir(images) if entry.is_dir()) or ['']
        folders = {split: (images / split, path / 'ann_dir' / split) for split in splits}
        # A split without a folder of labels is an unlabelled one.
        pairs = {split: (image, label if label.is_dir() else None) for split, (image, label) in folders.items()}
    else:
        pairs = {'': (path, None if labels is None else Path(labels))}
    sets = []
    for split, (image_folder, label_folder) in pairs.items():
        role = next((role for role in _ROLES if split.lower().startswith(role)), '')
        result = CheckedSet(split or 'images', str(path), role)
        result.is_labelled = label_folder is not None
        if classes is not None:
            result.classes, result.palette = classes.names, classes.palette
            result.index_of_value = {255: IGNORE_INDEX, **classes.index_of_id}
            result.index_of_colour, result.by_colour = classes.index_of_colour, classes.by_colour
        suffixes = [(suffix,) if suffix else RASTER_SUFFIXES for suffix in (image_suffix, label_suffix)]
        label_path = None if label_folder is None else str(label_folder)
        result.samples = list(_pairs(result, str(image_folder), label_path, *suffixes))
        sets.append(result)
    if not any(own.samples for own in sets):
        others = '' if image_suffix else other_rasters(path)
        raise DataError(
            f'{path} holds no images with suffix {image_suffix or ", ".join(RASTER_SUFFIXES)}: a configuration (.py), '
            'a folder in the standard layout (img_dir, ann_dir) or a folder of images was expected'
            + (f'. It has {others}: {CONVERT}, or name their suffix' if others else '')
        )
    return sets
