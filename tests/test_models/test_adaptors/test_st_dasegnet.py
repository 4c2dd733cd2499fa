import copy
from pathlib import Path

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.models.adaptors.st_dasegnet_release import convert_release
from mmrs.registry import MODELS
from mmrs.utils import CheckpointError, ConfigError
from tests import parity

GOLDEN = Path(__file__).resolve().parents[2] / 'data' / 'golden'
CHANNELS = [8, 16, 16, 32]


@pytest.fixture(autouse=True)
def _scope():
    parity.init_default_scope('mmrs')


def config(**changes):
    """ST-DASegNet on a tiny MiT with stride 16, whose last map of a 96 px crop is 6 px."""
    cfg = dict(
        type='STDASegNet',
        data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[0] * 3, std=[1] * 3),
        backbone=dict(
            type='EfficientMiT',
            embed_dims=8,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            patch_sizes=[7, 3, 3, 3],
            strides=[4, 2, 2, 1],
            sr_ratios=[8, 4, 2, 1],
            out_indices=(0, 1, 2, 3),
            drop_path_rate=0.1,
        ),
        neck=dict(type='DomainDisentangledNeck', in_channels=CHANNELS),
        decode_head=dict(
            type='EfficientSegformerHead',
            in_channels=[8, 16, 16, 40],
            in_index=[0, 1, 2, 3],
            channels=16,
            num_classes=4,
            norm_cfg=dict(type='BN'),
            loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
        ),
        discriminator=dict(type='PatchDiscriminator', in_channels=32, num_conv=1, base_channels=4),
        gan_loss=dict(type='GANLoss', loss_weight=0.005),
        self_training=dict(teacher='decoder_only', class_weight=[1.0, 1.0, 2.0, 2.0]),
        test_cfg=dict(mode='whole'),
    )
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) else value
    return cfg


def resnet_config():
    """The same on a tiny ResNet with the DeepLabV3+ head, which reads the first and the last stage."""
    cfg = config(discriminator=dict(num_conv=2))
    cfg['backbone'] = dict(
        type='ResNetV1c',
        depth=18,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        stem_channels=8,
        base_channels=4,
    )
    cfg['neck']['in_channels'] = [4, 8, 16, 32]
    cfg['decode_head'] = dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=40,
        in_index=3,
        channels=8,
        dilations=(1, 12, 24, 36),
        c1_in_channels=4,
        c1_channels=4,
        num_classes=4,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    )
    return cfg


def batch(n=2, size=96, target_size=None, labelled_target=False):
    generator = torch.Generator().manual_seed(0)

    def domain(size, labelled):
        images = [torch.randn(3, size, size, generator=generator) for _ in range(n)]
        samples = [SegDataSample() for _ in images]
        for sample in samples:
            label = torch.randint(0, 4, (1, size, size), generator=generator)
            if labelled:
                sample.gt_sem_seg = PixelData(data=label)
        return dict(inputs=images, data_samples=samples)

    return dict(source=domain(size, True), target=domain(target_size or size, labelled_target))


def loss_of(model, data):
    return model(**model.data_preprocessor(data, True), mode='loss')


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    if model.teacher is not None:
        model.update_teacher(0.0)
    return model.train()


@pytest.mark.parametrize('name', ['train_mit64_decoder_only_t.pt', 'train_res18_decoder_only_t.pt'])
def test_training_matches_the_release(name, capsys):
    assert parity.main([str(GOLDEN / name)]) == 0, capsys.readouterr().out


def test_parity_notices_a_wrong_step(monkeypatch, capsys):
    """Real and fake exchanged in the discriminators."""
    original = parity.MODELS.module_dict['GANLoss'].forward

    def exchanged(self, score, target_is_real, is_discriminator=False):
        return original(self, score, target_is_real != is_discriminator, is_discriminator)

    monkeypatch.setattr(parity.MODELS.module_dict['GANLoss'], 'forward', exchanged)
    assert parity.main([str(GOLDEN / 'train_mit64_decoder_only_t.pt')]) == 1
    assert 'FAIL' in capsys.readouterr().out


def test_each_loss_reaches_what_it_should():
    model = build(config())
    losses = loss_of(model, batch())
    # Which parts a loss has to move, and no others.
    reach = {
        'loss_seg_s2s': {'backbone.source', 'backbone.target', 'neck', 'decode_head.source'},
        'loss_seg_s2t': {'backbone.source', 'backbone.target', 'neck', 'decode_head.target'},
        'loss_pseudo_t2s': {'backbone.source', 'backbone.target', 'neck', 'decode_head.source'},
        'loss_pseudo_t2t': {'backbone.source', 'backbone.target', 'neck', 'decode_head.target'},
        'loss_adv_t2s': {'backbone.source'},
        'loss_adv_s2t': {'backbone.target'},
        'loss_disc_source_real': {'discriminator.source'},
        'loss_disc_source_fake': {'discriminator.source'},
        'loss_disc_target_real': {'discriminator.target'},
        'loss_disc_target_fake': {'discriminator.target'},
    }
    assert set(reach) == {name for name in losses if name.startswith('loss')}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Give pseudo-labels a weight, whatever the share of confident pixels.
    model.pseudo_thresholds['threshold'] = 0.0
    losses = loss_of(model, batch())
    for name, parts in reach.items():
        gradients = torch.autograd.grad(losses[name], list(parameters.values()), retain_graph=True, allow_unused=True)
        moved = {
            p.removeprefix('segmentor.') for p, g in zip(parameters, gradients) if g is not None and g.abs().sum() > 0
        }
        assert {next(part for part in PARTS if p.startswith(part)) for p in moved} == parts, name


PARTS = [f'{kind}.{domain}' for kind in ('backbone', 'decode_head', 'discriminator') for domain in ('source', 'target')]
PARTS.append('neck')


def test_every_trainable_parameter_gets_a_gradient_with_deeplab():
    """Data-parallel training stops at one that does not: the neck's middle stages are not read, so they are frozen."""
    model = build(resnet_config())
    sum(value for name, value in loss_of(model, batch()).items() if name.startswith('loss')).backward()
    assert not any(p.requires_grad for p in model.segmentor.neck.stages[1].parameters())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


def test_batch_of_one_with_aspp():
    with pytest.raises(ConfigError, match=r'set train_dataloader\.batch_size to 2 or more'):
        loss_of(build(resnet_config()), batch(n=1))


@pytest.mark.parametrize('teacher', ['decoder_only', 'single_target'])
def test_teachers_get_no_gradient_and_are_saved(teacher):
    model = build(config(self_training=dict(teacher=teacher)))
    assert model.teacher is not None
    sum(value for name, value in loss_of(model, batch()).items() if name.startswith('loss')).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert any(name.startswith('teacher.') for name in model.state_dict())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_single_target_teacher_averages_teacher_and_source_student():
    model = build(config(self_training=dict(teacher='single_target', class_weight=None)))
    with torch.no_grad():
        for p in model.teacher.parameters():
            p.mul_(1.5)
    data = model.data_preprocessor(batch(), True)
    images = data['inputs']['target']
    segmentor = model.segmentor.train()
    for module in segmentor.modules():  # what the teacher must not have
        if isinstance(module, nn.Dropout2d) or type(module).__name__ == 'DropPath':
            module.eval()
    features = segmentor.extract([images])[0]
    pseudo = model.make_pseudo_label(images, features, segmentor.neck(*features))
    teacher_backbone, teacher_head = (
        copy.deepcopy(segmentor.backbone['target']),
        copy.deepcopy(segmentor.decode_head['target']),
    )
    with torch.no_grad():
        for p in [*teacher_backbone.parameters(), *teacher_head.parameters()]:
            p.mul_(1.5)
        for_source, for_target = segmentor.neck(features[0], teacher_backbone(images))
        logits = (segmentor.decode_head['source'](for_source) + teacher_head(for_target)) / 2
        logits = nn.functional.interpolate(logits, images.shape[2:], mode='bilinear')
    assert torch.equal(pseudo.label, logits.argmax(1))


def test_a_student_that_helps_to_teach_has_no_dropout_and_keeps_its_statistics():
    model = build(config(self_training=dict(teacher='single_target', class_weight=None)))
    model.segmentor.decode_head['source'].dropout.p = 0.9
    images = model.data_preprocessor(batch(), True)['inputs']['target']
    with torch.no_grad():
        features = model.segmentor.extract([images])[0]
        disentangled = model.segmentor.neck(*features)
    before = copy.deepcopy(model.segmentor.decode_head['source'].state_dict())
    first, second = (model.make_pseudo_label(images, features, disentangled) for _ in range(2))
    assert len(first.label.unique()) > 1
    assert torch.equal(first.label, second.label)
    after = model.segmentor.decode_head['source'].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_target_labels_change_nothing():
    plain, labelled = (loss_of(build(config()), batch(labelled_target=flag)) for flag in (False, True))
    # The labels of the second batch come last from the generator, so that its images are the same.
    for name, value in plain.items():
        assert torch.equal(value, labelled[name]), name


def test_domains_may_differ_in_size():
    losses = loss_of(build(config()), batch(size=96, target_size=128))
    assert all(torch.isfinite(value) for value in losses.values())


def test_without_adaptation_it_trains_on_the_source_alone():
    model = build(config(discriminator=None, self_training=None))
    data = batch()
    losses = loss_of(model, data['source'])
    assert set(losses) == {'loss_seg_s2s', 'loss_seg_s2t'}
    joint = JointOptimWrapperConstructor(dict(segmentor=dict(optimizer=dict(type='SGD', lr=0.1)), discriminator=None))(
        model
    )
    before = copy.deepcopy(model.segmentor.state_dict())
    model.train_step(data['source'], joint)
    assert any(not torch.equal(value, before[name]) for name, value in model.segmentor.state_dict().items())


def test_prediction_is_the_mean_of_both_heads_without_teachers():
    model = build(config()).eval()
    images = torch.randn(1, 3, 100, 72)
    with torch.no_grad():
        for p in model.teacher.parameters():
            p.fill_(float('nan'))
        logits = model.encode_decode(images, [])
        features = model.segmentor.neck(
            model.segmentor.backbone['source'](images), model.segmentor.backbone['target'](images)
        )
        heads = [head(f) for head, f in zip(model.segmentor.heads, features)]
        expected = nn.functional.interpolate((heads[0] + heads[1]) / 2, (100, 72), mode='bilinear')
    torch.testing.assert_close(logits, expected)


def test_two_class_lists_of_one_pair_may_differ_in_weights_only():
    cfg = config()
    cfg['decode_head']['target'] = dict(loss_decode=dict(class_weight=[1.0, 2.0, 3.0, 4.0]))
    model = MODELS.build(cfg)
    assert model.segmentor.heads[0].loss_decode.class_weight is None
    assert model.segmentor.heads[1].loss_decode.class_weight.tolist() == [1, 2, 3, 4]
    cfg['decode_head']['target'] = dict(num_classes=5)
    with pytest.raises(ConfigError, match='the source head has 4 classes, the target head 5'):
        MODELS.build(cfg)


def test_crop_too_small_for_the_discriminator():
    with pytest.raises(ConfigError, match='use crops of at least 96 px'):
        loss_of(build(config()), batch(size=80))


def test_plain_batch_for_an_adapting_model():
    with pytest.raises(ConfigError, match='use a DomainAdaptationDataset'):
        loss_of(build(config()), batch()['source'])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(self_training=dict(teacher='whole')), "expected 'decoder_only' or 'single_target'"),
        (dict(self_training=dict(class_weight=[1.0])), 'has 1 entries for 4 classes'),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config(**changes))


def test_update_without_a_teacher():
    with pytest.raises(ConfigError, match='no teacher'):
        MODELS.build(config(self_training=None)).update_teacher(0.5)


class TestConverter:
    @pytest.fixture
    def recorded(self, golden):
        return golden('train_mit64_decoder_only_t.pt')

    def test_leftovers_are_refused(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {**recorded['initial_state'], 'ema_backbone.weight': torch.zeros(1)}
        with pytest.raises(
            CheckpointError, match=r'1 tensors of the checkpoint have no place(.|\n)*ema_backbone.weight'
        ):
            convert_release(state, model)

    def test_missing_tensors_are_named(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {k: v for k, v in recorded['initial_state'].items() if not k.startswith('dsk_neck.dsk_neck2')}
        with pytest.raises(CheckpointError, match='not in the checkpoint'):
            convert_release(state, model)

    def test_shapes_are_compared(self, recorded):
        model = MODELS.build(parity.model_config(recorded['config']))
        state = {**recorded['initial_state'], 'decode_head_s.conv_seg.bias': torch.zeros(7)}
        with pytest.raises(CheckpointError, match=r'\(7,\) in the checkpoint, \(6,\) in the model'):
            convert_release(state, model)


def test_target_pixels_without_data_get_no_pseudo_label():
    """Half of each target image has no data: only the other half is labelled, and its values there do not matter."""
    model = build(config(self_training=dict(teacher='decoder_only', threshold=0.1, rare_threshold=0.1))).eval()
    data = batch()
    valid = torch.ones(1, 96, 96, dtype=torch.bool)
    valid[..., 48:] = False
    for sample in data['target']['data_samples']:
        sample.valid_map = PixelData(data=valid)
    changed = copy.deepcopy(data)
    for image in changed['target']['inputs']:
        image[..., 48:] = 1e4
    weights = []
    original = model.make_pseudo_label
    model.make_pseudo_label = lambda *args: weights.append(original(*args).weight) or original(*args)
    losses, others = loss_of(model, data), loss_of(model, changed)
    assert weights[0][..., :48].min() > 0
    assert not weights[0][..., 48:].any()
    assert losses['confident_share'] == 1
    for name, value in losses.items():
        torch.testing.assert_close(value, others[name], msg=name)
