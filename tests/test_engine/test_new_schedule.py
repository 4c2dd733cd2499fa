"""A resumed run whose configuration has other rates, schedules or optimizers than the checkpoint was trained with."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper, PolyLR

from mmrs.apis import train
from mmrs.engine.schedules import settings, take_over
from mmrs.utils.errors import CheckpointError, ConfigError
from mmrs.weights import read_checkpoint
from tests.conformance import changes
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401

SCHEDULE = dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=3, by_epoch=False)


@pytest.fixture(scope='module', params=['plain', 'joint'])
def trained(request, tmp_path_factory):
    """A configuration of one optimizer or two, and the checkpoint of its first two iterations."""
    folder = tmp_path_factory.mktemp(request.param)
    writer = write_config if request.param == 'plain' else write_adaptation_config
    file = writer(folder / 'tiny.py', write_clips(folder / 'clips'))
    train(configured(file), folder / 'run', preflight=False)
    return file, folder / 'run' / 'iter_2.pth', 'segmentor.' if request.param == 'joint' else ''


def configured(file, **options):
    config = Config.fromfile(file)
    config.param_scheduler = [dict(SCHEDULE)]
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.merge_from_dict(options)
    return config


def rates(work_dir):
    lines = map(json.loads, next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines())
    return {line['step']: line.get('lr', line.get('segmentor.lr')) for line in lines if 'loss' in line}


@pytest.mark.parametrize(
    ('options', 'texts'),
    [
        ({'param_scheduler.0.end': 7, 'train_cfg.max_iters': 6}, ['param_scheduler.0.end (PolyLR) is 7, was 3']),
        ({'param_scheduler.0.power': 0.9}, ['param_scheduler.0.power (PolyLR) is 0.9, was 1.0']),
        ({'param_scheduler': [dict(type='ConstantLR', by_epoch=False)]}, ['param_scheduler.0.factor (ConstantLR)']),
        ({'param_scheduler': [dict(SCHEDULE)] * 2}, ['param_scheduler has 2 schedules, the checkpoint has 1']),
        ({'optim_wrapper.{}optimizer.lr': 0.5}, ['optim_wrapper.{}optimizer.lr is 0.5, was 0.001']),
        ({'optim_wrapper.{}optimizer.betas': (0.5, 0.9)}, ['optimizer.betas is [0.5, 0.9], was [0.9, 0.999]']),
        ({'optim_wrapper.{}optimizer.weight_decay': 0.7}, ['optimizer.weight_decay is 0.7, was 0.01']),
    ],
)
def test_what_the_checkpoint_would_replace_is_refused(trained, tmp_path, options, texts):
    file, checkpoint, part = trained
    options = {'train_cfg.max_iters': 3, **{key.format(part): value for key, value in options.items()}}
    with pytest.raises(CheckpointError) as error:
        train(configured(file, **options), tmp_path, resume=str(checkpoint), preflight=False)
    for text in (*texts, str(checkpoint), '--new-schedule'):
        assert text.format(part) in str(error.value)


def test_a_checkpoint_without_schedules(trained, tmp_path):
    file, checkpoint, _ = trained
    state = read_checkpoint(checkpoint)
    del state['param_schedulers']
    torch.save(state, bare := tmp_path / 'bare.pth')
    options = {'train_cfg.max_iters': 3, 'param_scheduler.0.end': 7}
    with pytest.raises(CheckpointError, match='param_scheduler has 1 schedules, the checkpoint has 0'):
        train(configured(file, **options), tmp_path / 'a', resume=str(bare), preflight=False)
    train(configured(file, **options), tmp_path / 'b', resume=str(bare), preflight=False, new_schedule=True)
    assert rates(tmp_path / 'b')[3] == pytest.approx(1e-3 * (1 - 2 / 6))


def test_what_changes_the_speed_alone_may_differ(trained, tmp_path):
    file, checkpoint, part = trained
    options = {'train_cfg.max_iters': 3, f'optim_wrapper.{part}optimizer.foreach': False}
    options[f'optim_wrapper.{part}optimizer.fused'] = False
    train(configured(file, **options), tmp_path, resume=str(checkpoint), preflight=False)
    assert set(rates(tmp_path)) == {3}


def test_more_iterations_of_the_same_schedule_go_on(trained, tmp_path):
    file, checkpoint, _ = trained
    train(configured(file, **{'train_cfg.max_iters': 3}), tmp_path, resume=str(checkpoint), preflight=False)
    assert rates(tmp_path) == {3: 0}


def test_a_new_schedule_is_that_of_a_run_from_the_beginning(trained, tmp_path):
    file, checkpoint, part = trained
    options = {
        'param_scheduler': [dict(type='LinearLR', start_factor=0.5, begin=0, end=4, by_epoch=False), SCHEDULE],
        'param_scheduler.1.end': 7, 'param_scheduler.1.power': 0.9, 'train_cfg.max_iters': 6,
        f'optim_wrapper.{part}optimizer.lr': 0.01, f'optim_wrapper.{part}optimizer.weight_decay': 0.7,
    }  # fmt: skip
    config = configured(file)
    for key, value in options.items():
        config.merge_from_dict({key: value})
    train(config, tmp_path, resume=str(checkpoint), new_schedule=True)
    found = rates(tmp_path)
    assert set(found) == {3, 4, 5, 6}
    for step, rate in found.items():  # logged behind the step, with the rate that it had
        done = step - 1
        assert rate == pytest.approx(0.01 * (0.5 + 0.5 * min(done, 3) / 3) * (1 - done / 6) ** 0.9, rel=1e-6)
    state = read_checkpoint(tmp_path / 'iter_6.pth')
    own = state['optimizer'].get('segmentor', state['optimizer'])
    assert {group['weight_decay'] for group in own['param_groups']} == {0.7}
    assert {float(moments['step']) for moments in own['state'].values()} == {6}, "Adam's moments went on"
    # What it leaves is resumed as any other.
    train(config, tmp_path / 'again', resume=str(tmp_path / 'iter_5.pth'))
    assert rates(tmp_path / 'again')[6] == pytest.approx(found[6], rel=1e-12)


@pytest.mark.parametrize(
    ('kind', 'recorded', 'new_schedule'), [('NAdam', True, False), ('SGD', True, True), ('SGD', False, False)]
)
def test_another_optimizer_cannot_be_taken_over(trained, tmp_path, kind, recorded, new_schedule):
    file, checkpoint, part = trained
    if not recorded:
        state = read_checkpoint(checkpoint)
        del state['meta']['optimizers']
        torch.save(state, checkpoint := tmp_path / 'earlier.pth')
    config = configured(file, **{'train_cfg.max_iters': 3, f'optim_wrapper.{part}optimizer.type': kind})
    with pytest.raises(CheckpointError, match=f'is {kind}, was {"AdamW" if recorded else "another"}.*load_from'):
        train(config, tmp_path / 'run', resume=str(checkpoint), new_schedule=new_schedule, preflight=False)


def test_a_schedule_of_the_momentum(trained, tmp_path):
    """For Adam MMEngine schedules the first of the betas."""
    file, checkpoint, part = trained
    momentum = dict(type='CosineAnnealingMomentum', T_max=4, begin=0, end=5, by_epoch=False)
    options = {'train_cfg.max_iters': 4, 'param_scheduler': [dict(SCHEDULE, end=5), momentum]}
    train(configured(file, **options), tmp_path / 'run', resume=str(checkpoint), new_schedule=True)
    config = configured(file, **options)
    train(config, tmp_path / 'again', resume=str(tmp_path / 'run' / 'iter_3.pth'))
    for folder in ('run', 'again'):
        state = read_checkpoint(tmp_path / folder / 'iter_4.pth')['optimizer']
        betas = state.get('segmentor', state)['param_groups'][0]['betas']
        assert betas[0] == pytest.approx(0, abs=1e-9)  # cosine: 0.9 * (1 + cos(pi * 4 / 4)) / 2
    config.merge_from_dict({f'optim_wrapper.{part}optimizer.betas': (0.8, 0.999)})
    with pytest.raises(CheckpointError, match=r'betas is \[0.8, 0.999\], was \[0.9, 0.999\]'):
        train(config, tmp_path / 'c', resume=str(tmp_path / 'run' / 'iter_3.pth'), preflight=False)


def test_no_schedule_any_more(trained, tmp_path):
    file, checkpoint, _ = trained
    config = configured(file, **{'train_cfg.max_iters': 4})
    config.param_scheduler = None
    with pytest.raises(CheckpointError, match='param_scheduler has 0 schedules, the checkpoint has 1'):
        train(config, tmp_path, resume=str(checkpoint), preflight=False)


def test_a_new_schedule_where_nothing_is_new(trained, tmp_path):
    file, checkpoint, _ = trained
    for name, new in (('plain', False), ('new', True)):
        train(configured(file, **{'train_cfg.max_iters': 3}), tmp_path / name, resume=str(checkpoint), new_schedule=new)
    assert changes(*(read_checkpoint(tmp_path / name / 'iter_3.pth') for name in ('plain', 'new'))) == set()


def test_a_new_schedule_without_a_run_to_go_on_with(trained, tmp_path):
    with pytest.raises(ConfigError, match='--resume'):
        train(configured(trained[0]), tmp_path, new_schedule=True)


def test_a_new_schedule_for_another_runner(trained, tmp_path):
    file, checkpoint, _ = trained
    config = configured(file, runner_type='mmengine.Runner')
    with pytest.raises(ConfigError, match=r'runner_type=AdaptationRunner, but it is mmengine\.Runner'):
        train(config, tmp_path, resume=str(checkpoint), new_schedule=True, preflight=False)


@pytest.mark.parametrize(('iterations', 'epochs'), [(317, 0), (320, 5)])
def test_many_groups_of_parameters_each_with_its_own_rate(iterations, epochs):
    def built():
        groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))], lr=lr) for lr in (1.0, 0.1, 1.0, 10.0, 0.1)]
        wrapper = OptimWrapper(torch.optim.SGD(groups, lr=1.0))
        return wrapper, [
            LinearLR(wrapper, start_factor=0.1, begin=0, end=30, by_epoch=False),
            CosineAnnealingLR(wrapper, T_max=500, eta_min=0.01, begin=0, end=501, by_epoch=False),
            CosineAnnealingLR(wrapper, T_max=9, eta_min=0.002, begin=0, end=10, by_epoch=True),
            PolyLR(wrapper, power=0.9, begin=100, end=400, by_epoch=False),
        ]

    (stepped, schedules), (jumped, others) = built(), built()
    fresh = settings(jumped, others)
    stepped.optimizer.step()
    for step in range(1, iterations + 1):
        for schedule in schedules:
            if not schedule.by_epoch or (epochs and step % (iterations // epochs) == 0):
                schedule.step()
    take_over(jumped, others, fresh, iterations, epochs)
    assert [group['lr'] for group in jumped.param_groups] == [group['lr'] for group in stepped.param_groups]
    for one, other in zip(schedules, others):
        assert one.state_dict() == other.state_dict()
        assert other.optimizer is jumped
