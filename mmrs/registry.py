"""Registries of mmrs: children of MMSegmentation's, in the scope `mmrs`.

A configuration with `default_scope = 'mmrs'` finds this package's own types first, then MMSegmentation's, then
MMEngine's, all by their bare names. A type of the same name in another scope is written with it: `mmseg.ResNetV1c`.

A registry imports its `locations` before its first look-up, but never those of its parents: the MMSegmentation folders
are therefore listed here too.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry
from mmseg import registry as mmseg_registry

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'EVALUATOR',
    'FUNCTIONS',
    'HOOKS',
    'INFERENCERS',
    'LOG_PROCESSORS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARAM_SCHEDULERS',
    'RUNNERS',
    'RUNNER_CONSTRUCTORS',
    'STRATEGIES',
    'TASK_UTILS',
    'TRANSFORMS',
    'VISBACKENDS',
    'VISUALIZERS',
    'WEIGHT_INITIALIZERS',
]

# mmrs comes first: its packages import MMSegmentation's themselves, and keep that import quiet.
_DATASETS = ['mmrs.datasets', 'mmseg.datasets']
_MODELS = ['mmrs.models', 'mmseg.models']
_ENGINE = ['mmrs.engine', 'mmseg.engine', 'mmengine.hooks', 'mmengine.optim', 'mmengine.runner']
_EVALUATION = ['mmrs.evaluation', 'mmseg.evaluation']
_VISUALIZATION = ['mmrs.visualization', 'mmseg.visualization']


def _child(parent: Registry, locations: list[str]) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmrs', locations=locations)


# Running: runners, loops, hooks, log processing.
RUNNERS = _child(mmseg_registry.RUNNERS, _ENGINE)
RUNNER_CONSTRUCTORS = _child(mmseg_registry.RUNNER_CONSTRUCTORS, _ENGINE)
LOOPS = _child(mmseg_registry.LOOPS, _ENGINE)
HOOKS = _child(mmseg_registry.HOOKS, _ENGINE)
LOG_PROCESSORS = _child(mmseg_registry.LOG_PROCESSORS, _ENGINE)
STRATEGIES = _child(mmengine_registry.STRATEGIES, _ENGINE)

# Data.
DATASETS = _child(mmseg_registry.DATASETS, _DATASETS)
DATA_SAMPLERS = _child(mmseg_registry.DATA_SAMPLERS, _DATASETS)
TRANSFORMS = _child(mmseg_registry.TRANSFORMS, _DATASETS)
FUNCTIONS = _child(mmengine_registry.FUNCTIONS, _DATASETS)

# Models: networks, adaptors, losses, data preprocessors.
MODELS = _child(mmseg_registry.MODELS, _MODELS)
MODEL_WRAPPERS = _child(mmseg_registry.MODEL_WRAPPERS, [*_MODELS, 'mmrs.engine'])
WEIGHT_INITIALIZERS = _child(mmseg_registry.WEIGHT_INITIALIZERS, ['mmrs.weights', *_MODELS])
TASK_UTILS = _child(mmseg_registry.TASK_UTILS, _MODELS)

# Optimisation.
OPTIMIZERS = _child(mmseg_registry.OPTIMIZERS, _ENGINE)
OPTIM_WRAPPERS = _child(mmseg_registry.OPTIM_WRAPPERS, _ENGINE)
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmseg_registry.OPTIM_WRAPPER_CONSTRUCTORS, _ENGINE)
PARAM_SCHEDULERS = _child(mmseg_registry.PARAM_SCHEDULERS, _ENGINE)

# Evaluation, pictures, inference.
METRICS = _child(mmseg_registry.METRICS, _EVALUATION)
EVALUATOR = _child(mmseg_registry.EVALUATOR, _EVALUATION)
VISUALIZERS = _child(mmseg_registry.VISUALIZERS, _VISUALIZATION)
VISBACKENDS = _child(mmseg_registry.VISBACKENDS, _VISUALIZATION)
INFERENCERS = _child(mmseg_registry.INFERENCERS, [])
