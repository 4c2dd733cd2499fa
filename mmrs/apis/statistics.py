"""Mean and standard deviation of the training images, for the data preprocessor."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from rich.table import Table

from mmrs.datasets.transforms import LoadRasterImage
from mmrs.geo.folders import CONVERT, RASTER_SUFFIXES, list_rasters, other_rasters
from mmrs.geo.statistics import band_statistics
from mmrs.geo.statistics_bands import BandStatistics
from mmrs.install import install
from mmrs.registry import DATASETS, TRANSFORMS
from mmrs.utils.config import load_config, look_up
from mmrs.utils.config_types import check_types
from mmrs.utils.errors import ConfigError, DataError

__all__ = [
    'applies_scale',
    'build_images',
    'domain_leaves',
    'domain_statistics',
    'fill_statistics',
    'leaves',
    'loaded_bands',
    'loader',
    'loading',
    'preprocessor_settings',
    'statistics_table',
    'steps_between',
    'training_domains',
    'without_labels',
]

_SETTINGS = ('mean', 'std', 'source_mean', 'source_std')


def leaves(dataset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The configurations of the data sets inside any wrappers (`ConcatDataset`, `RepeatDataset`)."""
    if 'dataset' in dataset:
        yield from leaves(dataset['dataset'])
    elif 'datasets' in dataset:
        for part in dataset['datasets']:
            yield from leaves(part)
    else:
        yield copy.deepcopy(dict(dataset))


def domain_leaves(dataset: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Single data sets' configurations by domain, `source` and `target`; under an empty name if there is one domain.

    There may be no source where the target has labelled images, which are not counted twice.
    """
    if 'source' in dataset and 'target' in dataset:
        return {domain: list(leaves(dataset[domain])) for domain in ('source', 'target') if dataset[domain]}
    found: dict[str, list[dict[str, Any]]] = {}
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    for part in [] if inner is None else inner:
        for domain, own in domain_leaves(part).items():
            found.setdefault(domain, []).extend(own)
    return {'': list(leaves(dataset))} if inner is None else found


def training_domains(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Configurations of the training data sets by domain: `source` and `target`, or `train` where there is one domain.

    Raises:
        ConfigError: The configuration has no `train_dataloader`.
    """
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if not dataset:
        raise ConfigError(
            f'config {config.filename}: there is no train_dataloader.dataset, whose images statistics could be taken of'
        )
    return {domain or 'train': parts for domain, parts in domain_leaves(dataset).items()}


def loaded_bands(dataset: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Numbers of the bands that the pipeline of a data set's configuration reads; None for all.

    Raises:
        ConfigError: Its pipeline has no `LoadRasterImage`.
    """
    pipeline, step = dataset.get('pipeline') or (), loader(dataset)
    if step is None:
        raise ConfigError(
            f'the pipeline of {dataset.get("type")} {dataset.get("data_root", "")} has no LoadRasterImage (it has '
            f'{", ".join(str(step["type"]) for step in pipeline) or "nothing"}), so its bands are not known; other '
            'loaders may change their order'
        )
    bands = step.get('bands')
    return None if bands is None else tuple(bands)


def applies_scale(dataset: Mapping[str, Any]) -> bool:
    """Whether the pipeline of a data set's configuration applies the scale and offset that files give."""
    return bool((loader(dataset) or {}).get('apply_scale', False))


def loading(dataset: Mapping[str, Any]) -> list[BaseTransform]:
    """Of the pipeline of a data set's configuration, what loads the images; nothing where that is no loader of ours."""
    step = loader(dataset)
    return [] if step is None else [TRANSFORMS.build(dict(step))]


def steps_between(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of the pipeline of a data set's configuration, the steps that neither load nor pack."""
    steps = dataset.get('pipeline') or ()
    return [dict(step) for step in steps if not str(step['type']).split('.')[-1].startswith(('Load', 'Pack'))]


def loader(dataset: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The step of a data set's configuration that loads images, if it is a `LoadRasterImage`."""
    pipeline = dataset.get('pipeline') or ()
    kinds = ((step, look_up(TRANSFORMS, step.get('type'))) for step in pipeline)
    return next((step for step, kind in kinds if isinstance(kind, type) and issubclass(kind, LoadRasterImage)), None)


def without_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a data set without the path of its labels."""
    prefix = {key: value for key, value in dataset.get('data_prefix', {}).items() if key != 'seg_map_path'}
    return {**dataset, 'data_prefix': prefix or dict(img_path='')}


def build_images(dataset: Mapping[str, Any]) -> BaseDataset:
    """Builds a data set without labels, with what loads its images alone as its pipeline."""
    return DATASETS.build({**without_labels(dataset), 'pipeline': loading(dataset), 'lazy_init': False})


def _merge(parts: Mapping[str, BandStatistics]) -> BandStatistics:
    first, *others = parts
    for name in others:
        if len(parts[name].count) != len(parts[first].count):
            raise DataError(
                f'{name} has {len(parts[name].count)} bands, but {first} has {len(parts[first].count)}: choose the '
                'same bands of both with LoadRasterImage(bands=...)'
            )
    return BandStatistics.merge(list(parts.values()))


def domain_statistics(
    paths: Sequence[str | Path],
    bands: Sequence[int] | None = None,
    workers: int | None = None,
    cache: bool = True,
) -> dict[str, BandStatistics]:
    """Statistics of one configuration's training domains, or of folders.

    Args:
        paths: One configuration, or one or more rasters or folders: of images, or in the standard layout, of which
            `img_dir/train` counts if there is one.
        bands: Numbers of the bands, from 1; by default those that the configuration loads, or all.
        workers: Number of threads; one per processor by default.
        cache: Whether to keep the numbers of each file and to read only files that have changed.

    Returns:
        Statistics by domain: `source` and `target`, or `train`; for folders their names.

    Raises:
        ConfigError: Configurations and folders are mixed, a folder is given twice, or a configuration has no training
            data set.
        DataError: There are no images, one cannot be read, or their numbers of bands differ.
    """
    install()
    if len(paths) == 1 and Path(paths[0]).suffix == '.py':
        config = load_config(paths[0])
        check_types(config, model=False)
        domains = training_domains(config)
        return {domain: _of_domain(parts, bands, workers, cache) for domain, parts in domains.items()}
    if any(Path(path).suffix == '.py' for path in paths):
        raise ConfigError('one configuration was expected, or one or more folders')
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError('the same folder was given twice')
    common = os.path.commonpath([Path(path).resolve().parent for path in paths])
    return {
        os.path.relpath(Path(path).resolve(), common): band_statistics(_images(Path(path)), bands, workers, cache)
        for path in paths
    }


def _images(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for folder in (path / 'img_dir' / 'train', path / 'img_dir'):
        if folder.is_dir():
            path = folder
            break
    advice = f'name them one by one, or {CONVERT}'
    found = list_rasters(path, advice=advice)
    if not found:
        others = other_rasters(path)
        raise DataError(
            f'{path} holds no images with suffix {", ".join(RASTER_SUFFIXES)}{others and f", but {others}: {advice}"}'
        )
    return [path / name for name in found.values()]


def _of_domain(
    parts: Sequence[Mapping[str, Any]], bands: Sequence[int] | None, workers: int | None, cache: bool
) -> BandStatistics:
    measured: dict[str, BandStatistics] = {}
    for i, part in enumerate(parts, 1):
        own = loaded_bands(part) if bands is None else bands
        name = f'data set {i}, {part.get("type")} {part.get("data_root", "")}'
        measured[name] = band_statistics(build_images(part), own, workers, cache, apply_scale=applies_scale(part))
    return _merge(measured)


def preprocessor_settings(domains: Mapping[str, BandStatistics]) -> dict[str, list[float]]:
    """`mean` and `std`, and `source_mean` and `source_std` where there are two domains, in six digits.

    Args:
        domains: One domain, or source and target in this order.

    Raises:
        DataError: A band has no valid pixel or is constant, so that it cannot be normalised.
    """
    *sources, (_, target) = domains.items()
    settings = _mean_and_std('', 'target' if sources else 'train', target)
    for name, source in sources:
        settings.update(_mean_and_std('source_', name, source))
    return settings


def _mean_and_std(prefix: str, domain: str, statistics: BandStatistics) -> dict[str, list[float]]:
    if not statistics.count.any():
        raise DataError(
            f'{domain}: no pixel of its images has data in all bands that are loaded, so they cannot be normalised; '
            'look at the files with tools/check_dataset.py'
        )
    unusable = np.flatnonzero(~(statistics.std > 0))
    if unusable.size:
        i = unusable[0]
        found = f'is {statistics.mean[i]:g} everywhere' if statistics.count[i] else 'has no valid pixel'
        raise DataError(
            f'{domain}: band {i + 1} of those that are loaded {found}, so it cannot be normalised. Leave it out with '
            'LoadRasterImage(bands=...), or look at the files with tools/check_dataset.py'
        )
    values = dict(mean=statistics.mean, std=statistics.std)
    return {prefix + name: [float(f'{number:.6g}') for number in value] for name, value in values.items()}


def fill_statistics(config: Config) -> None:
    """Puts numbers where a configuration's `model.data_preprocessor` says `'auto'`, in place.

    `mean` and `std` become those of the target's training images, or of the only training data set; `source_mean` and
    `source_std` become those of the source's. Labels are not looked at. The numbers are computed once and cached.

    Raises:
        ConfigError: There is no training data set, or no source, to take them from.
        DataError: An image cannot be read, or they have different bands, or one that is constant.
    """
    preprocessor = (config.get('model') or {}).get('data_preprocessor') or {}
    wanted = [name for name in _SETTINGS if preprocessor.get(name) == 'auto']
    if not wanted:
        return
    check_types(config, model=False)
    domains = training_domains(config)
    for prefix in ('', 'source_'):
        names = [name for name in wanted if name in (f'{prefix}mean', f'{prefix}std')]
        if not names:
            continue
        domain = 'source' if prefix else ('target' if 'target' in domains else 'train')
        if domain not in domains:
            raise ConfigError(
                f'model.data_preprocessor.{names[0]} is "auto", but train_dataloader.dataset has no source and target; '
                f'leave {names[0]} out'
            )
        settings = _mean_and_std(prefix, domain, _of_domain(domains[domain], None, None, cache=True))
        for name in names:
            preprocessor[name] = settings[name]
            print_log(f'data_preprocessor.{name} = {settings[name]}, from the {domain} images', logger='current')


def statistics_table(domains: Mapping[str, BandStatistics]) -> Table:
    """A table for the terminal, one row for each band of each domain."""
    table = Table(title='Bands', title_justify='left')
    for heading in (
        'domain',
        'band',
        'valid Mpx',
        'mean',
        'std',
        'minimum',
        '2 %',
        'median',
        '98 %',
        'maximum',
        'type',
    ):
        table.add_column(heading, justify='left' if heading in ('domain', 'type') else 'right', no_wrap=True)
    for domain, statistics in domains.items():
        low, median, high = (statistics.quantile(share) for share in (0.02, 0.5, 0.98))
        columns = (statistics.mean, statistics.std, statistics.minimum, low, median, high, statistics.maximum)
        for i, numbers in enumerate(zip(*columns)):
            name, dtypes = (domain, ', '.join(statistics.dtypes)) if not i else ('', '')
            row = [f'{statistics.count[i] / 1e6:.3f}', *(f'{number:.5g}' for number in numbers)]
            table.add_row(name, str(i + 1), *row, dtypes, end_section=i == len(statistics.count) - 1)
    return table
