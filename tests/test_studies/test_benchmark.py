import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.registry import MODELS
from mmrs.studies import benchmark as module
from mmrs.studies.benchmark import (
    BenchmarkSettings,
    Measurement,
    benchmark,
    check_agreement,
    format_report,
    stock_config,
)
from mmrs.studies.dacs_release_step import DACSReleaseStep
from mmrs.studies.release_step import ReleaseStep
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY

CONFIG = f"""
_base_ = '{REPOSITORY}/configs/_base_/default_runtime.py'
crop_size = (96, 96)
model = dict(
    type='STDASegNet',
    data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3),
    backbone=dict(
        type='EfficientMiT', embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], strides=[4, 2, 2, 1],
        init_cfg=dict(type='Pretrained', checkpoint='https://nowhere.invalid/mit.pth')),
    neck=dict(type='DomainDisentangledNeck', in_channels=[8, 16, 16, 32]),
    decode_head=dict(
        type='EfficientSegformerHead', in_channels=[8, 16, 16, 40], in_index=[0, 1, 2, 3], channels=16, num_classes=4,
        dropout_ratio=0.0, norm_cfg=dict(type='SyncBN'), loss_decode=dict(type='PixelMeanCrossEntropyLoss')),
    discriminator=dict(type='PatchDiscriminator', in_channels=32, num_conv=1, base_channels=4),
    gan_loss=dict(type='GANLoss', loss_weight=0.005),
    self_training=dict(
        teacher='decoder_only', threshold=0.3, rare_threshold=0.28, class_weight=[1.0, 1.0, 2.0, 2.0]))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    constructor='JointOptimWrapperConstructor',
    segmentor=dict(optimizer=dict(type='AdamW', lr=1e-3, fused=True)),
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-3, fused=True)))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize('teacher', ['decoder_only', 'single_target'])
def test_release_step_is_the_same_mathematics(config_file, teacher):
    settings = BenchmarkSettings(config_file, crop_size=96, cfg_options={'model.self_training.teacher': teacher})
    cfg = settings.resolved().load()
    optimizer = dict(optimizer=dict(type='SGD', lr=0.1))
    cfg.model.decode_head.norm_cfg = dict(type='BN')
    ours, stock = MODELS.build(cfg.model).double(), MODELS.build(stock_config(cfg).model).double()
    stock.load_state_dict(ours.state_dict())
    batch = module._random_batch(settings.resolved(), 3, 4, True)
    for image in [*batch['source']['inputs'], *batch['target']['inputs']]:
        image.copy_(image.roll(3, 1))  # the domains differ
    step = ReleaseStep(stock.train(), dict(segmentor=optimizer, discriminator=optimizer))
    wrapper = JointOptimWrapperConstructor(dict(segmentor=optimizer, discriminator=optimizer))(ours.train())
    for alpha in (0.0, 0.5):
        # The data preprocessor normalises in single precision.
        ours.update_teacher(alpha)
        data = ours.data_preprocessor(copy.deepcopy(batch), True)
        data['inputs'] = {domain: images.double() for domain, images in data['inputs'].items()}
        losses = ours(**data, mode='loss')
        total, _ = ours.parse_losses(losses)
        wrapper.update_params(total)

        stock.data_preprocessor.forward = lambda *_, data=data: data
        expected = step(batch, alpha)
        for name, value in expected.items():
            assert losses[name].item() == pytest.approx(value, rel=1e-9), name
        assert set(expected) == {name for name in losses if name.startswith('loss')}
    for (name, parameter), other in zip(ours.segmentor.named_parameters(), stock.segmentor.parameters()):
        torch.testing.assert_close(parameter, other, rtol=1e-9, atol=1e-11, msg=name)
    for parameter, other in zip(ours.discriminator.parameters(), stock.discriminator.parameters()):
        torch.testing.assert_close(parameter, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ('consistency', 'head'), [(None, {}), (dict(block=16), dict(type='DAFormerHead', channels=16, embed_dims=8))]
)
def test_the_releases_step_of_mixing_is_the_same_mathematics(config_file, consistency, head):
    cfg = BenchmarkSettings(config_file, crop_size=96).load()
    for key in ('neck', 'discriminator', 'gan_loss', 'self_training'):
        cfg.model.pop(key)
    cfg.model.update(
        type='DACS', self_training=dict(threshold=0.3), mixing=dict(augmentation={}), masked_consistency=consistency
    )
    cfg.model.decode_head.update(norm_cfg=dict(type='BN'), in_channels=[8, 16, 16, 32], **head)
    optimizer = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    ours, stock = MODELS.build(cfg.model).double().train(), MODELS.build(stock_config(cfg).model).double().train()
    stock.load_state_dict(ours.state_dict())
    batch = module._random_batch(BenchmarkSettings(config_file, 2, 96), 3, 4, True)
    step, wrapper = DACSReleaseStep(stock, optimizer), build_optim_wrapper(ours, optimizer)
    stock.data_preprocessor(copy.deepcopy(batch), True)  # it has seen that images have 8 bits
    for alpha in (0.0, 0.5):
        data = ours.data_preprocessor(copy.deepcopy(batch), True)
        data['inputs'] = {domain: images.double() for domain, images in data['inputs'].items()}
        ours.update_teacher(alpha)
        torch.manual_seed(1)
        losses = ours(**data, mode='loss')
        total, _ = ours.parse_losses(losses)
        wrapper.update_params(total)

        stock.data_preprocessor.forward = lambda *_, data=data: data
        torch.manual_seed(1)
        for name, value in step(batch, alpha).items():
            assert losses.pop(name).item() == pytest.approx(value, rel=1e-9), name
        assert set(losses) == {'confident_share'}
    for (name, parameter), other in zip(ours.named_parameters(), stock.parameters()):
        torch.testing.assert_close(parameter, other, rtol=1e-9, atol=1e-11, msg=name)


def test_stock_config_replaces_modules_and_optimizers(config_file):
    settings = BenchmarkSettings(config_file).resolved()
    assert (settings.batch_size, settings.crop_size) == (2, 96)  # the configuration's
    cfg = settings.load()
    text = cfg.pretty_text
    stock = stock_config(cfg)
    assert cfg.pretty_text == text
    assert stock.model.backbone.type == 'mmseg.MixVisionTransformer'
    assert stock.model.decode_head.type == 'mmseg.SegformerHead'
    assert stock.optim_wrapper.segmentor.optimizer.fused is None
    for ours, other in module.STOCK_TYPES.items():
        pair = MODELS.get(ours), MODELS.get(other)
        assert issubclass(*(reversed(pair) if other == 'DAFormerReleaseHead' else pair))
    assert set(MODELS.build(stock.model).state_dict()) == set(MODELS.build(cfg.model).state_dict())
    # A composition is no file.
    method = REPOSITORY / 'configs' / 'dacs' / 'method.py'
    composed = BenchmarkSettings(dict(config=str(method), task='dubai', network='segformer_mit-b0')).load()
    assert stock_config(composed).model.decode_head.type == 'mmseg.SegformerHead'


def test_measures_both_forms(config_file):
    settings = BenchmarkSettings(config_file, batch_size=1, inference_size=64, iters=2, threads=1)
    results = benchmark(settings, stock=True)
    for measurement in results.values():
        assert len(measurement.training) == len(measurement.inference) == 2
        assert min(measurement.training + measurement.inference) > 0
        assert 50e6 < measurement.libraries < measurement.peak_memory < 5e9
    report = format_report(results)
    assert 'stock' in report
    assert 'ratio' in report


@pytest.fixture
def seen(monkeypatch):
    """What is measured, as settings and whether with the stock modules; nothing is run."""
    found = []

    class Subject:
        def __init__(self, settings, stock):
            found.append((settings, stock))

        def train_step(self):
            pass

        predict = train_step

    # A process of its own for each takes seconds.
    monkeypatch.setattr(module, '_peak_memory', lambda settings, stock: (2, 1))
    monkeypatch.setattr(module, 'ProcessPoolExecutor', lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(module, '_Subject', Subject)
    return found


def test_measures_a_configuration_against_changed_options(config_file, seen):
    settings = BenchmarkSettings(config_file, iters=1, cfg_options={'crop_size': 64})
    results = benchmark(settings, against={'model.backbone.with_cp': True})
    assert list(results) == ['changed', 'mmrs']
    options = [(dict(settings.cfg_options), stock) for settings, stock in seen]
    assert options == [({'crop_size': 64, 'model.backbone.with_cp': True}, False), ({'crop_size': 64}, False)]
    assert 'ratio' in format_report({name: Measurement([1.0], [1.0], 1) for name in results})
    with pytest.raises(ConfigError, match='one at a time'):
        benchmark(settings, stock=True, against={'compile': True})


def test_measures_several_networks(config_file, seen):
    axes = dict(config=REPOSITORY / 'configs/source_only/method.py', task='dubai')
    names = ['segformer_r18', 'dinov3_vit-s16']
    results = benchmark(BenchmarkSettings(axes, iters=1), networks=names)
    assert list(results) == names
    assert [settings.load().model.backbone.type for settings, _ in seen] == ['ResNetV1c', 'PlainViT']
    header, *rows = format_report({name: Measurement([1.0], [1.0], 1) for name in names}).splitlines()
    assert header.split() == [*names, 'ratio']
    assert len({len(row) for row in (header, *rows)}) == 1
    with pytest.raises(ConfigError, match=config_file.name):
        benchmark(BenchmarkSettings(config_file), networks=names)
    with pytest.raises(ConfigError, match='one at a time'):
        benchmark(BenchmarkSettings(axes), stock=True, networks=names)


def test_backbones_are_compiled_where_the_configuration_says_so(config_file):
    options = {'compile': dict(backend='eager')}
    subject = module._Subject(BenchmarkSettings(config_file, cfg_options=options).resolved(), False)
    assert all('forward' in vars(backbone) for backbone in subject.model.segmentor.backbone.values())


def test_plain_segmentor_trains_by_its_own_step(config_file):
    config_file.write_text(
        CONFIG + "model.update(type='EncoderDecoder', neck=None)\n"
        'for key in ("discriminator", "gan_loss", "self_training"):\n    model.pop(key)\n'
        "model['decode_head']['in_channels'] = [8, 16, 16, 32]\n"
        "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))\n"
    )
    for stock in (False, True):
        subject = module._Subject(BenchmarkSettings(config_file, crop_size=64, inference_size=64).resolved(), stock)
        before = next(subject.model.parameters()).clone()
        subject.train_step()
        subject.predict()
        assert not torch.equal(before, next(subject.model.parameters()))


def test_report_has_ratios_of_ours_to_stock():
    report = format_report({'mmrs': Measurement([0.5, 0.25, 1.0], [0.01], 2**30, 2**20)})
    assert 'ratio' not in report
    values = [line.split()[-1] for line in report.splitlines()[1:]]
    assert values == ['0.500', '0.250', '1024.0', '1023.0', '10.0', '10.0']
    report = format_report({'mmrs': Measurement([1.0], [1.0], 1), 'stock': Measurement([4.0], [2.0], 5)})
    assert [line.split()[-1] for line in report.splitlines()[1:]] == ['0.25', '0.25', '0.20', '0.20', '0.50', '0.50']


def test_different_logits_are_an_error():
    check_agreement(torch.full((2, 3), 10.0), torch.full((2, 3), 10.00005))
    with pytest.raises(AssertionError, match=r'1\.0e-03'):
        check_agreement(torch.zeros(2, 3), torch.full((2, 3), 0.001))
    with pytest.raises(AssertionError):
        check_agreement(torch.full((2, 3), torch.nan), torch.zeros(2, 3))


def test_bad_settings_say_what_is_wrong(config_file, tmp_path):
    with pytest.raises(ConfigError, match='iters is 0'):
        benchmark(BenchmarkSettings(config_file, iters=0))
    (tmp_path / 'empty.py').write_text('model = dict(type="STDASegNet")\n')
    with pytest.raises(ConfigError, match='optim_wrapper'):
        BenchmarkSettings(tmp_path / 'empty.py').load()
    with pytest.raises(ConfigError, match='at least 96 px'):
        module._peak_memory(BenchmarkSettings(config_file, crop_size=64).resolved(), stock=False)
