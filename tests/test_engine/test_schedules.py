"""The paper configs' optimizers and learning rates against those of the released implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmrs.apis.filling import fill_model
from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.models.adaptors.st_dasegnet_release import rename_release
from mmrs.registry import MODELS, PARAM_SCHEDULERS
from mmrs.utils.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def options(optimizer, names):
    """Learning rate and weight decay by parameter."""
    return {
        names[id(p)]: (group['lr'], group['weight_decay']) for group in optimizer.param_groups for p in group['params']
    }


@pytest.mark.parametrize(
    ('recording', 'config', 'changes'),
    [
        (
            'segformer_b0',
            'st_dasegnet/potsdam2vaihingen.py',
            dict(backbone=dict(init_cfg=None, embed_dims=32, num_layers=[2, 2, 2, 2])),
        ),
        (
            'deeplab_r18',
            'st_dasegnet/potsdam2vaihingen_r50.py',
            dict(backbone=dict(init_cfg=None, depth=18)),
        ),
    ],
)
def test_parameter_groups_are_the_releases(golden, recording, config, changes):
    cfg = load_config(CONFIGS / config)
    cfg.merge_from_dict(dict(model=changes))
    fill_model(cfg)
    model = MODELS.build(cfg.model)
    parts = {name: part for name, part in cfg.optim_wrapper.items() if name != 'constructor'}
    joint = JointOptimWrapperConstructor(parts)(model)
    names = {id(p): name for name, p in model.named_parameters()}
    built = {part: options(joint[part].optimizer, names) for part in parts}
    compared = 0
    for part, recorded in golden('optim_groups.json')[recording].items():
        own_part = 'discriminator' if part.startswith('discriminator') else 'segmentor'
        own = built[own_part]
        assert type(joint[own_part].optimizer).__name__ == recorded['type']
        for group in recorded['groups']:
            for name in group['params']:
                value = own.get(rename_release(name))
                if value is None:  # frozen here, as no gradient reaches it; or the recording has another num_conv
                    frozen = name.startswith(('dsk_neck.dsk_neck2', 'dsk_neck.dsk_neck3')) and 'r50' in config
                    assert frozen or part.startswith('discriminator'), name
                    continue
                expected_lr = 2.5e-4 if part.startswith('discriminator') and 'r50' in config else group['lr']
                assert value == pytest.approx((expected_lr, group['weight_decay'])), name
                compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ('recording', 'config'),
    [('segformer', 'st_dasegnet/potsdam2vaihingen.py'), ('deeplab', 'st_dasegnet/potsdam2vaihingen_r50.py')],
)
def test_learning_rates_are_the_releases(golden, recording, config):
    recorded = {int(i): rates for i, rates in golden('lr_schedule.json')[recording].items()}
    # The recording's base rates.
    base = dict(a=6e-5, d=1e-5, head=2e-3)
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in base}
    groups = [dict(params=[p], lr=base[name]) for name, p in parameters.items()]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=1.0))
    cfg = load_config(CONFIGS / config)
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper)) for s in cfg.param_scheduler]
    for i in range(cfg.train_cfg.max_iters):
        if i in recorded:
            rates = [group['lr'] for group in wrapper.optimizer.param_groups]
            assert rates == pytest.approx([recorded[i][name] for name in base], rel=1e-5), i
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert max(recorded) == cfg.train_cfg.max_iters - 1


def test_rates_of_daformer_are_the_releases():
    file = Path(__file__).resolve().parents[1] / 'data' / 'golden' / 'uda_schedule.pt'
    recorded = torch.load(file, weights_only=True)['daformer_poly10warm']
    cfg = load_config(CONFIGS / '_base_/schedules/daformer_40k.py')
    head, backbone = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [dict(params=[p], lr=lr) for p, lr in zip((backbone, head), recorded['base_lr'])]
    assert recorded['base_lr'] == pytest.approx([6e-5, 6e-4])
    assert cfg.optim_wrapper.optimizer.lr == 6e-5
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult == 10
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=1.0))
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper)) for s in cfg.param_scheduler]
    expected = {i: rates.tolist() for i, rates in zip(recorded['iterations'], recorded['lr'])}
    for i in range(cfg.train_cfg.max_iters):
        if i in expected:
            assert [group['lr'] for group in wrapper.optimizer.param_groups] == pytest.approx(expected[i], rel=1e-11), i
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert max(expected) == cfg.train_cfg.max_iters - 1


@pytest.mark.parametrize(
    ('config', 'students'),
    [
        ('st_dasegnet/potsdam2vaihingen.py', dict(betas=(0.9, 0.999))),
        ('st_dasegnet/potsdam2vaihingen_r50.py', dict(momentum=0.9)),
    ],
)
def test_moments_are_those_of_the_paper(config, students):
    cfg = load_config(CONFIGS / config).optim_wrapper
    for part, expected in dict(segmentor=students, discriminator=dict(betas=(0.9, 0.99))).items():
        found = {key: value for key, value in cfg[part].optimizer.items() if key in ('betas', 'momentum')}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
