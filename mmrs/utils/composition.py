"""Configurations on four axes: what task, network, method and schedule become a configuration of MMEngine.

Each axis is a file, and has keys of its own, which nothing but :func:`fold` reads:

- task (`configs/_base_/tasks/NAME.py`): the data loaders, and `task`: what follows from the data. `num_classes`,
  `data_preprocessor` and any values that the others ask for by `'task.NAME'`; `source_labels` and `target_labels`: what
  training on one domain's labels changes in the loaders, where the training data set does not have them.
- network (`_base_/networks/NAME.py`): `network`, a model without a method in it, and its `default_schedule`.
- method (`METHOD/method.py`): `adaptor`, what the method makes of a network (None: nothing); `optim_parts`, its parts
  with an optimizer of their own; `trains_on`, the domain of whose labels alone it learns; `streams`, what a batch has,
  of `source`, `labelled` (images of the target) and `target`, where that is not source and target;
  `without_labels`, that it takes windows of the images of both, and how many (`batch_size`); `reference_method`; and a
  `default_schedule` that goes before the network's.
- schedule (`_base_/schedules/NAME.py`): `optim_wrapper` of the whole, and `part_lr`, the rate of such parts.

What a leaf says of `model` and `optim_wrapper` stands, whatever the four say. Any configuration may have `class_prior`,
`labelled_images`, `label_free_validation` and `rare_class_sampling`, which :func:`fold_class_prior` and its like read
last.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, require, require_one_of

__all__ = [
    'FOLDED',
    'SHARED',
    'compose',
    'fold',
    'fold_class_prior',
    'fold_label_free_validation',
    'fold_labelled_images',
    'fold_rare_classes',
    'is_method',
    'is_prior_neutral',
]

#: The keys of the axes, and what they become.
FOLDED = {
    'adaptor': 'model',
    'default_schedule': '--schedule',
    'network': 'model',
    'optim_parts': 'optim_wrapper',
    'part_lr': 'optim_wrapper.PART.optimizer.lr',
    'reference_method': 'reference_config',
    'streams': 'train_dataloader.dataset',
    'task': 'model and the data loaders',
    'trains_on': 'the data loaders',
    'without_labels': 'the data loaders',
}

#: Keys that may stand once, beside the parts of a joint optimizer, for all of them.
SHARED = ('type', 'accumulative_counts', 'dtype', 'loss_scale')

#: Names of folders of images, and of those of their label maps, in the layouts of the data sets here.
_LABELS_OF = {'img_dir': 'ann_dir', 'images': 'labels', 'images_png': 'masks_png'}

_AXES = {'task': 'tasks', 'network': 'networks', 'schedule': 'schedules'}


def is_method(config: Config) -> bool:
    """Whether a configuration is that of a method alone."""
    return 'adaptor' in config and not {'model', 'network', 'train_dataloader'} & config.keys()


def compose(own: Config, **names: str | None) -> Config:
    """Put the files of the four axes together.

    Args:
        own: The configuration of the method, as it was read.
        **names: `task`, `network` and `schedule`: a name in `_base_`, or a file of one's own. Without a schedule the
            network's default is taken.

    Returns:
        The configuration as a leaf of these four would be read; its name joins theirs.

    Raises:
        ConfigError: A name is missing or unknown, or two of the files have the same key.
    """
    method = Path(own.filename)
    if not is_method(own):
        raise ConfigError(
            f'config {method} is whole already: --{next(key for key in names if names[key])} is for the file of a '
            'method, such as configs/st_dasegnet/method.py'
        )
    base = next((folder / '_base_' for folder in method.absolute().parents if (folder / '_base_').is_dir()), None)
    parts: dict[str, Config] = {}
    for axis, name in names.items():
        if name is None and axis == 'schedule':
            name = own.get('default_schedule') or parts['network'].get('default_schedule')
        parts[axis] = Config.fromfile(_find(axis, name, method, base))
    merged: dict[str, Any] = {}
    for part in (*parts.values(), own):
        for key, value in part.items():
            if key in merged and key != 'default_schedule':
                raise ConfigError(f'{part.filename}: the key {key} is in another one of {", ".join(names)} and method')
            merged[key] = value
    folder = method.absolute().parent.name if method.stem == 'method' else method.stem
    title = '_'.join([folder, *(Path(name).stem for name in names.values() if name)])
    if method_of_reference := merged.get('reference_method'):
        merged['reference_config'] = dict(config=method_of_reference, **{k: v for k, v in names.items() if v})
    files = [str(part.filename) for part in (*parts.values(), own)]
    return Config(merged, cfg_text=f'_base_ = {files}\n', filename=f'{title}.py')


def _find(axis: str, name: str | None, method: Path, base: Path | None) -> Path:
    if name is not None and name.endswith('.py'):
        if not Path(name).is_file():
            raise ConfigError(f'--{axis} {name} does not exist')
        return Path(name)
    folder = None if base is None else base / _AXES[axis]
    known = sorted(path.stem for path in folder.glob('*.py')) if folder is not None else []
    if name in known and folder is not None:
        return folder / f'{name}.py'
    near = difflib.get_close_matches(name or '', known, n=3, cutoff=0.4)
    listed = ', '.join([*near, *(other for other in known if other not in near)]) or f'none in {folder}'
    what = f'--{axis} {name} is unknown' if name else f'config {method} is a method, and needs a --{axis}'
    raise ConfigError(
        f'{what}; there are {listed}; or name a file of your own. A tool without --{axis} takes the configuration that '
        'a run has written into its work dir'
    )


def fold(config: Config) -> None:
    """Turn the keys of the axes into what MMEngine reads, in place; nothing where there is no method.

    Raises:
        ConfigError: The four do not fit together.
    """
    if 'adaptor' not in config:
        return
    if is_method(config):
        raise ConfigError(f'config {config.filename} is a method alone: it needs a task and a network')
    _require_spelt(config, config.keys(), FOLDED.keys() | {'class_prior', 'labelled_images', 'rare_class_sampling'})
    given = {key: config.pop(key, None) for key in FOLDED}
    task = given['task'] or {}
    asked = {'num_classes', 'data_preprocessor', 'source_labels', 'target_labels'}
    asked |= set(re.findall(r"'task\.(\w+)'", f'{given["network"]} {given["adaptor"]} {config.get("model")}'))
    _require_spelt(config, task, asked, 'task.')
    if given['streams'] is not None:
        _choose_streams(config, given['streams'], task)
        given['trains_on'] = None if 'source' in given['streams'] else 'target'  # whose statistics there are
    _fold_model(config, given, task)
    if given['streams'] is None and given['trains_on'] is not None:
        _use_labels(config, given['trains_on'], task)
    if given['without_labels'] is not None:
        _use_images(config, given['without_labels'])
    if given['optim_parts']:
        _fold_optimizers(config, given['optim_parts'], given['part_lr'])


def fold_class_prior(config: Config) -> None:
    """Put a `PriorNeutralLoss` with the values of the key `class_prior`, if any, around each decode loss, in place.

    Raises:
        ConfigError: It is no dict; a decode head has no `loss_decode`, or one that is prior-neutral already.
    """
    if (prior := config.pop('class_prior', None)) is None:
        return
    require(isinstance(prior, Mapping), f'config {config.filename}: class_prior', prior, 'dict(tau=1.0)')
    model = config.get('model') or {}
    for key, missing in (('decode_head', {}), ('auxiliary_head', [])):
        heads = missing if model.get(key) is None else model[key]
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if not head.get('loss_decode'):
                raise ConfigError(f'config {config.filename}: class_prior is set, but model.{key} has no loss_decode')
    _put_around(model, dict(prior), config.filename)


def fold_rare_classes(config: Config) -> None:
    """Let the training loader draw images and crops of the source by the key `rare_class_sampling`, if any, in place.

    Its values are those of `RareClassSampling`, and None stands for no such sampling. A crop is to show half of the
    pixels that an image needs.

    Raises:
        ConfigError: It is no dict; there is no training data set that it could be of, or one that cannot be drawn from.
    """
    if (settings := config.pop('rare_class_sampling', None)) is None:
        return
    name = f'config {config.filename}: rare_class_sampling'
    require(isinstance(settings, Mapping), name, settings, 'dict(temperature=..., min_pixels=...)')
    loader = config.get('train_dataloader') or {}
    dataset = loader.get('dataset') or {}
    source = dataset.get('source', dataset) or {}
    kind = source.get('type')
    if not hasattr(DATASETS.get(kind) if isinstance(kind, str) else kind, 'rare_classes'):
        raise ConfigError(
            f'{name} is set, but the source of train_dataloader is {kind}, of which images cannot be drawn by their '
            'classes: set rare_class_sampling=None'
        )
    source['rare_class_sampling'] = dict(settings)
    loader['sampler'] = dict(type='RareClassSampler')
    pixels = settings.get('min_pixels', 3000) // 2
    source['pipeline'] = [
        {**step, 'type': 'RareClassCrop', 'min_pixels': pixels} if step.get('type') == 'RandomCrop' else step
        for step in source.get('pipeline') or ()
    ]


def fold_labelled_images(config: Config) -> None:
    """Let training have labelled images of the target by the key `labelled_images`, if any, in place.

    They are images of the target's training data set, and go through its pipeline. The value is

    - a list of names, or a text file with a name in each line: their label maps lie where the layout of the data has
      them;
    - a folder of label maps: images of these names;
    - another file, a layer of polygons or a raster: the labels of all images; outside of it nothing is labelled;
    - a dict with `names` and `labels`, for both; with `number`, of which so many are drawn by `randomness.seed`; and
      with keys of the data set, such as `label_attribute`. With a `type` it is a data set of its own.

    Raises:
        ConfigError: The method learns from no such labels, or the value cannot work.
    """
    if (given := config.pop('labelled_images', None)) is None:
        return
    name = f'config {config.filename}: labelled_images'
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    if 'labelled' not in dataset or 'target' not in dataset:
        raise ConfigError(
            f'{name} is set, but the method learns from no labelled images of the target: take that of '
            'configs/few_labels, or leave it out'
        )
    if isinstance(given, str):
        given = {'names' if given.endswith('.txt') else 'labels': given}
    elif isinstance(given, (list, tuple)):
        given = dict(names=list(given))
    expected = 'a list of names, a file, a folder, or dict(names=..., labels=..., number=...)'
    require(isinstance(given, Mapping) and bool(given), name, given, expected)
    if 'type' in given:
        dataset['labelled'] = dict(given)
        return
    own = dict(given)
    names, labels, number = (own.pop(key, None) for key in ('names', 'labels', 'number'))
    labelled = _merge(_with_labels(dataset['target'], name), own)
    if isinstance(names, str):
        labelled['ann_file'] = _existing(f'{name}: names', names)
    elif names is not None:
        labelled['only'] = list(names)
    if labels is not None:
        path = _existing(f'{name}: labels', labels)
        labelled['data_prefix']['seg_map_path'] = path
        if names is None and Path(path).is_dir():
            labelled['only'] = path
        elif Path(path).is_file() and labelled['type'] == 'RemoteSensingDataset':
            labelled['type'] = 'RasterDataset'  # which reads labels by where they lie
    if number is not None:
        labelled['draw'] = dict(number=number, seed=(config.get('randomness') or {}).get('seed'))
    if 'seg_map_path' not in labelled['data_prefix']:
        raise ConfigError(
            f'{name}: where are the label maps of {labelled["data_prefix"]["img_path"]}? Set labelled_images=dict('
            'labels=FOLDER)'
        )
    dataset['labelled'] = labelled


def _existing(what: str, path: str) -> str:
    if not Path(path).expanduser().exists():
        raise ConfigError(f'{what}: there is no file or folder {path}; names of images are given as a list, [{path}]')
    return str(Path(path).expanduser().absolute())


def _with_labels(target: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration of an unlabelled data set, with labels as the layouts here have them."""
    if 'pipeline' not in target or 'img_path' not in (target.get('data_prefix') or {}):
        raise ConfigError(
            f'{name}: the target of train_dataloader, {target.get("type")}, is no data set of images in one folder: '
            'give a whole data set, dict(type=..., pipeline=..., ...)'
        )
    labelled = copy.deepcopy(dict(target))
    parts = str(target['data_prefix']['img_path']).split('/')
    if _LABELS_OF.keys() & set(parts):
        labelled['data_prefix']['seg_map_path'] = '/'.join(_LABELS_OF.get(part, part) for part in parts)
    place = next((i for i, step in enumerate(labelled['pipeline'], 1) if _loads_images(step)), 0)
    labelled['pipeline'].insert(place, dict(type='LoadRasterAnnotations'))
    return labelled


def fold_label_free_validation(config: Config) -> None:
    """Let validation look at criteria that take no labels by the key `label_free_validation`, if any, in place.

    Its values are those of `LabelFreeValLoop`. Without a `val_dataloader`, the images are those of the target that
    training has, and there are no metrics with labels.

    Raises:
        ConfigError: It is no dict, or there is no target.
    """
    if (settings := config.pop('label_free_validation', None)) is None:
        return
    name = f'config {config.filename}: label_free_validation'
    require(isinstance(settings, Mapping), name, settings, "dict(criteria=['consistency'], number=40)")
    if (config.get('val_cfg') or {}).get('type') == 'ViewValLoop':
        raise ConfigError(
            f'{name}: criteria look at maps of classes, but a pre-training learns no classes: leave it out'
        )
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    if config.get('val_dataloader') is None:
        require(
            dataset.get('target') is not None, name, dict(settings), 'val_dataloader, or a target in train_dataloader,'
        )
        config.val_dataloader = dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=_images_of(dataset['target']),
        )
        config.val_evaluator = None
    config.val_evaluator = config.get('val_evaluator') or []
    config.val_cfg = dict(type='LabelFreeValLoop', expected='auto' if dataset else None, **settings)


def _images_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a data set, with whole images and without labels."""
    images = dict(copy.deepcopy(dataset), test_mode=True)
    load = [step for step in images.get('pipeline') or () if _loads_images(step)]
    images['pipeline'] = [*load, dict(type='PackRasterInputs')]
    images['data_prefix'] = {k: v for k, v in (images.get('data_prefix') or {}).items() if k != 'seg_map_path'}
    return images


def _loads_images(step: Mapping[str, Any]) -> bool:
    return re.search(r'Load(?!\w*Annotation)', str(step.get('type'))) is not None


def is_prior_neutral(loss: Mapping[str, Any]) -> bool:
    """Whether the configuration of a loss is that of a `PriorNeutralLoss`."""
    return str(loss.get('type')).split('.')[-1] == 'PriorNeutralLoss'


def _is_of_classes(loss: Mapping[str, Any]) -> bool:
    """Whether a loss learns from logits of classes, which a prior can be added to."""
    return str(loss.get('type')).split('.')[-1] != 'SignedDistanceLoss'


def _put_around(node: Any, prior: dict[str, Any], filename: str | None) -> None:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if key == 'loss_decode':
            terms = value if isinstance(value, (list, tuple)) else [value]
            if any(map(is_prior_neutral, terms)):
                raise ConfigError(
                    f'config {filename}: class_prior is set, but a loss_decode is prior-neutral already: set its tau'
                )
            # Without a type it is what a domain changes in the loss of both.
            wrapped = [
                (dict(type='PriorNeutralLoss', loss=term, **prior) if 'type' in term else dict(loss=term))
                if _is_of_classes(term)
                else term
                for term in terms
            ]
            node[key] = wrapped if isinstance(value, (list, tuple)) else wrapped[0]
        elif isinstance(value, (dict, list)):
            _put_around(value, prior, filename)


def _require_spelt(config: Config, keys: Iterable[str], known: Set[str], where: str = '') -> None:
    """Refuse keys that nothing reads, and that are spelt nearly like others; the rest are variables."""
    for key in set(keys) - known:
        if near := difflib.get_close_matches(key, known, 1, 0.85):
            raise ConfigError(f'config {config.filename}: nothing reads {where}{key}; did you mean {where}{near[0]}?')


def _merge(base: Any, changes: Any) -> Any:
    """As MMEngine merges a configuration into its `_base_`."""
    return Config._merge_a_into_b(ConfigDict(copy.deepcopy(changes)), ConfigDict(copy.deepcopy(base)))


def _fold_model(config: Config, given: Mapping[str, Any], task: Mapping[str, Any]) -> None:
    network, adaptor = given['network'] or {}, copy.deepcopy(given['adaptor'] or {})
    if 'backbone' in adaptor:  # a method knows no backbone: what it says holds for those that say it too
        known = network.get('backbone') or {}
        adaptor['backbone'] = {key: value for key, value in adaptor['backbone'].items() if key in known}
    for part, own in adaptor.items():
        kinds = [node.get('type') for node in (own, network.get(part)) if isinstance(node, Mapping)]
        if len(set(kinds) - {None}) > 1:
            raise ConfigError(
                f'config {config.filename}: the method has adaptor.{part}.type={kinds[0]}, but the network has '
                f'{kinds[1]} there: take a network without {part}, or set model.{part} with _delete_=True'
            )
    preprocessor = dict(task.get('data_preprocessor') or {})
    sources = {key: preprocessor.pop(f'source_{key}', None) for key in ('mean', 'std')}
    if given['trains_on'] is None:
        preprocessor.update({f'source_{key}': value for key, value in sources.items() if value is not None})
    elif given['trains_on'] == 'source':
        # Nothing of the target is known: the source's statistics, for the target too.
        preprocessor.update({key: value for key, value in sources.items() if value is not None})
    if preprocessor:
        network = _merge(network, dict(data_preprocessor=preprocessor))
    model = _merge(_merge(network, adaptor), config.get('model') or {})
    _ask_task(model, task)
    config.model = model


def _ask_task(node: Any, task: Mapping[str, Any]) -> None:
    """Put the values of a task where a model asks for them; a key for which it has none goes."""
    # From the end, for what goes from a list moves what follows.
    for key, value in reversed(list(node.items() if isinstance(node, dict) else enumerate(node))):
        if isinstance(value, (dict, list)):
            _ask_task(value, task)
        elif isinstance(value, str) and value.startswith('task.'):
            if (found := task.get(value.removeprefix('task.'))) is None:
                del node[key]
            else:
                node[key] = copy.deepcopy(found)
        elif key == 'num_classes' and value is None and task.get('num_classes') is not None:
            node[key] = task['num_classes']


def _use_labels(config: Config, domain: str, task: Mapping[str, Any]) -> None:
    """Train on the labelled images of one domain."""
    require_one_of('trains_on', domain, ('source', 'target'))
    pair = (config.get('train_dataloader') or {}).get('dataset')
    if pair is None:
        raise ConfigError(f'config {config.filename}: the task has no train_dataloader.dataset')
    is_pair = 'source' in pair and 'target' in pair  # else a leaf has a data set of its own
    changes = task.get(f'{domain}_labels')
    if changes is not None:
        changes = {key: value for key, value in changes.items() if is_pair or key != 'train_dataloader'}
        _require_unchanged(config, changes, f'task.{domain}_labels')
    elif not is_pair:
        return
    else:
        changes = dict(train_dataloader=dict(dataset=pair[domain]))
        if 'seg_map_path' not in (pair[domain].get('data_prefix') or {'seg_map_path': ''}):
            raise ConfigError(
                f'config {config.filename}: the task has no labels of the {domain} to train on: set '
                f'task.{domain}_labels=dict(train_dataloader=dict(dataset=...)) in its file'
            )
    for key, value in changes.items():
        if not key.endswith('_dataloader') or value is None:
            config[key] = value
            continue
        before = config[key].dataset
        kind = DATASETS.get(before.type) if isinstance(before.type, str) else before.type
        if 'source' in before and isinstance(kind, type):
            takes = set().union(*(inspect.signature(own).parameters for own in kind.__mro__[:-1]))
            if lost := sorted(set(before) - takes - {'type'}):
                raise ConfigError(
                    f'config {config.filename}: {key}.dataset.{lost[0]} would have no effect, for the task is a pair '
                    f'of data sets: set {key}.dataset.{domain}.{lost[0]}, or give a whole data set with _delete_=True'
                )
        config[key] = {**config[key], **value}


def _choose_streams(config: Config, streams: Sequence[str], task: Mapping[str, Any]) -> None:
    """Let a batch have what a method takes."""
    for stream in streams:
        require_one_of('streams', stream, ('source', 'labelled', 'target'))
    dataset = (config.get('train_dataloader') or {}).get('dataset')
    if dataset is None or 'source' not in dataset or 'target' not in dataset:
        raise ConfigError(f'config {config.filename}: the task has no source and target in train_dataloader.dataset')
    if 'seg_map_path' not in (dataset['source'].get('data_prefix') or {'seg_map_path': ''}):
        config.train_dataloader['dataset'] = _unpaired(config, dataset, task)
        dataset = config.train_dataloader['dataset']
    if 'source' not in streams:
        dataset['source'] = None
    if 'labelled' in streams:
        dataset['labelled'] = None  # until labelled_images says which
    if 'target' not in streams:
        dataset['reads_target'] = False


def _unpaired(config: Config, pair: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """Source and target of a task of unlabelled pairs, each on its own, the source with the labels that it has."""
    known = (task.get('source_labels') or {}).get('train_dataloader') or {}
    if 'dataset' not in known:
        raise ConfigError(
            f'config {config.filename}: the task has no labels of the source: set task.source_labels=dict('
            'train_dataloader=dict(dataset=...)) in its file'
        )
    source = known['dataset']
    steps = [
        {key: value for key, value in step.items() if key != 'cat_max_ratio'}
        for step in source['pipeline']
        if _loads_images(step) or 'Load' not in str(step['type'])
    ]
    for key in ('dataloader', 'evaluator'):  # no longer that of pairs
        config[f'val_{key}'] = copy.deepcopy(config.get(f'test_{key}'))
    target = {**source, **pair['target'], 'pipeline': steps}
    return dict(type='DomainAdaptationDataset', source=source, target=target)


#: What a pipeline for windows of images leaves out: labels, colours, and what draws an image's place.
_DRAWN = re.compile(r'.*(Annotations|Crop|Flip|Rotate|PhotoMetricDistortion|PackSegInputs|PackRasterInputs)')


def _use_images(config: Config, settings: Mapping[str, Any]) -> None:
    """Train on windows of the images of both domains, and validate on windows of the others, all without labels."""
    require(isinstance(settings, Mapping), f'config {config.filename}: without_labels', settings, 'dict(batch_size=8)')
    loader: Any = config.get('train_dataloader') or {}
    if not {'source', 'target'} <= set(loader.get('dataset') or {}):
        raise ConfigError(
            f'config {config.filename}: images of both domains are trained on, but train_dataloader.dataset has no '
            'source and target'
        )
    loader.update(settings)
    size = _only_images(loader.dataset)
    if config.get('val_dataloader') is not None:
        _only_images(config.val_dataloader.dataset, size)
        config.val_cfg, config.val_evaluator = dict(type='ViewValLoop'), []


def _only_images(dataset: Any, size: Any = None) -> Any:
    """Make a data set, or those inside any wrappers, one of windows of images, in place; and the size of them.

    Windows are of the given size, or as large as the crops were.
    """
    kind = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    if {'source', 'target'} <= dataset.keys():
        if 'pipeline' in inspect.signature(kind).parameters:  # of pairs, which have the same windows
            dataset.pipeline = _windowed(dataset.get('pipeline') or (), size)
            return dataset.pipeline[-1]['crop_size']
        inner = [dataset.source, dataset.target]
    else:
        inner = [dataset.dataset] if 'dataset' in dataset else dataset.get('datasets')
    if inner is not None:
        return [_only_images(part, size) for part in inner][-1]
    prefix = dataset.get('data_prefix') or {'img_path': ''}
    dataset.data_prefix = {key: value for key, value in prefix.items() if key != 'seg_map_path'}
    dataset.pop('rare_class_sampling', None)
    dataset.pipeline = [*_windowed(dataset.get('pipeline') or (), size), dict(type='PackRasterInputs')]
    return dataset.pipeline[-2]['crop_size']


def _windowed(pipeline: Iterable[Mapping[str, Any]], size: Any) -> list[dict[str, Any]]:
    """A pipeline that reads images as the given one does, and then cuts windows."""
    steps, crop = [], None
    for step in pipeline:
        kind = str(step['type']).split('.')[-1]
        crop = step['crop_size'] if kind.endswith('Crop') and 'crop_size' in step else crop
        if kind == 'RandomResize':  # views have scales of their own
            steps.append(dict(type='Resize', scale=step['scale'], keep_ratio=step.get('keep_ratio', True)))
        elif not _DRAWN.fullmatch(kind):
            steps.append(dict(step))
    return [*steps, dict(type='GroundCrop', crop_size=crop if size is None else size)]


def _require_unchanged(config: Config, changes: Mapping[str, Any], where: str) -> None:
    """Refuse what a leaf says of data that a task's labels replace."""
    own = _task_file(config.filename)
    if own is None:
        return

    def replaced(found: Config, key: str) -> Any:
        value = found.get(key)
        return value.get('dataset') if key.endswith('_dataloader') and value else value

    before = Config.fromfile(own)
    if lost := [key for key in changes if key in before and replaced(config, key) != replaced(before, key)]:
        key = f'{lost[0]}.dataset' if lost[0].endswith('_dataloader') else lost[0]
        raise ConfigError(
            f'config {config.filename}: what it says of {key} would have no effect, for labels of one domain alone are '
            f'trained on: set {where}.{key}'
        )


def _task_file(file: str | None) -> Path | None:
    """The file of the task among those that a file is based on."""
    if file is None or not Path(file).is_file():
        return None
    for base in Config._get_base_files(str(file)):
        path = Path(Config._get_cfg_path(base, str(file))[0])
        keys = Config.fromfile(path).keys()
        found = path if 'task' in keys and not {'adaptor', 'network'} & keys else _task_file(str(path))
        if found is not None:
            return found
    return None


def _fold_optimizers(config: Config, parts: Mapping[str, Any], rate: float | None) -> None:
    """Make the optimizer of the schedule that of the segmentor, and add those of a method's other parts."""
    plain = dict(config.optim_wrapper)
    if 'optimizer' not in plain:
        return  # a leaf has its own for each part
    if plain.get('type') == 'OptimWrapper':
        del plain['type']  # the default
    said = {name: plain.pop(name) for name in ('segmentor', *parts) if name in plain}
    shared = {key: plain.pop(key) for key in SHARED if key in plain}
    own = dict(segmentor=_merge(plain, parts.get('segmentor') or {}))
    joint = dict(constructor='JointOptimWrapperConstructor', **shared, **own)
    keys = (joint['segmentor'].get('paramwise_cfg') or {}).get('custom_keys') or {}
    for name in [name for name, value in keys.items() if value is None]:
        del keys[name]
    for name, part in parts.items():
        if name == 'segmentor':
            continue
        joint[name] = None if part is None else _merge(dict(optimizer=dict(lr=rate)), part)
    config.optim_wrapper = _merge(joint, said)
    for name in parts:
        if (config.optim_wrapper[name] or {}).get('optimizer', {}).get('lr', 0) is None:
            raise ConfigError(
                f'config {config.filename}: the schedule has no part_lr, so optim_parts.{name}.optimizer needs an lr'
            )
