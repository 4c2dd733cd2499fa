"""In the scope `mmrs`, bare names reach this package, MMSegmentation, MMCV and MMEngine."""

import subprocess
import sys

import mmengine.registry
import pytest
from mmengine.registry import DefaultScope, Registry

import mmrs.registry


@pytest.mark.parametrize(
    'name', [n for n in dir(mmengine.registry) if isinstance(getattr(mmengine.registry, n), Registry)]
)
def test_every_root_registry_has_a_child_in_scope_mmrs(name):
    child = getattr(mmrs.registry, name)
    assert child.scope == 'mmrs'
    assert child.root is getattr(mmengine.registry, name)


# Each group in a fresh interpreter: a registry must find its types without anything having been imported by hand.
GROUPS = {
    'data': {
        'DATASETS': ['BaseSegDataset'],
        'TRANSFORMS': ['PackSegInputs', 'RandomFlip'],
        'DATA_SAMPLERS': ['InfiniteSampler', 'DefaultSampler'],
        'FUNCTIONS': ['pseudo_collate'],
    },
    'models': {
        'MODELS': ['EncoderDecoder', 'ResNetV1c', 'MixVisionTransformer', 'SegformerHead', 'mmseg.ResNetV1c'],
        'MODEL_WRAPPERS': ['MMDistributedDataParallel'],
    },
    'engine': {
        'HOOKS': ['CheckpointHook', 'SegVisualizationHook'],
        'LOOPS': ['IterBasedTrainLoop'],
        'RUNNERS': ['Runner'],
        'LOG_PROCESSORS': ['LogProcessor'],
        'OPTIMIZERS': ['AdamW'],
        'OPTIM_WRAPPERS': ['OptimWrapper', 'AmpOptimWrapper'],
        'OPTIM_WRAPPER_CONSTRUCTORS': ['DefaultOptimWrapperConstructor'],
        'PARAM_SCHEDULERS': ['PolyLR', 'LinearLR'],
    },
    'evaluation': {'METRICS': ['IoUMetric'], 'EVALUATOR': ['Evaluator']},
    'visualization': {'VISUALIZERS': ['SegLocalVisualizer'], 'VISBACKENDS': ['LocalVisBackend']},
}


FORKS = """
import os
import mmengine.registry as root, mmseg.models, torch  # what takes time, once
for group in {groups!r}:
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0, group
        continue
    root.init_default_scope("mmrs")
    for name, types in group.items():
        with getattr(root, name).switch_scope_and_registry(None) as registry:
            print(registry.scope, name, *[registry.get(t).__name__ for t in types], flush=True)
    os._exit(0)
"""


def test_bare_names_resolve_through_the_default_scope():
    """Those of each group with nothing of the other groups imported."""
    code = FORKS.format(groups=list(GROUPS.values()))
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = [
        ['mmrs', name, *(t.split('.')[-1] for t in types)] for group in GROUPS.values() for name, types in group.items()
    ]
    assert [line.split() for line in result.stdout.splitlines()] == expected


def test_own_types_are_found_before_those_of_the_same_name_upstream():
    class EncoderDecoder: ...

    mmrs.registry.MODELS.register_module(module=EncoderDecoder)
    try:
        with DefaultScope.overwrite_default_scope('mmrs'):
            found = mmrs.registry.MODELS.get('EncoderDecoder')
            assert found is EncoderDecoder
            assert mmrs.registry.MODELS.get('mmseg.EncoderDecoder').__module__.startswith('mmseg.')
    finally:
        del mmrs.registry.MODELS.module_dict['EncoderDecoder']
