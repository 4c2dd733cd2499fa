import pytest
from mmengine.config import Config

from mmrs.datasets import RemoteSensingDataset
from mmrs.registry import DATASETS
from mmrs.utils.config import load_config, merge_options
from mmrs.utils.config_checks import check_keys
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY, write_config

CONFIGS = sorted(
    path
    for path in (REPOSITORY / 'configs').rglob('*.py')
    if not {'_base_', 'pretraining', 'trials'} & set(path.parts) and path.stem != 'method'
)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp('config') / 'tiny.py', 'data')


def changed(tiny, **keys):
    config = load_config(tiny)
    merge_options(config, keys)
    return config


def test_the_projects_own_configurations_pass():
    for path in CONFIGS:
        check_keys(load_config(path))


@pytest.mark.parametrize(
    ('keys', 'expected'),
    [
        (dict(data=dict(samples_per_gpu=2, train={})), {'data.samples_per_gpu': 'train_dataloader.batch_size'}),
        (dict(data=dict(workers_per_gpu=2)), {'data.workers_per_gpu': 'train_dataloader.num_workers'}),
        (dict(runner=dict(type='IterBasedRunner', max_iters=5)), {'runner.max_iters': 'train_cfg.max_iters'}),
        (dict(evaluation=dict(interval=1)), {'evaluation.interval': 'train_cfg.val_interval'}),
        (dict(lr_config=dict(policy='poly')), {'lr_config': 'param_scheduler'}),
        (
            dict(optimizer=dict(type='SGD'), optimizer_config=dict(grad_clip=None)),
            {'optimizer': 'optim_wrapper.optimizer', 'optimizer_config': 'optim_wrapper.clip_grad'},
        ),
        (dict(checkpoint_config=dict(by_epoch=False)), {'checkpoint_config': 'default_hooks.checkpoint'}),
        (dict(log_config=dict(interval=50)), {'log_config.interval': 'default_hooks.logger.interval'}),
        (dict(workflow=[('train', 1)]), {'workflow': 'train_cfg'}),
        (dict(dist_params=dict(backend='nccl')), {'dist_params': 'env_cfg.dist_cfg'}),
        (dict(fp16=dict(loss_scale=512.0)), {'fp16': '--amp'}),
        (dict(uda=dict(type='DACS')), {'uda': 'an adaptation method'}),
        (dict(total_iters=7), {'total_iters': 'train_cfg.max_iters'}),
        ({'cudnn_benchmark': True, 'env_cfg.cudnn_benchmark': False}, {'cudnn_benchmark': 'env_cfg.cudnn_benchmark'}),
        (dict(resume_from='a.pth'), {'resume_from': 'load_from'}),
        ({'train_dataloader.samples_per_gpu': 3}, {'train_dataloader.samples_per_gpu': 'batch_size'}),
        ({'val_dataloader.dataset.img_dir': 'x'}, {'val_dataloader.dataset.img_dir': 'data_prefix.img_path'}),
        (
            {'train_dataloader.dataset.data_prefix': dict(ann_dir='x')},
            {'train_dataloader.dataset.data_prefix.ann_dir': 'seg_map_path'},
        ),
        (
            {'train_dataloader.dataset.pipeline': [dict(type='mmseg.Collect', keys=['img'])]},
            {'train_dataloader.dataset.pipeline.0 Collect': 'PackRasterInputs'},
        ),
    ],
)
def test_keys_of_mmsegmentation_0(tiny, keys, expected):
    with pytest.raises(ConfigError, match=f'config {tiny}: .* of mmsegmentation 0.x') as error:
        check_keys(changed(tiny, **keys))
    for old, new in expected.items():
        assert f'{old} (now {new}' in str(error.value)
    assert '\n' not in str(error.value)


def test_variables_pass(tiny):
    """As configurations of mmsegmentation 1.x have them, and people."""
    optimizer = load_config(tiny).optim_wrapper.optimizer
    own = dict(
        optimizer=optimizer, data='path', evaluation=dict(type='X'), data_root='x', total_iters=2,
        samples_per_gpu=2, model_2={}, norm_cfg={},
        train_pipeline=[], img_norm_cfg={}, workflow=[], tta_pipeline=[], img_ratios=[1], log_processor={}, seed=3,
        resume_from=None, backbone=dict(type='X'), train_dataset={}, vis_backends=[], test_dataloader_1={},
        cudnn_benchmark=False, models=['a', 'b'], custom_imports_of_mine=dict(a=1),
    )  # fmt: skip
    check_keys(Config({**load_config(tiny).to_dict(), **own}))
    own['optimizer'] = dict(type='SGD')  # mmsegmentation's SegFormer has a base with another one
    check_keys(Config({**load_config(tiny).to_dict(), **own}))


@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('optim_wraper', 'optim_wrapper'),
        ('param_schedulers', 'param_scheduler'),
        ('train_dataloaders', 'train_dataloader'),
        ('default_hook', 'default_hooks'),
        ('custom_hook', 'custom_hooks'),
        ('lod_from', 'load_from'),
        ('val_evaluater', 'val_evaluator'),
        ('randomnes', 'randomness'),
        ('refrence_config', 'reference_config'),
    ],
)
def test_misspelt_keys_of_a_file(tiny, tmp_path, key, meant):
    (tmp_path / 'own.py').write_text(f"_base_ = '{tiny}'\n{key} = dict(a=1)\n")
    with pytest.raises(ConfigError, match=rf'own\.py: nothing reads the key {key}; did you mean {meant}\?'):
        check_keys(load_config(tmp_path / 'own.py'))


@DATASETS.register_module()
class FoldersDataset(RemoteSensingDataset):
    """A user's own, with a name of mmsegmentation 0.x for something else."""

    def __init__(self, img_dir, **kwargs):
        super().__init__(**kwargs)


def test_arguments_of_data_sets_of_ones_own(tiny):
    place = 'val_dataloader.dataset'
    check_keys(changed(tiny, **{f'{place}.type': 'FoldersDataset', f'{place}.img_dir': 'images'}))
    with pytest.raises(ConfigError, match=rf'{place}\.ann_dir \(now data_prefix\.seg_map_path\)'):
        check_keys(changed(tiny, **{f'{place}.type': 'FoldersDataset', f'{place}.ann_dir': 'labels'}))


def test_images_are_not_normalised_twice(tiny):
    pipeline = [dict(type='LoadRasterImage'), dict(type='Normalize', mean=[0.0], std=[1.0])]
    twice = {'val_dataloader.dataset.pipeline': pipeline}
    with pytest.raises(ConfigError, match=r'val_dataloader\.dataset\.pipeline\.1 is Normalize.*normalised twice'):
        check_keys(changed(tiny, **twice))
    check_keys(changed(tiny, **twice, **{'model.data_preprocessor.mean': None}))
