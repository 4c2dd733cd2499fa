import pytest
import torch
from mmengine.registry import init_default_scope

from mmrs.engine.compilation import compile_backbones
from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError

MIT = dict(type='EfficientMiT', embed_dims=4, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], drop_path_rate=0.0)
HEAD = dict(
    type='EfficientSegformerHead', in_channels=[4, 4, 4, 4], in_index=[0, 1, 2, 3], channels=8, num_classes=4,
    norm_cfg=dict(type='BN'), align_corners=False, dropout_ratio=0.0,
    loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
)  # fmt: skip
MODEL = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[0.0], std=[1.0]),
    backbone=dict(MIT, in_channels=1), decode_head=HEAD,
)  # fmt: skip
TWO = dict(MODEL, type='STDASegNet', neck=dict(type='DomainDisentangledNeck', in_channels=[4] * 4, variant='dsk'))
HRDA = dict(
    MODEL, backbone=dict(MODEL['backbone'], type='MultiResolution', base='EfficientMiT'),
    decode_head=dict(HEAD, type='HRDAHead', base='EfficientSegformerHead'),
)  # fmt: skip


def build(cfg):
    init_default_scope('mmrs')
    torch.manual_seed(0)
    return MODELS.build(cfg)


@pytest.mark.parametrize(
    ('cfg', 'names'),
    [
        (MODEL, ['backbone']),
        (TWO, ['segmentor.backbone.source', 'segmentor.backbone.target']),
        (HRDA, ['backbone']),
    ],
)
def test_backbones_are_compiled_once_and_compute_the_same(cfg, names, monkeypatch):
    plain, compiled = build(cfg), build(cfg)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert compile_backbones(compiled, dict(backend=backend)) == names
    images = torch.randn(2, 1, 128, 128)
    for _ in range(2):
        outputs = []
        for model in (plain, compiled):
            torch.manual_seed(1)  # of the part that is drawn
            outputs.append(model.train()._forward(images).square().mean())
        assert torch.equal(*outputs)
        for output in outputs:
            output.backward()
    for own, expected in zip(compiled.parameters(), plain.parameters()):
        assert (own.grad is None) == (expected.grad is None)
        assert own.grad is None or torch.equal(own.grad, expected.grad)
    assert graphs
    assert plain.state_dict().keys() == compiled.state_dict().keys()


@pytest.mark.parametrize('options', [None, False])
def test_nothing_is_compiled_unless_asked_for(options):
    model = build(MODEL)
    assert compile_backbones(model, options) == []
    assert 'forward' not in vars(model.backbone)


def test_bad_settings():
    with pytest.raises(ConfigError, match="compile is 'yes'"):
        compile_backbones(build(MODEL), 'yes')
    with pytest.raises(ConfigError, match=r'with_cp of model\.backbone'):
        compile_backbones(build(dict(MODEL, backbone=dict(MODEL['backbone'], with_cp=True))), True)
