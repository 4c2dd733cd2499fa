import copy
import functools

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrs.models.parts import frozen_copy
from mmrs.models.parts.features import Network, extract_features
from mmrs.registry import METRICS, MODELS
from mmrs.utils import CheckpointError, ConfigError

PREPROCESSOR = dict(type='DomainAdaptationDataPreprocessor', mean=[100] * 3, std=[50] * 3)
MIT = dict(
    backbone=dict(
        type='EfficientMiT', embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], patch_sizes=[7, 3, 3, 3],
        strides=[4, 2, 2, 1], sr_ratios=[8, 4, 2, 1], out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(
        type='EfficientSegformerHead', in_channels=[8, 16, 16, 32], in_index=[0, 1, 2, 3], channels=12, num_classes=4,
        dropout_ratio=0.5, norm_cfg=dict(type='BN'), loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    ),
)  # fmt: skip
RESNET = dict(
    backbone=dict(
        type='ResNetV1c', depth=18, stem_channels=8, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=dict(type='BN'), contract_dilation=True,
    ),
    neck=dict(type='mmseg.FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4),
    decode_head=dict(
        type='mmseg.FCNHead', in_channels=8, in_index=0, channels=12, num_convs=1, num_classes=4, dropout_ratio=0.5,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    ),
)  # fmt: skip
AUXILIARY = dict(type='mmseg.FCNHead', in_channels=64, in_index=3, channels=4, num_classes=4, norm_cfg=dict(type='BN'))
NETWORKS = dict(mit=MIT, resnet=RESNET)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def plain_model(network, **changes):
    """A segmentor as supervised training leaves it: with running statistics of its own."""
    model = MODELS.build(
        dict(type='EncoderDecoder', data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'), **network, **changes)
    )
    model.train()
    for _ in range(30):
        model._forward(torch.randn(4, 3, 64, 64))
    return model.eval()


@functools.cache
def trained(name):
    return plain_model(NETWORKS[name]).state_dict()


@pytest.fixture
def checkpoint(network, tmp_path):
    path, (name,) = tmp_path / 'reference.pth', (name for name, own in NETWORKS.items() if own is network)
    torch.save(dict(state_dict=trained(name), meta={}), path)
    return path


def build(network, checkpoint=None, **changes):
    model = MODELS.build(
        dict(
            type='FeatureRegression',
            test_cfg=dict(mode='whole'),
            reference=None if checkpoint is None else str(checkpoint),
            **{'data_preprocessor': PREPROCESSOR, **copy.deepcopy(network), **changes},
        )
    )
    if checkpoint is not None:
        model.init_weights()
    return model


def batch(number=2, size=64, seed=0, same=False, samples=None):
    """Raw pairs; the target shows the source in other colours."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, 256, (number, 3, size, size), generator=generator).float()
    target = source if same else 0.7 * source.flip(1) + 20
    data = {}
    for domain, images in (('source', source), ('target', target)):
        given = (samples or {}).get(domain) or [SegDataSample() for _ in range(number)]
        data[domain] = dict(inputs=list(images), data_samples=given)
    return data


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train(model, steps=3, lr=1e-2, **options):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = OptimWrapper(torch.optim.AdamW(parameters, lr=lr))
    model.train()
    return [model.train_step(batch(**options), optimizer) for _ in range(steps)]


# The student at start, and what never changes ------------------------------------------------------------------------


def test_the_student_starts_as_the_reference(network, checkpoint):
    model = build(network, checkpoint).eval()
    trained = MODELS.build(
        dict(type='EncoderDecoder', data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'), **network)
    ).eval()
    trained.load_state_dict(torch.load(checkpoint)['state_dict'])
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), trained(images))
    names = ['stage1', 'stage2', 'stage3', 'stage4', 'decode_head']
    own, reference = (extract_features(part, images, names) for part in (model, model.reference.network))
    assert all(torch.equal(own[name], reference[name]) for name in names)
    # The last feature map is what the classifier gets.
    assert torch.equal(model.decode_head.conv_seg(own['decode_head']), trained(images))
    losses = model.val_step(batch(same=True))
    assert all(value == 0 for sample in losses for value in sample.regression_losses.values())
    assert all(sample.regression_losses['loss'] > 0 for sample in model.val_step(batch()))


@pytest.mark.parametrize('train_decode_head', [False, True])
def test_the_reference_never_changes(network, checkpoint, train_decode_head):
    model = build(network, checkpoint, train_decode_head=train_decode_head)
    reference, head, backbone = (state(m) for m in (model.reference, model.decode_head, model.backbone))
    losses = train(model, steps=8, lr=1e-3)
    assert equal(reference, state(model.reference))
    assert equal(head, state(model.decode_head)) == (not train_decode_head)
    assert not equal(backbone, state(model.backbone))
    classifier = {key: value for key, value in head.items() if key.startswith('conv_seg')}
    assert equal(classifier, {key: value for key, value in state(model.decode_head).items() if key in classifier})
    assert losses[-1]['loss'] < losses[0]['loss']
    assert ('decode_head.conv_seg.weight' in reference) == train_decode_head


@pytest.mark.parametrize('train_decode_head', [False, True])
def test_the_head_has_no_dropout(network, train_decode_head):
    model = build(network, train_decode_head=train_decode_head).train()
    images = torch.randn(2, 3, 64, 64)
    first, second = (extract_features(model, images, ['decode_head'])['decode_head'] for _ in range(2))
    assert torch.equal(first, second)
    norms = [module for module in model.decode_head.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.training == train_decode_head for norm in norms)


# Feature maps --------------------------------------------------------------------------------------------------------


def test_dotted_names(checkpoint, network):
    name = 'backbone.layer2' if 'depth' in network['backbone'] else 'decode_head.convs.1'
    model = build(network, checkpoint, features={name: 2.0, 'stage1': 1.0}).train()
    data = model.data_preprocessor(batch(), True)
    losses = model.loss(**data)
    assert losses.keys() == {f'loss_{name}', 'loss_stage1'}
    if 'depth' in network['backbone']:  # the same map under both of its names
        model = build(network, checkpoint, features={name: 2.0, 'stage2': 1.0}).train()
        losses = model.loss(**model.data_preprocessor(batch(), True))
        assert losses[f'loss_{name}'] == 2 * losses['loss_stage2']


def test_the_head_does_not_run_for_stages_alone(checkpoint, network, monkeypatch):
    model = build(network, checkpoint, features=dict(stage2=1.0))
    monkeypatch.setattr(type(model.decode_head), 'forward', lambda *_: pytest.fail('the head ran'))
    train(model, steps=1)


@pytest.mark.parametrize('name', ['stage5', 'stage0', 'head', 'backbone.nowhere', 'decode_head.conv_seg.bias'])
def test_features_that_are_not_there(name):
    with pytest.raises(ConfigError, match=f'features: .*{name}'):
        build(MIT, features={name: 1.0})


def test_what_is_no_feature_map():
    network = {**MIT, 'backbone': {**MIT['backbone'], 'type': 'mmseg.MixVisionTransformer'}}
    with pytest.raises(ConfigError, match=r'backbone\.layers\.0\.0 returns is no feature map'):
        build(network, features={'backbone.layers.0.0': 1.0})
    with pytest.raises(ConfigError, match=r'backbone\.layers\.0\.0 does not run as a module of its own'):
        build(MIT, features={'backbone.layers.0.0': 1.0})


def test_auxiliary_heads_are_left_out(tmp_path):
    path = tmp_path / 'auxiliary.pth'
    torch.save(plain_model(RESNET, auxiliary_head=AUXILIARY).state_dict(), path)
    model = build(RESNET, path, auxiliary_head=AUXILIARY)
    assert not any(name.startswith('auxiliary_head') for name in model.state_dict())


def test_a_head_to_train_that_nothing_is_read_from(network):
    with pytest.raises(ConfigError, match='train_decode_head is on, but none of features stage3 is of it'):
        build(network, train_decode_head=True, features=dict(stage3=1.0))


def test_a_weight_of_nought_leaves_a_map_out(network):
    """As an option on the command line adds to the features of a base config."""
    assert build(network, features=dict(stage2=0, stage3=2)).weights == dict(stage3=2.0)


@pytest.mark.parametrize(
    ('features', 'message'),
    [
        ({}, 'nothing to regress on'),
        (dict(stage4=0), 'nothing to regress on'),
        (dict(stage4='1'), "weight of stage4 is '1'"),
        (dict(stage4=-1.0), 'weight of stage4 is -1.0'),
        (['stage4'], 'a dict of weights by name is expected'),
        ({'reference.backbone': 1.0}, 'has no module reference.backbone'),
    ],
)
def test_features_that_make_no_loss(features, message):
    with pytest.raises(ConfigError, match=f'features.*{message}'):
        build(MIT, features=features)


def test_dotted_names_mean_the_output_itself():
    """Not what the activation behind it makes of it in place."""
    model = build(RESNET).eval()
    names = ['decode_head.convs.0.bn', 'decode_head.convs.0']
    before, after = extract_features(model, torch.randn(2, 3, 64, 64), names).values()
    assert before.min() < 0
    assert torch.equal(before.relu(), after)


def test_a_head_that_returns_more_than_one_map():
    head = dict(type='mmseg.DAHead', in_channels=64, in_index=3, channels=12, pam_channels=4, num_classes=4)
    model = build({**RESNET, 'neck': None, 'decode_head': head}, features=dict(decode_head=1.0)).eval()
    images = torch.randn(2, 3, 64, 64)
    (features,) = extract_features(model, images, ['decode_head']).values()
    assert torch.equal(model.decode_head.conv_seg(features), model(images)[0])


def test_a_head_without_the_usual_classifier():
    head = dict(
        type='mmseg.SegmenterMaskTransformerHead', in_channels=64, in_index=3, channels=8, embed_dims=8, num_layers=1,
        num_heads=1, num_classes=4,
    )  # fmt: skip
    network = {**RESNET, 'neck': None, 'decode_head': head}
    with pytest.raises(ConfigError, match='SegmenterMaskTransformerHead does not run; take out decode_head'):
        build(network)
    assert build(network, features=dict(stage3=1.0)).weights == dict(stage3=1.0)
    with pytest.raises(ConfigError, match='has no conv_seg'):
        build(network, features={'decode_head.dec_proj': 1.0}, train_decode_head=True)


def test_a_backbone_that_returns_something_else_in_training():
    network = dict(
        backbone=dict(type='mmseg.DDRNet', channels=4, ppm_channels=4, norm_cfg=dict(type='BN')),
        decode_head=dict(type='mmseg.DDRHead', in_channels=16, channels=4, num_classes=4, norm_cfg=dict(type='BN')),
    )
    with pytest.raises(ConfigError, match='DDRNet returns one map'):
        build(network)


def test_a_backbone_for_one_size_of_images():
    backbone = dict(
        type='mmseg.BEiT', img_size=(64, 64), patch_size=16, embed_dims=8, num_layers=2, num_heads=1,
        out_indices=(0, 1), qv_bias=True, init_values=0.1,
    )  # fmt: skip
    network = dict(backbone=backbone, decode_head={**RESNET['decode_head'], 'in_index': 1})
    assert build(network, features=dict(stage2=1.0)).spread['stage2'].mean.shape == (8,)


# Weights -------------------------------------------------------------------------------------------------------------


def test_without_reference(network):
    with pytest.raises(ConfigError, match='--reference'):
        build(network).init_weights()


def test_reference_of_another_network(network, tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), path)
    with pytest.raises(CheckpointError, match=r'other\.pth'):
        build(network, path)
    weights = dict(trained('mit' if network is MIT else 'resnet'))
    weights.pop('decode_head.conv_seg.bias')
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r'decode_head\.conv_seg\.bias'):
        build(network, path)


def test_a_student_can_be_the_next_reference(network, checkpoint, tmp_path):
    student = build(network, checkpoint)
    train(student)
    path = tmp_path / 'student.pth'
    torch.save(dict(state_dict=student.state_dict()), path)
    following = build(network, path)
    assert equal(state(following.reference.backbone), state(student.backbone))


# The loss as a whole -------------------------------------------------------------------------------------------------


def shares(valid, size):
    """The valid share of each pixel of a map."""
    side = valid.shape[-1] // size
    return valid[0].numpy().reshape(size, side, size, side).mean((1, 3), dtype=np.float64)


def test_loss_by_hand(tmp_path):
    """Maps in units of the reference's deviation over the source's valid pixels, compared where both are valid."""
    torch.save(trained('mit'), tmp_path / 'reference.pth')
    weights = dict(stage2=2.0, decode_head=0.5)
    model = build(MIT, tmp_path / 'reference.pth', features=weights).train()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    valid = dict(source=torch.ones(1, 64, 64, dtype=torch.bool), target=torch.ones(1, 64, 64, dtype=torch.bool))
    valid['source'][:, :42, 20:] = False
    valid['target'][:, 30:, :37] = False
    data = model.data_preprocessor(batch(samples={domain: masked(valid[domain]) for domain in valid}), True)
    losses = model.loss(**data)
    measured = model.eval().val_step(batch(samples={domain: masked(valid[domain]) for domain in valid}))

    student = extract_features(model, data['inputs']['target'], list(weights))
    reference = extract_features(model.reference.network, data['inputs']['source'], list(weights))
    total = np.zeros(2)
    for name, weight in weights.items():
        own, other = (maps[name].detach().double().numpy() for maps in (student, reference))
        side = own.shape[-1]
        source, target = (np.stack((shares(valid[d], side), np.ones((side, side)))) for d in ('source', 'target'))
        mean = (other * source[:, None]).sum((0, 2, 3)) / source.sum()
        variance = (((other - mean[:, None, None]) ** 2) * source[:, None]).sum((0, 2, 3)) / source.sum()
        deviation = np.sqrt(np.maximum(variance, 0.01 * variance.mean()))[:, None, None]
        difference = np.abs(own - other) / deviation
        distance = np.where(difference < 1, difference**2 / 2, difference - 0.5).mean(1)
        both = source * target
        assert losses[f'loss_{name}'].item() == pytest.approx(weight * (distance * both).sum() / both.sum(), rel=1e-4)
        each = (distance * both).sum((1, 2)) / both.sum((1, 2))
        assert [sample.regression_losses[name] for sample in measured] == pytest.approx(each, rel=1e-4)
        total += weight * each
    assert [sample.regression_losses['loss'] for sample in measured] == pytest.approx(total, rel=1e-4)


def test_masks_are_those_of_their_own_image(tmp_path):
    """Where pixels look around themselves, what hides in the one image is not what hides in the other."""
    torch.save(trained('mit'), tmp_path / 'reference.pth')
    model = build(MIT, tmp_path / 'reference.pth', loss_regression=dict(tolerance='local(3)'))
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, 32:] = False
    data = model.data_preprocessor(batch(samples=dict(target=masked(valid))), False)
    for _, (_, _, student, reference) in model._compared(*model.domains(**data), training=False):
        assert reference.eq(1).all()
        assert student[0].float().mean() == 0.5
        assert student[1].eq(1).all()


# Pixels without data -------------------------------------------------------------------------------------------------


def masked(valid):
    samples = [SegDataSample(), SegDataSample()]
    samples[0].valid_map = PixelData(data=valid)
    return samples


def test_a_pair_with_nothing_in_common(network, checkpoint):
    nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
    model = build(network, checkpoint).eval()
    first, second = model.val_step(batch(samples=dict(target=masked(nothing))))
    assert 'regression_losses' not in first
    assert second.regression_losses['loss'] > 0
    metric = METRICS.build(dict(type='RegressionLoss'))
    metric.process({}, [first.to_dict(), second.to_dict()])
    assert metric.evaluate(size=2)['regression/loss'] == second.regression_losses['loss']


def test_validation_leaves_the_spread_alone(network, checkpoint):
    model = build(network, checkpoint)
    train(model, steps=1)
    before = state(model)
    model.eval()
    model.val_step(batch(seed=3))
    assert equal(before, state(model))


# Features on disk ----------------------------------------------------------------------------------------------------


def keyed(*names):
    return dict(source=[SegDataSample(metainfo=dict(image_key=name)) for name in names])


@pytest.fixture
def runs(monkeypatch):
    """Number of images in each run of a reference."""
    numbers = []
    extract = frozen_copy.extract_features

    def counting(network, images, names):
        assert isinstance(network, Network)
        numbers.append(len(images))
        return extract(network, images, names)

    monkeypatch.setattr(frozen_copy, 'extract_features', counting)
    return numbers


def test_features_are_computed_once(network, checkpoint, tmp_path, runs):
    def run(*names, size=64, **changes):
        model = build(network, checkpoint, feature_cache=str(tmp_path / 'cache'), **changes)
        runs.clear()
        model.train()
        data = model.data_preprocessor(batch(samples=keyed(*names), size=size), True)
        return torch.stack(list(model.loss(**data).values())), list(runs)

    fresh = build(network, checkpoint).train()
    expected = torch.stack(list(fresh.loss(**fresh.data_preprocessor(batch(), True)).values()))
    first, computed = run('a', 'b')
    torch.testing.assert_close(first, expected)
    assert computed == [2]
    again, computed = run('a', 'b')
    torch.testing.assert_close(again, expected)
    assert computed == []
    assert run('a', 'c')[1] == [1]
    mixed, computed = run('d', 'b')  # another name for the first image
    torch.testing.assert_close(mixed, expected)
    assert computed == [1]
    assert run('a', 'b', size=96)[1] == [2]
    assert run('a', 'b', features=dict(stage4=1.0))[1] == [2]
    assert run('a', 'b', data_preprocessor={**PREPROCESSOR, 'source_mean': [90] * 3})[1] == [2]
    # What no weight tells: the architecture, and the precision.
    head = {**network['decode_head'], 'align_corners': True}
    assert run('a', 'b', decode_head=head)[1] == [2]
    with torch.autocast('cpu', torch.bfloat16):
        assert run('a', 'b')[1] == [2]
    other = plain_model(network)
    torch.save(other.state_dict(), checkpoint)
    assert run('a', 'b')[1] == [2]


def test_a_trained_student_finds_the_same_features(checkpoint, network, tmp_path):
    model = build(network, checkpoint, feature_cache=str(tmp_path / 'cache'))
    context = model._open_cache().context
    train(model, steps=1, samples=keyed('a', 'b'))
    model._cache = None
    assert model._open_cache().context == context


def test_images_that_are_new_each_time_are_refused(network, checkpoint, tmp_path):
    model = build(network, checkpoint, feature_cache=str(tmp_path / 'cache')).train()
    with pytest.raises(ConfigError, match='at random'):
        model.loss(**model.data_preprocessor(batch(), True))


def test_damaged_file(network, checkpoint, tmp_path):
    folder = tmp_path / 'cache'
    for expected in (None, CheckpointError):
        model = build(network, checkpoint, feature_cache=str(folder)).train()
        data = model.data_preprocessor(batch(samples=keyed('a', 'b')), True)
        if expected:
            with pytest.raises(expected, match=r'\.pt holds no feature maps .* delete it'):
                model.loss(**data)
        else:
            model.loss(**data)
            files = sorted(folder.rglob('*.pt'))
            assert len(files) == 2
            assert not list(folder.rglob('*.part*'))
            files[0].write_bytes(files[0].read_bytes()[:-100])


# Batches -------------------------------------------------------------------------------------------------------------


def test_batches_that_are_no_pairs(network, checkpoint):
    model = build(network, checkpoint).train()
    with pytest.raises(ConfigError, match='needs pairs'):
        model.loss(torch.randn(2, 3, 64, 64), [SegDataSample()] * 2)
    data = dict(source=torch.randn(1, 3, 64, 64), target=torch.randn(1, 3, 64, 32))
    with pytest.raises(ConfigError, match='of one size'):
        model.loss(data, dict(source=[SegDataSample()], target=[SegDataSample()]))
