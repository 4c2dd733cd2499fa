import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

CONFIG = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0), 'head': dict(lr_mult=10.0)}),
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 1)
        self.reference = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).requires_grad_(False)


@pytest.fixture
def model():
    init_default_scope('mmrs')
    torch.manual_seed(0)
    return Net()


def test_one_group_for_each_set_of_options(model):
    groups = build_optim_wrapper(model, dict(CONFIG)).optimizer.param_groups
    found = {(g['lr'], g['weight_decay']): {id(p) for p in g['params']} for g in groups}
    assert found == {
        (0.1, 0.01): {id(p) for p in model.body.parameters()},
        (0.1, 0.0): {id(p) for p in model.norm.parameters()},
        (1.0, 0.01): {id(p) for p in model.head.parameters()},
    }


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'mmengine.optim.optimizer.default_constructor.print_log', lambda message, *_, **__: lines.append(message)
    )
    return lines


def test_frozen_modules_are_left_out_quietly(model, log):
    build_optim_wrapper(model, dict(CONFIG))
    assert log
    assert not any('skipped' in line for line in log)


def test_partly_frozen_modules_are_still_told(model, log):
    model.head.bias.requires_grad_(False)
    build_optim_wrapper(model, dict(CONFIG))
    assert any('head.bias is skipped' in line for line in log)
