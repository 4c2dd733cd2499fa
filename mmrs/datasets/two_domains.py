"""What data sets of a source and a target have in common."""

import copy
from typing import Any

from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from mmrs.datasets.class_names import class_names, difference, match_classes, same_names
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, UserError


class TwoDomainDataset(Dataset):
    """A source and a target data set.

    Args:
        source: A data set, or its configuration. A data set that can do without has None.
        target: The same.
        labelled: The same, of labelled images of the target.

    Raises:
        DataError: A file or folder is missing or cannot be read, or one of them has no images.
        ConfigError: One of them cannot be built, or both name classes and the names differ.
    """

    def __init__(self, source: Any, target: Any, labelled: Any = None) -> None:
        self.source: Any = _build(source, 'source')
        self.labelled: Any = _build(labelled, 'labelled')
        self.target: Any = _build(target, 'target')
        self._fully_initialized = False
        self._check_classes()
        if all(getattr(part, '_fully_initialized', True) for part in self.parts.values()):
            self.full_init()

    @property
    def parts(self) -> dict[str, Any]:
        """Those that there are, by their names."""
        found = dict(source=self.source, labelled=self.labelled, target=self.target)
        return {name: part for name, part in found.items() if part is not None}

    def full_init(self) -> None:
        """Lists the files of both data sets and checks them."""
        if self._fully_initialized:
            return
        for name, part in self.parts.items():
            try:
                part.full_init()
            except (OSError, ValueError) as error:
                raise _about(name, error) from error
            if len(part) == 0:
                raise DataError(f'The {name} data set {type(part).__name__} has no images.')
        self._check_files()
        self._fully_initialized = True

    def _check_files(self) -> None:
        """What a data set has to say about the files that were listed."""

    def _check_classes(self) -> None:
        # In any order: no label of an unlabelled target is read.
        source, target = class_names(self.source), class_names(self.target)
        if source and target and not same_names(source, target):
            raise ConfigError(
                f'Source and target differ in their classes: {", ".join(source)} and {", ".join(target)} '
                f'({difference(source, target)}). Adaptation needs the same classes; adapt the metainfo or the '
                'classes_file of one, or map them with class_map.'
            )
        if self.labelled is not None:
            whose = 'the source' if self.source is not None else 'the target'
            match_classes(self.labelled, source or target, 'train_dataloader.dataset.labelled', whose)

    @property
    def metainfo(self) -> dict:
        """The source's meta information, or without a source that of the labelled images of the target."""
        return copy.deepcopy(next(iter(self.parts.values())).metainfo)


def without_labels(dataset: dict | BaseDataset) -> dict | BaseDataset:
    """A configuration without its label path, through any wrappers of data sets; a data set stays as it is."""
    if not isinstance(dataset, dict):
        return dataset
    config = copy.deepcopy(dataset)
    if 'dataset' in config:
        config['dataset'] = without_labels(config['dataset'])
    elif 'datasets' in config:
        config['datasets'] = [without_labels(part) for part in config['datasets']]
    else:
        prefix = config.get('data_prefix', dict(img_path=''))
        config['data_prefix'] = {key: value for key, value in prefix.items() if key != 'seg_map_path'}
    return config


def _build(dataset: Any, name: str) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    try:
        return DATASETS.build(dataset)
    except (OSError, ValueError) as error:
        raise _about(name, error) from error


def _about(name: str, error: Exception) -> Exception:
    """The same error with the domain's name in front; the configuration's fault if another package raised it."""
    kind = type(error) if isinstance(error, UserError) else ConfigError
    return kind(f'The {name} data set: {error}')
