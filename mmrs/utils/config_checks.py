"""What a configuration says without effect: keys that nothing reads, and pipelines that normalise twice."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from logging import WARNING

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmrs.registry import DATASETS
from mmrs.utils.config import look_up, walk, where_in
from mmrs.utils.errors import ConfigError

__all__ = ['check_keys', 'read_keys']

#: Keys of mmsegmentation 0.x that are dicts or lists there, and what took their place.
_OLD = {
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'runner': 'train_cfg.max_iters',
    'evaluation': 'train_cfg.val_interval and val_evaluator',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper.clip_grad and optim_wrapper.accumulative_counts',
    'checkpoint_config': 'default_hooks.checkpoint',
    'log_config': 'default_hooks.logger',
    'workflow': 'train_cfg and val_cfg',
    'dist_params': 'env_cfg.dist_cfg',
    'fp16': '--amp',
    'uda': "an adaptation method as the model, type='STDASegNet' or 'FeatureRegression'",
}

#: Keys of which the parts say more.
_OLD_PARTS = {
    'data.samples_per_gpu': 'train_dataloader.batch_size',
    'data.workers_per_gpu': 'train_dataloader.num_workers',
    'data.train': 'train_dataloader.dataset',
    'data.val': 'val_dataloader.dataset',
    'data.test': 'test_dataloader.dataset',
    'runner.max_iters': 'train_cfg.max_iters',
    'runner.max_epochs': 'train_cfg.max_epochs',
    'evaluation.interval': 'train_cfg.val_interval',
    'evaluation.metric': 'val_evaluator',
    'evaluation.save_best': 'default_hooks.checkpoint.save_best',
    'checkpoint_config.interval': 'default_hooks.checkpoint.interval',
    'log_config.interval': 'default_hooks.logger.interval',
}

#: Keys that a configuration of today may have as variables of its own: refused where the new one says otherwise.
_OLD_VALUES = {
    'total_iters': 'train_cfg.max_iters',
    'total_epochs': 'train_cfg.max_epochs',
    'samples_per_gpu': 'train_dataloader.batch_size',
    'workers_per_gpu': 'train_dataloader.num_workers',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'resume_from': 'load_from',
}

#: Keys inside of data loaders and data sets.
_OLD_INSIDE = {
    'samples_per_gpu': 'batch_size',
    'workers_per_gpu': 'num_workers',
    'img_dir': 'data_prefix.img_path',
    'ann_dir': 'data_prefix.seg_map_path',
}

_OLD_TRANSFORMS = {
    'Collect': 'PackRasterInputs',
    'DefaultFormatBundle': 'PackRasterInputs',
    'ImageToTensor': 'PackRasterInputs',
    'MultiScaleFlipAug': 'tools/test.py --tta or tta_pipeline',
}

_LISTS = (['custom_hooks'], ['param_scheduler'], ['test_evaluator'], ['val_evaluator'])

#: Keys that MMEngine or this project reads, further than the arguments of the runner.
_READ = (
    'activation_checkpointing', 'class_prior', 'compile', 'custom_imports', 'find_unused_parameters',
    'labelled_images', 'model_wrapper_cfg', 'rare_class_sampling', 'reference_config', 'runner_type',
    'submission_dataloader', 'sync_bn', 'tta_model', 'tta_pipeline',
)  # fmt: skip


def read_keys() -> set[str]:
    """Keys of a configuration that something reads; any others are its variables."""
    return {*inspect.signature(Runner.__init__).parameters, *_READ} - {'self', 'cfg'}


def check_keys(config: Config) -> None:
    """Look for keys that nothing reads although they are meant to be read.

    Keys of the user's own, which a configuration uses as variables, are welcome.

    Raises:
        ConfigError: There are keys or transforms of mmsegmentation 0.x, a key that is spelt nearly like one that is
            read, or images that are normalised both in a pipeline and by the model.
    """
    if old := dict(_old_keys(config)):
        listed = ', '.join(f'{key} (now {new})' for key, new in old.items())
        raise ConfigError(f'{where_in(config)}these are of mmsegmentation 0.x, and nothing reads them: {listed}')
    known = read_keys()
    for key in config.keys() - known:
        bare = key.strip('_0123456789')  # model_2 is a variable
        near = difflib.get_close_matches(key, known, 1, 0.9) if bare not in known else []
        # Lists that stand in no such place are variables, such as `models`.
        is_variable = callable(config[key]) or (isinstance(config[key], (list, tuple)) and near[:1] not in _LISTS)
        if near and not is_variable:
            raise ConfigError(f'{where_in(config)}nothing reads the key {key}; did you mean {near[0]}?')
    mean = ((config.get('model') or {}).get('data_preprocessor') or {}).get('mean')
    for path, kind in _steps(config):
        if kind == 'Normalize' and mean is not None:
            raise ConfigError(
                f'{where_in(config)}{path} is Normalize, and model.data_preprocessor has a mean too: images would be '
                'normalised twice. Take Normalize out of the pipeline'
            )


def _old_keys(config: Config) -> Iterator[tuple[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for key, new in _OLD.items():
        value = config.get(key)
        if not value or not isinstance(value, (Mapping, list, tuple)):
            continue
        named = {f'{key}.{name}' for name in value if isinstance(name, str)}
        parts = {path: now for path, now in _OLD_PARTS.items() if path in named}
        if parts or key not in ('data', 'evaluation'):  # which are names for variables, too
            found[key] = parts or {key: new}
    if list(found) == ['optimizer']:  # mmsegmentation 1.x has it as a variable
        del found['optimizer']
        if config.optimizer != (config.get('optim_wrapper') or {}).get('optimizer'):
            print_log(
                f'{where_in(config)}optimizer is a variable that nothing reads; optim_wrapper.optimizer is another one',
                logger='current',
                level=WARNING,
            )
    for parts in found.values():
        yield from parts.items()
    for key, new in _OLD_VALUES.items():
        first, _, last = new.partition('.')
        here, there = config.get(key), config.get(first)
        there = there.get(last) if last and isinstance(there, Mapping) else there
        if here and here != there:
            yield key, new
    for path, node in walk(config):
        if path.partition('.')[0].endswith('_dataloader'):
            own = look_up(DATASETS, node.get('type'))
            takes = {name for kind in getattr(own, '__mro__', ()) for name in _parameters(kind)}
            for key in (_OLD_INSIDE.keys() & node.keys()) - takes:
                new = _OLD_INSIDE[key]
                yield f'{path}.{key}', new.rpartition('.')[2] if path.endswith('data_prefix') else new
    for path, kind in _steps(config):
        if kind in _OLD_TRANSFORMS:
            yield f'{path} {kind}', _OLD_TRANSFORMS[kind]


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters if '__init__' in vars(kind) else {}  # type: ignore[misc]


def _steps(config: Config) -> Iterator[tuple[str, str]]:
    """The steps of the data sets' pipelines: key and name, without scope."""
    for path, node in walk(config):
        if '_dataloader.' in path and 'pipeline.' in path and isinstance(node.get('type'), str):
            yield path, node['type'].rpartition('.')[2]
