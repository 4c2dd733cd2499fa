"""What a configuration says and a training would not do is refused before anything is built."""

import math

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop

from mmrs.apis.preflight import check_config, check_loaders, final_rate
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import write_adaptation_config, write_clips, write_config


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('preflight')
    return write_adaptation_config(folder / 'tiny.py', write_clips(folder / 'clips'))


@pytest.fixture
def config(file):
    return Config.fromfile(file)


def poly(**changes):
    return dict(dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=11, by_epoch=False), **changes)


def refused(config, *texts):
    with pytest.raises(ConfigError) as error:
        check_config(config)
    for text in (config.filename, *texts):
        assert text in str(error.value)


def test_what_is_right_passes(config):
    check_config(config)


@pytest.mark.parametrize('type_', ['IterBasedTrainLoop', None])
def test_a_schedule_by_epochs_in_a_training_by_iterations(config, type_):
    config.train_cfg = dict(max_iters=10, val_interval=10, **(dict(type=type_) if type_ else dict(by_epoch=False)))
    config.param_scheduler = [poly(), dict(type='MultiStepLR', milestones=[5])]
    refused(config, 'param_scheduler.1 (MultiStepLR)', 'by_epoch=False')
    config.param_scheduler[1] = dict(type='ReduceOnPlateauLR', monitor='mIoU', rule='greater')  # by validations
    check_config(config)
    config.param_scheduler[1] = dict(type='MultiStepLR', milestones=[5], convert_to_iter_based=True)
    check_config(config)


def test_schedules_of_the_parts_of_a_joint_optimizer(config):
    config.train_cfg.max_iters = 10
    config.param_scheduler = dict(segmentor=[poly()], discriminator=[dict(type='PolyLR', end=11)])
    refused(config, 'param_scheduler.discriminator.0 (PolyLR)')


@pytest.mark.parametrize('loop', ['EpochBasedTrainLoop', EpochBasedTrainLoop])
@pytest.mark.parametrize('sampler', ['InfiniteSampler', InfiniteSampler])
def test_a_sampler_without_an_end(config, loop, sampler):
    config.train_cfg = dict(type=loop, max_epochs=2)
    config.param_scheduler = [dict(type='PolyLR', end=2)]
    config.train_dataloader.sampler = dict(type=sampler, shuffle=True)
    refused(config, 'train_dataloader.sampler is InfiniteSampler', 'DefaultSampler')
    config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    check_config(config)
    config.val_dataloader.sampler = dict(type=sampler)
    refused(config, 'val_dataloader.sampler is InfiniteSampler')


def test_a_schedule_that_never_begins(config):
    config.train_cfg.max_iters = 10
    config.param_scheduler = [poly(begin=10, end=20)]
    refused(config, 'param_scheduler.0 (PolyLR) begins at 10', 'after 10 iterations')


def test_a_schedule_that_begins_late_beside_one_that_moves(config, monkeypatch):
    said = []
    monkeypatch.setattr('mmrs.apis.preflight.print_log', lambda text, **_: said.append(text))
    config.train_cfg.max_iters = 10
    config.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=15, by_epoch=False), poly(begin=15, end=99)]
    check_config(config)
    assert 'param_scheduler.1 (PolyLR) begins at 15' in said[-1]


def test_one_part_of_a_joint_optimizer_may_stop(config):
    config.train_cfg.max_iters = 10
    config.param_scheduler = dict(segmentor=[poly()], discriminator=[poly(end=3)])
    check_config(config)
    config.param_scheduler.segmentor[0].end = 4
    refused(config, 'nothing is learnt')


@pytest.mark.parametrize(
    'schedules',
    [
        [poly(end=6)],
        [dict(type='LinearLR', start_factor=0.1, begin=0, end=3, by_epoch=False), poly(end=9)],
        [dict(type='CosineAnnealingLR', T_max=4, begin=0, end=5, by_epoch=False)],
    ],
)
def test_a_rate_of_0_before_the_end(config, schedules):
    config.train_cfg.max_iters = 11
    config.param_scheduler = schedules
    idle = sum(final_rate(schedules, step) == 0 for step in range(11))
    assert idle == 12 - schedules[-1]['end']
    refused(config, f'nothing is learnt in the last {idle} of them', 'end=12')
    config.param_scheduler[-1].eta_min = 1e-5
    check_config(config)


@pytest.mark.parametrize('end', [11, 12, 40])
def test_at_most_the_last_iteration_is_idle(config, end, monkeypatch):
    said = []
    monkeypatch.setattr('mmrs.apis.preflight.print_log', lambda text, **_: said.append(text))
    config.train_cfg.max_iters = 11
    config.param_scheduler = [poly(end=end)]
    check_config(config)
    assert [text for text in said if 'ends at 40' in text and 'end=12' in text] == said
    assert len(said) == (end == 40)


def test_rates_against_their_formula():
    schedules = [dict(type='LinearLR', start_factor=0.25, begin=0, end=5, by_epoch=False), poly(power=0.9, end=101)]
    for step in (0, 1, 3, 50, 99, 100):
        warm_up = 0.25 + 0.75 * min(step, 4) / 4
        assert math.isclose(final_rate(schedules, step), warm_up * (1 - step / 100) ** 0.9, rel_tol=1e-9, abs_tol=1e-12)


def mmseg_pipeline(*labels):
    return [dict(type='LoadImageFromFile'), *labels, dict(type='PackSegInputs')]


@pytest.mark.parametrize('place', ['source', 'target', 'val', 'wrapped'])
def test_loaders_of_different_orders_of_bands(config, place):
    labels = dict(type='LoadAnnotations')
    if place == 'val':
        config.val_dataloader.dataset.pipeline = mmseg_pipeline(labels)
    elif place == 'wrapped':
        inner = config.train_dataloader.dataset.source
        inner.pipeline = mmseg_pipeline(labels)
        config.train_dataloader.dataset.source = dict(type='RepeatDataset', times=2, dataset=inner)
    else:
        config.train_dataloader.dataset[place].pipeline = mmseg_pipeline()
    refused(config, 'LoadImageFromFile', 'BGR', 'LoadRasterImage', 'RGB')


@pytest.mark.parametrize('kind', ['color', 'color_ignore_orientation', 'unchanged'])
def test_kinds_of_loading(config, kind):
    load = dict(type='LoadImageFromFile', color_type=kind)
    config.train_dataloader.dataset.target.pipeline = [load, dict(type='PackSegInputs')]
    refused(config, 'BGR')
    load['imdecode_backend'] = 'tifffile'
    config.train_dataloader.dataset.target.pipeline = [load, dict(type='PackSegInputs')]
    check_config(config)


def test_the_pipeline_of_augmented_tests(config):
    config.tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[])]
    check_loaders(config)
    with pytest.raises(ConfigError, match=r'tta_pipeline \(LoadImageFromFile\) reads BGR'):
        check_loaders(config, tta=True)


def test_one_loader_for_all(config, tmp_path):
    config.train_dataloader.dataset.source.pipeline = mmseg_pipeline(dict(type='LoadAnnotations'))
    config.train_dataloader.dataset.target.pipeline = mmseg_pipeline()
    config.val_dataloader.dataset.pipeline = mmseg_pipeline(dict(type='LoadAnnotations'))
    config.test_dataloader = config.val_dataloader
    check_config(config)
    plain = Config.fromfile(write_config(tmp_path / 'plain.py', tmp_path))
    plain.val_dataloader = plain.test_dataloader = None
    check_config(plain)
