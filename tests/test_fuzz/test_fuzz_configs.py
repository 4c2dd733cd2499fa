"""Any value in a configuration, or on the command line, gives what it asks for or an error of ours."""

from __future__ import annotations

import argparse
import copy
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmrs.apis import init_model
from mmrs.apis.preflight import check_config
from mmrs.apis.training import build_runner
from mmrs.registry import DATASETS, TRANSFORMS
from mmrs.utils.arguments import add_cfg_options
from mmrs.utils.config import load_config, merge_options
from mmrs.utils.config_types import check_types, explained_errors
from mmrs.utils.records import flatten
from tests.fuzzing import ours, values
from tests.tiny_runs import started_quickly, write_adaptation_config, write_clips, write_regression_config

STEPS = [
    dict(type='ColourMatrix', matrix=[[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    dict(type='HueRotation', degrees=30.0, seed=0),
    dict(type='ChannelPermutation', order=[2, 0, 1]),
    dict(type='GainGamma', gain=1.2, gamma=[0.9, 1.0, 1.1], white=255.0, seed=0),
    dict(type='Contrast', factor=1.1, grey=0.5, white=255.0),
    dict(type='GaussianBlur', sigma=1.0),
    dict(type='GroundSamplingDistance', factor=2.0),
    dict(type='SensorNoise', shot=0.1, read=1.0, white=255.0, seed=0),
    dict(type='JPEGCompression', quality=50, white=255.0),
    dict(type='CameraChange', strength=1.0, white=255.0, seed=0),
    dict(type='Misalignment', shift=1.0, rotation=1.0, scale=0.01, elastic=1.0, smoothness=8.0, seed=0),
    dict(type='LoadRasterImage', bands=[1, 2, 3]),
    dict(type='RareClassCrop', crop_size=(8, 8), min_pixels=4, tries=3),
    dict(type='PackRasterInputs', meta_keys=['img_path']),
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('fuzz') / 'data', train=2, val=1, size=16)


@pytest.fixture(scope='module')
def models(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('models')
    files = [write_adaptation_config(folder / 'a.py', data), write_regression_config(folder / 'b.py', data, data)]
    return [load_config(file) for file in files]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('step', STEPS, ids=lambda step: step['type'])
@given(draw=st.data())
def test_transforms(step, data, draw):
    key = draw.draw(st.sampled_from(sorted(step.keys() - {'type'})))
    arguments = {**step, key: draw.draw(values | values.map(lambda value: [value] * 3))}
    kind = TRANSFORMS.get(arguments.pop('type'))
    path = data / 'img_dir' / 'train' / 'clip0.png'
    rng = np.random.default_rng(0)
    with ours():
        result = kind(**arguments).transform(
            dict(
                img=rng.integers(0, 255, (16, 16, 3), np.uint8),
                img_path=str(path),
                img_shape=(16, 16),
                ori_shape=(16, 16),
                gt_seg_map=rng.integers(0, 3, (16, 16), np.uint8),
                seg_fields=['gt_seg_map'],
            )
        )
        if 'img' in result:
            assert np.isfinite(result['img']).all()


SETS = [
    dict(type='RemoteSensingDataset', metainfo=dict(classes=list('abcdefg')), class_map=dict(x=['a', 'b'], y='c')),
    dict(type='RemoteSensingDataset', classes_file=None, rare_class_sampling=dict(temperature=0.1), img_suffix='.png'),
    dict(type='PotsdamDataset', seg_map_suffix='.png', reduce_zero_label=True, ann_file=''),
    dict(type='RasterDataset', metainfo=dict(classes=list('abcdefg')), windows=dict(size=8, overlap=0.0), gsd=None),
    dict(type='RasterDataset', metainfo=dict(classes=list('abcdefg')), label_attribute=None, skip_empty=True),
]


def place(draw, node):
    """A key path into nested dicts and lists."""
    return draw.draw(st.sampled_from(sorted(flatten(node)) or ['']))


def put(node, path, value):
    *parts, last = path.split('.')
    for part in parts:
        node = node[int(part) if isinstance(node, list) else part]
    node[int(last) if isinstance(node, list) else last] = value


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('config', SETS, ids=lambda config: config['type'])
@given(draw=st.data())
def test_data_sets(config, data, draw):
    init_default_scope('mmrs')
    config = copy.deepcopy(config)
    put(
        config,
        draw.draw(st.sampled_from([key for key in [*config, *flatten(config)] if key != 'type'])),
        draw.draw(values),
    )
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    pipeline = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations')]
    with ours():
        found = DATASETS.build(dict(config, data_root=str(data), data_prefix=prefix, pipeline=pipeline))
        assert found[0]['img'].ndim == 3


@pytest.mark.filterwarnings('ignore')
@given(draw=st.data())
def test_models(models, draw):
    config = copy.deepcopy(draw.draw(st.sampled_from(models)))
    model = config.model.to_dict()
    put(model, place(draw, model), draw.draw(values))
    config.model = model
    with ours():
        init_model(config, device='cpu')


BUILT = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'randomness', 'val_cfg')


@pytest.mark.filterwarnings('ignore')
@given(draw=st.data())
def test_trainings(models, draw, tmp_path_factory):
    """What is built for one, down to the first batch."""
    config = copy.deepcopy(draw.draw(st.sampled_from(models)))
    key = draw.draw(st.sampled_from(BUILT))
    value = config.get(key, {}).to_dict() if isinstance(config.get(key), dict) else copy.deepcopy(config.get(key))
    path = place(draw, {key: value})
    whole = {key: value}
    put(whole, path, draw.draw(values))
    config[key] = whole[key]
    config.work_dir = str(tmp_path_factory.mktemp('run'))
    with started_quickly(), ours():
        check_types(config)
        check_config(config)
        runner = build_runner(config)
        with explained_errors(config):
            runner._train_loop = runner.build_train_loop(runner._train_loop)
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
            if runner.param_schedulers is not None:
                runner.build_param_scheduler(runner.param_schedulers)


@given(st.lists(st.text(max_size=30) | st.sampled_from(['model.type=os.system', 'a=[[', 'a=1,(2', '=', 'a.0.b=inf'])))
def test_command_lines(models, arguments):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_cfg_options(parser)
    with ours():
        try:
            options = parser.parse_args(['--cfg-options', *(text for text in arguments if not text.startswith('-'))])
        except (argparse.ArgumentError, SystemExit):  # what argparse itself says to the user
            return
        config = copy.deepcopy(models[0])
        merge_options(config, options.cfg_options or {})
        check_types(config)


@given(draw=st.data())
def test_written_configurations_hold_what_was_merged(models, draw, tmp_path_factory):
    """They are programs: no value may become another part of one."""
    options = {
        draw.draw(st.sampled_from(['x', 'model.x', 'train_cfg.x.y'])): draw.draw(st.text(max_size=40) | st.integers())
    }
    config = Config(dict(model=dict(type='A'), train_cfg=dict(x=None)))
    merge_options(config, options)
    file = tmp_path_factory.mktemp('config') / 'config.py'
    file.write_text(config.pretty_text)
    before = set(sys.modules)
    with ours():
        again = load_config(file)
        assert again._cfg_dict == config._cfg_dict
    assert set(sys.modules) - before <= {'config'}
