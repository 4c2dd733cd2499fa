import pytest
from mmengine.config import Config

from mmrs.utils import ConfigError
from mmrs.utils.config import (
    check_types,
    enable_amp,
    explain_type_error,
    load_config,
    merge_options,
    pretrained_files,
    remove_pretrained,
)
from tests.tiny_runs import REPOSITORY


def config(**extra):
    model = dict(type='EncoderDecoder', backbone=dict(type='mmseg.MixVisionTransformer'), test_cfg=dict(mode='whole'))
    return Config(dict(default_scope='mmrs', model=model, **extra))


def test_missing_config_names_a_similar_one(tmp_path):
    (tmp_path / 'potsdam.py').touch()
    with pytest.raises(ConfigError, match=r'postdam\.py does not exist; did you mean .*potsdam\.py'):
        load_config(tmp_path / 'postdam.py')


def test_syntax_error_and_missing_base(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1\ny = dict(\n')
    with pytest.raises(ConfigError, match=r'a\.py, line 2'):
        load_config(tmp_path / 'a.py')
    (tmp_path / 'b.py').write_text("_base_ = './nothing.py'\n")
    with pytest.raises(ConfigError, match=r'b\.py.*nothing\.py'):
        load_config(tmp_path / 'b.py')


@pytest.mark.parametrize(
    ('option', 'hint'),
    [('modle.type', 'model'), ('lod_from', 'load_from'), ('model.backbne.depth', r'model\.backbone')],
)
def test_misspelt_options(option, hint):
    with pytest.raises(ConfigError, match=rf'{option}.*did you mean {hint}'):
        merge_options(config(), {option: 1})


def test_new_keys_are_welcome():
    cfg = config(custom_hooks=[dict(type='A')], init=None)
    options = {
        'model.backbone.with_cp': True,  # a new last part
        'randomness.seed': 3,  # known to the runner, though not in the configuration
        'my_own': 1,
        'custom_hooks.0.decay': 0.9,
        'init.type': 'Pretrained',  # below None
    }
    merge_options(cfg, options)
    assert cfg.model.backbone.with_cp is True
    assert cfg.randomness.seed == 3
    assert cfg.custom_hooks[0] == dict(type='A', decay=0.9)
    assert cfg.init.type == 'Pretrained'


def test_remove_pretrained_goes_all_the_way_down():
    pretrained = dict(type='Pretrained', checkpoint='https://x/y.pth')
    normal = dict(type='Normal', std=0.1)
    cfg = Config(
        dict(
            model=dict(
                pretrained='open-mmlab://resnet50_v1c',
                backbone=dict(source=dict(init_cfg=pretrained), target=dict(init_cfg=[normal, pretrained])),
                heads=[dict(init_cfg=normal), dict(init_cfg=[pretrained])],
            )
        )
    )
    assert pretrained_files(cfg.model, 'model') == {
        'model.pretrained': 'open-mmlab://resnet50_v1c',
        'model.backbone.source.init_cfg.checkpoint': 'https://x/y.pth',
        'model.backbone.target.init_cfg.1.checkpoint': 'https://x/y.pth',
        'model.heads.1.init_cfg.0.checkpoint': 'https://x/y.pth',
    }
    remove_pretrained(cfg.model)
    assert pretrained_files(cfg.model) == {}
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.source.init_cfg is None
    assert cfg.model.backbone.target.init_cfg == [normal]
    assert cfg.model.heads[0].init_cfg == normal
    assert cfg.model.heads[1].init_cfg is None


def test_amp_of_one_optimizer_and_of_several():
    plain = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))))
    enable_amp(plain)
    assert plain.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = dict(optimizer=dict(type='SGD', lr=1.0))
    joint = Config(dict(optim_wrapper=dict(constructor='X', segmentor=optimizer, discriminator=optimizer, off=None)))
    enable_amp(joint)
    assert joint.optim_wrapper.segmentor.type == joint.optim_wrapper.discriminator.type == 'AmpOptimWrapper'
    assert 'type' not in joint.optim_wrapper
    with pytest.raises(ConfigError, match=r'optim_wrapper\.type is Mine'):
        enable_amp(Config(dict(optim_wrapper=dict(type='Mine', **optimizer))))


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (dict(val_evaluator=dict(type='IoUMetrik')), "val_evaluator.type is 'IoUMetrik'.*did you mean IoUMetric"),
        (dict(optim_wrapper=dict(a=dict(optimizer=dict(type='AdmW')))), r"a\.optimizer\.type is 'AdmW'.*AdamW"),
        (dict(train_dataloader=dict(dataset=dict(type='Potsdam'))), r'dataset\.type.*did you mean PotsdamDataset'),
        (
            dict(train_dataloader=dict(dataset=dict(source=dict(pipeline=[dict(type='LoadRasterImages')])))),
            r'source\.pipeline\.0\.type.*no registered transform.*LoadRasterImage',
        ),
        (dict(default_hooks=dict(logger=dict(type='LogerHook'))), r'default_hooks\.logger\.type.*LoggerHook'),
        (dict(custom_hooks=[dict(type='QQQQ')]), r'custom_hooks\.0\.type.*custom_imports'),
    ],
)
def test_unknown_types_are_found_before_building(extra, message):
    with pytest.raises(ConfigError, match=message):
        check_types(config(**extra))


def test_known_types_pass():
    check_types(load_config(REPOSITORY / 'configs' / '_base_' / 'default_runtime.py'))
    check_types(config(optim_wrapper=dict(optimizer=dict(type='AdamW')), train_cfg=dict(type='IterBasedTrainLoop')))


def test_explain_type_error_searches_the_whole_config():
    cfg = config(model2=dict(loss=[dict(type='CrosEntropyLoss')]))
    error = KeyError('CrosEntropyLoss is not in the mmrs::model registry. Please check ...')
    message = str(explain_type_error(error, cfg))
    assert "model2.loss.0.type is 'CrosEntropyLoss'" in message
    assert 'did you mean CrossEntropyLoss' in message
    assert explain_type_error(KeyError('num_classes'), cfg) is None
