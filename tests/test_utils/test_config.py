import argparse
import re
import sys

import pytest
import torch
from mmengine import registry as mmengine_registry
from mmengine.config import Config

from mmrs.registry import FUNCTIONS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from mmrs.utils import ConfigError
from mmrs.utils.arguments import add_cfg_options
from mmrs.utils.config import enable_amp, load_config, merge_options, pretrained_files, remove_pretrained
from mmrs.utils.config_types import check_types, explain_error
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


@pytest.mark.parametrize(
    'key',
    [
        "a': __import__('os').system('touch attacked'), 'b",
        'model.x=1)\nimport os#',
        'model. x',
        'model.',
        '',
        '.',
        'a.b-c',
    ],
)
def test_a_key_is_a_name(key):
    """The configuration that a run writes down is a program."""
    cfg = config()
    with pytest.raises(ConfigError, match='names or numbers joined by dots'):
        merge_options(cfg, {key: 1})
    assert cfg._cfg_dict == config()._cfg_dict


ATTACK = '{{$NOT_SET:__import__("os").mkdir("attacked")#|.*}}'


@pytest.mark.parametrize('value', [ATTACK, [1, [ATTACK]], '{{ fileDirname }}'])
def test_a_value_is_not_replaced_when_the_written_configuration_is_read(value, tmp_path, monkeypatch):
    """What takes the place of a variable is part of the program."""
    monkeypatch.chdir(tmp_path)
    cfg = config()
    with pytest.raises(ConfigError, match=r'--cfg-options a\.b: \{\{ is for configuration files'):
        merge_options(cfg, {'a.b': value})
    (tmp_path / 'written.py').write_text(cfg.pretty_text)
    load_config(tmp_path / 'written.py')
    assert not (tmp_path / 'attacked').exists()


@pytest.mark.parametrize('option', ['custom_imports.imports', 'custom_imports', '_base_'])
def test_options_do_not_name_code(option):
    with pytest.raises(ConfigError, match='names code to run'):
        merge_options(config(), {option: 'evil'})


@pytest.mark.parametrize('name', ['subprocess.Popen', 'os.system', 'builtins.eval', 'antigravity.fly', 'antigravity'])
@pytest.mark.parametrize(
    'key', ['model.type', 'model.backbone.type', 'train_dataloader.collate_fn.type', 'optim_wrapper.constructor']
)
def test_types_are_registered_ones(key, name):
    """MMEngine would import and call whatever has that path."""
    cfg = config(train_dataloader=dict(dataset=dict(type='PotsdamDataset')), optim_wrapper=dict(type='OptimWrapper'))
    merge_options(cfg, {key: name})
    for registry in (MODELS, FUNCTIONS, OPTIM_WRAPPER_CONSTRUCTORS, mmengine_registry.MODELS, mmengine_registry.HOOKS):
        assert registry.get(name) is None
    assert 'antigravity' not in sys.modules
    if key.startswith('model'):
        with pytest.raises(ConfigError, match=rf"{key} is '{name}', which is no registered model"):
            check_types(cfg)


def test_registered_types_by_their_path():
    """As MMEngine writes them down for a configuration that imports its classes."""
    assert MODELS.get('mmrs.models.losses.gan_loss.GANLoss') is MODELS.get('GANLoss')
    assert MODELS.get('mmseg.models.backbones.MixVisionTransformer') is MODELS.get('mmseg.MixVisionTransformer')
    assert OPTIMIZERS.get('torch.optim.AdamW') is torch.optim.AdamW
    assert MODELS.get('mmrs.utils.config.load_config') is None


def test_a_scope_is_one_of_a_registry():
    with pytest.raises(ConfigError, match=r"default_scope is 'antigravity'; one of .*mmrs.* was expected"):
        check_types(Config(dict(default_scope='antigravity')))
    assert 'antigravity' not in sys.modules


def test_types_of_the_users_own(tmp_path, monkeypatch):
    """Code that a configuration file imports is the user's; that is what such a file is for."""
    (tmp_path / 'own_package.py').write_text(
        'from mmrs.registry import MODELS\n\n\n@MODELS.register_module()\nclass OwnLoss:\n    pass\n'
    )
    (tmp_path / 'own.py').write_text(
        "custom_imports = dict(imports=['own_package'])\n"
        "model = dict(type='OwnLoss', inner=dict(type='own_package.OwnLoss'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(tmp_path / 'own.py')
    check_types(cfg)
    assert MODELS.get(cfg.model.inner.type) is MODELS.get('OwnLoss')


def test_a_configuration_that_fails_names_its_line(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1\ny = x / 0\n')
    with pytest.raises(ConfigError, match=r'a\.py, line 2: ZeroDivisionError: division by zero'):
        load_config(tmp_path / 'a.py')


@pytest.mark.parametrize('argument', ['model.type', 'a=[1,2', 'a=1,(2', 'a=' + '(' * 1200 + ')' * 1200])
def test_arguments_that_are_no_options(argument, capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['--cfg-options', argument])
    assert end.value.code == 2
    assert 'KEY=VALUE with closed brackets was expected' in capsys.readouterr().err


def test_values_are_not_evaluated():
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    text = "__import__('os').system('touch_attacked')"
    assert parser.parse_args(['--cfg-options', f'a={text}']).cfg_options == dict(a=text)


def parsed(*arguments):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_cfg_options(parser)
    return parser.parse_args(['--cfg-options', *arguments]).cfg_options


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('dict(mode=slide,crop_size=(64,64),stride=(42,42))', dict(mode='slide', crop_size=(64, 64), stride=(42, 42))),
        ('{"mode":"whole"}', dict(mode='whole')),
        ("{'mode': 'whole', 'a': [1, -2.5, 1e-4]}", dict(mode='whole', a=[1, -2.5, 1e-4])),
        ('{mode:whole,on:true,off:False,none:None}', dict(mode='whole', on=True, off=False, none=None)),
        ('[{"type":"A"},dict(t=mmseg.B,x=[(1,),{}])]', [dict(type='A'), dict(t='mmseg.B', x=[(1,), {}])]),
        ('(dict(a=1),2)', (dict(a=1), 2)),
        ('dict()', {}),
        ('{}', {}),
        ('dict(path="a/b, c=d",q="it\'s")', dict(path='a/b, c=d', q="it's")),
        ('{"low vegetation":"tree"}', {'low vegetation': 'tree'}),
        ('dict(lr=inf)', dict(lr=float('inf'))),
        # As before, by MMEngine's rules.
        ('', ''),
        ('a=b', 'a=b'),
        ('1e-4', 1e-4),
        ('-3', -3),
        ('x,y', ['x', 'y']),
        ('[1,(2,a),True,None]', [1, (2, 'a'), True, None]),
        ('img_{}.tif', 'img_{}.tif'),
        ('dictionary', 'dictionary'),
        ('[]', []),
    ],
)  # fmt: skip
def test_values_of_options(text, value):
    found = parsed(f'a.b={text}')['a.b']
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    'text',
    [
        'dict(a=os.system("touch attacked"))', 'dict(a=[b for b in c])', 'dict(a=f"{1}")', 'dict(a=lambda:1)',
        '{"a":1', 'dict(a=1', 'dict(1)', 'dict(**{})', '{**{}}', '{1,2}', '{1:2}', 'dict(a=/b/c)', 'dict(a=1,a=2)',
        '{"a":1,a:2}', '{"a":1}x', 'dict(a=b"x")', 'dict(a=1j)', 'dict(a=1+1)', '[{}].pop()', 'dict(a=...)',
        '{{"a":1}}', 'dict(a=' + '[' * 300 + ']' * 300 + ')', 'dict(a=' + '-' * 5000 + '1)', '{"a":\0}',
    ],
)  # fmt: skip
def test_what_is_no_dict(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(argparse.ArgumentError, match='KEY=VALUE with closed brackets was expected'):
        parsed(f'a.b={text}')
    assert not list(tmp_path.iterdir())


def test_dicts_are_merged():
    cfg = config(neck=None, hooks=[dict(type='A', x=1)])
    merge_options(cfg, parsed('model.test_cfg={"crop_size":[1,1]}', 'neck=dict(type=N)', 'hooks.0=dict(y=2)'))
    assert cfg.model.test_cfg == dict(mode='whole', crop_size=[1, 1])
    assert cfg.neck == dict(type='N')
    assert cfg.hooks == [dict(type='A', x=1, y=2)]
    merge_options(cfg, parsed('model.test_cfg=dict(_delete_=True,mode=slide)', 'hooks=[dict(type=B)]', 'neck=None'))
    assert cfg.model.test_cfg == dict(mode='slide')
    assert cfg.hooks == [dict(type='B')]
    assert cfg.hooks[0].type == 'B'
    assert cfg.neck is None


@pytest.mark.parametrize(
    ('option', 'value', 'words'),
    [
        ('model.test_cfg', 'whole', ['model.test_cfg=whole', "{'mode': 'whole'}", 'model.test_cfg.mode=']),
        ('model.test_cfg', 3, ['model.test_cfg=3']),
        ('model.test_cfg', False, ['model.test_cfg=False']),
        ('model.test_cfg', ['a', 'b'], ['dict(mode=...)']),
        ('model', '', ['model.type=...']),
        ('hooks', dict(type='B'), ['has a list there', 'hooks.0.KEY', 'hooks=[dict(...)]']),
        ('hooks.0', 'B', ['hooks.0=B', 'has a dict there']),
        ('new', {"a', 'b": 1}, ['the key "a\', \'b"', 'without quotes']),
        ('new', [dict(x={'a\n': 1})], ["the key 'a\\n'"]),
    ],
)
def test_another_kind_of_value_than_the_configuration_has(option, value, words):
    cfg = config(hooks=[dict(type='A')])
    with pytest.raises(ConfigError) as error:
        merge_options(cfg, {option: value})
    assert all(word in str(error.value) for word in [f'--cfg-options {option}', *words]), str(error.value)


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
            dict(
                train_dataloader=dict(
                    dataset=dict(type='PairedDataset', source=dict(pipeline=[dict(type='LoadRasterImages')]))
                )
            ),
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


def test_unknown_types_are_looked_for_in_the_whole_config():
    cfg = config(model2=dict(loss=[dict(type='CrosEntropyLoss')]))
    error = KeyError('CrosEntropyLoss is not in the mmrs::model registry. Please check ...')
    message = str(explain_error(error, cfg))
    assert "model2.loss.0.type is 'CrosEntropyLoss'" in message
    assert 'did you mean CrossEntropyLoss' in message
    assert explain_error(KeyError('num_classes'), cfg) is None


def raised(build):
    try:
        build()
    except Exception as error:
        return error
    raise AssertionError('nothing was raised')


def test_what_cannot_be_built_is_named():
    cfg = config(custom_hooks=[dict(type='LoggerHook', intervall=1)])
    hook = cfg.custom_hooks[0]
    error = raised(lambda: mmengine_registry.HOOKS.build(hook))
    message = str(explain_error(error, cfg))
    assert re.match(r"custom_hooks\.0 \(LoggerHook\) cannot be built: TypeError: .*'intervall'", message)
    assert explain_error(raised(lambda: int('x')), cfg) is None


def test_a_lost_connection_is_no_mistake_in_a_configuration():
    @FUNCTIONS.register_module(force=True)
    def connects(message):
        raise RuntimeError(message)

    cfg = config(custom_hooks=[dict(type='connects', message='[gloo/pair.cc] Connection closed by peer')])
    error = raised(lambda: FUNCTIONS.build(cfg.custom_hooks[0]))
    assert explain_error(error, cfg) is None
    cfg.custom_hooks[0].message = 'a mistake'
    assert explain_error(raised(lambda: FUNCTIONS.build(cfg.custom_hooks[0])), cfg) is not None


@pytest.mark.parametrize('key', ['model', 'train_dataloader.dataset', 'test_dataloader.dataset'])
@pytest.mark.parametrize('value', [3, 'x', [1], {}])
def test_parts_that_are_no_dicts(key, value):
    cfg = config(train_dataloader=dict(dataset=dict(type='A')), test_dataloader=dict(dataset=dict(type='A')))
    cfg.merge_from_dict({key: dict(_delete_=True) if value == {} else value})
    with pytest.raises(ConfigError, match=rf'{key} is .*; a dict with a type was expected'):
        check_types(cfg)


def test_images_are_not_unpickled():
    cfg = config(train_dataloader=dict(dataset=dict(type='PairedDataset', pipeline=[dict(type='LoadBiomedicalData')])))
    check_types(cfg)
    cfg.train_dataloader.dataset.pipeline[0].decode_backend = 'pickle'
    with pytest.raises(ConfigError, match=r"dataset\.pipeline\.0\.decode_backend is 'pickle', .*foreign code"):
        check_types(cfg)
