"""Pre-training through the tools: every task has windows without labels, and methods start from what was trained."""

import json
import re

import pytest
import torch

from mmrs.utils.config import load_config, merge_options, remove_pretrained, walk
from mmrs.utils.errors import ConfigError
from mmrs.weights import read_checkpoint
from tests.test_configs import CONFIGS, NETWORKS, TASKS, local_data, narrow
from tests.tiny_runs import quick_start  # noqa: F401
from tools import train as train_tool

CONTRAST = CONFIGS / 'pretraining/contrast.py'
PLAIN = [network for network in NETWORKS if not network.startswith('hrda')]


@pytest.mark.parametrize('task', TASKS)
def test_every_task_has_windows_without_labels(task):
    before = load_config(CONFIGS / 'source_only/method.py', task=task, network=PLAIN[0])
    cfg = load_config(CONTRAST, task=task, network=PLAIN[TASKS.index(task) % len(PLAIN)])
    assert cfg.model.type == 'Contrast'
    assert (cfg.train_dataloader.batch_size, cfg.val_cfg.type, cfg.train_cfg.max_iters) == (8, 'ViewValLoop', 4000)
    for split in ('train', 'val'):
        steps = []
        for path, node in walk(cfg[f'{split}_dataloader']):
            assert 'seg_map_path' not in node, path
            if re.search(r'pipeline\.\d+$', path):
                steps.append(node['type'])
        assert 'GroundCrop' in steps
        assert set(steps) <= {
            'LoadRasterImage',
            'Resize',
            'CameraChange',
            'Misalignment',
            'GroundCrop',
            'PackRasterInputs',
        }, steps
    sizes = {
        str(node['crop_size']) for path, node in walk(cfg) if 'dataloader' in path and node.get('type') == 'GroundCrop'
    }
    assert len(sizes) <= 2  # ISPRS squeezes whole images of the target into a crop
    assert cfg.test_dataloader.to_dict() == before.test_dataloader.to_dict()


def test_a_task_of_one_domain_and_a_method_with_its_own_schedule(tmp_path):
    task = tmp_path / 'alone.py'
    task.write_text("task = dict(num_classes=2)\ntrain_dataloader = dict(dataset=dict(type='RasterDataset'))\n")
    with pytest.raises(ConfigError, match='target'):
        load_config(CONTRAST, task=str(task), network=PLAIN[0])
    cfg = load_config(CONTRAST, task=TASKS[0], network=PLAIN[0], schedule='adamw_600')
    assert cfg.train_cfg.max_iters == 600


RUNS = [
    ('landsat2sentinel', 'segformer_r18', 'dacs', dict(kinds=dict(same=0.5, near=0.5))),
    ('own_geotiffs', 'segformer_mit-b0', 'source_only', dict(kinds=dict(other=1.0))),
    ('loveda-rural2urban_512', 'deeplabv3plus_r50', 'adaptsegnet', {}),
    ('dubai', 'dinov3_vit-s16', 'minent', {}),
]


def arguments(cfg, file, options, out):
    merge_options(cfg, options)
    remove_pretrained(cfg.model)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(file)
    return [str(file), '--work-dir', str(out)]


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'network', 'method', 'views'), RUNS)
def test_a_method_starts_from_a_pretraining(task, network, method, views, tmp_path):
    cfg = load_config(CONTRAST, task=task, network=network)
    options = {**local_data(cfg, tmp_path / 'data'), **narrow(cfg), 'train_dataloader.batch_size': 2}
    options |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'val_cfg.number': 2}
    options |= {f'model.views.{key}': value for key, value in views.items()}
    options |= {f'{path}.crop_size': (128, 128) for path, node in walk(cfg) if node.get('type') == 'GroundCrop'}
    cfg.param_scheduler = [dict(type='PolyLR', begin=0, end=3, by_epoch=False)]
    train_tool.main(arguments(cfg, tmp_path / 'contrast.py', options, tmp_path / 'out'))
    (file,) = tmp_path.glob('out/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {'loss_global', 'loss_local', 'accuracy_local', 'share_spread_global'} <= lines[0].keys()
    assert {'view/recall', 'view/recall_cells', 'view/rank', 'view/spread'} <= lines[-1].keys()

    checkpoint = tmp_path / 'out' / 'iter_2.pth'
    weights = read_checkpoint(checkpoint)['state_dict']
    cfg = load_config(CONFIGS / method / 'method.py', task=task, network=network)
    options = {**local_data(cfg, tmp_path / 'data'), **narrow(cfg), 'train_cfg.max_iters': 1, 'val_dataloader': None}
    options['train_dataloader.batch_size'] = 2
    options |= {'optim_wrapper.optimizer.lr': 0.0, 'load_from': str(checkpoint)}
    if 'segmentor' in cfg.optim_wrapper:
        del options['optim_wrapper.optimizer.lr']
        options['optim_wrapper.segmentor.optimizer.lr'] = 0.0
    cfg.param_scheduler = []
    train_tool.main(arguments(cfg, tmp_path / 'method.py', options, tmp_path / 'method'))
    started = read_checkpoint(tmp_path / 'method' / 'iter_1.pth')['state_dict']
    parameters = [key for key in weights if not re.search(r'pretext|conv_seg|running_|num_batches', key)]
    assert {key.split('.')[0] for key in parameters} == {'backbone', 'decode_head'}
    for key in parameters:
        assert torch.equal(started[key], weights[key]), key
